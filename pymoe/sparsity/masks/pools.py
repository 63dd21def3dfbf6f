"""Who competes with whom, and which entries of a pool go: the one place where ties are broken.

==========  =================================================================
by          pools of an array (..., F, D)
==========  =================================================================
"tensor"    one: the whole array
"matrix"    one for each matrix of the last two axes
"row"       one for each row of the last axis
==========  =================================================================
"""

from __future__ import annotations

import math

from pymoe import kernels
from pymoe.backend import device, namespace
from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array

BY = ("tensor", "matrix", "row")


def shape(name: str, whole: tuple[int, ...], by: str) -> tuple[int, int]:
    """(pools, size of each) of an array of shape ``whole``.

    >>> shape("w", (2, 3, 5), "tensor"), shape("w", (2, 3, 5), "matrix"), shape("w", (2, 3, 5), "row")
    ((1, 30), (2, 15), (6, 5))
    """
    if by not in BY:
        raise ConfigError(f"by must be one of {BY}, got {by!r}")
    axes = {"tensor": len(whole), "matrix": 2, "row": 1}[by]
    if axes > len(whole):
        raise ConfigError(f"by={by!r} needs {axes} axes, but {name} has shape {whole}: use by='tensor'")
    split = len(whole) - axes
    return math.prod(whole[:split]), math.prod(whole[split:])


def lowest(score: Array, n: int, among: Array | None = None) -> Array:
    """True for exactly the n lowest of each row of score (P, N); of equal scores the lowest index first.

    among (P, N): only these may be chosen, and each row must have n of them.  0.0 and -0.0 are equal.  No NaN.
    A sort of each row and four passes: O(P N log N), and 8 bytes an entry for the count of ties.

    >>> import numpy as np
    >>> lowest(np.array([[2.0, 1.0, 3.0, 1.0, 1.0]]), 2)
    array([[False,  True, False,  True, False]])
    """
    xp = namespace(score)
    pools, size = (int(k) for k in score.shape)
    if n == 0 or pools == 0:
        return xp.zeros((pools, size), dtype=xp.bool, device=device(score))
    competing = score if among is None else xp.where(among, score, xp.full_like(score, xp.inf))
    edge = xp.sort(competing, axis=-1)[:, n - 1 : n]  # (P, 1) the n-th lowest
    below, at = score < edge, score == edge
    if among is not None:
        below, at = below & among, at & among
    left = n - xp.sum(xp.astype(below, xp.int64), axis=-1, keepdims=True)  # how many of the ties go
    return below | (at & (xp.cumulative_sum(xp.astype(at, xp.int64), axis=-1) <= left))


def prune(score: Array, n: int, by: str) -> Array:
    """The mask of a score without NaN: False for the n lowest of each pool, True elsewhere."""
    xp = namespace(score)
    whole = tuple(score.shape)
    if by != "row" and score.size and float(xp.min(score)) >= 0:
        return smallest(score, n, by)
    return ~xp.reshape(lowest(xp.reshape(score, shape("score", whole, by)), n), whole)


def smallest(values: Array, n: int, by: str) -> Array:
    """The mask of |values|, by the compiled ``kernels.prune_mask`` where a pool is large: O(N), no sort.

    >>> import numpy as np
    >>> smallest(np.array([[2.0, -1.0, 3.0]]), 1, "tensor")
    array([[ True, False,  True]])
    """
    xp = namespace(values)
    whole = tuple(values.shape)
    pools, size = shape("w", whole, by)
    if by == "row" or not values.size:
        return ~xp.reshape(lowest(xp.reshape(xp.abs(values), (pools, size)), n), whole)
    each = xp.reshape(values, (pools, size))
    kernel = kernels.of(values)
    return xp.reshape(xp.stack([kernel.prune_mask(each[i, :], n) for i in range(pools)]), whole)


def keep_highest(score: Array, n: int) -> Array:
    """True for exactly the n highest of each row of score (P, N); of equal scores the lowest index is kept.

    >>> import numpy as np
    >>> keep_highest(np.array([[2.0, 1.0, 2.0, 2.0]]), 2)
    array([[ True, False,  True, False]])
    """
    return lowest(-score, n)
