"""The compiled linear map with n of every m columns for NumPy arrays: the door in front of ``csrc/_nm.pxi``."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.kernels import checks, cython_csr, reference_nm, tiles
from pymoe.kernels.door import INT32, INT64, fused, plain, shared
from pymoe.kernels.parallel import compiled, threads

_linear, _linear_dx, _linear_ddata = map(fused, ("nm_linear", "nm_linear_dx", "nm_linear_ddata"))
_transpose = fused("nm_transpose")
_token, _token_ddata = map(fused, ("nm_linear_token", "nm_linear_ddata_token"))
_ROWS = 32  # of the weight, for which the scratch has room beside the block of tokens; as in csrc/nm.h
_SORTED = 64  # tokens from which it pays to sort the entries by columns for dx
_BYTE = np.dtype(np.uint8)


def _structure(position: Array, m: int, n_columns: int) -> tuple[Array, int] | None:
    """(position as bytes, in order; n); None: for the definition."""
    if position.ndim != 2 or not position.size or position.dtype.kind not in "iu":
        return None
    if not 1 <= m <= 256 or n_columns % m or n_columns > np.iinfo(INT32).max:
        return None
    n = checks.kept(position, m, n_columns)
    if position.dtype != _BYTE:
        checks.index("position", position, m)
    places = plain(position, _BYTE)
    if not compiled.nm_sorted(places, n, m, threads(places.size // 4)):
        checks.nm(position, m, n_columns)
    return places, n


def nm_linear(x: Array, data: Array, position: Array, m: int) -> Array:
    dtype = shared(x, data)
    if dtype is None or x.ndim != 2 or data.ndim != 2 or data.shape != position.shape:
        return reference_nm.nm_linear(x, data, position, m)
    structure = _structure(position, m, x.shape[1])
    if structure is None:
        return reference_nm.nm_linear(x, data, position, m)
    places, n = structure
    tokens, columns = x.shape
    y = np.empty((tokens, data.shape[0]), dtype=dtype)
    given = plain(x, dtype), plain(data, dtype), places, n, m
    if tokens == 1:
        _token[dtype](*given, y, False, threads(data.size))
        return y
    t = tiles.over_tokens(tokens, data.size, dtype)
    scratch = tiles.scratch(t.threads * (columns + _ROWS) * t.width, dtype)
    _linear[dtype](*given, tiles.span(t.width, m, dtype), scratch, y, t.vectors, t.pieces, t.threads)
    return y


def nm_linear_dx(dy: Array, data: Array, position: Array, m: int, n_columns: int) -> Array:
    dtype = shared(dy, data)
    fits = dtype is not None and dy.ndim == 2 and data.ndim == 2 and data.shape == position.shape
    if dtype is None or not fits or dy.shape[1] != data.shape[0]:
        return reference_nm.nm_linear_dx(dy, data, position, m, n_columns)
    structure = _structure(position, m, n_columns)
    if structure is None:
        return reference_nm.nm_linear_dx(dy, data, position, m, n_columns)
    places, n = structure
    tokens, rows = dy.shape
    dx = np.empty((tokens, n_columns), dtype=dtype)
    given = plain(dy, dtype), plain(data, dtype), places, n, m
    if tokens == 1:
        _token[dtype](*given, dx, True, threads(data.size))
        return dx
    t = tiles.over_tokens(tokens, data.size, dtype)
    pieces = -(-rows // tiles.span(t.width, 1, dtype))
    if tokens >= _SORTED and tiles.worth(data.size, n_columns, pieces) and rows <= np.iinfo(INT32).max:
        _by_columns(*given, pieces, dx, t)
        return dx
    span = tiles.span(t.width, m, dtype)
    scratch = tiles.scratch(t.threads * (rows + span * m) * t.width, dtype)
    _linear_dx[dtype](*given, span, scratch, dx, t.vectors, t.pieces, t.threads)
    return dx


def _by_columns(dy: Array, data: Array, places: Array, n: int, m: int, pieces: int, dx: Array, t: tiles.Tiles) -> None:
    """Fill dx as a forward product of the transpose, in whose columns the rows ascend: the sums are the same."""
    n_columns, dtype = dx.shape[1], data.dtype
    values, by_row = np.empty(data.size, dtype=dtype), np.empty(data.size, dtype=INT32)
    cut, cursor = np.empty(pieces * n_columns + 1, dtype=INT64), np.empty((pieces, n_columns), dtype=INT64)
    span = tiles.span(t.width, 1, dtype)
    _transpose[dtype](data, places, n, m, span, cursor, cut, by_row, values, threads(data.size))
    cython_csr.by_spans(dy, values, by_row, cut, pieces, 1, dx, t)


def nm_linear_ddata(dy: Array, x: Array, position: Array, m: int) -> Array:
    dtype = shared(dy, x)
    if dtype is None or dy.ndim != 2 or x.ndim != 2 or dy.shape != (x.shape[0], position.shape[0]):
        return reference_nm.nm_linear_ddata(dy, x, position, m)
    structure = _structure(position, m, x.shape[1])
    if structure is None:
        return reference_nm.nm_linear_ddata(dy, x, position, m)
    places, n = structure
    ddata = np.empty(position.shape, dtype=dtype)
    given: tuple[Any, ...] = plain(dy, dtype), plain(x, dtype), places, n, m
    if x.shape[0] == 1:
        _token_ddata[dtype](*given, ddata, threads(ddata.size))
        return ddata
    vectors, width, count = tiles.pieces(x.shape[0], dtype)
    packed = (tiles.scratch(count * a.shape[1] * width, dtype) for a in (dy, x))
    work = tiles.workers(x.shape[0], ddata.size)
    _linear_ddata[dtype](*given, tiles.span(width, m, dtype), *packed, ddata, vectors, width, work)
    return ddata
