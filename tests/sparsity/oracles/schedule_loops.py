"""When and where: the cubic schedule, the lottery's rounds, RigL's exchange and the Erdős-Rényi densities.

Zhu & Gupta 1710.01878 eq. 1; Frankle & Carbin 1803.03635 (each round prunes the same part of what is left); Evci
1911.11134 section 3: drop by the smallest |w| of the active, grow by the largest |dL/dw| of the inactive, fraction by
the cosine.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from .mask_loops import places


def cubic(t: int, begin: int, end: int, start: float, final: float) -> float:
    """s_t = s_f + (s_i - s_f) (1 - (t - t0) / (n Δt))³; constant outside."""
    if t <= begin:
        return start
    if t >= end:
        return final
    left = 1 - Fraction(t - begin, end - begin)
    return float(Fraction(final) + (Fraction(start) - Fraction(final)) * left**3)


def lottery(s: float, n: int) -> list[float]:
    """Each of n rounds removes the same part p of what is left, so that (1 - p)^n = 1 - s."""
    part = 1 - (1 - s) ** (1 / n)
    left, found = 1.0, []
    for _ in range(n):
        left -= part * left
        found.append(1 - left)
    return found


def rigl_fraction(t: int, alpha: float, end: int) -> float:
    return alpha / 2 * (1 + math.cos(t * math.pi / end))


def rigl_update(mask, w, g, n: int) -> np.ndarray:
    """n go, n come.  Who has just been dropped may come back (it is inactive when the candidates are ranked)."""
    out = mask.copy()
    active = [i for i in places(mask.shape) if mask[i]]
    dropped = sorted(active, key=lambda i: (abs(w[i].item()), i))[:n]
    for i in dropped:
        out[i] = False
    idle = [i for i in places(mask.shape) if not out[i]]
    for i in sorted(idle, key=lambda i: (-abs(g[i].item()), i))[:n]:
        out[i] = True
    return out


def erdos_renyi(shapes: dict, s: float, kernel: bool = False) -> dict:
    """Kept: ε · Σ dims of each matrix (of each tensor if kernel), at most all; ε by bisection, (1 - s) N overall."""

    def unit(v):
        return sum(v) if kernel else sum(v[-2:]) * math.prod(v[:-2])

    wanted = (1 - Fraction(repr(float(s)))) * sum(math.prod(v) for v in shapes.values())

    def kept(eps):
        return sum(min(Fraction(math.prod(v)), eps * unit(v)) for v in shapes.values())

    low, high = Fraction(0), max(Fraction(math.prod(v), unit(v)) for v in shapes.values())
    for _ in range(80):
        middle = (low + high) / 2
        if kept(middle) < wanted:
            low = middle
        else:
            high = middle
    return {name: float(1 - min(Fraction(1), high * unit(v) / math.prod(v))) for name, v in shapes.items()}
