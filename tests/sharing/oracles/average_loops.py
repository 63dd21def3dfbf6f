"""Averages of weights, entry by entry in exact rationals.

Soups 2203.05482; Fisher 2111.09832 eq. 4; RegMean 2212.09849 eq. 2-3: W = argmin Σ_i ‖X_i Wᵀ - X_i W_iᵀ‖², from its
normal equations; off-diagonal entries of the Gram matrices times α.  TIES 2306.01708, algorithm 1; DARE 2311.03099.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np

from ...sparsity.oracles.rational import exact, solve


def places(a):
    return itertools.product(*(range(n) for n in a.shape))


def entrywise(rule, arrays) -> np.ndarray:
    """rule(list of the numbers of all arrays at one place) -> number."""
    out = np.empty(arrays[0].shape)
    for i in places(out):
        out[i] = float(rule([Fraction(a[i].item()) for a in arrays]))
    return out


def weighted(arrays, weights) -> np.ndarray:
    c = [Fraction(float(w)) for w in weights]
    return entrywise(lambda v: sum(a * b for a, b in zip(c, v, strict=True)) / sum(c), arrays)


def fisher(arrays, fishers, eps: float, weights=None) -> np.ndarray:
    """Σ s_i F_i w_i / Σ s_i F_i; no F below eps times the greatest of all."""
    out = np.empty(arrays[0].shape)
    c = [Fraction(1)] * len(arrays) if weights is None else [Fraction(float(w)) for w in weights]
    floor = Fraction(eps) * max(Fraction(a[i].item()) for a in fishers for i in places(a))
    for i in places(out):
        f = [w * max(Fraction(a[i].item()), floor) for w, a in zip(c, fishers, strict=True)]
        out[i] = float(sum(a * Fraction(w[i].item()) for a, w in zip(f, arrays, strict=True)) / sum(f))
    return out


def regmean(weights, grams, alpha: float) -> np.ndarray:
    """W Σ G̃ = Σ W_i G̃_i, one row of W at a time."""
    f, d = weights[0].shape
    shrunk = [
        [[v if i == j else Fraction(alpha) * v for j, v in enumerate(row)] for i, row in enumerate(exact(g))]
        for g in grams
    ]
    total = [[sum(g[i][j] for g in shrunk) for j in range(d)] for i in range(d)]
    right = []
    for row in range(f):
        line = [Fraction(0)] * d
        for w, g in zip(weights, shrunk, strict=True):
            for j in range(d):
                line[j] += sum(Fraction(w[row, i].item()) * g[i][j] for i in range(d))
        right.append(line)
    answers = [solve(total, [[v] for v in line]) for line in right]
    return np.array([[float(v) for (v,) in answer] for answer in answers])


def trim(delta, density: float) -> np.ndarray:
    """The floor(density N) of largest magnitude; among equals those of higher flat index stay."""
    flat = delta.ravel().tolist()
    n = math.floor(Fraction(repr(float(density))) * len(flat))
    order = sorted(range(len(flat)), key=lambda i: (abs(flat[i]), i))
    kept = set(order[len(flat) - n :])
    return np.array([v if i in kept else 0.0 for i, v in enumerate(flat)]).reshape(delta.shape)


def ties(base, tuned, density: float, weights=None, scale: float = 1.0) -> np.ndarray:
    return elected(base, [trim(t.astype(np.float64) - base, density) for t in tuned], weights, scale)


def elected(base, deltas, weights=None, scale: float = 1.0) -> np.ndarray:
    """The sign of the weighted sum, then the weighted mean of those that have it; nobody has the sign of 0."""
    c = [1.0] * len(deltas) if weights is None else list(weights)
    out = np.array(base, dtype=np.float64)
    for i in places(out):
        v = [Fraction(d[i].item()) for d in deltas]
        total = sum(Fraction(a) * b for a, b in zip(c, v, strict=True))
        sign = (total > 0) - (total < 0)
        same = [n for n, b in enumerate(v) if b != 0 and (b > 0) - (b < 0) == sign]
        if sign and same:
            mean = sum(Fraction(c[n]) * v[n] for n in same) / sum(Fraction(c[n]) for n in same)
            out[i] = float(Fraction(base[i].item()) + Fraction(scale) * mean)
    return out


def arithmetic(base, tuned, weights=None, scale: float = 1.0) -> np.ndarray:
    c = [1.0] * len(tuned) if weights is None else list(weights)
    out = np.empty(base.shape)
    for i in places(out):
        b = Fraction(base[i].item())
        out[i] = float(
            b + Fraction(scale) * sum(Fraction(a) * (Fraction(t[i].item()) - b) for a, t in zip(c, tuned, strict=True))
        )
    return out


def dare(delta, mask, rate: float) -> np.ndarray:
    out = np.zeros(delta.shape)
    for i in places(out):
        out[i] = delta[i].item() / (1 - rate) if mask[i] else 0.0
    return out


def soup(candidates: list, evaluate) -> tuple[list[int], np.ndarray]:
    """Greedy soup (2203.05482, recipe 1) of 1-D parameter vectors: (members in the order taken, the mean)."""

    def mean(ids):
        return np.array([sum(candidates[i][j] for i in ids) / len(ids) for j in range(len(candidates[0]))])

    order = sorted(range(len(candidates)), key=lambda i: (-evaluate(mean([i])), i))
    taken: list[int] = []
    for i in order:
        if not taken or evaluate(mean([*taken, i])) >= evaluate(mean(taken)):
            taken.append(i)
    return taken, mean(taken)
