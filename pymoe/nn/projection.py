"""A linear map that is one matrix of a larger layer: p[name] and, where the layer has biases, p[name + "_bias"].

The experts of a checkpoint are named that way (``gate_up_proj``, ``gate_up_proj_bias``); so are the projections of a
dense feed-forward and of attention here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.nn import initial
from pymoe.ops import linear

Cache = linear.Cache


def init(
    rng: np.random.Generator, name: str, shape: tuple[int, int], std: float, bias: bool, dtype: Any
) -> dict[str, Any]:
    """{name: (out, in) of N(0, std²)[, name_bias: zeros]}."""
    p = {name: initial.normal(rng, shape, std, dtype)}
    return p | ({f"{name}_bias": initial.zeros(shape[:1], dtype)} if bias else {})


def forward(x: Array, p: dict[str, Any], name: str) -> tuple[Array, Cache]:
    """y = x p[name]ᵀ [+ p[name_bias]].

    >>> forward(np.array([[3.0, 4.0]]), {"o_proj": np.array([[1.0, 2.0]])}, "o_proj")[0]
    array([[11.]])
    """
    return linear.forward(x, p[name], p.get(f"{name}_bias"))


def backward(dy: Array, cache: Cache, name: str) -> tuple[Array, dict[str, Any]]:
    """dx and the gradients under the names of ``forward``."""
    dx, d = linear.backward(dy, cache)
    dp = {name: d["weight"]}
    return dx, dp | ({f"{name}_bias": d["bias"]} if "bias" in d else {})
