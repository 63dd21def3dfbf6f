"""Dtypes: what accumulates in what, and the real part that every comparison looks at.

The gradient check evaluates every op at x + ih with h = 1e-200 (``pymoe.verify``).  So the differentiated path keeps
complex numbers complex, and whatever *decides* (max, sort, x > 0) looks at the real part only.
"""

from __future__ import annotations

from typing import Any

from pymoe.backend.errors import DtypeError
from pymoe.backend.namespace import Array, is_numpy, namespace


def is_complex(x: Array) -> bool:
    """Has ``x`` a complex dtype?"""
    if is_numpy(x):
        return bool(x.dtype.kind == "c")
    return bool(namespace(x).isdtype(x.dtype, "complex floating"))


def is_floating(x: Array) -> bool:
    """Is ``x`` real or complex floating point, that is: can it have a gradient?"""
    if is_numpy(x):
        return bool(x.dtype.kind in "fc")
    return bool(namespace(x).isdtype(x.dtype, ("real floating", "complex floating")))


def real(x: Array) -> Array:
    """The real part of ``x`` (``x`` itself when it is real): what decisions look at."""
    return namespace(x).real(x) if is_complex(x) else x


def accumulator(x: Array) -> Any:
    """The dtype in which statistics and losses over ``x`` accumulate: double precision, or wider if ``x`` is wider.

    >>> import numpy as np
    >>> accumulator(np.ones(2, np.float32)).__name__, str(accumulator(np.ones(2, np.complex128)))
    ('float64', 'complex128')
    """
    xp = namespace(x)
    if is_complex(x):
        return xp.complex128 if x.dtype == xp.complex64 else x.dtype
    if not is_floating(x):
        raise DtypeError(f"expected floating point, got {x.dtype}: cast it explicitly")
    if is_numpy(x) and x.dtype.itemsize > 8:
        return x.dtype
    return xp.float64


def unit_roundoff(x: Array) -> float:
    """u, half the distance from 1 to the next number: 2⁻²⁴ in float32, 2⁻⁵³ in float64."""
    return float(namespace(x).finfo(x.dtype).eps) / 2
