"""The compiled kernels for NumPy arrays: the names, signatures and results of ``reference``.

This is the door: it checks shapes, indices and dtypes before any loop runs, copies what is not native, aligned and
C-contiguous (so strides and byte order never change a bit), allocates the outputs, and calls ``_cython``.  Inputs are
never written, so read-only arrays are welcome.  A call that no compiled loop takes (float16, mixed dtypes, shapes that
broadcast or do not fit, nothing to do) goes to the definition, which also words the errors.  Matrix products are
NumPy's BLAS, one call for each expert that has rows, straight into the output.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks, cython_bsr, cython_csr, cython_nm, cython_norm, reference
from pymoe.kernels.door import INT64, TYPES, fused, indices, plain, refuse_objects, shared, starts
from pymoe.kernels.parallel import build, compiled, threads

__all__ = list(reference.__all__)

BUILD = build()

MOST_CHOICES = 512  # top-k beyond this many is a sort
WIDEST_BLOCK = 64  # N:M blocks beyond this many columns are sorted

_CODES = {act: i for i, act in enumerate(("silu", "gelu", "gelu_tanh", "relu", "relu_squared", "sigmoid", "identity"))}
_NO_LIMIT = np.empty(0, dtype=INT64)


rms_norm, rms_norm_backward = cython_norm.rms_norm, cython_norm.rms_norm_backward
csr_linear, csr_linear_dx = cython_csr.csr_linear, cython_csr.csr_linear_dx
csr_linear_ddata = cython_csr.csr_linear_ddata
bsr_linear, bsr_linear_dx = cython_bsr.bsr_linear, cython_bsr.bsr_linear_dx
bsr_linear_ddata = cython_bsr.bsr_linear_ddata
nm_linear, nm_linear_dx, nm_linear_ddata = cython_nm.nm_linear, cython_nm.nm_linear_dx, cython_nm.nm_linear_ddata


def supports(x: Array) -> bool:
    """Is ``x`` a NumPy array of float32, float64, complex128, long double (any byte order) or of integers?"""
    return isinstance(x, np.ndarray) and (x.dtype.kind in "iu" or x.dtype.newbyteorder("=") in TYPES)


_prune_mask = fused("prune_mask")
_topk, _nm_mask, _combine, _combine_dweight, _segment_sum, _act_forward, _act_backward = map(
    fused, ("topk", "nm_mask", "combine", "combine_dweight", "segment_sum", "act_forward", "act_backward")
)
_glu_forward, _glu_backward, _weighted_backward, _softmax, _softmax_backward, _rotate, _adamw = map(
    fused, ("glu_forward", "glu_backward", "weighted_backward", "softmax", "softmax_backward", "rotate", "adamw")
)


# --- decisions -------------------------------------------------------------------------------------------------------


def topk(s: Array, k: int) -> Array:
    check_shape("s", s, (None, None))
    rows, experts = s.shape
    checks.choices(experts, k)
    dtype = shared(s)
    if dtype is None or k > MOST_CHOICES:
        return reference.topk(s, k)
    idx = np.empty((rows, k), dtype=INT64)
    _topk[dtype](plain(s, dtype), idx, threads(rows * (experts + 16 * k)))
    return idx


def counting_sort(ids: Array, n: int) -> tuple[Array, Array]:
    if ids.ndim != 1 or n < 1:
        return reference.counting_sort(ids, n)
    ids = indices("ids", ids, n, lowest=-1)
    start = np.empty(n + 1, dtype=INT64)
    compiled.count(ids, start)
    order = np.empty(start[n], dtype=INT64)
    compiled.place(ids, start.copy(), order)
    return order, start


def nm_mask(w: Array, n: int, m: int) -> Array:
    dtype = shared(w)
    if dtype is None or w.ndim != 2 or not 0 < n <= m <= WIDEST_BLOCK or w.shape[1] % m:
        return reference.nm_mask(w, n, m)
    mask = np.empty(w.shape, dtype=np.bool_)
    _nm_mask[dtype](plain(w, dtype), mask.view(np.uint8), n, m, threads(w.size * m))
    return mask


def prune_mask(w: Array, n: int) -> Array:
    dtype = shared(w)
    if dtype is None or not 0 < n <= w.size:
        return reference.prune_mask(w, n)
    w = plain(w, dtype)
    flat = w.reshape(-1)
    size = np.abs(flat.real)
    size[np.isnan(size)] = -1
    edge = np.partition(size, n - 1)[n - 1 : n].astype(dtype)  # introselect: O(size)
    mask = np.empty(w.shape, dtype=np.bool_)
    _prune_mask[dtype](flat, edge, mask.reshape(-1).view(np.uint8), n)
    return mask


# --- data movement ---------------------------------------------------------------------------------------------------


def gather(x: Array, rows: Array) -> Array:
    refuse_objects(x)
    if x.ndim < 1 or rows.ndim != 1 or not x.size or not rows.size:
        return reference.gather(x, rows)
    rows = indices("rows", rows, x.shape[0])
    if not x.flags.c_contiguous:  # copies the rows asked for, not all of x
        return np.ascontiguousarray(x[rows], dtype=x.dtype.newbyteorder("="))
    x = plain(x, x.dtype.newbyteorder("="))
    out = np.empty((rows.size, *x.shape[1:]), dtype=x.dtype)
    compiled.gather(_bytes(x.reshape(len(x), -1)), rows, _bytes(out.reshape(len(out), -1)), threads(out.nbytes // 8))
    return out


def _bytes(a: Array) -> Array:
    return a.view(np.uint8)


def combine(ys: Array, weight: Array | None, slot: Array) -> Array:
    if ys.ndim != 2 or slot.ndim != 2:
        return reference.combine(ys, weight, slot)
    slot = indices("slot", slot, ys.shape[0], lowest=-1)
    if weight is not None:
        check_shape("weight", weight, slot.shape)
        if weight.dtype != ys.dtype:
            refuse_objects(ys, weight)
            both = np.result_type(ys, weight)
            ys, weight = ys.astype(both), weight.astype(both)
    dtype = shared(ys)
    if dtype is None or not slot.size:
        return reference.combine(ys, weight, slot)
    out = np.empty((slot.shape[0], ys.shape[1]), dtype=dtype)
    weight = None if weight is None else plain(weight, dtype)
    _combine[dtype](plain(ys, dtype), weight, slot, out, threads(slot.size * ys.shape[1]))
    return out


def combine_dweight(dy: Array, ys: Array, slot: Array) -> Array:
    dtype = shared(dy, ys)
    if dtype is None or not slot.size or slot.ndim != 2 or ys.ndim != 2 or dy.shape != (slot.shape[0], ys.shape[1]):
        return reference.combine_dweight(dy, ys, slot)
    slot = indices("slot", slot, ys.shape[0], lowest=-1)
    out = np.empty(slot.shape, dtype=dtype)
    _combine_dweight[dtype](plain(dy, dtype), plain(ys, dtype), slot, out, threads(slot.size * ys.shape[1]))
    return out


def expand(v: Array, idx: Array, n: int) -> Array:
    refuse_objects(v)
    check_shape("idx", idx, v.shape)
    if v.ndim != 2 or not v.size:
        return reference.expand(v, idx, n)
    idx = indices("idx", idx, n)
    v = plain(v, v.dtype.newbyteorder("="))
    out = np.empty((v.shape[0], n), dtype=v.dtype)
    compiled.expand(_bytes(v[:, :, None]), idx, _bytes(out[:, :, None]), threads(out.size))
    return out


def segment_sum(x: Array, start: Array) -> Array:
    dtype = shared(x)
    groups = start.size - 1
    if dtype is None or x.ndim != 2 or groups < 1:
        return reference.segment_sum(x, start)
    offsets = starts(start, groups, x.shape[0])
    if offsets is None:
        return reference.segment_sum(x, start)
    out = np.empty((groups, x.shape[1]), dtype=dtype)
    _segment_sum[dtype](plain(x, dtype), offsets, out, threads(x.size))
    return out


# --- grouped matrix products: BLAS writes each expert's rows in place ------------------------------------------------


def grouped_linear(a: Array, weight: Array, start: Array) -> Array:
    dtype = shared(a, weight)
    if dtype is None or a.ndim != 2 or weight.ndim != 3 or a.shape[1] != weight.shape[2]:
        return reference.grouped_linear(a, weight, start)
    return _rows_times(a, weight, start, dtype, transpose=True)


def grouped_linear_dx(dout: Array, weight: Array, start: Array) -> Array:
    dtype = shared(dout, weight)
    if dtype is None or dout.ndim != 2 or weight.ndim != 3 or dout.shape[1] != weight.shape[1]:
        return reference.grouped_linear_dx(dout, weight, start)
    return _rows_times(dout, weight, start, dtype, transpose=False)


def _rows_times(a: Array, weight: Array, start: Array, dtype: np.dtype[Any], *, transpose: bool) -> Array:
    """out[r] = a[r] @ weight[e], or its transpose, for the rows r of each expert e."""
    bounds = checks.starts(start, weight.shape[0], a.shape[0])
    a, weight = plain(a, dtype), plain(weight, dtype)
    if transpose:
        weight = weight.transpose(0, 2, 1)  # a view that BLAS takes as it is
    out = np.empty((a.shape[0], weight.shape[2]), dtype=dtype)
    for e in range(weight.shape[0]):
        lo, hi = bounds[e], bounds[e + 1]
        if hi > lo:
            np.matmul(a[lo:hi], weight[e], out=out[lo:hi])
    return out


def grouped_linear_dw(dout: Array, a: Array, start: Array) -> Array:
    dtype = shared(dout, a)
    if dtype is None or dout.ndim != 2 or a.ndim != 2 or dout.shape[0] != a.shape[0]:
        return reference.grouped_linear_dw(dout, a, start)
    experts = start.shape[0] - 1
    bounds = checks.starts(start, experts, a.shape[0])
    transposed, a = plain(dout, dtype).T, plain(a, dtype)
    dw = np.empty((experts, dout.shape[1], a.shape[1]), dtype=dtype)
    for e in range(experts):
        lo, hi = bounds[e], bounds[e + 1]
        if hi > lo:
            np.matmul(transposed[:, lo:hi], a[lo:hi], out=dw[e])
        else:
            dw[e] = 0
    return dw


# --- elementwise and by row ------------------------------------------------------------------------------------------


def _code(act: str, dtype: np.dtype[Any] | None) -> int | None:
    """The activation's number; None: only the definition has it (erf of a complex number)."""
    checks.activation(act)
    return None if dtype is None or (act == "gelu" and dtype.kind == "c") else _CODES.get(act)


def act_forward(x: Array, act: str) -> Array:
    dtype = shared(x)
    code = _code(act, dtype)
    if dtype is None or code is None:
        return reference.act_forward(x, act)
    out = np.empty(x.shape, dtype=dtype)
    _act_forward[dtype](plain(x, dtype).reshape(-1), code, out.reshape(-1), threads(4 * x.size))
    return out


def act_backward(dh: Array, x: Array, act: str) -> Array:
    dtype = shared(dh, x)
    code = _code(act, dtype)
    if dtype is None or code is None or dh.shape != x.shape:
        return reference.act_backward(dh, x, act)
    dx = np.empty(x.shape, dtype=dtype)
    flat = plain(dh, dtype).reshape(-1), plain(x, dtype).reshape(-1)
    _act_backward[dtype](*flat, code, dx.reshape(-1), threads(4 * x.size))
    return dx


def glu_forward(x: Array, act: str) -> Array:
    dtype = shared(x)
    code = _code(act, dtype)
    if dtype is None or code is None:
        return reference.glu_forward(x, act)
    f = checks.halves("glu_forward", x)
    h = np.empty((*x.shape[:-1], f), dtype=dtype)
    _glu_forward[dtype](plain(x, dtype).reshape(-1, 2 * f), code, h.reshape(-1, f), threads(4 * h.size))
    return h


def glu_backward(dh: Array, x: Array, act: str) -> Array:
    dtype = shared(dh, x)
    code = _code(act, dtype)
    if dtype is None or code is None or not _halves_of(dh, x):
        return reference.glu_backward(dh, x, act)
    f = dh.shape[-1]
    dx = np.empty(x.shape, dtype=dtype)
    rows = plain(dh, dtype).reshape(-1, f), plain(x, dtype).reshape(-1, 2 * f)
    _glu_backward[dtype](*rows, code, dx.reshape(-1, 2 * f), threads(4 * dh.size))
    return dx


def _halves_of(dh: Array, x: Array) -> bool:
    return bool(dh.ndim and x.shape == (*dh.shape[:-1], 2 * dh.shape[-1]))


def weighted_glu_backward(dh: Array, x: Array, weight: Array, act: str) -> tuple[Array, Array, Array]:
    dtype = shared(dh, x, weight)
    code = _code(act, dtype)
    if dtype is None or code is None or dh.ndim != 2 or weight.shape != dh.shape[:1] or not _halves_of(dh, x):
        return reference.weighted_glu_backward(dh, x, weight, act)
    return _weighted(dh, x, weight, code, dtype)


def weighted_act_backward(dh: Array, x: Array, weight: Array, act: str) -> tuple[Array, Array, Array]:
    dtype = shared(dh, x, weight)
    code = _code(act, dtype)
    if dtype is None or code is None or dh.ndim != 2 or weight.shape != dh.shape[:1] or dh.shape != x.shape:
        return reference.weighted_act_backward(dh, x, weight, act)
    return _weighted(dh, x, weight, code, dtype)


def _weighted(dh: Array, x: Array, weight: Array, code: int, dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
    dx, wh, dweight = (np.empty(a.shape, dtype=dtype) for a in (x, dh, weight))
    given = plain(dh, dtype), plain(x, dtype), plain(weight, dtype)
    _weighted_backward[dtype](*given, code, dx, wh, dweight, threads(4 * dh.size))
    return dx, wh, dweight


def softmax(x: Array, limit: Array | None = None) -> Array:
    dtype = shared(x)
    if dtype is None or not x.ndim or (limit is not None and (x.ndim != 2 or limit.shape != x.shape[:1])):
        return reference.softmax(x, limit)
    p = np.empty(x.shape, dtype=dtype)
    columns = x.shape[-1]
    limits = _NO_LIMIT if limit is None else indices("limit", limit, columns + 1)
    _softmax[dtype](plain(x, dtype).reshape(-1, columns), limits, p.reshape(-1, columns), threads(4 * x.size))
    return p


def softmax_backward(dp: Array, p: Array) -> Array:
    dtype = shared(dp, p)
    if dtype is None or not p.ndim or dp.shape != p.shape:
        return reference.softmax_backward(dp, p)
    dx = np.empty(p.shape, dtype=dtype)
    columns = p.shape[-1]
    rows = plain(dp, dtype).reshape(-1, columns), plain(p, dtype).reshape(-1, columns)
    _softmax_backward[dtype](*rows, dx.reshape(-1, columns), threads(p.size))
    return dx


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    dtype = shared(x, cos, sin)
    b, _, length, d = x.shape if x.ndim == 4 else (0, 0, 0, 0)
    angles = (length, d // 2)
    if dtype is None or d % 2 or cos.shape != sin.shape or cos.shape not in (angles, (b, 1, *angles)):
        return reference.rotate(x, cos, sin)
    size = dtype.itemsize
    whole = x.flags.aligned and x.strides[3] == size and not any(stride % size for stride in x.strides)
    if x.dtype != dtype or not whole:  # rows must be contiguous; the other strides may be any
        x = np.array(x, dtype=dtype, order="C")
    out = np.empty(x.shape, dtype=dtype)
    turns = (plain(a, dtype).reshape(-1, *angles) for a in (cos, sin))
    _rotate[dtype](x, *turns, out, threads(2 * x.size))
    return out


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
    dtype = shared(p, g, m, v)
    if dtype is None or not p.shape == g.shape == m.shape == v.shape:
        return reference.adamw(p, g, m, v, lr=lr, beta1=beta1, beta2=beta2, eps=eps, decay=decay, step=step)
    a, b = 1 / (1 - beta1**step), 1 / (1 - beta2**step)
    setting = np.array([lr, beta1, 1 - beta1, beta2, 1 - beta2, a, b, eps, decay], dtype=np.float64)
    new = [np.empty(p.shape, dtype=dtype) for _ in range(3)]
    flat = [plain(x, dtype).reshape(-1) for x in (p, g, m, v)]
    _adamw[dtype](*flat, setting, *(x.reshape(-1) for x in new), threads(2 * p.size))
    return new[0], new[1], new[2]
