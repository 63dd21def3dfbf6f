"""The compiled sparse linear map for NumPy arrays: the door in front of ``csrc/_csr.pxi`` (see ``cython``)."""

from __future__ import annotations

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.kernels import checks, reference_csr, tiles
from pymoe.kernels.door import INDICES, INT32, INT64, columns, indexed, plain, shared, starts
from pymoe.kernels.parallel import compiled, threads

_linear, _linear_dx, _linear_ddata = map(indexed, ("csr_linear", "csr_linear_dx", "csr_linear_ddata"))
_token, _token_dx, _token_ddata = map(indexed, ("csr_linear_token", "csr_linear_dx_token", "csr_linear_ddata_token"))
_transpose = indexed("csr_transpose")
_ROWS = 16  # of the weight, for which the scratch has room beside the block of tokens; as in csrc/csr.h
_TRANSPOSED = 64  # tokens from which dx is faster by columns, the sorting included


def _structure(indices: Array, indptr: Array) -> tuple[Array, Array] | None:
    """(indices, indptr): int32 or int64, plain int64 offsets in order; None: nothing stored, or for the definition."""
    if indices.ndim != 1 or indptr.ndim != 1 or not indices.size or indices.dtype.kind not in "iu":
        return None
    offsets = starts(indptr, indptr.size - 1, indices.size, name="indptr")
    if offsets is None:
        return None
    return columns(indices, keep=INDICES), offsets


def _ordered(places: Array, offsets: Array, width: int) -> None:
    """Raise what the definition raises if the columns of a row do not ascend within [0, width)."""
    if not compiled.csr_sorted(places, offsets, width, threads(places.size)):
        checks.csr(places, offsets, width)


def csr_linear(x: Array, data: Array, indices: Array, indptr: Array) -> Array:
    dtype = shared(x, data)
    structure = _structure(indices, indptr) if dtype and x.ndim == 2 and data.shape == indices.shape else None
    if dtype is None or structure is None:
        return reference_csr.csr_linear(x, data, indices, indptr)
    places, offsets = structure
    n, width = x.shape
    y = np.empty((n, offsets.size - 1), dtype=dtype)
    given = plain(x, dtype), plain(data, dtype), places, offsets
    if n == 1:
        if _token[dtype, places.dtype](*given, y, threads(data.size)):
            checks.csr(places, offsets, width)
        return y
    _ordered(places, offsets, width)
    _forward(*given, y)
    return y


def _forward(x: Array, data: Array, places: Array, offsets: Array, y: Array) -> None:
    dtype, (n, width) = data.dtype, x.shape
    t = tiles.over_tokens(n, n * data.size, dtype)
    scratch = tiles.scratch(t.threads * (width + _ROWS) * t.width, dtype)
    _linear[dtype, places.dtype](x, data, places, offsets, scratch, y, t.vectors, t.parts, t.threads)


def csr_linear_dx(dy: Array, data: Array, indices: Array, indptr: Array, n_columns: int) -> Array:
    dtype = shared(dy, data)
    fits = dtype is not None and dy.ndim == 2 and data.shape == indices.shape and dy.shape[1] == indptr.size - 1
    structure = _structure(indices, indptr) if fits else None
    if dtype is None or structure is None:
        return reference_csr.csr_linear_dx(dy, data, indices, indptr, n_columns)
    places, offsets = structure
    n, rows = dy.shape
    dx = np.empty((n, n_columns), dtype=dtype)
    given = plain(dy, dtype), plain(data, dtype), places, offsets
    if n == 1 and n_columns:
        if _token_dx[dtype, places.dtype](*given, dx, threads(data.size)):
            checks.csr(places, offsets, n_columns)
        return dx
    _ordered(places, offsets, n_columns)
    if n >= _TRANSPOSED and rows <= np.iinfo(INT32).max:
        by_column = _by_columns(*given[1:], n_columns)
        _forward(given[0], *by_column, dx)  # the entries of a column ascend in rows: the same sums
        return dx
    t = tiles.over_tokens(n, n * data.size, dtype)
    scratch = tiles.scratch(t.threads * (n_columns + _ROWS) * t.width, dtype)
    _linear_dx[dtype, places.dtype](*given, scratch, dx, t.vectors, t.parts, t.threads)
    return dx


def _by_columns(data: Array, places: Array, offsets: Array, n_columns: int) -> tuple[Array, Array, Array]:
    """(values, row of each, where each column begins): the stored entries column by column, rows ascending."""
    values, rows = np.empty(data.size, dtype=data.dtype), np.empty(data.size, dtype=INT32)
    begin = np.empty(n_columns + 1, dtype=INT64)
    cursor = np.empty((threads(data.size), n_columns), dtype=INT64)
    _transpose[data.dtype, places.dtype](data, places, offsets, cursor, begin, rows, values)
    return values, rows, begin


def csr_linear_ddata(dy: Array, x: Array, indices: Array, indptr: Array) -> Array:
    dtype = shared(dy, x)
    fits = dtype is not None and dy.ndim == 2 and x.ndim == 2 and dy.shape == (x.shape[0], indptr.size - 1)
    structure = _structure(indices, indptr) if fits else None
    if dtype is None or structure is None:
        return reference_csr.csr_linear_ddata(dy, x, indices, indptr)
    places, offsets = structure
    (n, rows), width = dy.shape, x.shape[1]
    ddata = np.empty(indices.shape, dtype=dtype)
    given = plain(dy, dtype), plain(x, dtype), places, offsets
    if n == 1:
        if _token_ddata[dtype, places.dtype](*given, ddata, threads(places.size)):
            checks.csr(places, offsets, width)
        return ddata
    _ordered(places, offsets, width)
    vectors, tokens, count = tiles.pieces(n, dtype)
    packed = (tiles.scratch(count * size * tokens, dtype) for size in (rows, width))
    _linear_ddata[dtype, places.dtype](*given, *packed, ddata, vectors, tokens, threads(n * places.size))
    return ddata
