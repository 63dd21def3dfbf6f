r"""Dispatch -> experts -> combine, with the backward that keeps no expert output.

Forward, row r of the plan holds token t(r) for expert e(r) with weight g_r::

    a_r = W_gu[e] x_t (+ b_gu[e])          (N, 2F) gate and up, or (N, F) without a gate
    h_r = act(gate) ⊙ up                   or act(a_r), or a variant: ``form.Form``
    o_r = W_d[e] h_r (+ b_d[e])            (N, D)
    y_t = Σ_j g_tj o_{slot(t, j)}

Backward.  With dh'_r = W_d[e]ᵀ dy_t (not yet weighted) the gradient of the weight needs no o_r::

    dg_r = ⟨dy_t, o_r⟩ = ⟨dh'_r, h_r⟩ (+ ⟨dy_t, b_d[e]⟩)
    dW_d[e] = Σ_r dy_t ⊗ (g_r h_r)         db_d[e]  = Σ_r g_r dy_t
    da_r    = ∂h/∂aᵀ (g_r dh'_r)
    dW_gu[e] = Σ_r da_r ⊗ x_t              db_gu[e] = Σ_r da_r
    dx_t    = Σ_j W_gu[e]ᵀ da_{slot(t, j)}

Where the weight goes (``weight_at``)::

    "output"     as above
    "pre_down"   o_r = W_d[e] (g_r h_r) (+ g_r b_d[e]): the bias is weighted too, so the function and all gradients are
                 those of "output"; only the rounding is that of fused kernels
    "input"      x'_r = g_r x_t goes in, y_t = Σ_j o_{slot(t, j)}:  dx'_r = W_gu[e]ᵀ da_r,
                 dg_r = ⟨dx'_r, x_t⟩,  dx_t = Σ_j g_tj dx'_{slot(t, j)}       (another function: act is not linear)

A norm of each expert's output before it is weighted (``norm``), n_r = norm(o_r), y_t = Σ_j g_tj n_{slot(t, j)}, has
dg_r = ⟨dy_t, n_r⟩ and do_r = J_normᵀ (g_r dy_t): here o_r is needed, so N·D more numbers are kept and one more pass
over them is made.

Kept: x, a and the plan, that is T·D + N·2F numbers (and the router its T·E scores); nothing is ever (T, E, C).  An
expert without rows gets exactly 0.  Cost: 3 N D F multiply-adds forward (gated), twice that backward; for matrices that
are a ``storage.Weight`` the stored values take the place of D F.  Sources: arXiv:1701.06538 eq. 1, arXiv:2002.05202;
"input": Llama 4, "pre_down": the order of fused kernels, the norm: MuseSpark, all three from published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.moe import grouped, hidden, norms
from pymoe.moe.form import Form, Norm
from pymoe.moe.plan import Plan

WEIGHT_AT = ("output", "input", "pre_down")
NORM = "post_norm"  # the name of the norm's weight, one for all experts


class Cache(NamedTuple):
    x: Array  # (T, D)
    p: Mapping[str, Any]  # arrays; a matrix may be a storage.Weight
    plan: Plan
    a: Array  # (N, 2F) or (N, F) pre-activations
    g: Array  # (T, K) combine weights
    expert: Array | None  # (N,) expert of each row; only with biases
    form: Form
    weight_at: str
    norm: norms.Cache | None  # of o (N, D); only where the outputs are normalised


def names(gated: bool) -> tuple[str, str]:
    """The parameter names of the way up and the way down."""
    return ("gate_up_proj" if gated else "up_proj"), "down_proj"


def forward(
    x: Array,
    g: Array,
    p: Mapping[str, Any],
    plan: Plan,
    *,
    form: Form,
    weight_at: str = "output",
    norm: Norm | None = None,
) -> tuple[Array, Cache]:
    """y (T, D) from x (T, D), g (T, K): each token through its kept experts, weighted.  A dropped token gets 0.

    >>> import numpy as np
    >>> from pymoe.moe import plan
    >>> p = {"up_proj": np.array([[[1.0]], [[10.0]]]), "down_proj": np.array([[[2.0]], [[1.0]]])}
    >>> chosen = plan.make(np.array([[0, 1], [1, 0]]), None, 2)
    >>> forward(np.array([[3.0], [1.0]]), np.array([[0.5, 0.5], [1.0, 0.0]]), p, chosen, form=Form("relu", False))[0]
    array([[18.],
           [10.]])
    """
    up, down = names(form.gated)
    xp = namespace(x)
    kernel = kernels.of(x)
    rows = kernel.gather(x, plan.token)
    if weight_at == "input":
        rows = _weight(g, plan) * rows
    a = grouped.linear(rows, p[up], plan.start)
    expert = None
    if up + "_bias" in p:
        expert = _expert_of_rows(plan)
        a = a + xp.take(p[up + "_bias"], expert, axis=0)
    h = hidden.forward(a, form)
    if weight_at == "pre_down":
        h = _weight(g, plan) * h
    o = grouped.linear(h, p[down], plan.start)
    if expert is not None:
        bias = xp.take(p[down + "_bias"], expert, axis=0)
        o = o + (bias if weight_at != "pre_down" else _weight(g, plan) * bias)
    c_norm = None
    if norm is not None:
        o, c_norm = norms.forward(o, p[NORM], norm)
    y = kernel.combine(o, g if weight_at == "output" else None, plan.slot)
    return y, Cache(x, p, plan, a, g, expert, form, weight_at, c_norm)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dx (T, D) and {"g": dg (T, K), and a gradient for each parameter}.

    >>> import numpy as np
    >>> from pymoe.moe import plan
    >>> p = {"up_proj": np.array([[[1.0]], [[10.0]]]), "down_proj": np.array([[[2.0]], [[1.0]]])}
    >>> chosen = plan.make(np.array([[0, 1], [1, 0]]), None, 2)
    >>> g = np.array([[0.5, 0.5], [1.0, 0.0]])
    >>> _, cache = forward(np.array([[3.0], [1.0]]), g, p, chosen, form=Form("relu", False))
    >>> dx, d = backward(np.array([[1.0], [0.0]]), cache)
    >>> dx.tolist(), d["g"].tolist(), d["down_proj"].ravel().tolist()  # dg is what each expert said
    ([[6.0], [0.0]], [[6.0, 30.0], [0.0, 0.0]], [1.5, 15.0])
    """
    x, p, plan, a, g, expert, form, weight_at, c_norm = cache
    xp = namespace(dy, x)
    kernel = kernels.of(x)
    up, down = names(form.gated)
    weight = _weight(g, plan)  # (N, 1) g_r
    dy_rows = kernel.gather(dy, plan.token)
    dp: dict[str, Any] = {}
    late = weight_at != "input" and c_norm is None  # dy reaches o as it is, and is weighted on the way to h
    if c_norm is not None:
        dg_rows = xp.sum(dy_rows * norms.again(c_norm), axis=1)  # ⟨dy, n⟩
        dy_rows, dp[NORM] = norms.backward(dy_rows if weight_at == "input" else weight * dy_rows, c_norm)
    dh = grouped.linear_dx(dy_rows, p[down], plan.start)  # dh' = W_dᵀ dy
    if late:
        da, gh, dg_rows = hidden.weighted_backward(dh, a, weight[:, 0], form)  # da, g h, ⟨dh', h⟩
    else:
        da, gh = hidden.backward(dh, a, form), hidden.forward(a, form)
    dp[down] = grouped.linear_dw(dy_rows, gh, p[down], plan.start)  # Σ dy ⊗ (g h)
    if expert is not None:
        if late:
            bias = p[down + "_bias"]
            dg_rows = dg_rows + kernel.grouped_linear(dy_rows, bias[:, None, :], plan.start)[:, 0]  # ⟨dy, b_d⟩
        dp[down + "_bias"] = kernel.segment_sum(weight * dy_rows if late else dy_rows, plan.start)
        dp[up + "_bias"] = kernel.segment_sum(da, plan.start)
    del dy_rows, dh, gh  # the peak of memory is here: what follows needs only da
    rows = kernel.gather(x, plan.token)
    if weight_at == "input":
        dx_rows = grouped.linear_dx(da, p[up], plan.start)
        dg_rows = xp.sum(dx_rows * rows, axis=1)  # ⟨dx', x⟩
        dx = kernel.combine(dx_rows, g, plan.slot)
        dp[up] = grouped.linear_dw(da, weight * rows, p[up], plan.start)  # Σ da ⊗ (g x)
    else:
        dp[up] = grouped.linear_dw(da, rows, p[up], plan.start)  # Σ da ⊗ x
        del rows
        dx = kernel.combine(grouped.linear_dx(da, p[up], plan.start), None, plan.slot)
    dg = kernel.combine(dg_rows[:, None], None, xp.reshape(plan.slot, (-1, 1)))  # back to (t, j); dropped: 0
    return dx, {"g": xp.reshape(dg, g.shape), **dp}


def _weight(g: Array, plan: Plan) -> Array:
    """(N, 1) the weight of each row."""
    xp = namespace(g)
    return xp.take(xp.reshape(g, (-1,)), plan.pair)[:, None]


def _expert_of_rows(plan: Plan) -> Array:
    """(N,) the expert that owns each row."""
    xp = namespace(plan.start)
    rows = xp.arange(int(plan.token.shape[0]), dtype=plan.start.dtype, device=plan.start.device)
    return xp.searchsorted(plan.start[1:], rows, side="right")
