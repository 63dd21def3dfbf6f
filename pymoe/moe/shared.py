r"""The shared experts: a feed-forward network of width d_shared that every token passes, in the four published forms.

Forward::

    a = x W_guᵀ (+ b_gu)        h = act(gate) ⊙ up (or act(a), or a variant: ``form.Form``)        f = h W_dᵀ (+ b_d)
    "add", "average":  y = f                                            (the layer takes the mean with the routed sum)
    "gated":           y = c f,     c = σ(x w_cᵀ)   (T, 1)
    "joint":           y = (γ ⊙ h) W_dᵀ             γ (T, n) from the router, one for each of the n blocks of h

Backward, dh' = dy W_d not yet weighted::

    da = ∂h/∂aᵀ dh        dx = da W_gu        dW_d = dyᵀ h        dW_gu = daᵀ x        db_d = Σ dy        db_gu = Σ da
    "gated":  df = c dy,    dq = c (1 - c) ⟨dy, f⟩,    dw_c = dqᵀ x,    dx += dq w_c
    "joint":  dh = γ ⊙ dh', dγ_i = ⟨dh', h⟩ over block i,    dW_d = dyᵀ (γ ⊙ h)

n_shared experts of equal width F are one network of width n F: block i of the gate's rows, of the up rows and of the
columns of W_d is expert i, and their outputs add up.  A matrix may be a ``storage.Weight``; its gradient is then one of
the same structure.  Sources: "add" DeepSeekMoE, arXiv:2401.06066, eq. 9; "gated" Qwen2, arXiv:2407.10671 and its
published code; "average" Cohere2 and "joint" Inkling, their published code.  Cost: 3 T D d_shared multiply-adds forward
(2 without a gate), twice that backward; a and h are kept, f too where it is gated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe.backend import namespace
from pymoe.backend.errors import ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe import hidden
from pymoe.moe.config import MoEConfig
from pymoe.moe.experts import names
from pymoe.moe.form import Form
from pymoe.ops import linear, sigmoid
from pymoe.ops._rows import column_sum
from pymoe.storage import Weight


class Cache(NamedTuple):
    up: Any  # cache of the way up
    a: Array  # (T, 2F) or (T, F)
    down: Any  # cache of the way down
    mask: Array | None  # (T,)
    form: Form
    gate: tuple[Any, Any, Array] | None  # "gated": caches of x w_cᵀ and of σ, and f (T, D)
    weight: Array | None  # "joint": γ (T, n)


def forward(
    x: Array, p: Mapping[str, Any], cfg: MoEConfig, mask: Array | None = None, weight: Array | None = None
) -> tuple[Array, Cache]:
    """y (T, D) of x (T, D), and of γ (T, n) where ``cfg.shared`` is "joint"; a padding token's x is 0, and so is its y.

    >>> import numpy as np
    >>> from pymoe import presets
    >>> cfg = presets.switch(d_model=1, d_ff=2, n_experts=2, d_shared=2)
    >>> p = {"up_proj": np.array([[1.0], [-1.0]]), "down_proj": np.array([[2.0, 3.0]])}
    >>> forward(np.array([[5.0], [-5.0]]), p, cfg)[0]  # relu: a positive x times 2, a negative one times -3
    array([[10.],
           [15.]])
    """
    form = cfg.form_of_shared
    up, down = names(form.gated)
    if (weight is not None) != (cfg.shared == "joint"):
        raise ShapeError(
            f"the router's weights of the shared experts, (T, {cfg.n_shared}), go with shared='joint' and with nothing "
            f"else: got shared={cfg.shared!r}"
        )
    a, up_cache = _forward(x, p[up], p.get(up + "_bias"))
    h = hidden.forward(a, form)
    if weight is not None:
        check_shape("the weights of the shared experts", weight, (int(x.shape[0]), cfg.n_shared))
        h = _blocks(weight, h) * h
    y, down_cache = _forward(h, p[down], p.get(down + "_bias"))
    gate = None
    if cfg.shared == "gated":
        q, q_cache = linear.forward(x, p["gate"])
        c, c_cache = sigmoid.forward(q)
        gate = q_cache, c_cache, y
        y = c * y
    if mask is not None:
        y = namespace(y).where(mask[:, None], y, namespace(y).zeros_like(y))
    return y, Cache(up_cache, a, down_cache, mask, form, gate, weight)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dx (T, D) and the gradients, with "weight" (T, n) of a joint form; dy of a padding token does not count.

    >>> import numpy as np
    >>> from pymoe import presets
    >>> cfg = presets.switch(d_model=1, d_ff=2, n_experts=2, d_shared=2)
    >>> p = {"up_proj": np.array([[1.0], [-1.0]]), "down_proj": np.array([[2.0, 3.0]])}
    >>> _, cache = forward(np.array([[5.0], [-5.0]]), p, cfg)
    >>> dx, dp = backward(np.array([[1.0], [1.0]]), cache)
    >>> dx.tolist(), dp["up_proj"].tolist(), dp["down_proj"].tolist()
    ([[2.0], [-3.0]], [[10.0], [-15.0]], [[5.0, 5.0]])
    """
    up_cache, a, down_cache, mask, form, gate, weight = cache
    xp = namespace(dy)
    if mask is not None:
        dy = xp.where(mask[:, None], dy, xp.zeros_like(dy))
    up, down = names(form.gated)
    dp: dict[str, Any] = {}
    dx_gate = None
    if gate is not None:
        q_cache, c_cache, f = gate
        dq, _ = sigmoid.backward(xp.sum(dy * f, axis=1, keepdims=True), c_cache)
        dx_gate, d = linear.backward(dq, q_cache)
        dp["gate"] = d["weight"]
        dy = c_cache.s * dy
    dh, d_down = _backward(dy, down_cache)
    if weight is not None:
        h = hidden.forward(a, form)
        dp["weight"] = xp.sum(xp.reshape(dh * h, (*weight.shape, -1)), axis=2)
        dh = _blocks(weight, dh) * dh
    da = hidden.backward(dh, a, form)
    dx, d_up = _backward(da, up_cache)
    dp |= {up: d_up["weight"], down: d_down["weight"]}
    if "bias" in d_up:
        dp[up + "_bias"], dp[down + "_bias"] = d_up["bias"], d_down["bias"]
    return (dx if dx_gate is None else dx + dx_gate), dp


def _blocks(weight: Array, h: Array) -> Array:
    """γ (T, n) as wide as h (T, n F): each repeated over its block."""
    return namespace(weight).repeat(weight, int(h.shape[1]) // int(weight.shape[1]), axis=1)


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
