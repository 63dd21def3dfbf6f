"""The compiled linear map with blocks for NumPy arrays: the door in front of ``csrc/_bsr.pxi`` (see ``cython``)."""

from __future__ import annotations

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.kernels import checks, reference_bsr, tiles
from pymoe.kernels.door import INT64, columns, fused, plain, shared, starts
from pymoe.kernels.parallel import compiled, threads

_linear, _token, _ddata = map(fused, ("bsr_linear", "bsr_linear_token", "bsr_linear_ddata"))
_ROWS = 16  # of the weight, for which the scratch has room beside the block of tokens; as in csrc/bsr.h
_MOST = 4 if tiles.WIDE else 1  # vectors of a tile of 4 rows: what the registers hold
_NONE = np.empty(0, dtype=INT64)


def _structure(indices: Array, indptr: Array, n_columns: int, block: tuple[int, int]) -> tuple[Array, Array] | None:
    """(indices, indptr) as int64, one number for each block, in order and in range; None: for the definition."""
    if indices.ndim != 1 or indptr.ndim != 1 or not indices.size or indices.dtype.kind not in "iu":
        return None
    if min(block) < 1 or n_columns % block[1]:
        return None
    offsets = starts(indptr, indptr.size - 1, indices.size, name="indptr")
    if offsets is None:
        return None
    places = columns(indices, keep=(INT64,))
    if not compiled.csr_sorted["int64_t"](places, offsets, n_columns // block[1], 1):
        checks.bsr(indices, indptr, n_columns, block)
    return places, offsets


def _product(x: Array, data: Array, lists: tuple[Array, Array, Array], out: Array, *, back: bool) -> None:
    """Fill ``out``, y or with ``back`` dx; lists: numbers, places and offsets of the blocks that meet each output."""
    dtype, (n, width) = data.dtype, x.shape
    if n == 1:
        _token[dtype](x, data, *lists, out, back, threads(data.size // 4))
        return
    t = tiles.over_tokens(n, data.size, dtype, _MOST)
    scratch = tiles.scratch(t.threads * (width + _ROWS) * t.width, dtype)
    _linear[dtype](x, data, *lists, scratch, out, back, t.vectors, t.pieces, t.threads)


def bsr_linear(x: Array, data: Array, indices: Array, indptr: Array) -> Array:
    dtype = shared(x, data)
    if dtype is None or x.ndim != 2 or data.ndim != 3 or data.shape[:1] != indices.shape:
        return reference_bsr.bsr_linear(x, data, indices, indptr)
    _, r, c = data.shape
    structure = _structure(indices, indptr, x.shape[1], (r, c))
    if structure is None:
        return reference_bsr.bsr_linear(x, data, indices, indptr)
    places, offsets = structure
    y = np.empty((x.shape[0], (offsets.size - 1) * r), dtype=dtype)
    _product(plain(x, dtype), plain(data, dtype), (_NONE, places, offsets), y, back=False)
    return y


def bsr_linear_dx(dy: Array, data: Array, indices: Array, indptr: Array, n_columns: int) -> Array:
    dtype = shared(dy, data)
    if dtype is None or dy.ndim != 2 or data.ndim != 3 or data.shape[:1] != indices.shape:
        return reference_bsr.bsr_linear_dx(dy, data, indices, indptr, n_columns)
    _, r, c = data.shape
    structure = _structure(indices, indptr, n_columns, (r, c))
    if structure is None or dy.shape[1] != (indptr.size - 1) * r or not n_columns:
        return reference_bsr.bsr_linear_dx(dy, data, indices, indptr, n_columns)
    dx = np.empty((dy.shape[0], n_columns), dtype=dtype)
    _product(plain(dy, dtype), plain(data, dtype), _by_columns(*structure, n_columns // c), dx, back=True)
    return dx


def _by_columns(places: Array, offsets: Array, many: int) -> tuple[Array, Array, Array]:
    """(number, block row, offsets): the blocks by block column, rows ascending.  O(number of blocks)."""
    begin = np.empty(many + 1, dtype=INT64)
    compiled.count(places, begin)
    number = np.empty(places.size, dtype=INT64)
    compiled.place(places, begin.copy(), number)
    row = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    return number, row[number], begin


def bsr_linear_ddata(dy: Array, x: Array, indices: Array, indptr: Array, block: tuple[int, int]) -> Array:
    dtype = shared(dy, x)
    r, c = block
    if dtype is None or dy.ndim != 2 or x.ndim != 2 or dy.shape != (x.shape[0], (indptr.size - 1) * r):
        return reference_bsr.bsr_linear_ddata(dy, x, indices, indptr, block)
    structure = _structure(indices, indptr, x.shape[1], block)
    if structure is None:
        return reference_bsr.bsr_linear_ddata(dy, x, indices, indptr, block)
    n = x.shape[0]
    lanes = tiles.LANES.get(dtype, 1)
    panels = (tiles.scratch(n * -(-a.shape[1] // lanes) * lanes, dtype) for a in (dy, x))
    ddata = np.empty((indices.size, r, c), dtype=dtype)
    given = plain(dy, dtype), plain(x, dtype), *structure, *panels, ddata
    _ddata[dtype](*given, lanes, 2 if tiles.WIDE else 1, tiles.workers(n, ddata.size))
    return ddata
