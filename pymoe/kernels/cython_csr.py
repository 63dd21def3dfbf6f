"""The compiled sparse linear map for NumPy arrays: the door in front of ``csrc/_csr.pxi`` (see ``cython``)."""

from __future__ import annotations

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.kernels import checks, reference_csr, tiles
from pymoe.kernels.door import INDICES, INT32, INT64, columns, indexed, plain, shared, starts
from pymoe.kernels.parallel import compiled, threads

_linear, _linear_dx, _linear_ddata = map(indexed, ("csr_linear", "csr_linear_dx", "csr_linear_ddata"))
_token, _token_dx, _token_ddata = map(indexed, ("csr_linear_token", "csr_linear_dx_token", "csr_linear_ddata_token"))
_spans, _transpose = map(indexed, ("csr_spans", "csr_transpose"))
_cut = {dtype: compiled.csr_cut[name] for dtype, name in INDICES.items()}
_ROWS = 16  # of the weight, for which the scratch has room beside the block of tokens; as in csrc/csr.h
_SORTED = 64  # tokens from which it pays to cut the structure into spans, and to sort it by columns for dx


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
    dtype, (n, width), rows = data.dtype, x.shape, y.shape[1]
    t = tiles.over_tokens(n, data.size, dtype)
    span = tiles.span(t.width, 1, dtype)
    spans = -(-width // span)
    if n >= _SORTED and tiles.worth(data.size, rows, spans):
        cut = np.empty((spans + 1, rows), dtype=INT64)
        _cut[places.dtype](places, offsets, span, cut, threads(data.size))
        by_spans(x, data, places, cut.reshape(-1), spans, rows, y, t)
        return
    scratch = tiles.scratch(t.threads * (width + _ROWS) * t.width, dtype)
    _linear[dtype, places.dtype](x, data, places, offsets, scratch, y, t.vectors, t.pieces, t.threads)


def by_spans(x: Array, data: Array, places: Array, cut: Array, spans: int, step: int, y: Array, t: tiles.Tiles) -> None:
    """Fill y span by span: output o has the entries cut[s F + o] to cut[s F + o + step] in span s."""
    scratch = tiles.scratch(t.threads * (x.shape[1] + 2 * _ROWS) * t.width, data.dtype)
    _spans[data.dtype, places.dtype](x, data, places, cut, spans, step, scratch, y, t.vectors, t.pieces, t.threads)


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
    if n >= _SORTED and rows <= np.iinfo(INT32).max:
        _by_columns(*given, dx)
        return dx
    t = tiles.over_tokens(n, data.size, dtype)
    scratch = tiles.scratch(t.threads * (n_columns + _ROWS) * t.width, dtype)
    _linear_dx[dtype, places.dtype](*given, scratch, dx, t.vectors, t.pieces, t.threads)
    return dx


def _by_columns(dy: Array, data: Array, places: Array, offsets: Array, dx: Array) -> None:
    """Fill dx as a forward product of the transpose, in whose columns the rows ascend: the sums are the same."""
    dtype, (n, rows), n_columns = data.dtype, dy.shape, dx.shape[1]
    t = tiles.over_tokens(n, data.size, dtype)
    span = tiles.span(t.width, 1, dtype)
    pieces, workers = -(-rows // span), threads(data.size)
    apart = tiles.worth(data.size, n_columns, pieces)
    if not apart:  # one piece for each thread, whose entries of a column follow each other
        span = -(-rows // workers)
        pieces = -(-rows // span)
    values, by_row = np.empty(data.size, dtype=dtype), np.empty(data.size, dtype=INT32)
    cut = np.empty((pieces if apart else 1) * n_columns + 1, dtype=INT64)
    cursor = np.empty((pieces, n_columns), dtype=INT64)
    _transpose[dtype, places.dtype](data, places, offsets, span, cursor, cut, by_row, values, workers)
    if apart:
        by_spans(dy, values, by_row, cut, pieces, 1, dx, t)
    else:
        scratch = tiles.scratch(t.threads * (rows + _ROWS) * t.width, dtype)
        _linear[dtype, INT32](dy, values, by_row, cut, scratch, dx, t.vectors, t.pieces, t.threads)


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
    _linear_ddata[dtype, places.dtype](*given, *packed, ddata, vectors, tokens, tiles.workers(n, places.size))
    return ddata
