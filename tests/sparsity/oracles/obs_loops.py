"""Optimal Brain Surgeon and its descendants in exact rationals.

Removing weight q of a row with Hessian H over the weights that may still move costs w_q² / [H⁻¹]_qq and moves the
others by -w_q [H⁻¹]_:q / [H⁻¹]_qq (Hassibi & Stork 1993, eq. 5; OBC 2208.11580, eq. 3).  Here H⁻¹ is never updated: it
is inverted anew, restricted to the weights that may still move, at every single step.

SparseGPT (2301.00774, Algorithm 1) removes columns left to right, so that the weights that may still move are those to
the right: d_j² = [(H_{j:, j:})⁻¹]_00 is the squared diagonal of the Cholesky factor of H⁻¹, and the factor's row over
its diagonal is the compensation.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np

from .mask_loops import count
from .rational import exact, inverse, part, quadratic, solve


def hessian(x):
    """2/T Σ_t x_t x_tᵀ."""
    rows = exact(x)
    d = len(rows[0])
    return [[Fraction(2, len(rows)) * sum(row[i] * row[j] for row in rows) for j in range(d)] for i in range(d)]


def damped(h, w, damp):
    """Dead columns get a diagonal of 1 and weights of 0; then damp · mean(diagonal) goes on the whole diagonal."""
    d = len(h)
    h, w = [list(row) for row in h], [list(row) for row in w]
    for j in range(d):
        if h[j][j] == 0:
            h[j][j] = Fraction(1)
            for row in w:
                row[j] = Fraction(0)
    extra = Fraction(damp) * sum(h[j][j] for j in range(d)) / d
    for j in range(d):
        h[j][j] += extra
    return h, w


def sparsegpt(w, h, s=None, *, nm=None, block=128, damp=0.01):
    """(w', mask) as lists of rationals and of bools: the algorithm column by column, every inverse made anew."""
    h, w = damped(exact(h), exact(w), damp)
    f, d = len(w), len(h)
    trailing = [inverse(part(h, range(j, d), range(j, d))) for j in range(d)]
    cost = [trailing[j][0][0] for j in range(d)]  # d_j²
    mask = [[True] * d for _ in range(f)]
    for start in range(0, d, block):
        stop = min(start + block, d)
        if nm is None:
            everyone = [(w[r][j] ** 2 / cost[j], r, j) for r in range(f) for j in range(start, stop)]
            for _, r, j in sorted(everyone)[: count(s, len(everyone))]:
                mask[r][j] = False
        for j in range(start, stop):
            if nm is not None and j % nm[1] == 0:
                n, m = nm
                for r in range(f):
                    best = sorted(range(j, j + m), key=lambda c: (-(w[r][c] ** 2) / cost[c], c))
                    for c in best[n:]:
                        mask[r][c] = False
            for r in range(f):
                if not mask[r][j]:
                    lost = w[r][j]
                    for c in range(j, d):
                        w[r][c] -= lost * trailing[j][0][c - j] / cost[j]
                    assert w[r][j] == 0
    return w, mask


def layer_error(w, new, h):
    """Σ_f Δ_f h Δ_fᵀ."""
    w, h = exact(w), exact(h)
    return sum(
        (quadratic(h, [a - b for a, b in zip(old, now, strict=True)]) for old, now in zip(w, new, strict=True)),
        Fraction(0),
    )


def frozen_left(w, new, mask, h):
    """The second description: a kept weight j moves only because of what happened to its left, and where it stands is
    the first entry of the least-squares answer Δ_{j:} = -(H_{j:, j:})⁻¹ H_{j:, :j} Δ_{:j}.  Returns those positions, 0
    where pruned; the algorithm is right when they are its own ``new``."""
    d = len(h)
    out = []
    for old, now, kept in zip(w, new, mask, strict=True):
        line = []
        for j in range(d):
            if not kept[j]:
                line.append(Fraction(0))
                continue
            delta = [now[c] - old[c] for c in range(j)]
            pull = [[sum((h[i][c] * delta[c] for c in range(j)), Fraction(0))] for i in range(j, d)]
            line.append(old[j] - solve(part(h, range(j, d), range(j, d)), pull)[0][0])
        out.append(line)
    return out


def greedy(w, h, n):
    """(w', mask): each row alone; n times the cheapest weight left, the lowest column first among equals."""
    h = exact(h)
    out, masks = [], []
    for row in exact(w):
        row, left = list(row), list(range(len(h)))
        for _ in range(n):
            inv = inverse(part(h, left, left))
            q = min(range(len(left)), key=lambda i: (row[left[i]] ** 2 / inv[i][i], left[i]))
            lost = row[left[q]]
            for i, c in enumerate(left):
                row[c] -= lost * inv[i][q] / inv[q][q]
            assert row[left[q]] == 0
            del left[q]
        out.append(row)
        masks.append([c in left for c in range(len(h))])
    return out, masks


def best_on(row, h, support):
    """argmin over v that vanish off the support of (v - row) h (v - row)ᵀ: h_SS v_S = (h row)_S."""
    pull = [[sum((h[i][j] * row[j] for j in range(len(row))), Fraction(0))] for i in support]
    v = [Fraction(0)] * len(row)
    for i, (value,) in zip(support, solve(part(h, support, support), pull), strict=True):
        v[i] = value
    return v


def refit(w, h, mask):
    h = exact(h)
    return [
        best_on(row, h, [j for j in range(len(row)) if kept[j]])
        for row, kept in zip(exact(w), mask.tolist(), strict=True)
    ]


def optimal(w, h, n):
    """(w', mask, error of each row): of all sets of n columns in lexicographic order the first of least error."""
    h = exact(h)
    out, masks, errors = [], [], []
    for row in exact(w):
        best = None
        for gone in itertools.combinations(range(len(row)), n):
            support = [j for j in range(len(row)) if j not in gone]
            v = best_on(row, h, support)
            error = quadratic(h, [a - b for a, b in zip(row, v, strict=True)])
            if best is None or error < best[0]:
                best = (error, v, support)
        errors.append(best[0])
        out.append(best[1])
        masks.append([j in best[2] for j in range(len(row))])
    return out, masks, errors


def sparsegpt_floats(w, h, s: float, block: int, damp: float = 0.01):
    """The same algorithm in doubles, for sizes that rationals cannot reach: one explicit inverse for each column."""
    w, h = np.array(w, dtype=np.float64), np.array(h, dtype=np.float64)
    f, d = w.shape
    h = h + damp * np.mean([h[j, j] for j in range(d)]) * np.eye(d)
    trailing = [np.linalg.inv(h[j:, j:]) for j in range(d)]
    mask = np.ones((f, d), dtype=bool)
    for start in range(0, d, block):
        stop = min(start + block, d)
        everyone = [(w[r, j] ** 2 / trailing[j][0, 0], r, j) for r in range(f) for j in range(start, stop)]
        for _, r, j in sorted(everyone)[: count(s, len(everyone))]:
            mask[r, j] = False
        for j in range(start, stop):
            for r in range(f):
                if not mask[r, j]:
                    w[r, j:] -= w[r, j] * trailing[j][0] / trailing[j][0, 0]
                    w[r, j] = 0.0
    return w, mask
