r"""Structured masks: whole rows, columns, heads or blocks of each matrix, by their norm.

For groups G of the entries of one matrix::

    ord 1:    score(G) = Σ |w|           ord 2:    score(G) = Σ w²           ord inf:    score(G) = max |w|

(Σ w² ranks as its root, the L2 norm.)  Of the g groups of *each matrix* of w (..., F, D) exactly ⌊s g⌋ are pruned,
those of the lowest score; of equal scores the lowest group index goes first.  Sums are in float64: squares of entries
beyond 1e±150 leave its range, use ord 1 or inf there.

Unlike ``torch.nn.utils.prune.ln_structured``: that rounds s g to the nearest integer, and takes one axis of the whole
tensor, so of a stack (E, F, D) the same row of all experts.  Source: Li et al., arXiv:1608.08710 (filters by L1);
Michel et al., arXiv:1905.10650 (heads).  Cost: O(N) to score, O(g log g) to rank.
"""

from __future__ import annotations

import math

from pymoe.backend import accumulator, device, namespace
from pymoe.backend.errors import ConfigError, check_integer
from pymoe.backend.namespace import Array
from pymoe.sparsity import inputs
from pymoe.sparsity.masks import pools
from pymoe.sparsity.masks.amount import count

ORDERS = (1, 2, math.inf)


def rows(w: Array, s: float, *, ord: float = 2) -> Array:  # noqa: A002 - the name of numpy.linalg.norm
    """Prune exactly ⌊s F⌋ whole rows of each matrix of w (..., F, D), those of the smallest norm; ties: lowest index.

    >>> import numpy as np
    >>> rows(np.array([[3.0, 0.0], [2.0, 2.0], [0.0, -1.0]]), 0.67, ord=2)[:, 0]
    array([ True, False, False])
    >>> rows(np.array([[3.0, 0.0], [2.0, 2.0], [0.0, -1.0]]), 0.67, ord=1)[:, 0]
    array([False,  True, False])
    """
    _, d = inputs.matrices("w", w)
    return blocks(w, s, (1, d), ord=ord)


def columns(w: Array, s: float, *, ord: float = 2) -> Array:  # noqa: A002
    """Prune exactly ⌊s D⌋ whole columns of each matrix of w (..., F, D), of the smallest norm; ties: lowest index.

    >>> import numpy as np
    >>> columns(np.array([[3.0, -1.0, 0.0], [2.0, 2.0, 1.0]]), 0.34)[0]
    array([ True,  True, False])
    """
    f, _ = inputs.matrices("w", w)
    return blocks(w, s, (f, 1), ord=ord)


def heads(w: Array, s: float, n_heads: int, *, axis: int = -2, ord: float = 2) -> Array:  # noqa: A002
    """Prune exactly ⌊s n_heads⌋ heads of each matrix: groups of neighbours along ``axis``, rows (-2) or columns (-1).

    A query, key or value projection (H d, D) has its heads in the rows; the output projection (D, H d) in the columns.
    Of equal norms the lowest head goes first.  ConfigError if n_heads does not divide that axis.

    >>> import numpy as np
    >>> heads(np.array([[1.0, 1.0, 0.0, 3.0]]), 0.5, 2, axis=-1)
    array([[False, False,  True,  True]])
    """
    f, d = inputs.matrices("w", w)
    if axis not in (-2, -1):
        raise ConfigError(f"axis must be -2 (heads in the rows) or -1 (in the columns), got {axis!r}")
    length = (f, d)[axis]
    if length % check_integer("n_heads", n_heads):
        raise ConfigError(f"n_heads must divide axis {axis} of w: got {n_heads} heads and length {length}")
    width = length // n_heads
    return blocks(w, s, (width, d) if axis == -2 else (f, width), ord=ord)


def blocks(w: Array, s: float, shape: tuple[int, int], *, ord: float = 2) -> Array:  # noqa: A002
    """Prune exactly ⌊s g⌋ of the g = (F/r)(D/c) aligned r x c blocks of each matrix of w (..., F, D); ties: row-major.

    ConfigError for a block that does not divide the matrix (no ragged edge) or an unknown ``ord``; others as
    ``masks.by_score``.

    >>> import numpy as np
    >>> w = np.array([[1.0, 1.0, 0.0, 2.0], [0.0, 1.0, 0.0, 0.0]])
    >>> blocks(w, 0.5, (2, 2), ord=2).tolist()  # Σ w²: 3 and 4
    [[False, False, True, True], [False, False, True, True]]
    """
    f, d = inputs.matrices("w", w)
    r, c = shape
    whole = tuple(int(n) for n in w.shape)
    empty = f == 0 or d == 0
    if not empty and (f % check_integer("block height", r) or d % check_integer("block width", c)):
        raise ConfigError(f"blocks of {r} x {c} do not divide matrices of {f} x {d}: take divisors, or pad the matrix")
    if ord not in ORDERS:
        raise ConfigError(f"ord must be one of {ORDERS}, got {ord!r}")
    xp, values = namespace(w), inputs.ranked("w", w)
    if 0 in whole:
        count(s, 0)
        return xp.ones(whole, dtype=xp.bool, device=device(w))
    parts = xp.reshape(values, (-1, f // r, r, d // c, c))  # matrix, block row, row, block column, column
    score = _norm(parts, ord)  # (matrices, F/r, D/c)
    score = xp.reshape(score, (score.shape[0], -1))
    kept = ~pools.lowest(score, count(s, int(score.shape[1])))
    kept = xp.reshape(kept, (kept.shape[0], f // r, d // c))
    return xp.reshape(xp.repeat(xp.repeat(kept, r, axis=1), c, axis=2), whole)


def _norm(parts: Array, ord: float) -> Array:  # noqa: A002
    """What ranks as the norm over the axes 2 and 4."""
    xp = namespace(parts)
    size = xp.abs(xp.astype(parts, accumulator(parts), copy=False))
    if ord == math.inf:
        return xp.max(size, axis=(2, 4))
    return xp.sum(size if ord == 1 else size * size, axis=(2, 4))
