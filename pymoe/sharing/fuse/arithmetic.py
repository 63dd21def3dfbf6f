r"""Task arithmetic: add to a base what each of several models tuned from it has learned.

    w = base + λ Σ_i weight_i (w_i - base)

Source: Ilharco et al., arXiv:2212.04089, section 2.  Cost: one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.sharing.fuse import experts as single
from pymoe.sharing.split.copies import placed


def merge(base: Array, tuned: Sequence[Array], *, weights: Any = None, scale: float = 1.0) -> Array:
    """One tensor of the merged model; weights (n,), 1 each unless given (negative ones take a task away).

    >>> merge(np.array([1.0, 1.0]), [np.array([2.0, 1.0]), np.array([1.0, 4.0])], scale=0.5)
    array([1.5, 2.5])
    """
    start, deltas = differences(base, tuned)
    w = factors(weights, len(deltas))
    total = np.zeros_like(start)
    for a, d in zip(w, deltas, strict=True):
        total = total + a * d
    return added(base, start, number("scale", scale) * total)


def differences(base: Array, tuned: Sequence[Array]) -> tuple[np.ndarray, list[np.ndarray]]:
    """(base, [w_i - base]) in float64; other shapes: ShapeError, NaN: NonFiniteError, none at all: ConfigError."""
    if not len(tuned):
        raise ConfigError("there is nothing to add to the base: give at least one tuned tensor")
    single.alike([{"tensor": base}, *({"tensor": a} for a in tuned)], "model")
    start = single.read("base", base)
    return start, [single.read("tuned", a) - start for a in tuned]


def added(base: Array, start: np.ndarray, total: np.ndarray) -> Array:
    """base + total, rounded once; where total is 0 the bits of base."""
    return placed(np.where(total == 0, start, start + total), base)


def factors(weights: Any, n: int) -> np.ndarray:
    """(n,) finite factors, 1 each unless given."""
    return np.ones(n) if weights is None else single.numbers(weights, n)


def number(name: str, value: Any) -> float:
    """A finite float, else ConfigError."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.integer, np.floating))
        or not np.isfinite(value)
    ):
        raise ConfigError(f"{name} must be a finite number, got {value!r}")
    return float(value)
