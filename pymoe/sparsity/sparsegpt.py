r"""SparseGPT: prune a matrix column by column, and let the columns to the right make up for what each pruning breaks.

For y = w x with w (F, D) and the Hessian of the squared error of the outputs, h = 2/T xᵀx (D, D)::

    dead inputs:    h_jj = 0  ->  h_jj = 1, w_:j = 0
    damping:        h <- h + damp · mean(diag h) · I
    U upper, UᵀU = h⁻¹                                       d_j = U_jj

    for each block of columns, left to right:
        unstructured:  prune the ⌊s F b⌋ of its F b entries with the lowest w²/d_j², w as it is now
        for each column j of the block:
            N:M:       at the first column of a group, in each row keep the n of highest w²/d_j²
            q = w_:j, 0 where pruned          err = (w_:j - q) / d_j
            w_:k <- w_:k - err U_jk           for the columns k > j, those after the block lazily, all at once

Of equal scores the lowest flat index of the block (F, b) is pruned first; within an N:M group the lowest column is
kept.  Exactly Σ_blocks ⌊s F b⌋ entries are pruned (⌊s F D⌋ if the block divides D and s F b is whole), or (m - n)/m.

Source: Frantar & Alistarh, arXiv:2301.00774, algorithm 1.  Cost: D³ for U, F D² for the updates.  Everything is
float64 inside.  U comes from one Cholesky factor: J h J = L Lᵀ with J the reversal gives h = R Rᵀ with R = J L J
upper, and U = R⁻¹; no inverse of h is formed.  ``reference`` is the definition, and the judge of ``prune``.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError, DataError, check_integer, check_shape, check_share
from pymoe.backend.namespace import Array
from pymoe.sparsity import inputs
from pymoe.sparsity.masks import patterns, pools
from pymoe.sparsity.masks.amount import count
from pymoe.sparsity.pruned import Pruned, problem, result

__all__ = ["Pruned", "hessian", "prune", "reference"]


def hessian(x: Array) -> np.ndarray:
    """h = 2/T xᵀx (D, D) float64 of inputs x (T, D): of an expert only the tokens that were routed to it.

    No token at all is a DataError: the rule would call every input dead and prune all; use magnitude there.

    >>> import numpy as np
    >>> hessian(np.array([[1.0, 2.0], [3.0, 0.0]]))
    array([[10.,  2.],
           [ 2.,  4.]])
    """
    check_shape("x", x, (None, None))
    values = to_numpy(inputs.ranked("x", x)).astype(np.float64)
    if not len(values):
        raise DataError(
            "a Hessian needs at least one token: no calibration token reached this matrix; give more text, or prune "
            "it by magnitude (h = I)"
        )
    return np.asarray((2.0 / len(values)) * (values.T @ values))


def prune(
    w: Array,
    h: Array,
    s: float | None = None,
    *,
    nm: tuple[int, int] | None = None,
    block: int = 128,
    damp: float = 0.01,
) -> Pruned:
    """(w, mask, error) of w (F, D) pruned to sparsity ``s``, or to n of each m by ``nm=(n, m)``, under h (D, D).

    w in its own dtype, exactly 0 where pruned (and in dead columns, whatever the mask says of them).  With N:M the
    block says only how lazily columns are updated, and is rounded to a multiple of m.  ConfigError unless exactly one
    of s and nm is given, or if h stays singular with this damp.

    >>> import numpy as np
    >>> h = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> done = prune(np.array([[1.0, 3.0]]), h, 0.5, damp=0.0)
    >>> done.w, done.mask, round(done.error, 12)  # without the update: 2.0
    (array([[0. , 3.5]]), array([[False,  True]]), 1.5)
    """
    given, h64 = problem(w, h)
    s, nm, block = _amount(s, nm, block, given.shape[1])
    dead, damped = _damped(h64, damp)
    now = np.ascontiguousarray(np.where(dead, 0.0, given).T)  # (D, F): a column of w is one run of memory
    width, f = now.shape
    u = _upper(damped)
    gone = np.empty((width, f), dtype=bool)
    for a in range(0, width, block):
        b = min(a + block, width)
        part, u_block = now[a:b], u[a:b, a:b]
        err = np.empty_like(part)
        if s is not None:
            gone[a:b] = _lowest(part, np.diag(u_block), count(s, part.size))
        for j in range(b - a):
            if nm is not None and j % nm[1] == 0:
                group = slice(j, j + nm[1])
                gone[a:b][group] = _outside(part[group], np.diag(u_block)[group], nm)
            err[j] = np.where(gone[a + j], part[j], 0.0) / u_block[j, j]
            part[j + 1 :] -= u_block[j, j + 1 :, None] * err[j]
        now[b:] -= u[a:b, b:].T @ err  # the lazy batch
    return result(given, now.T, ~gone.T, h64, w)


def reference(
    w: Array,
    h: Array,
    s: float | None = None,
    *,
    nm: tuple[int, int] | None = None,
    block: int = 128,
    damp: float = 0.01,
) -> Pruned:
    """``prune`` from the definition: one row and one column at a time, an explicit inverse for each column.

    With G = (h_jj.. of the columns from j on, damped)⁻¹:  d_j² = G_00 and w_k <- w_k - w_j G_0k / G_00 (the step of
    optimal brain surgeon among the columns that are left).  O(D⁴ + F D²), for tests and doubts.

    >>> import numpy as np
    >>> reference(np.array([[1.0, 3.0]]), np.array([[2.0, 1.0], [1.0, 2.0]]), 0.5, damp=0.0).w
    array([[0. , 3.5]])
    """
    given, h64 = problem(w, h)
    s, nm, block = _amount(s, nm, block, given.shape[1])
    f, width = given.shape
    dead, damped = _damped(h64, damp)
    now = given.copy()
    now[:, dead] = 0.0
    mask = np.ones((f, width), dtype=bool)
    trailing = [_inverse(damped[j:, j:]) for j in range(width)]

    def score(row: int, column: int) -> float:
        return float(now[row, column] ** 2 / trailing[column][0, 0])

    for a in range(0, width, block):
        b = min(a + block, width)
        if s is not None:
            order = sorted((score(r, c), r, c) for r in range(f) for c in range(a, b))
            for _, r, c in order[: count(s, len(order))]:
                mask[r, c] = False
        for j in range(a, b):
            for r in range(f):
                if nm is not None and j % nm[1] == 0:
                    ranked = sorted((-score(r, c), c) for c in range(j, j + nm[1]))
                    for _, c in ranked[nm[0] :]:
                        mask[r, c] = False
                if not mask[r, j]:
                    now[r, j:] -= now[r, j] / trailing[j][0, 0] * trailing[j][0]
    return result(given, now, mask, h64, w)


def _amount(
    s: float | None, nm: tuple[int, int] | None, block: int, width: int
) -> tuple[float | None, tuple[int, int] | None, int]:
    """The checked amount, and the block, with N:M a multiple of m."""
    if (s is None) == (nm is None):
        raise ConfigError(f"give either s, a sparsity, or nm=(n, m): got s={s!r}, nm={nm!r}")
    block = check_integer("block", block)
    if nm is not None:
        n, m = patterns.group(*nm, width)
        return None, (n, m), max(m, block - block % m)
    return check_share("sparsity", s), None, block


def _damped(h: np.ndarray, damp: float) -> tuple[np.ndarray, np.ndarray]:
    """(dead (D,) bool, h with 1 for dead inputs and damp · mean(diag h) added to the diagonal)."""
    if not damp >= 0 or not np.isfinite(damp):
        raise ConfigError(f"damp must be a finite number and not negative, got {damp!r}")
    diagonal = np.diag(h)
    dead = diagonal == 0
    diagonal = np.where(dead, 1.0, diagonal)
    mean = float(np.mean(diagonal)) if len(diagonal) else 0.0
    damped = h.copy()
    np.fill_diagonal(damped, diagonal + damp * mean)
    return dead, damped


def _singular() -> ConfigError:
    return ConfigError(
        "h is not positive definite: fewer tokens than inputs, or inputs that depend on each other; "
        "raise damp (0.01 of the mean diagonal is usual)"
    )


def _upper(h: np.ndarray) -> np.ndarray:
    """U (D, D) upper with UᵀU = h⁻¹ and a positive diagonal."""
    if not h.size:
        return h
    try:
        r = linalg.cholesky(h[::-1, ::-1], lower=True)[::-1, ::-1]  # h = R Rᵀ
    except linalg.LinAlgError as singular:
        raise _singular() from singular
    return np.asarray(linalg.solve_triangular(r, np.eye(len(h))))


def _inverse(h: np.ndarray) -> np.ndarray:
    try:
        found = np.linalg.inv(h)
    except np.linalg.LinAlgError as singular:
        raise _singular() from singular
    if not found[0, 0] > 0:
        raise _singular()
    return np.asarray(found)


def _lowest(part: np.ndarray, d: np.ndarray, n: int) -> np.ndarray:
    """The n entries of lowest w²/d² of a block, given and returned transposed (b, F)."""
    score = (part / d[:, None]) ** 2
    return np.asarray(pools.lowest(score.T.reshape(1, -1), n).reshape(score.T.shape).T)


def _outside(part: np.ndarray, d: np.ndarray, nm: tuple[int, int]) -> np.ndarray:
    """What N:M prunes of one group (m, F)."""
    score = (part / d[:, None]) ** 2
    return np.asarray(~pools.keep_highest(np.ascontiguousarray(score.T), nm[0]).T)
