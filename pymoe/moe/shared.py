r"""The shared expert: one feed-forward network of width d_shared that every token passes, weight 1.

Forward::

    a = x W_guᵀ (+ b_gu)        h = act(gate) ⊙ up (or act(a))        y = h W_dᵀ (+ b_d)

Backward::

    dh = dy W_d        da = ∂h/∂aᵀ dh        dx = da W_gu
    dW_d = dyᵀ h       dW_gu = daᵀ x         db_d = Σ dy        db_gu = Σ da

A matrix may be a ``storage.Weight``; its gradient is then one of the same structure.
Source: DeepSeekMoE, arXiv:2401.06066, eq. 9.  Cost: 3 T D d_shared multiply-adds forward (2 without a gate), twice that
backward; a is kept, h too (as the input of the way down).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.moe.config import MoEConfig
from pymoe.moe.experts import names
from pymoe.ops import linear
from pymoe.ops._rows import column_sum
from pymoe.storage import Weight


class Cache(NamedTuple):
    up: Any  # cache of the way up
    a: Array  # (T, 2F) or (T, F)
    down: Any  # cache of the way down
    mask: Array | None  # (T,)
    act: str
    gated: bool


def forward(x: Array, p: Mapping[str, Any], cfg: MoEConfig, mask: Array | None = None) -> tuple[Array, Cache]:
    """y (T, D) of x (T, D); x of a padding token is 0, and so is its y.

    >>> import numpy as np
    >>> from pymoe import presets
    >>> cfg = presets.switch(d_model=1, d_ff=2, n_experts=2, d_shared=2)
    >>> p = {"up_proj": np.array([[1.0], [-1.0]]), "down_proj": np.array([[2.0, 3.0]])}
    >>> forward(np.array([[5.0], [-5.0]]), p, cfg)[0]  # relu: a positive x times 2, a negative one times -3
    array([[10.],
           [15.]])
    """
    up, down = names(cfg.gated)
    kernel = kernels.of(x)
    a, up_cache = _forward(x, p[up], p.get(up + "_bias"))
    h = kernel.glu_forward(a, cfg.activation) if cfg.gated else kernel.act_forward(a, cfg.activation)
    y, down_cache = _forward(h, p[down], p.get(down + "_bias"))
    if mask is not None:
        y = namespace(y).where(mask[:, None], y, namespace(y).zeros_like(y))
    return y, Cache(up_cache, a, down_cache, mask, cfg.activation, cfg.gated)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dx (T, D) and the gradients; what dy holds for a padding token does not count.

    >>> import numpy as np
    >>> from pymoe import presets
    >>> cfg = presets.switch(d_model=1, d_ff=2, n_experts=2, d_shared=2)
    >>> p = {"up_proj": np.array([[1.0], [-1.0]]), "down_proj": np.array([[2.0, 3.0]])}
    >>> _, cache = forward(np.array([[5.0], [-5.0]]), p, cfg)
    >>> dx, dp = backward(np.array([[1.0], [1.0]]), cache)
    >>> dx.tolist(), dp["up_proj"].tolist(), dp["down_proj"].tolist()
    ([[2.0], [-3.0]], [[10.0], [-15.0]], [[5.0, 5.0]])
    """
    up_cache, a, down_cache, mask, act, gated = cache
    if mask is not None:
        dy = namespace(dy).where(mask[:, None], dy, namespace(dy).zeros_like(dy))
    kernel = kernels.of(a)
    up, down = names(gated)
    dh, d_down = _backward(dy, down_cache)
    da = kernel.glu_backward(dh, a, act) if gated else kernel.act_backward(dh, a, act)
    dx, d_up = _backward(da, up_cache)
    dp = {up: d_up["weight"], down: d_down["weight"]}
    if "bias" in d_up:
        dp[up + "_bias"], dp[down + "_bias"] = d_up["bias"], d_down["bias"]
    return dx, dp


def _forward(x: Array, weight: Array | Weight, bias: Array | None) -> tuple[Array, Any]:
    """``ops.linear``, for a stored weight too; x (T, in) -> (T, out)."""
    if not isinstance(weight, Weight):
        return linear.forward(x, weight, bias)
    y = weight.linear(x)
    return (y if bias is None else y + bias), linear.Cache(x, weight, bias is not None)


def _backward(dy: Array, cache: Any) -> tuple[Array, dict[str, Any]]:
    x, weight, biased = cache
    if not isinstance(weight, Weight):
        return linear.backward(dy, cache)
    dp: dict[str, Any] = {"weight": weight.like(weight.dparts(dy, x))}
    return weight.linear_dx(dy), dp | ({"bias": column_sum(dy)} if biased else {})
