"""Helpers of the ops that work on the last axis: all leading axes as one, a sum over them, and what is refused.

Not an op: it has no backward.
"""

from __future__ import annotations

import math

from pymoe.backend import accumulator, namespace
from pymoe.backend.errors import ShapeError
from pymoe.backend.namespace import Array

_BLOCK = 64  # rows added in the dtype of the array before the sum goes on in the accumulator


def rows(x: Array) -> Array:
    """x (..., C) as (N, C), N the product of the leading axes (1 if there are none; C is 1 for a 0-d x).

    >>> import numpy as np
    >>> rows(np.ones((2, 0, 3))).shape, rows(np.ones(3)).shape
    ((0, 3), (1, 3))
    """
    if x.ndim == 2:
        return x
    *leading, width = x.shape or (1,)
    return namespace(x).reshape(x, (math.prod(leading), width))


def column_sum(x: Array) -> Array:
    """out[c] = Σ_n x[n, c] for x (N, C): the gradient of what was added to every row.

    Blocks of 64 rows are added in the dtype of x, the block sums in the accumulator: one pass over memory at full
    speed, and in float32 an error that does not grow with N (a plain sum down a column stalls at 2²⁴ equal terms).

    >>> import numpy as np
    >>> column_sum(np.ones((3, 2), np.float32))
    array([3., 3.], dtype=float32)
    """
    xp = namespace(x)
    n, width = x.shape
    whole = n - n % _BLOCK
    blocks = xp.sum(xp.reshape(x[:whole, :], (whole // _BLOCK, _BLOCK, width)), axis=1)
    rest = xp.sum(x[whole:, :], axis=0, keepdims=True)
    total = xp.sum(xp.concat([blocks, rest], axis=0), axis=0, dtype=accumulator(x))
    return xp.astype(total, x.dtype, copy=False)


def check_columns(name: str, x: Array) -> None:
    """Raise ShapeError if the last axis of x has no entry, or there is no axis: no maximum, no mean to speak of.

    >>> import numpy as np
    >>> check_columns("x", np.ones((3, 0)))
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ShapeError: x must have at least one entry along its last axis, got shape (3, 0)
    """
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ShapeError(f"{name} must have at least one entry along its last axis, got shape {tuple(x.shape)}")
