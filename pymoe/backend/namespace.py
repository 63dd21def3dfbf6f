"""Which array library do these arrays belong to?

All maths above this floor is written against the Python array API standard (2024.12), so the same lines run on
NumPy, on CuPy and on array-api-strict.  What the standard lacks and pymoe needs stands here, once.
"""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import array_api_compat.numpy as numpy_namespace
import numpy as np

from pymoe.backend.errors import DtypeError

Array = Any  # any array of a library that follows the array API standard
Namespace = Any


def namespace(*arrays: Array | None) -> Namespace:
    """The array API namespace that all ``arrays`` share; ``None`` is skipped; mixing two libraries is a TypeError.

    >>> import numpy as np
    >>> namespace(np.ones(3), None).__name__
    'array_api_compat.numpy'
    """
    for a in arrays:  # the common case, 20 times cheaper than the general one
        if a is not None and type(a) is not np.ndarray:
            break
    else:
        return numpy_namespace
    given = [a for a in arrays if a is not None]
    for a in given:
        if not array_api_compat.is_array_api_obj(a):
            raise DtypeError(
                f"expected an array (NumPy, CuPy, or another array API library), got {type(a).__name__}: "
                "convert it first, e.g. with numpy.asarray"
            )
        if isinstance(a, np.ma.MaskedArray):  # of NumPy's classes the one whose values do not all count
            raise DtypeError(
                "expected an array without a mask, got a numpy.ma.MaskedArray: no formula here would heed its mask; "
                "give x.filled(0), and to moe.forward mask=~x.mask for the tokens that are real"
            )
    return array_api_compat.array_namespace(*given)


def is_numpy(x: Array) -> bool:
    """Is ``x`` a NumPy array?"""
    return isinstance(x, np.ndarray)


def is_cupy(x: Array) -> bool:
    """Is ``x`` a CuPy array?  Never imports CuPy."""
    return bool(array_api_compat.is_cupy_array(x))


def device(x: Array) -> Any:
    """The device ``x`` lives on, to be handed to creation functions."""
    return array_api_compat.device(x)


def to_numpy(x: Array) -> np.ndarray:
    """A NumPy view (CPU arrays) or copy (device arrays) of ``x``."""
    if isinstance(x, np.ndarray):
        return x
    if is_cupy(x):
        return x.get()  # type: ignore[no-any-return]
    return np.from_dlpack(x)


def tolist(x: Array) -> list[Any]:
    """The elements of an array of rank 1 as Python numbers (a device array is copied once, not once per element)."""
    return to_numpy(x).tolist()  # type: ignore[no-any-return]


def erf(x: Array) -> Array:
    """The error function 2/√π ∫₀ˣ e^{-t²} dt, also for complex ``x``; the standard has none."""
    xp = namespace(x)
    if is_numpy(x):
        from scipy.special import erf as scipy_erf

        return scipy_erf(x)
    if is_cupy(x):
        from cupyx.scipy.special import erf as cupy_erf

        return cupy_erf(x)
    flat = [math.erf(v) for v in tolist(xp.reshape(x, (-1,)))]
    return xp.reshape(xp.asarray(flat, dtype=x.dtype, device=device(x)), x.shape)
