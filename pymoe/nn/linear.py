r"""A linear layer, y = x Wᵀ + b, with its parameters in a tree.

p = {"weight": (d_out, d_in), "bias": (d_out,) if cfg.bias}.  Formulas of both directions: ``pymoe.ops.linear``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.nn import initial
from pymoe.ops import linear

Cache = linear.Cache


@dataclass(frozen=True)
class LinearConfig:
    """y (..., d_out) = x (..., d_in) Wᵀ [+ b]; W starts at N(0, std²), b at 0."""

    d_in: int
    d_out: int
    bias: bool = True
    std: float = 0.02

    def __post_init__(self) -> None:
        initial.check_sizes("LinearConfig", d_in=self.d_in, d_out=self.d_out)
        initial.check_std("LinearConfig", std=self.std)


def init(rng: np.random.Generator, cfg: LinearConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters at their start.

    >>> p = init(np.random.default_rng(0), LinearConfig(3, 2))
    >>> p["weight"].shape, p["bias"].shape
    ((2, 3), (2,))
    """
    p = {"weight": initial.normal(rng, (cfg.d_out, cfg.d_in), cfg.std, dtype)}
    return p | ({"bias": initial.zeros((cfg.d_out,), dtype)} if cfg.bias else {})


def forward(x: Array, p: dict[str, Any], cfg: LinearConfig) -> tuple[Array, Cache]:
    """x (..., d_in) -> y (..., d_out).

    >>> p = {"weight": np.array([[1.0, 2.0]]), "bias": np.array([0.5])}
    >>> forward(np.array([[3.0, 4.0]]), p, LinearConfig(2, 1))[0]
    array([[11.5]])
    """
    return linear.forward(x, p["weight"], p["bias"] if cfg.bias else None)  # y = x Wᵀ + b


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dy (..., d_out) -> dx (..., d_in), {"weight", "bias"}."""
    return linear.backward(dy, cache)
