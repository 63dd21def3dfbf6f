"""What a method that moves the kept weights gives back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError, NonFiniteError, check_shape
from pymoe.backend.namespace import Array
from pymoe.sparsity import inputs


class Pruned(NamedTuple):
    w: np.ndarray  # (F, D) like the given weight; exactly 0 where pruned
    mask: np.ndarray  # (F, D) bool, True where a weight stays
    error: float  # Σ_f Δ_f h Δ_fᵀ, Δ = w - the given weight, h as given


def problem(w: Array, h: Array) -> tuple[np.ndarray, np.ndarray]:
    """w (F, D) and h (D, D) in float64; NaN, infinities, shapes and an h that is not symmetric are refused."""
    check_shape("w", w, (None, None))
    check_shape("h", h, (int(w.shape[1]), int(w.shape[1])))
    given = []
    for name, a in (("w", w), ("h", h)):
        values = to_numpy(inputs.ranked(name, a)).astype(np.float64)
        if not np.all(np.isfinite(values)):
            where = inputs.place(int(np.argmin(np.isfinite(values))), values.shape)
            raise NonFiniteError(f"{name} is infinite at {where}: no quadratic error exists; find what overflowed")
        given.append(values)
    slack = float(np.finfo(to_numpy(h).real.dtype).eps) ** 0.5  # a float32 product is symmetric to rounding only
    if h.size and float(np.max(np.abs(given[1] - given[1].T))) > slack * float(np.max(np.abs(given[1]))):
        raise ConfigError("h must be symmetric: it is the matrix of a quadratic form, 2/T xᵀx")
    return given[0], given[1]


def result(before: np.ndarray, after: np.ndarray, mask: np.ndarray, h: np.ndarray, like: Array) -> Pruned:
    """``after`` where kept, exactly 0 elsewhere, in the dtype of ``like``, with the error of just these values."""
    w = np.where(mask, after, 0.0).astype(to_numpy(like).real.dtype)
    return Pruned(w, mask, error(w - before, h))


def error(delta: np.ndarray, h: np.ndarray) -> float:
    """Σ_f Δ_f h Δ_fᵀ = (2/T) ‖Δ xᵀ‖² for h = 2/T xᵀx: delta (F, D), h (D, D)."""
    return float(np.sum((delta @ h) * delta))
