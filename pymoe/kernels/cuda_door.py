"""What every CUDA kernel's door does with an array: which type, which copy, an output, the launch."""

from __future__ import annotations

from pymoe.backend.namespace import Array, Namespace
from pymoe.kernels.cuda_launch import TYPES, launch

__all__ = ["cupy", "dense", "empty", "ids", "kind", "launch", "raw"]


def cupy() -> Namespace:
    """The library, imported when it is first needed."""
    import cupy as library

    return library


def raw(*arrays: Array) -> bool:
    """Do the arrays share one dtype that has raw kernels, and is there anything to do?"""
    dtype = arrays[0].dtype
    return str(dtype) in TYPES and all(a.dtype == dtype and a.size for a in arrays)


def dense(a: Array) -> Array:
    """``a`` in C order."""
    return cupy().ascontiguousarray(a)


def empty(shape: tuple[int, ...], like: Array) -> Array:
    return cupy().empty(shape, dtype=like.dtype)


def ids(a: Array) -> Array:
    """Integers as int64 in C order."""
    return cupy().ascontiguousarray(a, dtype=cupy().int64)


def kind(a: Array) -> str:
    """The C type of the elements."""
    return TYPES[str(a.dtype)]
