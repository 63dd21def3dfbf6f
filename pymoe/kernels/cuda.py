"""The kernels for CuPy arrays: raw CUDA kernels for float32 and float64 where passes over memory or launches cost.

Same names, same results as ``reference``.  A call that no raw kernel takes (complex numbers, mixed dtypes, shapes that
broadcast or do not fit) goes to the definition, which runs on CuPy arrays too and words every error.  Matrix products
are cuBLAS's.  Arrays stay on the device; what the host reads are sizes and bounds:

- ``counting_sort``: three integers (lowest id, highest id, how many were dropped), because they decide a shape;
- the offsets ``start``: one copy of E + 1 int64 for each plan, at the first grouped product;
- an index array: its lowest and highest value, once for each array, so that a bad index is an IndexRangeError;
- the structure of a sparse weight: its offsets and whether its places are in order, once for each structure.

Sums run in a fixed order and every element has one writer, so results are bitwise the same in every run on one device.
As everywhere in CuPy, the current device has to be the one that holds the arrays.
"""

from __future__ import annotations

from typing import Any

from pymoe.backend import device, is_cupy, namespace, tolist
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks, cuda_sparse, reference
from pymoe.kernels import cuda_door as door
from pymoe.kernels.cuda_launch import FUNCTORS, TYPES, OncePerArray, columns, elements, rows, warps

__all__ = list(reference.__all__)

MOST_CHOICES = 32  # top-k beyond this many is a sort


def supports(x: Array) -> bool:
    """Is ``x`` a CuPy array of real numbers or integers?  (Complex ones run on the definition, on the device.)"""
    return is_cupy(x) and (str(x.dtype) in TYPES or x.dtype.kind in "iu")


def _read_bounds(ids: Array) -> tuple[int, int]:
    xp = door.cupy()
    low, high = tolist(xp.stack([xp.min(ids), xp.max(ids)]))
    return low, high


_bounds = OncePerArray(_read_bounds)
_offsets: OncePerArray[list[int]] = OncePerArray(tolist)


def _check_index(name: str, ids: Array, n: int, *, lowest: int = 0) -> None:
    """``checks.index``, but an array that passed is not read again."""
    if ids.dtype.kind in "iu" and ids.size:
        low, high = _bounds(ids)
        if lowest <= low and high < n:
            return
    checks.index(name, ids, n, lowest=lowest)


def _check_starts(start: Array, groups: int, n_rows: int) -> list[int]:
    bounds = _offsets(start)
    if len(bounds) != groups + 1 or bounds[0] != 0 or bounds[-1] != n_rows or bounds != sorted(bounds):
        checks.starts(start, groups, n_rows)
    return bounds


# --- decisions -------------------------------------------------------------------------------------------------------


def topk(s: Array, k: int) -> Array:
    checks.choices(int(s.shape[1]), k)
    if not door.raw(s):
        return reference.topk(s, k)
    if k > MOST_CHOICES:
        return reference.topk(s + 0, k)  # -0 + 0 = +0: a sort by bits must see a tie
    tokens, experts = s.shape
    idx = door.cupy().empty((tokens, k), dtype=door.cupy().int64)
    door.launch(f"topk<{door.kind(s)}>", warps(tokens), door.dense(s), idx, tokens, experts, k)
    return idx


def counting_sort(ids: Array, n: int) -> tuple[Array, Array]:
    xp = door.cupy()
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size:
        return reference.counting_sort(ids, n)
    ids = door.ids(ids)
    order = xp.argsort(ids)  # CuPy's argsort is stable
    ranked = xp.take(ids, order)
    start = xp.searchsorted(ranked, xp.arange(n + 1, dtype=xp.int64))  # edge 0 skips the dropped
    low, high, dropped = tolist(xp.concatenate([ranked[:1], ranked[-1:], start[:1]]))
    if low < -1 or high >= n:
        checks.index("ids", ids, n, lowest=-1)
    return order[dropped:].astype(xp.int64, copy=False), (start - dropped).astype(xp.int64, copy=False)


def nm_mask(w: Array, n: int, m: int) -> Array:
    if not door.raw(w) or w.ndim != 2 or not 0 < n <= m or w.shape[1] % m:
        return reference.nm_mask(w, n, m)
    mask = door.cupy().empty(w.shape, dtype=door.cupy().bool_)
    door.launch(f"nm_mask<{door.kind(w)}>", elements(w.size), door.dense(w), mask, w.size, n, m)
    return mask


# --- data movement ---------------------------------------------------------------------------------------------------


def gather(x: Array, rows_: Array) -> Array:
    if not door.raw(x) or x.ndim != 2 or rows_.ndim != 1 or not rows_.size:
        return reference.gather(x, rows_)
    _check_index("rows", rows_, int(x.shape[0]))
    n, (tokens, d) = int(rows_.shape[0]), x.shape
    out = door.empty((n, d), x)
    door.launch(f"gather<{door.kind(x)}>", rows(n, d), door.dense(x), door.ids(rows_), out, n, tokens, d)
    return out


def combine(ys: Array, weight: Array | None, slot: Array) -> Array:
    if not door.raw(ys if weight is None else weight, ys) or not slot.size:
        return reference.combine(ys, weight, slot)
    n, d = ys.shape
    tokens, k = slot.shape
    _check_index("slot", slot, n, lowest=-1)
    if weight is not None:
        check_shape("weight", weight, (tokens, k))
    y = door.empty((tokens, d), ys)
    given = ys if weight is None else weight  # without weights the pointer is not read
    instance = f"combine<{door.kind(ys)}, {'false' if weight is None else 'true'}>"
    door.launch(instance, rows(tokens, d), door.dense(ys), door.dense(given), door.ids(slot), y, tokens, k, n, d)
    return y


def combine_dweight(dy: Array, ys: Array, slot: Array) -> Array:
    tokens, k = slot.shape
    if not door.raw(dy, ys) or not slot.size or dy.shape != (tokens, ys.shape[1]):
        return reference.combine_dweight(dy, ys, slot)
    n, d = ys.shape
    _check_index("slot", slot, n, lowest=-1)
    dweight = door.empty((tokens, k), dy)
    given = door.dense(dy), door.dense(ys), door.ids(slot)
    door.launch(f"combine_dweight<{door.kind(dy)}>", warps(tokens * k), *given, dweight, tokens, k, n, d)
    return dweight


def expand(v: Array, idx: Array, n: int) -> Array:
    check_shape("idx", idx, tuple(v.shape))
    if not door.raw(v) or n < 1:
        return reference.expand(v, idx, n)
    _check_index("idx", idx, n)
    tokens, k = v.shape
    out = door.empty((tokens, n), v)
    door.launch(f"expand<{door.kind(v)}>", elements(tokens * n), door.dense(v), door.ids(idx), out, tokens, k, n)
    return out


def segment_sum(x: Array, start: Array) -> Array:
    groups = int(start.shape[0]) - 1
    if not door.raw(x) or x.ndim != 2 or groups < 1:
        return reference.segment_sum(x, start)
    n, d = x.shape
    _check_starts(start, groups, n)
    out = door.empty((groups, d), x)
    door.launch(f"segment_sum<{door.kind(x)}>", columns(groups, d), door.dense(x), door.ids(start), out, groups, n, d)
    return out


# --- grouped matrix products: cuBLAS writes each expert's rows in place ----------------------------------------------


def grouped_linear(a: Array, weight: Array, start: Array) -> Array:
    experts, f, d = weight.shape
    if not door.raw(a, weight):
        return reference.grouped_linear(a, weight, start)
    check_shape("a", a, (None, d))
    bounds = _check_starts(start, experts, int(a.shape[0]))
    out = door.empty((a.shape[0], f), a)
    for e, (lo, hi) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if hi > lo:
            door.cupy().dot(a[lo:hi, :], weight[e, :, :].T, out=out[lo:hi, :])
    return out


def grouped_linear_dx(dout: Array, weight: Array, start: Array) -> Array:
    experts, f, d = weight.shape
    if not door.raw(dout, weight):
        return reference.grouped_linear_dx(dout, weight, start)
    check_shape("dout", dout, (None, f))
    bounds = _check_starts(start, experts, int(dout.shape[0]))
    da = door.empty((dout.shape[0], d), dout)
    for e, (lo, hi) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if hi > lo:
            door.cupy().dot(dout[lo:hi, :], weight[e, :, :], out=da[lo:hi, :])
    return da


def grouped_linear_dw(dout: Array, a: Array, start: Array) -> Array:
    if not door.raw(dout, a):
        return reference.grouped_linear_dw(dout, a, start)
    experts = int(start.shape[0]) - 1
    check_shape("a", a, (dout.shape[0], None))
    bounds = _check_starts(start, experts, int(a.shape[0]))
    dw = door.empty((experts, dout.shape[1], a.shape[1]), a)
    for e, (lo, hi) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if hi > lo:
            door.cupy().dot(dout[lo:hi, :].T, a[lo:hi, :], out=dw[e, :, :])
        else:
            dw[e, :, :] = 0
    return dw


# --- elementwise and by row ------------------------------------------------------------------------------------------


def _functor(x: Array, act: str) -> str:
    checks.activation(act)
    return f"<{door.kind(x)}, {FUNCTORS[act]}>"


def _fits_glu(dh: Array, x: Array) -> bool:
    return bool(x.ndim and x.shape[-1] == 2 * dh.shape[-1] and x.shape[:-1] == dh.shape[:-1]) if dh.ndim else False


def act_forward(x: Array, act: str) -> Array:
    if not door.raw(x):
        return reference.act_forward(x, act)
    out = door.empty(x.shape, x)
    door.launch(f"act_forward{_functor(x, act)}", elements(x.size), door.dense(x), out, x.size)
    return out


def act_backward(dh: Array, x: Array, act: str) -> Array:
    if not door.raw(dh, x) or dh.shape != x.shape:
        return reference.act_backward(dh, x, act)
    dx = door.empty(x.shape, x)
    door.launch(f"act_backward{_functor(x, act)}", elements(x.size), door.dense(dh), door.dense(x), dx, x.size)
    return dx


def glu_forward(x: Array, act: str) -> Array:
    if not door.raw(x):
        return reference.glu_forward(x, act)
    f = checks.halves("glu_forward", x)
    n = x.size // (2 * f)
    h = door.empty((*x.shape[:-1], f), x)
    door.launch(f"glu_forward{_functor(x, act)}", rows(n, f), door.dense(x), h, n, f)
    return h


def glu_backward(dh: Array, x: Array, act: str) -> Array:
    if not door.raw(dh, x) or not _fits_glu(dh, x):
        return reference.glu_backward(dh, x, act)
    f = int(dh.shape[-1])
    n = dh.size // f
    dx = door.empty(x.shape, x)
    door.launch(f"glu_backward{_functor(x, act)}", rows(n, f), door.dense(dh), door.dense(x), dx, n, f)
    return dx


def weighted_glu_backward(dh: Array, x: Array, weight: Array, act: str) -> tuple[Array, Array, Array]:
    if not door.raw(dh, x, weight) or dh.ndim != 2 or not _fits_glu(dh, x) or weight.shape != dh.shape[:1]:
        return reference.weighted_glu_backward(dh, x, weight, act)
    return _weighted_backward("weighted_glu_backward", dh, x, weight, act)


def weighted_act_backward(dh: Array, x: Array, weight: Array, act: str) -> tuple[Array, Array, Array]:
    if not door.raw(dh, x, weight) or dh.ndim != 2 or dh.shape != x.shape or weight.shape != dh.shape[:1]:
        return reference.weighted_act_backward(dh, x, weight, act)
    return _weighted_backward("weighted_act_backward", dh, x, weight, act)


def _weighted_backward(name: str, dh: Array, x: Array, weight: Array, act: str) -> tuple[Array, Array, Array]:
    n, f = dh.shape
    dx, wh, dweight = door.empty(x.shape, x), door.empty(dh.shape, x), door.empty((n,), x)
    door.launch(
        f"{name}{_functor(x, act)}", warps(n), door.dense(dh), door.dense(x), door.dense(weight), dx, wh, dweight, n, f
    )
    return dx, wh, dweight


def softmax(x: Array, limit: Array | None = None) -> Array:
    if not door.raw(x) or not x.ndim or (limit is not None and (x.ndim != 2 or limit.shape != x.shape[:1])):
        return reference.softmax(x, limit)
    width = int(x.shape[-1])
    n = x.size // width
    xp = namespace(x)
    if limit is None:
        seen = xp.full((n,), width, dtype=xp.int64, device=device(x))
    else:
        checks.index("limit", limit, width + 1)
        seen = door.dense(xp.astype(limit, xp.int64, copy=False))
    p = door.empty(x.shape, x)
    door.launch(f"softmax<{door.kind(x)}>", warps(n), door.dense(x), seen, p, n, width)
    return p


def softmax_backward(dp: Array, p: Array) -> Array:
    if not door.raw(dp, p) or not p.ndim or dp.shape != p.shape:
        return reference.softmax_backward(dp, p)
    width = int(p.shape[-1])
    n = p.size // width
    dx = door.empty(p.shape, p)
    door.launch(f"softmax_backward<{door.kind(p)}>", warps(n), door.dense(dp), door.dense(p), dx, n, width)
    return dx


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
    if not door.raw(p, g, m, v) or not p.shape == g.shape == m.shape == v.shape:
        return reference.adamw(p, g, m, v, lr=lr, beta1=beta1, beta2=beta2, eps=eps, decay=decay, step=step)
    a, b = 1 / (1 - beta1**step), 1 / (1 - beta2**step)
    scalar: Any = p.dtype.type
    numbers = [scalar(c) for c in (lr, beta1, 1 - beta1, beta2, 1 - beta2, eps, decay, a, b)]
    new = [door.empty(p.shape, p) for _ in range(3)]
    given = [door.dense(c) for c in (p, g, m, v)]
    door.launch(f"adamw<{door.kind(p)}>", elements(p.size), *given, *new, p.size, *numbers)
    return new[0], new[1], new[2]


# --- weights that are stored sparse: see cuda_sparse -----------------------------------------------------------------

csr_linear, csr_linear_dx = cuda_sparse.csr_linear, cuda_sparse.csr_linear_dx
csr_linear_ddata = cuda_sparse.csr_linear_ddata
bsr_linear, bsr_linear_dx = cuda_sparse.bsr_linear, cuda_sparse.bsr_linear_dx
bsr_linear_ddata = cuda_sparse.bsr_linear_ddata
nm_linear, nm_linear_dx, nm_linear_ddata = cuda_sparse.nm_linear, cuda_sparse.nm_linear_dx, cuda_sparse.nm_linear_ddata

# --- outside the sparse layer: the definitions, on the device --------------------------------------------------------

rotate = reference.rotate
rms_norm, rms_norm_backward = reference.rms_norm, reference.rms_norm_backward
prune_mask = reference.prune_mask
