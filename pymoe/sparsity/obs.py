r"""Optimal brain surgeon: which weights of a row go, and how the others make up for it, under a quadratic error.

For w (F, D), a positive definite h (D, D), and each row by itself: error = Δ h Δᵀ, Δ = w' - w, w' zero where pruned.

    one weight q:     error w_q² / G_qq,  Δ = -w_q / G_qq G_q:        G = h⁻¹ of the columns that are left
    a set P:          error w_P (G_PP)⁻¹ w_Pᵀ                         G = h⁻¹ of all columns
    kept weights K:   w'_K = w_K + h_KK⁻¹ h_KP w_P                    (least squares)

``greedy`` takes the cheapest weight, n times; ``optimal`` tries every set of n; ``refit`` is the best w' for a mask.
So error(optimal) <= error(refit of any mask with n pruned a row) <= error(that mask without an update).

Sources: Hassibi & Stork, NIPS 1992, eq. 5; Frantar & Alistarh (OBC), arXiv:2208.11580, eq. 3-4 and algorithm 1.
All is float64 inside, NumPy, and for layers small enough: greedy O(F n D²), optimal O(C(D, n) n² (n + F)).
"""

from __future__ import annotations

import itertools
import math
import numbers

import numpy as np
from scipy import linalg

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.sparsity.masks.fit import check
from pymoe.sparsity.pruned import Pruned, problem, result

MOST_SUPPORTS = 1_000_000
_CHUNK = 4096  # supports looked at in one batch


def greedy(w: Array, h: Array, n: int) -> Pruned:
    """n weights of each row of w (F, D), one at a time: the one of least w_q²/G_qq goes, all others left are updated.

    G is downdated, G <- G - G_:q G_q: / G_qq, never inverted again.  Of equal errors the lowest column goes first.
    Exactly F n pruned.  ConfigError if h is not positive definite (damp it), or for n outside [0, D].

    >>> import numpy as np
    >>> done = greedy(np.array([[1.0, 3.0]]), np.array([[2.0, 1.0], [1.0, 2.0]]), 1)
    >>> done.w, round(done.error, 12)
    (array([[0. , 3.5]]), 1.5)
    """
    given, h64 = problem(w, h)
    n = _pruned(n, given.shape[1])
    inverse = _inverse(h64)
    now, mask = given.copy(), np.ones(given.shape, dtype=bool)
    for row, kept in zip(now, mask, strict=True):
        g = inverse.copy()
        for _ in range(n):
            diagonal = np.where(kept, np.diag(g), 1.0)
            q = int(np.argmin(np.where(kept, row * row / diagonal, np.inf)))
            line = g[q] / g[q, q]
            row -= row[q] * line
            g -= np.outer(g[:, q], line)
            kept[q] = False
    return result(given, now, mask, h64, w)


def optimal(w: Array, h: Array, n: int, *, limit: int = MOST_SUPPORTS) -> Pruned:
    """The least error there is with n weights of each row pruned: every set of n, and least squares for what stays.

    Of equal errors the set first in lexicographic order.  More than ``limit`` sets C(D, n) are refused with a
    ConfigError that says how many there are.

    >>> import numpy as np
    >>> done = optimal(np.array([[1.0, 3.0, 2.0]]), np.array([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 2.0]]), 2)
    >>> done.w.round(12), round(done.error, 12)
    (array([[0. , 4.5, 0. ]]), 9.5)
    """
    given, h64 = problem(w, h)
    f, width = given.shape
    n = _pruned(n, width)
    supports = math.comb(width, n)
    if supports > limit:
        raise ConfigError(
            f"{n} of {width} weights can go in {supports} ways, more than the limit of {limit}: use obs.greedy, or "
            "sparsegpt"
        )
    inverse = _inverse(h64)
    best, chosen = np.full(f, np.inf), np.zeros((f, n), dtype=np.int64)
    sets = itertools.combinations(range(width), n)
    while batch := list(itertools.islice(sets, _CHUNK)):
        p = np.array(batch, dtype=np.int64).reshape(len(batch), n)
        lost = given[:, p]  # (F, S, n)
        core = np.linalg.inv(inverse[p[:, :, None], p[:, None, :]])  # (S, n, n)
        errors = np.einsum("fsi,sij,fsj->fs", lost, core, lost, optimize=True)  # by BLAS
        least = np.argmin(errors, axis=1)
        better = errors[np.arange(f), least] < best
        best = np.where(better, errors[np.arange(f), least], best)
        chosen[better] = p[least[better]]
    mask = np.ones((f, width), dtype=bool)
    np.put_along_axis(mask, chosen, False, axis=1)
    return _least_squares(given, h64, mask, w)


def refit(w: Array, h: Array, mask: Array) -> Pruned:
    """The weights of least error Δ h Δᵀ that are 0 where ``mask`` (F, D) is False: w'_K = w_K + h_KK⁻¹ h_KP w_P.

    A singular h_KK (fewer tokens than inputs) is solved by the smallest change.  ``check`` says what masks are refused.

    >>> import numpy as np
    >>> refit(np.array([[1.0, 3.0]]), np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[False, True]])).w
    array([[0. , 3.5]])
    """
    given, h64 = problem(w, h)
    check(w, mask)
    return _least_squares(given, h64, to_numpy(mask), w)


def _least_squares(given: np.ndarray, h: np.ndarray, mask: np.ndarray, like: Array) -> Pruned:
    """One solve for each *different* row of the mask."""
    now = given.copy()
    if mask.size:
        patterns, which = np.unique(mask, axis=0, return_inverse=True)
        for i, kept in enumerate(patterns):
            rows = np.flatnonzero(which.reshape(-1) == i)
            if kept.any() and not kept.all():
                pull = h[np.ix_(kept, ~kept)] @ given[np.ix_(rows, np.flatnonzero(~kept))].T
                now[np.ix_(rows, np.flatnonzero(kept))] += _solve(h[np.ix_(kept, kept)], pull).T
    return result(given, now, mask, h, like)


def _solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(linalg.cho_solve(linalg.cho_factor(a), b))
    except linalg.LinAlgError:  # singular: the smallest of all solutions
        return np.asarray(np.linalg.lstsq(a, b, rcond=None)[0])


def _inverse(h: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(linalg.cho_solve(linalg.cho_factor(h), np.eye(len(h)))) if h.size else h
    except linalg.LinAlgError as singular:
        raise ConfigError(
            "h is not positive definite, so no weight has a cost: fewer tokens than inputs, or dead inputs; add e.g. "
            "0.01 of the mean of its diagonal to the diagonal"
        ) from singular


def _pruned(n: int, width: int) -> int:
    if isinstance(n, bool) or not isinstance(n, numbers.Integral) or not 0 <= n <= width:
        raise ConfigError(f"n, the weights pruned in each row, must be an integer in [0, {width}], got {n!r}")
    return int(n)
