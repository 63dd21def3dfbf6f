r"""A norm over the last axis with its parameters in a tree: RMSNorm or LayerNorm.

================= ================================================ =====================
kind              y                                                p
================= ================================================ =====================
"rms"             x / √(mean x² + ε) ⊙ weight                      {"weight"}
"layer"           (x - mean x) / √(var x + ε) ⊙ weight + bias      {"weight", "bias"}
================= ================================================ =====================

Formulas of both directions and sources: ``pymoe.ops.rms_norm`` and ``pymoe.ops.layer_norm``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.nn import initial
from pymoe.ops import layer_norm, rms_norm

Cache = rms_norm.Cache | layer_norm.Cache

KINDS = ("rms", "layer")


@dataclass(frozen=True)
class NormConfig:
    """A norm of width d_model; weights start at 1, biases at 0."""

    d_model: int
    kind: str = "rms"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        initial.check_sizes("NormConfig", d_model=self.d_model)
        initial.check_one_of("NormConfig.kind", self.kind, KINDS)
        initial.check_std("NormConfig", eps=self.eps)


def init(rng: np.random.Generator, cfg: NormConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters at their start; ``rng`` is not used, every layer takes one.

    >>> init(np.random.default_rng(0), NormConfig(2, "layer"))
    {'weight': array([1., 1.], dtype=float32), 'bias': array([0., 0.], dtype=float32)}
    """
    p = {"weight": initial.ones((cfg.d_model,), dtype)}
    return p | ({"bias": initial.zeros((cfg.d_model,), dtype)} if cfg.kind == "layer" else {})


def forward(x: Array, p: dict[str, Any], cfg: NormConfig) -> tuple[Array, Cache]:
    """x (..., D) -> y (..., D).

    >>> forward(np.array([[3.0, 4.0]]), {"weight": np.array([1.0, 1.0])}, NormConfig(2, eps=0.0))[0].round(4)
    array([[0.8485, 1.1314]])
    """
    if cfg.kind == "rms":
        return rms_norm.forward(x, p["weight"], eps=cfg.eps)
    return layer_norm.forward(x, p["weight"], p["bias"], eps=cfg.eps)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dy (..., D) -> dx (..., D), {"weight"[, "bias"]}."""
    if isinstance(cache, rms_norm.Cache):
        return rms_norm.backward(dy, cache)
    return layer_norm.backward(dy, cache)
