"""Masks, element by element: who is pruned is the head of a list sorted by (score, place).

Arrays come in as NumPy arrays and are read as nested lists of Python numbers; a mask goes out as nested lists of bool.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np


def count(s: float, size: int) -> int:
    """floor(s N) for the decimal that s prints as: an exact rational, no rounding anywhere."""
    return math.floor(Fraction(repr(float(s))) * size)


def pruned_places(scores: list, n: int) -> list[int]:
    """The n lowest, the lowest place first among equals: sorted by (score, place)."""
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    return order[:n]


def places(shape) -> list[tuple[int, ...]]:
    """Every index of an array of this shape, in flat (row-major) order."""
    return list(itertools.product(*(range(n) for n in shape)))


def pools(shape, by: str) -> list[list[tuple[int, ...]]]:
    """The places that compete with each other, each pool in flat order."""
    own_axes = {"tensor": len(shape), "matrix": 2, "row": 1}[by]
    lead = shape[: len(shape) - own_axes]
    rest = shape[len(shape) - own_axes :]
    return [[(*a, *b) for b in places(rest)] for a in places(lead)]


def by_score(score, s: float, by: str = "tensor") -> np.ndarray:
    """True where the weight stays."""
    mask = np.ones(score.shape, dtype=bool)
    for pool in pools(score.shape, by):
        values = [score[i].item() for i in pool]
        for n in pruned_places(values, count(s, len(pool))):
            mask[pool[n]] = False
    return mask


def magnitude(w, s: float, by: str = "tensor") -> np.ndarray:
    size = np.empty(w.shape, dtype=w.dtype)
    for i in places(w.shape):
        size[i] = abs(w[i].item())
    return by_score(size, s, by)


def threshold(w, t: float) -> np.ndarray:
    mask = np.zeros(w.shape, dtype=bool)
    for i in places(w.shape):
        mask[i] = abs(w[i].item()) >= t
    return mask


def quantile(w, q: float) -> float:
    """The magnitude at place floor(q N) of the ascending list; behind its end nothing is large enough: infinity."""
    ordered = sorted(abs(w[i].item()) for i in places(w.shape))
    n = count(q, len(ordered))
    return math.inf if n == len(ordered) else ordered[n]


def over_model(scores: dict, s: float) -> dict:
    """One pool over all tensors: (score, place of the tensor in the mapping, flat place)."""
    everyone = [(a[i].item(), k, n) for k, a in enumerate(scores.values()) for n, i in enumerate(places(a.shape))]
    lost = sorted(everyone)[: count(s, len(everyone))]
    masks = {name: np.ones(a.shape, dtype=bool) for name, a in scores.items()}
    names = list(scores)
    for _, k, n in lost:
        masks[names[k]][places(scores[names[k]].shape)[n]] = False
    return masks


def norm(values: list, order: float) -> float:
    """L1, L2 (exact sum of the squares as rationals: only the order of groups matters) or the maximum."""
    if order == 1:
        return float(sum(Fraction(abs(v)) for v in values))
    if order == 2:
        return float(sum(Fraction(v) ** 2 for v in values)) ** 0.5
    return max(abs(v) for v in values)


def groups(w, s: float, members: list[list[tuple[int, int]]], order: float) -> np.ndarray:
    """Whole groups of each matrix go: the floor(s · groups) of lowest norm, the first first among equals."""
    mask = np.ones(w.shape, dtype=bool)
    for a in places(w.shape[:-2]):
        values = [norm([w[(*a, *i)].item() for i in group], order) for group in members]
        for n in pruned_places(values, count(s, len(members))):
            for i in members[n]:
                mask[(*a, *i)] = False
    return mask


def rows(w, s, order=2):
    f, d = w.shape[-2:]
    return groups(w, s, [[(i, j) for j in range(d)] for i in range(f)], order)


def columns(w, s, order=2):
    f, d = w.shape[-2:]
    return groups(w, s, [[(i, j) for i in range(f)] for j in range(d)], order)


def heads(w, s, n_heads, axis=-2, order=2):
    f, d = w.shape[-2:]
    size = (f if axis == -2 else d) // n_heads
    members: list[list[tuple[int, int]]] = [[] for _ in range(n_heads)]
    for i, j in places((f, d)):
        members[(i if axis == -2 else j) // size].append((i, j))
    return groups(w, s, members, order)


def blocks(w, s, shape, order=2):
    (f, d), (r, c) = w.shape[-2:], shape
    members = [
        [(a * r + i, b * c + j) for i in range(r) for j in range(c)] for a in range(f // r) for b in range(d // c)
    ]
    return groups(w, s, members, order)


def nm(score, n: int, m: int) -> np.ndarray:
    """Of every m neighbours along the last axis the n greatest stay, the lowest column first among equals."""
    mask = np.zeros(score.shape, dtype=bool)
    for a in places(score.shape[:-1]):
        for g in range(score.shape[-1] // m):
            own = [g * m + j for j in range(m)]
            best = sorted(own, key=lambda j: (-score[(*a, j)].item(), j))
            for j in best[:n]:
                mask[(*a, j)] = True
    return mask
