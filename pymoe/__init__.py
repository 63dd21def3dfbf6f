"""pymoe: sparse Mixture-of-Experts, forward and backward by hand, verified to 1e-13.

``import pymoe`` is cheap: the parts are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PARTS = (
    "backend",
    "hf",
    "io",
    "kernels",
    "models",
    "moe",
    "nn",
    "ops",
    "pipeline",
    "presets",
    "sharing",
    "sparsity",
    "storage",
    "surgery",
    "train",
    "verify",
)

__all__ = ["__version__", *_PARTS]


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f"pymoe.{name}")
    raise AttributeError(f"module 'pymoe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
