"""What every rule of this part refuses at its door, worded once: integers, NaN, no matrix."""

from __future__ import annotations

import numpy as np

from pymoe.backend import namespace, real
from pymoe.backend.errors import NonFiniteError, ShapeError
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


def ranked(name: str, x: Array) -> Array:
    """The real part of ``x``, which decides: DtypeError unless floating point, NonFiniteError where it is NaN.

    Infinities have a rank: +inf goes last, -inf first.
    """
    checks.floating(name, x)
    xp, values = namespace(x), real(x)
    bad = xp.isnan(values)
    if bool(xp.any(bad)):
        flat = int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int64)))
        raise NonFiniteError(
            f"{name} is NaN at {place(flat, tuple(x.shape))}: what is no number has no rank; find the step that made it"
        )
    return values


def place(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of the flat place ``flat``, as plain integers.

    >>> place(5, (2, 3))
    (1, 2)
    """
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def matrices(name: str, w: Array) -> tuple[int, int]:
    """(F, D) of an array (..., F, D): rules over rows, columns and blocks need the two axes."""
    if w.ndim < 2:
        raise ShapeError(f"{name} must have shape (..., F, D), a matrix or a stack of them, got {tuple(w.shape)}")
    return int(w.shape[-2]), int(w.shape[-1])
