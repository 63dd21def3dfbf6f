r"""Averages of experts: an expert is a dict of its matrices, all experts with the same names and shapes.

============ ============================================================ ===========================================
average      w                                                            source
============ ============================================================ ===========================================
uniform      1/n Σ_i w_i                                                  model soups, arXiv:2203.05482
weighted     Σ_i c_i w_i / Σ_i c_i                                        by frequency: M-SMoE, arXiv:2310.01334
fisher       Σ_i (F_i + ε) w_i / Σ_i (F_i + ε), entry by entry            arXiv:2111.09832, eq. 4
regmean      Σ_i W_i G̃_i (Σ_i G̃_i)⁻¹, G̃ = α G + (1 - α) diag G            arXiv:2212.09849, eq. 2 (W (F, D) here)
============ ============================================================ ===========================================

F_i the diagonal of the Fisher matrix (mean squared gradients), G_i = Σ_t x_t x_tᵀ of the inputs of expert i.  Experts
that are all equal come back unchanged: bit for bit for two, to rounding for more (M1, M2).  Cost: O(n F D); regmean a
solve of D³ besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.sharing import inputs

Expert = Mapping[str, Any]


def check(experts: Sequence[Expert]) -> None:
    """At least one expert, all of the same names and shapes, all numbers; ConfigError, ShapeError, NonFiniteError."""
    if not experts:
        raise ConfigError("there is nothing to merge: give at least one expert")
    first = experts[0]
    for i, one in enumerate(experts):
        if one.keys() != first.keys():
            raise ShapeError(f"expert {i} has the matrices {sorted(one)}, expert 0 has {sorted(first)}")
        for name, a in one.items():
            if a.shape != first[name].shape:
                raise ShapeError(f"{name} of expert {i} has shape {a.shape}, of expert 0 {first[name].shape}")
            inputs.finite(f"{name} of expert {i}", a)


def uniform(experts: Sequence[Expert]) -> dict[str, np.ndarray]:
    """The mean.

    >>> uniform([{"w": np.array([[1.0]])}, {"w": np.array([[4.0]])}])
    {'w': array([[2.5]])}
    """
    return weighted(experts, [1.0] * len(experts))


def weighted(experts: Sequence[Expert], weights: Sequence[float]) -> dict[str, np.ndarray]:
    """The mean with weights c_i >= 0; where all are 0 (experts that nobody used) the uniform mean.

    >>> weighted([{"w": np.array([[1.0]])}, {"w": np.array([[4.0]])}], [3, 1])
    {'w': array([[1.75]])}
    """
    check(experts)
    c = np.asarray(weights, dtype=np.float64)
    if c.shape != (len(experts),) or not np.isfinite(c).all() or (c < 0).any():
        raise ConfigError(f"{len(experts)} experts need as many weights, finite and not negative, got {weights!r}")
    if not c.any():
        c = np.ones_like(c)
    first = experts[0]
    made = {}
    for name, a in first.items():
        total = sum(ci * one[name].astype(np.float64) for ci, one in zip(c, experts, strict=True))
        made[name] = (total / c.sum()).astype(a.dtype)
    return made


def fisher(experts: Sequence[Expert], fishers: Sequence[Expert], eps: float = 1e-12) -> dict[str, np.ndarray]:
    """The mean with a weight for every entry: its Fisher information.  eps > 0 settles entries that no loss feels.

    >>> fisher([{"w": np.array([1.0])}, {"w": np.array([4.0])}], [{"w": np.array([2.0])}, {"w": np.array([1.0])}])
    {'w': array([2.])}
    """
    check(experts)
    if len(fishers) != len(experts) or not eps > 0:
        raise ConfigError(f"every expert needs its Fisher information, and eps > 0; got {len(fishers)} and eps={eps!r}")
    made = {}
    for name, a in experts[0].items():
        for i, f in enumerate(fishers):
            if f[name].shape != a.shape or (np.asarray(f[name]) < 0).any():
                raise ShapeError(f"the Fisher information of {name}, expert {i}, must be {a.shape} and not negative")
        scale = max(max(float(np.max(f[name], initial=0.0)) for f in fishers), np.finfo(np.float64).tiny)
        c = [f[name].astype(np.float64) / scale + eps for f in fishers]
        made[name] = (sum(ci * e[name] for ci, e in zip(c, experts, strict=True)) / sum(c)).astype(a.dtype)
    return made


def regmean(weights: Sequence[np.ndarray], grams: Sequence[np.ndarray], alpha: float = 0.9) -> np.ndarray:
    """The W (F, D) that best reproduces every W_i on its own inputs: argmin Σ_i ‖X_i Wᵀ - X_i W_iᵀ‖² (α = 1).

    α < 1 shrinks the off-diagonal entries of the Gram matrices, which steadies the solve.  Directions in which no input
    lies get the least-norm solution (pseudo-inverse), and inputs that are all zero the uniform mean.

    >>> regmean([np.array([[1.0]]), np.array([[4.0]])], [np.array([[2.0]]), np.array([[1.0]])])
    array([[2.]])
    """
    check([{"weight": w} for w in weights])
    d = weights[0].shape[-1]
    if len(grams) != len(weights) or any(g.shape != (d, d) for g in grams):
        raise ShapeError(f"every weight (F, {d}) needs a Gram matrix ({d}, {d}), got {[g.shape for g in grams]}")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha shrinks off-diagonal entries and must lie in [0, 1], got {alpha!r}")
    shrunk = [alpha * g.astype(np.float64) + (1 - alpha) * np.diag(np.diag(g)) for g in grams]
    total = sum(shrunk, np.zeros((d, d)))
    if not total.any():
        return uniform([{"weight": w} for w in weights])["weight"]
    right = sum((w.astype(np.float64) @ g for w, g in zip(weights, shrunk, strict=True)), np.zeros(weights[0].shape))
    return np.linalg.lstsq(total.T, right.T, rcond=None)[0].T.astype(weights[0].dtype)
