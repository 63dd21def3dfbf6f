"""What every compiled kernel's door does with an array: which C type, which copy, which indices are in range.

Nothing here copies an array that is native, aligned and C-contiguous already.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from pymoe.backend.errors import DtypeError
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.kernels.parallel import compiled

# "double" comes last: it must win where long double is the same type
_C_TYPES = (("f4", "float"), ("c16", "double complex"), ("g", "long double"), ("f8", "double"))
TYPES = {np.dtype(d): t for d, t in _C_TYPES}
INT64, INT32 = np.dtype(np.int64), np.dtype(np.int32)
INDICES: dict[np.dtype[Any], str] = {INT32: "int32_t", INT64: "int64_t"}


def fused(name: str) -> dict[np.dtype[Any], Callable[..., None]]:
    function = getattr(compiled, name)
    return {dtype: function[c_type] for dtype, c_type in TYPES.items()}


def indexed(name: str) -> dict[tuple[np.dtype[Any], np.dtype[Any]], Callable[..., Any]]:
    """As ``fused``, for (dtype of the values, dtype of the indices)."""
    function = getattr(compiled, name)
    return {(dtype, index): function[t, i] for dtype, t in TYPES.items() for index, i in INDICES.items()}


def refuse_objects(*arrays: Array) -> None:
    for a in arrays:
        if a.dtype.kind not in "fciub":
            raise DtypeError(f"expected numbers, got an array of dtype {a.dtype}: convert it first, e.g. astype('f8')")


def shared(*arrays: Array) -> np.dtype[Any] | None:
    """The one compiled dtype of all arrays; None: there is none, ask the definition."""
    dtype = arrays[0].dtype
    if not (dtype in TYPES and all(a.dtype == dtype for a in arrays)):
        refuse_objects(*arrays)
        dtype = dtype.newbyteorder("=")
        if dtype not in TYPES or any(a.dtype.newbyteorder("=") != dtype for a in arrays):
            return None
    return dtype if all(a.size for a in arrays) else None


def plain(a: Array, dtype: np.dtype[Any]) -> Array:
    """``a`` itself if it is native, aligned and C-contiguous, else such a copy."""
    flags = a.flags
    if a.dtype == dtype and flags.c_contiguous and flags.aligned:
        return a
    return np.array(a, dtype=dtype, order="C")


def indices(name: str, ids: Array, n: int, *, lowest: int = 0) -> Array:
    """``checks.index``, then the ids as a plain int64 array."""
    if ids.dtype != INT64:
        checks.index(name, ids, n, lowest=lowest)
        return np.array(ids, dtype=INT64, order="C")
    ids = plain(ids, INT64)
    if ids.size:
        low, high = compiled.bounds(ids.reshape(-1))
        if low < lowest or high >= n:
            checks.index(name, ids, n, lowest=lowest)
    return ids


def columns(ids: Array, *, keep: Collection[np.dtype[Any]]) -> Array:
    """The column indices as they are if their dtype is one of ``keep``, else as int64; their range is not looked at."""
    native = ids.dtype.newbyteorder("=")
    if native == np.dtype(np.uint64):  # the only one whose numbers may not fit
        checks.index("indices", ids, 1 << 63)
    return plain(ids, native if native in keep else INT64)


def starts(start: Array, groups: int, n_rows: int, *, name: str = "start") -> Array | None:
    """``checks.starts``, then the offsets as a plain int64 array; None if they are not integers."""
    if start.dtype.kind not in "iu":
        return None
    offsets = plain(start, INT64)
    bad = offsets.shape != (groups + 1,) or not offsets.size or offsets[0] != 0 or offsets[-1] != n_rows
    if bad or not compiled.ascending(offsets):
        checks.starts(start, groups, n_rows, name=name)
    return offsets
