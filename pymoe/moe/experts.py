r"""Dispatch -> experts -> combine, with the backward that keeps no expert output.

Forward, row r of the plan holds token t(r) for expert e(r) with weight g_r::

    a_r = W_gu[e] x_t (+ b_gu[e])          (N, 2F) gate and up, or (N, F) without a gate
    h_r = act(gate) ⊙ up                   or act(a_r)
    o_r = W_d[e] h_r (+ b_d[e])            (N, D)
    y_t = Σ_j g_tj o_{slot(t, j)}

Backward.  With dh'_r = W_d[e]ᵀ dy_t (not yet weighted) the gradient of the weight needs no o_r::

    dg_r = ⟨dy_t, o_r⟩ = ⟨dh'_r, h_r⟩ (+ ⟨dy_t, b_d[e]⟩)
    dW_d[e] = Σ_r dy_t ⊗ (g_r h_r)         db_d[e]  = Σ_r g_r dy_t
    da_r    = ∂h/∂aᵀ (g_r dh'_r)
    dW_gu[e] = Σ_r da_r ⊗ x_t              db_gu[e] = Σ_r da_r
    dx_t    = Σ_j W_gu[e]ᵀ da_{slot(t, j)}

Kept: x, a and the plan, that is T·D + N·2F numbers (and the router its T·E scores); nothing is ever (T, E, C).  An
expert without rows gets exactly 0.  Cost: 3 N D F multiply-adds forward (gated), twice that backward; for matrices that
are a ``storage.Weight`` the stored values take the place of D F.  Sources: arXiv:1701.06538 eq. 1, arXiv:2002.05202.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.moe import grouped
from pymoe.moe.plan import Plan


class Cache(NamedTuple):
    x: Array  # (T, D)
    p: Mapping[str, Any]  # arrays; a matrix may be a storage.Weight
    plan: Plan
    a: Array  # (N, 2F) or (N, F) pre-activations
    g: Array  # (T, K) combine weights
    expert: Array | None  # (N,) expert of each row; only with biases
    act: str


def names(gated: bool) -> tuple[str, str]:
    """The parameter names of the way up and the way down."""
    return ("gate_up_proj" if gated else "up_proj"), "down_proj"


def forward(x: Array, g: Array, p: Mapping[str, Any], plan: Plan, *, act: str, gated: bool) -> tuple[Array, Cache]:
    """y (T, D) from x (T, D), g (T, K): each token through its kept experts, weighted.  A dropped token gets 0.

    >>> import numpy as np
    >>> from pymoe.moe import plan
    >>> p = {"up_proj": np.array([[[1.0]], [[10.0]]]), "down_proj": np.array([[[2.0]], [[1.0]]])}
    >>> chosen = plan.make(np.array([[0, 1], [1, 0]]), None, 2)
    >>> forward(np.array([[3.0], [1.0]]), np.array([[0.5, 0.5], [1.0, 0.0]]), p, chosen, act="relu", gated=False)[0]
    array([[18.],
           [10.]])
    """
    up, down = names(gated)
    xp = namespace(x)
    kernel = kernels.of(x)
    expert = None
    a = grouped.linear(kernel.gather(x, plan.token), p[up], plan.start)
    if up + "_bias" in p:
        expert = _expert_of_rows(plan)
        a = a + xp.take(p[up + "_bias"], expert, axis=0)
    h = kernel.glu_forward(a, act) if gated else kernel.act_forward(a, act)
    o = grouped.linear(h, p[down], plan.start)
    if expert is not None:
        o = o + xp.take(p[down + "_bias"], expert, axis=0)
    return kernel.combine(o, g, plan.slot), Cache(x, p, plan, a, g, expert, act)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dx (T, D) and {"g": dg (T, K), and a gradient for each parameter}.

    >>> import numpy as np
    >>> from pymoe.moe import plan
    >>> p = {"up_proj": np.array([[[1.0]], [[10.0]]]), "down_proj": np.array([[[2.0]], [[1.0]]])}
    >>> chosen = plan.make(np.array([[0, 1], [1, 0]]), None, 2)
    >>> g = np.array([[0.5, 0.5], [1.0, 0.0]])
    >>> _, cache = forward(np.array([[3.0], [1.0]]), g, p, chosen, act="relu", gated=False)
    >>> dx, d = backward(np.array([[1.0], [0.0]]), cache)
    >>> dx.tolist(), d["g"].tolist(), d["down_proj"].ravel().tolist()  # dg is what each expert said
    ([[6.0], [0.0]], [[6.0, 30.0], [0.0, 0.0]], [1.5, 15.0])
    """
    x, p, plan, a, g, expert, act = cache
    xp = namespace(dy, x)
    kernel = kernels.of(x)
    gated = "gate_up_proj" in p
    up, down = names(gated)
    weight = xp.take(xp.reshape(g, (-1,)), plan.pair)  # (N,) g_r
    dy_rows = kernel.gather(dy, plan.token)
    dh = grouped.linear_dx(dy_rows, p[down], plan.start)  # dh' = W_dᵀ dy
    weighted = kernel.weighted_glu_backward if gated else kernel.weighted_act_backward
    da, gh, dg_rows = weighted(dh, a, weight, act)  # da, g h, ⟨dh', h⟩
    dp: dict[str, Any] = {down: grouped.linear_dw(dy_rows, gh, p[down], plan.start)}  # Σ dy ⊗ (g h)
    if expert is not None:
        bias = p[down + "_bias"]
        dg_rows = dg_rows + kernel.grouped_linear(dy_rows, bias[:, None, :], plan.start)[:, 0]  # ⟨dy, b_d⟩
        dp[down + "_bias"] = kernel.segment_sum(weight[:, None] * dy_rows, plan.start)
        dp[up + "_bias"] = kernel.segment_sum(da, plan.start)
    del dy_rows, dh, gh  # the peak of memory is here: what follows needs only da
    dp[up] = grouped.linear_dw(da, kernel.gather(x, plan.token), p[up], plan.start)  # Σ da ⊗ x
    dx = kernel.combine(grouped.linear_dx(da, p[up], plan.start), None, plan.slot)
    dg = kernel.combine(dg_rows[:, None], None, xp.reshape(plan.slot, (-1, 1)))  # back to (t, j); dropped: 0
    return dx, {"g": xp.reshape(dg, g.shape), **dp}


def _expert_of_rows(plan: Plan) -> Array:
    """(N,) the expert that owns each row."""
    xp = namespace(plan.start)
    rows = xp.arange(int(plan.token.shape[0]), dtype=plan.start.dtype, device=plan.start.device)
    return xp.searchsorted(plan.start[1:], rows, side="right")
