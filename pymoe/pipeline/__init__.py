"""F7: text in, prediction out: the article's pipeline, stage by stage and in a row.

``import pymoe.pipeline`` is cheap: a part, and the library it stands on, is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> the module that has it
_NAMES: dict[str, str] = {
    "MoEClassifier": "network.classifier",
    "MoERegressor": "network.regressor",
    "Reduce": "reduce",
    "SparseExpertClassifier": "ensemble.classifier",
    "Sparsify": "sparsify",
    "TextEncoder": "text.encoder",
    "TextIds": "text.ids",
    "Translator": "translation.translator",
    "clean": "text.cleaning",
    "stop_words": "text.stopping",
    "tokenize": "text.tokens",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"pymoe.pipeline.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'pymoe.pipeline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
