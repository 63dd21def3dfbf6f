r"""Between tensors along the sphere: SLERP of two, and the weighted mean on the sphere of any number (multislerp).

SLERP, Ω the angle between a and b, each tensor as one long vector::

    c(t) = sin((1 - t) Ω) / sin Ω · a + sin(t Ω) / sin Ω · b           c(0) = a, c(1) = b
    Ω = 2 atan2(‖â - b̂‖, ‖â + b̂‖),  â = a / ‖a‖                         exact for small and for wide angles alike

Where sin Ω is 0 there is no path to follow: for Ω < eps or Ω > π - eps, or a tensor of zeros, c(t) = a + t (b - a).  At
Ω = eps = 1e-8 the two formulas differ by Ω² / 8 of a, less than rounding, so nothing jumps.

multislerp: the point m of the unit sphere with the least Σ w_i Ω(m, a_i)², found by (Buss and Fillmore's A1)::

    m <- Σ w_i â_i, normalised                         the start
    v = Σ_i w_i θ_i / sin θ_i (â_i - cos θ_i m)         the mean in the tangent plane at m (log map), θ_i = Ω(m, a_i)
    m <- cos‖v‖ m + sin‖v‖ v/‖v‖                       back to the sphere (exponential map), until ‖v‖ is rounding
    c = (Σ_i w_i ‖a_i‖) m

For two tensors of one length this is SLERP at t = w_2.  A tensor of zeros has no direction: it counts only for the
length.  Where there is no mean direction (opposite tensors, a single number), c = Σ w_i a_i.

mergekit's ``multislerp`` takes â_i - ⟨â_i, m⟩ m for the tangent vectors; their weighted sum is 0, because m is along
Σ w_i â_i, so it stays at the start: here ``iterations=0``.

Sources: Shoemake, SIGGRAPH 1985, doi:10.1145/325165.325242; Buss and Fillmore, ACM Trans. Graph. 20(2), 2001,
doi:10.1145/502122.502124, section 3.1 and algorithm A1.  Cost: a few passes for each iteration, about 5 of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import check_integer, check_share
from pymoe.backend.namespace import Array
from pymoe.sharing.fuse import average
from pymoe.sharing.fuse import experts as single
from pymoe.sharing.split.copies import placed

EPS = 1e-8  # radians


def slerp(a: Array, b: Array, t: float, *, eps: float = EPS) -> Array:
    """The tensor that is a share t in [0, 1] of the way from a to b.

    >>> slerp(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 0.5)
    array([0.70710678, 0.70710678])
    """
    t = check_share("t", t)
    single.alike([{"tensor": a}, {"tensor": b}], "tensor")
    x, y = single.read("a", a), single.read("b", b)
    if t == 0 or t == 1:
        return placed(x if t == 0 else y, a)
    u, v = _unit(x), _unit(y)
    omega = 0.0 if u is None or v is None else _angle(u, v)
    if omega < eps or omega > math.pi - eps:
        return placed(x + t * (y - x), a)
    return placed((math.sin((1 - t) * omega) * x + math.sin(t * omega) * y) / math.sin(omega), a)


def multislerp(tensors: Sequence[Array], weights: Any, *, iterations: int = 100) -> Array:
    """The weighted mean on the sphere; weights (n,) >= 0, of which only the proportions matter.

    >>> multislerp([np.array([1.0, 0.0]), np.array([0.0, 3.0])], [1, 1])
    array([1.41421356, 1.41421356])
    """
    check_integer("iterations", iterations, 0)
    single.alike([{"tensor": a} for a in tensors], "tensor")
    w = single.shares(weights, len(tensors))
    flat = [single.read("tensor", a) for a in tensors]
    found = _mean_direction([_unit(a) for a in flat], w, iterations)
    if found is None or flat[0].size < 2:
        return placed(average.mean(flat, w), tensors[0])
    length = float(sum(s * _length(a) for s, a in zip(w, flat, strict=True)))
    return placed(length * found, tensors[0])


def _mean_direction(units: list[np.ndarray | None], w: np.ndarray, iterations: int) -> np.ndarray | None:
    """m, or None where there is none."""
    pairs = [(float(s), u) for s, u in zip(w, units, strict=True) if u is not None and s > 0]
    if not pairs:
        return None
    whole = sum(s for s, _ in pairs)
    total = np.zeros_like(pairs[0][1])
    for s, u in pairs:
        total = total + s / whole * u
    if _length(total) < EPS:
        return None
    m = total / _length(total)
    for _ in range(iterations):
        v = np.zeros_like(m)
        for s, u in pairs:
            theta = _angle(m, u)
            if theta > math.pi - EPS:
                return None
            v = v + s / whole * (theta / math.sin(theta) if theta > 0 else 1.0) * (u - math.cos(theta) * m)
        step = _length(v)
        if step <= 4 * np.finfo(np.float64).eps:
            break
        m = math.cos(step) * m + math.sin(step) / step * v
        m = m / _length(m)
    return m


def _length(a: np.ndarray) -> float:
    top = float(np.abs(a).max(initial=0.0))  # first scaled: the squares of very small numbers would vanish
    return top * math.sqrt(float(np.square(a / top).sum())) if top > 0 else 0.0


def _unit(a: np.ndarray) -> np.ndarray | None:
    """a / ‖a‖, or None for zeros."""
    top = float(np.abs(a).max(initial=0.0))
    if top == 0:
        return None
    scaled = a / top
    return np.asarray(scaled / math.sqrt(float(np.square(scaled).sum())))


def _angle(u: np.ndarray, v: np.ndarray) -> float:
    """Between unit vectors."""
    return 2 * math.atan2(_length(u - v), _length(u + v))
