"""The kernels as definitions: array API code a reader can check, the twin that the compiled ones are judged by.

Letters: T tokens, D width, F expert width, E experts, K choices a token, N rows (kept token-expert pairs).
Rows are sorted by expert; expert e owns rows start[e]:start[e+1].  ``slot[t, j]`` is the row of choice j of token t,
-1 where that choice was dropped.  Sums over choices run in ascending j: the order, and with it every bit, is part of
the definition.
"""

from __future__ import annotations

from pymoe.backend import device, namespace, real
from pymoe.backend.errors import ConfigError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.kernels.activations import ACTIVATIONS
from pymoe.kernels.reference_bsr import bsr_linear, bsr_linear_ddata, bsr_linear_dx
from pymoe.kernels.reference_csr import csr_linear, csr_linear_ddata, csr_linear_dx
from pymoe.kernels.reference_nm import nm_linear, nm_linear_ddata, nm_linear_dx
from pymoe.kernels.reference_norm import rms_norm, rms_norm_backward

__all__ = [
    "act_backward",
    "act_forward",
    "adamw",
    "bsr_linear",
    "bsr_linear_ddata",
    "bsr_linear_dx",
    "combine",
    "combine_dweight",
    "counting_sort",
    "csr_linear",
    "csr_linear_ddata",
    "csr_linear_dx",
    "expand",
    "gather",
    "glu_backward",
    "glu_forward",
    "grouped_linear",
    "grouped_linear_dw",
    "grouped_linear_dx",
    "nm_linear",
    "nm_linear_ddata",
    "nm_linear_dx",
    "nm_mask",
    "prune_mask",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "segment_sum",
    "softmax",
    "softmax_backward",
    "topk",
    "weighted_act_backward",
    "weighted_glu_backward",
]


# --- decisions -------------------------------------------------------------------------------------------------------


def topk(s: Array, k: int) -> Array:
    """idx (T, k) int64: the k largest of each row of s (T, E), descending; ties go to the lowest id; NaN ranks last.

    O(T E log E).  Looks at the real part only.

    >>> import numpy as np
    >>> topk(np.array([[1.0, 3.0, 3.0, 2.0]]), 3)
    array([[1, 2, 3]])
    """
    xp = namespace(s)
    checks.choices(int(s.shape[1]), k)
    order = xp.argsort(-real(s), axis=1, stable=True)
    return xp.astype(order[:, :k], xp.int64)


def counting_sort(ids: Array, n: int) -> tuple[Array, Array]:
    """(order, start) of ids (S,) in [-1, n): stable, -1 (dropped) left out.

    order (N,) int64: positions of ids, sorted by id, ascending within an id.  start (n+1,) int64: id e owns
    order[start[e]:start[e+1]].  O(S + n) compiled.

    >>> import numpy as np
    >>> counting_sort(np.array([2, 0, -1, 2, 0]), 3)
    (array([1, 4, 0, 3]), array([0, 2, 2, 4]))
    """
    xp = namespace(ids)
    checks.index("ids", ids, n, lowest=-1)
    order = xp.astype(xp.argsort(ids, stable=True), xp.int64)
    edges = xp.arange(n + 1, dtype=ids.dtype, device=device(ids))
    bounds = xp.searchsorted(xp.take(ids, order), edges)  # first position with id >= edge; edge 0 skips the dropped
    dropped = int(bounds[0])
    return order[dropped:], xp.astype(bounds - dropped, xp.int64)


def nm_mask(w: Array, n: int, m: int) -> Array:
    """N:M mask (bool) over the last axis of w (R, C): in each block of m columns keep the n largest |w|.

    Ties keep the lowest column; C must be a multiple of m.  Source: arXiv:2104.08378.

    >>> import numpy as np
    >>> nm_mask(np.array([[1.0, -3.0, 2.0, 0.5]]), 2, 4)
    array([[False,  True,  True, False]])
    """
    xp = namespace(w)
    rows, columns = w.shape
    if not 0 < n <= m or columns % m:
        raise ConfigError(f"N:M needs 0 < n <= m and a width that is a multiple of m; got {n}:{m}, width {columns}")
    blocks = xp.reshape(xp.abs(w), (rows * (columns // m), m))
    order = xp.argsort(-blocks, axis=1, stable=True)
    rank = xp.argsort(order, axis=1, stable=True)  # rank of each column within its block
    return xp.reshape(rank < n, (rows, columns))


def prune_mask(w: Array, n: int) -> Array:
    """False (pruned) for exactly the n entries of smallest |w| in the whole of w (R, C), True for the others.

    Of equal magnitudes the lowest flat index is pruned first; NaN ranks below every number, so it goes before all.
    Looks at the real part only.  O(R C) compiled.

    >>> import numpy as np
    >>> prune_mask(np.array([[2.0, -1.0, 3.0], [1.0, 1.0, -4.0]]), 2)
    array([[ True, False,  True],
           [False,  True,  True]])
    """
    xp = namespace(w)
    size = xp.abs(real(xp.reshape(w, (-1,))))
    if not 0 <= n <= size.shape[0]:
        raise ConfigError(f"n, the number of pruned entries, must be in [0, {size.shape[0]}], got {n}")
    size = xp.where(xp.isnan(size), -xp.ones_like(size), size)
    order = xp.argsort(size, stable=True)
    rank = xp.argsort(order, stable=True)
    return xp.reshape(rank >= n, w.shape)


# --- data movement ---------------------------------------------------------------------------------------------------


def gather(x: Array, rows: Array) -> Array:
    """out[i] = x[rows[i]] for x (T, D), rows (N,) -> (N, D): dispatch, xs = P x.  O(N D)."""
    xp = namespace(x, rows)
    checks.index("rows", rows, int(x.shape[0]))
    return xp.take(x, rows, axis=0)


def combine(ys: Array, weight: Array | None, slot: Array) -> Array:
    """y[t] = Σ_j weight[t, j] ys[slot[t, j]], ascending j, kept slots only; weight None means all 1.

    ys (N, D), weight (T, K), slot (T, K) -> y (T, D).  With weight None it is the backward of ``gather``: dx = Pᵀ dxs.
    A dropped choice contributes exactly 0 even where ys holds NaN.  O(T K D).
    """
    xp = namespace(ys, weight, slot)
    n, d = ys.shape
    tokens, k = slot.shape
    checks.index("slot", slot, n, lowest=-1)
    if weight is not None:
        check_shape("weight", weight, (tokens, k))
    dtype = ys.dtype if weight is None else xp.result_type(ys, weight)
    y = xp.zeros((tokens, d), dtype=dtype, device=device(ys))
    if n == 0:
        return y
    for j in range(k):
        column = slot[:, j]
        kept = column >= 0
        row = xp.take(ys, xp.where(kept, column, xp.zeros_like(column)), axis=0)
        if weight is not None:
            row = weight[:, j][:, None] * row
        y = y + xp.where(kept[:, None], row, xp.zeros_like(row))
    return y


def combine_dweight(dy: Array, ys: Array, slot: Array) -> Array:
    """dweight[t, j] = ⟨dy[t], ys[slot[t, j]]⟩, 0 for a dropped choice: the backward of ``combine`` in the weight.

    dy (T, D), ys (N, D), slot (T, K) -> (T, K).  O(T K D).
    """
    xp = namespace(dy, ys, slot)
    checks.index("slot", slot, int(ys.shape[0]), lowest=-1)
    columns = []
    for j in range(int(slot.shape[1])):
        column = slot[:, j]
        kept = column >= 0
        if ys.shape[0] == 0:
            columns.append(xp.zeros((dy.shape[0],), dtype=xp.result_type(dy, ys), device=device(dy)))
            continue
        dot = xp.sum(dy * xp.take(ys, xp.where(kept, column, xp.zeros_like(column)), axis=0), axis=1)
        columns.append(xp.where(kept, dot, xp.zeros_like(dot)))
    return xp.stack(columns, axis=1)


def segment_sum(x: Array, start: Array) -> Array:
    """out[e] = Σ x[r] over the rows r of group e, ascending; an empty group is exactly 0.

    x (N, D), start (E+1,) -> (E, D).  The gradient of a bias an expert adds to each of its rows.  O(N D).
    """
    xp = namespace(x, start)
    groups = int(start.shape[0]) - 1
    bounds = checks.starts(start, groups, int(x.shape[0]))
    zero = xp.zeros((x.shape[1],), dtype=x.dtype, device=device(x))
    sums = [xp.sum(x[a:b, :], axis=0) if b > a else zero for a, b in zip(bounds, bounds[1:], strict=False)]
    return xp.stack(sums, axis=0) if sums else xp.zeros((0, x.shape[1]), dtype=x.dtype, device=device(x))


def expand(v: Array, idx: Array, n: int) -> Array:
    """out[t, idx[t, j]] = v[t, j], 0 elsewhere: v (T, K), idx (T, K) distinct in each row -> (T, n).

    The backward of ``take_along_axis(s, idx, axis=1)``: gradients of chosen scores go back to their columns.  O(T n).
    """
    xp = namespace(v, idx)
    check_shape("idx", idx, tuple(v.shape))
    checks.index("idx", idx, n)
    columns = xp.arange(n, dtype=idx.dtype, device=device(idx))[None, :]
    out = xp.zeros((v.shape[0], n), dtype=v.dtype, device=device(v))
    for j in range(int(v.shape[1])):
        out = xp.where(columns == idx[:, j][:, None], v[:, j][:, None], out)
    return out


# --- grouped matrix products: one BLAS call for each expert that has rows -------------------------------------------


def grouped_linear(a: Array, weight: Array, start: Array) -> Array:
    """out[r] = weight[e] a[r] for the rows r of expert e: a (N, D), weight (E, F, D) -> (N, F).  2 N D F flops."""
    xp = namespace(a, weight, start)
    experts, f, d = weight.shape
    check_shape("a", a, (None, d))
    bounds = checks.starts(start, experts, int(a.shape[0]))
    out = xp.empty((a.shape[0], f), dtype=xp.result_type(a, weight), device=device(a))
    for e in range(experts):
        lo, hi = bounds[e], bounds[e + 1]
        if hi > lo:
            out[lo:hi, :] = a[lo:hi, :] @ weight[e, :, :].T
    return out


def grouped_linear_dx(dout: Array, weight: Array, start: Array) -> Array:
    """da[r] = weight[e]ᵀ dout[r]: dout (N, F), weight (E, F, D) -> (N, D).  2 N D F flops."""
    xp = namespace(dout, weight, start)
    experts, f, d = weight.shape
    check_shape("dout", dout, (None, f))
    bounds = checks.starts(start, experts, int(dout.shape[0]))
    da = xp.empty((dout.shape[0], d), dtype=xp.result_type(dout, weight), device=device(dout))
    for e in range(experts):
        lo, hi = bounds[e], bounds[e + 1]
        if hi > lo:
            da[lo:hi, :] = dout[lo:hi, :] @ weight[e, :, :]
    return da


def grouped_linear_dw(dout: Array, a: Array, start: Array) -> Array:
    """dweight[e] = Σ_r dout[r] ⊗ a[r] over the rows of e: dout (N, F), a (N, D) -> (E, F, D); no rows: exactly 0."""
    xp = namespace(dout, a, start)
    experts = int(start.shape[0]) - 1
    check_shape("a", a, (dout.shape[0], None))
    bounds = checks.starts(start, experts, int(a.shape[0]))
    dw = xp.empty((experts, dout.shape[1], a.shape[1]), dtype=xp.result_type(dout, a), device=device(a))
    for e in range(experts):
        lo, hi = bounds[e], bounds[e + 1]
        if hi > lo:
            dw[e, :, :] = dout[lo:hi, :].T @ a[lo:hi, :]
        else:
            dw[e, :, :] = 0
    return dw


# --- elementwise, fused where a pass over memory is what costs -------------------------------------------------------


def act_forward(x: Array, act: str) -> Array:
    """act(x), elementwise, x (N, F)."""
    checks.activation(act)
    checks.floating("x", x)
    f, _ = ACTIVATIONS[act]
    return f(x)


def act_backward(dh: Array, x: Array, act: str) -> Array:
    """dx = dh ⊙ act'(x)."""
    checks.activation(act)
    _, df = ACTIVATIONS[act]
    return dh * df(x)


def glu_forward(x: Array, act: str) -> Array:
    """h = act(g) ⊙ u for x = [g | u]: (N, 2F) -> (N, F)."""
    checks.activation(act)
    checks.floating("x", x)
    f, _ = ACTIVATIONS[act]
    half = checks.halves("glu_forward", x)
    return f(x[..., :half]) * x[..., half:]


def glu_backward(dh: Array, x: Array, act: str) -> Array:
    """dx = [dh ⊙ u ⊙ act'(g) | dh ⊙ act(g)]: dh (N, F), x (N, 2F) -> (N, 2F)."""
    checks.activation(act)
    xp = namespace(dh, x)
    f, df = ACTIVATIONS[act]
    half = checks.halves("glu_backward", x)
    g, u = x[..., :half], x[..., half:]
    return xp.concat([dh * u * df(g), dh * f(g)], axis=-1)


def weighted_glu_backward(dh: Array, x: Array, weight: Array, act: str) -> tuple[Array, Array, Array]:
    """The backward of weight[r] · glu(x[r]) in one pass, for an upstream ``dh`` that is not yet weighted.

    dh (N, F), x (N, 2F), weight (N,) -> dx (N, 2F), wh (N, F), dweight (N,), with h = act(g) ⊙ u::

        wh = weight h        dweight = ⟨dh, h⟩        dx = glu_backward(weight dh, x)

    Why unweighted: with dh = W_dᵀ dy, ⟨dh, h⟩ = ⟨dy, W_d h⟩ is the gradient of the combine weight, so the expert's
    output need not be kept, and wh is what dW_d = Σ dy ⊗ (weight h) needs.
    """
    xp = namespace(dh, x, weight)
    h = glu_forward(x, act)
    return glu_backward(weight[:, None] * dh, x, act), weight[:, None] * h, xp.sum(dh * h, axis=-1)


def weighted_act_backward(dh: Array, x: Array, weight: Array, act: str) -> tuple[Array, Array, Array]:
    """``weighted_glu_backward`` for an expert without a gate: h = act(x), x (N, F)."""
    xp = namespace(dh, x, weight)
    h = act_forward(x, act)
    return act_backward(weight[:, None] * dh, x, act), weight[:, None] * h, xp.sum(dh * h, axis=-1)


def softmax(x: Array, limit: Array | None = None) -> Array:
    """p = e^{x - m} / Σ e^{x - m}, m = max(x), over the last axis of x (R, C); -inf gives exactly 0.

    limit (R,) int64 in [0, C]: only the first limit[r] columns of row r take part, the others get exactly 0 (the keys
    a query of causal attention may see).  A row of nothing but -inf (every key masked) is defined as all zeros.
    """
    xp = namespace(x, limit)
    if limit is not None:
        check_shape("limit", limit, (x.shape[0],))
        checks.index("limit", limit, int(x.shape[1]) + 1)
        columns = xp.arange(x.shape[1], dtype=limit.dtype, device=device(x))[None, :]
        x = xp.where(columns < limit[:, None], x, xp.full_like(x, -xp.inf))
    m = xp.max(real(x), axis=-1, keepdims=True)
    m = xp.where(m == -xp.inf, xp.zeros_like(m), m)
    e = xp.exp(x - m)
    total = xp.sum(e, axis=-1, keepdims=True)
    return e / xp.where(real(total) == 0, xp.ones_like(total), total)


def softmax_backward(dp: Array, p: Array) -> Array:
    """dx = p ⊙ (dp - ⟨p, dp⟩) over the last axis."""
    xp = namespace(dp, p)
    return p * (dp - xp.sum(p * dp, axis=-1, keepdims=True))


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """[a c - b s | b c + a s] for x = [a | b]: each pair (a_i, b_i) of a row turned by its angle.

    x (B, H, S, d), cos and sin (S, d/2) or (B, 1, S, d/2) -> (B, H, S, d).  With -sin it turns back.  O(B H S d).
    """
    xp = namespace(x, cos, sin)
    half = int(x.shape[-1]) // 2
    if x.ndim != 4 or x.shape[-1] != 2 * half or cos.shape != sin.shape or cos.shape[-1] != half:
        raise ShapeError(
            f"rotate: x must be (B, H, S, 2n) and cos, sin (..., S, n), got {x.shape}, {cos.shape}, {sin.shape}"
        )
    a, b = x[:, :, :, :half], x[:, :, :, half:]
    return xp.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)


def adamw(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    step: int,
) -> tuple[Array, Array, Array]:
    """One AdamW step, new arrays (p, m, v); step counts from 1::

        m <- β₁ m + (1 - β₁) g         v <- β₂ v + (1 - β₂) g²
        p <- p - lr (m̂ / (√v̂ + ε) + decay p),   m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)

    Source: arXiv:1711.05101, algorithm 2.
    """
    xp = namespace(p, g, m, v)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    a, b = 1 / (1 - beta1**step), 1 / (1 - beta2**step)
    return p - lr * (m * a / (xp.sqrt(v * b) + eps) + decay * p), m, v
