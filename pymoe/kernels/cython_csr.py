"""The compiled sparse linear map for NumPy arrays: the door in front of ``csrc/_csr.pxi`` (see ``cython``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.kernels import checks, reference_csr
from pymoe.kernels.door import INT64, fused, plain, shared, starts
from pymoe.kernels.parallel import compiled, threads

_csr_linear, _csr_linear_dx, _csr_linear_ddata = map(fused, ("csr_linear", "csr_linear_dx", "csr_linear_ddata"))
_LANES = {np.dtype("f4"): 16, np.dtype("f8"): 8}  # numbers in one vector; the other dtypes have none
_TILE = 16  # rows of the weight that the scratch has room for beside the block of tokens; as in csrc/csr.h
_BYTES = 1024  # tokens of one column that ddata sums at once: their block of columns stays in the second cache


def _structure(indices: Array, indptr: Array, columns: int) -> tuple[Array, Array] | None:
    """(indices, indptr) as plain int64 arrays, in order and in range; None: nothing stored, or for the definition."""
    if indices.ndim != 1 or indptr.ndim != 1 or not indices.size or indices.dtype.kind not in "iu":
        return None
    offsets = starts(indptr, indptr.size - 1, indices.size, name="indptr")
    if offsets is None:
        return None
    places = plain(indices, INT64)
    if not compiled.csr_sorted(places, offsets, columns):
        checks.csr(indices, indptr, columns)
    return places, offsets


def _blocks(n: int, columns: int, work: int, dtype: np.dtype[Any]) -> tuple[Array, int]:
    """(scratch, vectors): what each thread needs for one block of tokens, and how many vectors of tokens a block is.

    As many as fill the registers, fewer where that leaves a thread without a block, or vectors without tokens.
    """
    wanted = threads(work)
    if n == 1:
        return np.empty((wanted, columns + _TILE), dtype=dtype), 0
    lanes = _LANES.get(dtype, 1)
    vectors = next((v for v in (4, 2) if n > lanes * (v - v // 2) and -(-n // (lanes * v)) >= wanted), 1)
    return np.empty((wanted, (columns + _TILE) * lanes * vectors), dtype=dtype), vectors


def csr_linear(x: Array, data: Array, indices: Array, indptr: Array) -> Array:
    dtype = shared(x, data)
    if dtype is None or x.ndim != 2 or data.shape != indices.shape:
        return reference_csr.csr_linear(x, data, indices, indptr)
    structure = _structure(indices, indptr, x.shape[1])
    if structure is None:
        return reference_csr.csr_linear(x, data, indices, indptr)
    n, columns = x.shape
    y = np.empty((n, indptr.size - 1), dtype=dtype)
    scratch, vectors = _blocks(n, columns, n * data.size, dtype)
    _csr_linear[dtype](plain(x, dtype), plain(data, dtype), *structure, scratch, y, vectors)
    return y


def csr_linear_dx(dy: Array, data: Array, indices: Array, indptr: Array, n_columns: int) -> Array:
    dtype = shared(dy, data)
    if dtype is None or dy.ndim != 2 or data.shape != indices.shape or dy.shape[1] != indptr.size - 1:
        return reference_csr.csr_linear_dx(dy, data, indices, indptr, n_columns)
    structure = _structure(indices, indptr, n_columns)
    if structure is None:
        return reference_csr.csr_linear_dx(dy, data, indices, indptr, n_columns)
    n = dy.shape[0]
    dx = np.empty((n, n_columns), dtype=dtype)
    scratch, vectors = _blocks(n, n_columns, n * data.size, dtype)
    _csr_linear_dx[dtype](plain(dy, dtype), plain(data, dtype), *structure, scratch, dx, vectors)
    return dx


def csr_linear_ddata(dy: Array, x: Array, indices: Array, indptr: Array) -> Array:
    dtype = shared(dy, x)
    if dtype is None or dy.ndim != 2 or x.ndim != 2 or dy.shape != (x.shape[0], indptr.size - 1):
        return reference_csr.csr_linear_ddata(dy, x, indices, indptr)
    structure = _structure(indices, indptr, x.shape[1])
    if structure is None:
        return reference_csr.csr_linear_ddata(dy, x, indices, indptr)
    n = x.shape[0]
    step = 2 * _LANES.get(dtype, 1) if n > 15 else 1  # a sum of fewer than 16 terms has no lanes
    width = min(_BYTES // dtype.itemsize, -(-n // step) * step)  # depends on n alone: it is part of the order
    blocks = -(-n // width)
    dyt, xt = (np.empty((blocks, a.shape[1], width), dtype=dtype) for a in (dy, x))
    ddata = np.empty(indices.shape, dtype=dtype)
    _csr_linear_ddata[dtype](plain(dy, dtype), plain(x, dtype), *structure, dyt, xt, ddata, threads(n * indices.size))
    return ddata
