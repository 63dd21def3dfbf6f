r"""The mean of experts (or of any dicts of arrays of equal shapes): uniform, weighted, by Fisher information, RegMean.

::

    uniform     w = 1/n Σ_i w_i
    weighted    w = Σ_i s_i w_i,                            s_i = weight_i / Σ weight
    Fisher      w = Σ_i s_i F_i ⊙ w_i / Σ_i s_i F_i          entry by entry; F_i = E[(∂ log p / ∂w_i)²] >= 0
    RegMean     W = (Σ_i W_i G̃_i) (Σ_i G̃_i)⁻¹                W_i (F, D), y = x Wᵀ;  G_i = X_iᵀ X_i (D, D)
                G̃ = α G + (1 - α) diag(G)

Every mean is computed as one of its arguments plus a sum of differences to it::

    w = w_r + Σ_i s_i (w_i - w_r)          r = the one of largest weight (of equal ones the first)

so that equal arrays give their very bits (M1, M2), whatever n and the weights.  RegMean solves

    (W - M) Σ G̃ = Σ_i (W_i - M) G̃_i,      M the uniform mean

which is the same where Σ G̃ is regular.  Where it is singular (an input direction that no token had) the formula of the
paper says nothing; the solution of least norm keeps M there.  It is the W of least Σ_i ‖X_i Wᵀ - X_i W_iᵀ‖² for α = 1.

Sources: soups, arXiv:2203.05482; Fisher, Matena and Raffel, arXiv:2111.09832, eq. 4 (their floor on F_i is absolute,
here it is a share of the largest, so that the scale of the loss does not matter); RegMean, Jin et al.,
arXiv:2212.09849, eq. 2 and section 3.3 (α, and the plain mean for biases).  Cost: one pass; RegMean the eigenvectors
of a (D, D) and 4 F D² multiply-adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, check_shape, check_share
from pymoe.backend.namespace import Array
from pymoe.sharing.fuse import experts as single
from pymoe.sharing.split.copies import placed


def uniform(experts: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """The plain mean, name by name.

    >>> uniform([{"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, 2.0])}])
    {'w': array([2., 2.])}
    """
    return weighted(experts, np.ones(len(experts)))


def weighted(experts: Sequence[Mapping[str, Array]], weights: Any) -> dict[str, Any]:
    """The mean by ``weights`` (n,), e.g. how often each expert was chosen; only their proportions matter.

    Negative weights, or all 0: ConfigError.  Other names or shapes: ShapeError.  NaN: NonFiniteError.

    >>> weighted([{"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, 2.0])}], [1, 3])
    {'w': array([2.5, 2. ])}
    """
    single.alike(experts)
    s = single.shares(weights, len(experts))
    return {name: placed(mean([single.read(name, e[name]) for e in experts], s), a) for name, a in experts[0].items()}


def fisher(
    experts: Sequence[Mapping[str, Array]],
    fishers: Sequence[Mapping[str, Array]],
    eps: float = 1e-6,
    weights: Any = None,
) -> dict[str, Any]:
    """The mean by the diagonal Fisher information, entry by entry.

    fishers: for each expert a dict of the same names and shapes, the mean over calibration examples of the *squared*
    gradient.  Each is raised to at least ``eps`` times the largest entry of that name over all experts; where all of a
    name are 0, the mean is by ``weights`` alone (uniform unless given).  Negative entries: ConfigError.

    >>> sure = {"w": np.array([3.0, 0.0])}, {"w": np.array([1.0, 0.0])}
    >>> fisher([{"w": np.array([1.0, 2.0])}, {"w": np.array([5.0, 4.0])}], sure)
    {'w': array([2., 3.])}
    """
    single.alike(experts)
    single.alike(fishers, "Fisher information")
    single.alike([experts[0], fishers[0]], "expert or Fisher information")
    eps = check_share("eps", eps)
    s = single.shares(np.ones(len(experts)) if weights is None else weights, len(experts))
    if len(fishers) != len(experts):
        raise ConfigError(f"one Fisher information for each expert: got {len(experts)} experts, {len(fishers)} of them")
    merged = {}
    for name, a in experts[0].items():
        info = np.stack([single.read(name, f[name]) for f in fishers])
        if (info < 0).any():
            raise ConfigError(f"the Fisher information of {name} is a mean of squares, got a negative entry")
        most = info.max(initial=0.0)
        info = np.maximum(info / most, eps) if most > 0 else np.ones_like(info)
        info = info * s.reshape(-1, *[1] * (info.ndim - 1))
        w = np.stack([single.read(name, e[name]) for e in experts])
        total = info.sum(0)
        none = total == 0  # eps = 0 and no information here, or only in experts of weight 0
        info = np.where(none, s.reshape(-1, *[1] * (info.ndim - 1)), info)
        merged[name] = placed(_about(w, info / np.where(none, 1.0, total)), a)
    return merged


def regmean(weights: Sequence[Array], grams: Sequence[Array], alpha: float = 0.9) -> Array:
    """W (F, D) of the matrices W_i (F, D) and G_i = X_iᵀ X_i (D, D) of their inputs.

    alpha in [0, 1] shrinks what is off the diagonal of each G_i.  An expert that saw no token (G = 0) has no say.

    >>> w = [np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]])]
    >>> regmean(w, [np.diag([1.0, 0.0]), np.diag([1.0, 2.0])])  # the second input was seen by the second expert alone
    array([[2., 4.]])
    """
    alpha = check_share("alpha", alpha)
    if len(weights) != len(grams):
        raise ConfigError(f"one Gram matrix for each weight: got {len(weights)} and {len(grams)}")
    single.alike([{"weight": w} for w in weights])
    check_shape("weights[0]", weights[0], (None, None))
    d = int(weights[0].shape[1])
    w = [single.read(f"weights[{i}]", a) for i, a in enumerate(weights)]
    middle = mean(w, np.full(len(w), 1 / len(w)))
    left, right = np.zeros_like(middle), np.zeros((d, d))
    for i, g in enumerate(grams):
        check_shape(f"grams[{i}]", g, (d, d))
        g64 = single.read(f"grams[{i}]", g)
        if np.abs(g64 - g64.T).max(initial=0) > 1e-4 * np.abs(g64).max(initial=0):
            raise ConfigError(f"grams[{i}] is not symmetric: Xᵀ X is, (D, D) of the inputs")
        g64 = (g64 + g64.T) / 2
        shrunk = alpha * g64 + (1 - alpha) * np.diag(np.diag(g64))
        left, right = left + (w[i] - middle) @ shrunk, right + shrunk
    return placed(middle + _solve(right, left), weights[0])


def mean(arrays: Sequence[np.ndarray], s: np.ndarray) -> np.ndarray:
    """Σ s_i a_i of float64 arrays for shares that sum to 1, as differences to the one of largest share."""
    top = int(np.argmax(s))
    start = arrays[top]
    total = np.zeros_like(start)
    for i, a in enumerate(arrays):
        if i != top and s[i]:
            total = total + s[i] * (a - start)
    return np.asarray(np.where(total == 0, start, start + total))  # start + 0 would make 0 of -0


def _about(w: np.ndarray, s: np.ndarray) -> np.ndarray:
    """``mean`` with shares (n, ...) of their own for each entry."""
    top = np.argmax(s, axis=0)[None]
    start = np.take_along_axis(w, top, axis=0)[0]
    total = (s * (w - start)).sum(0)
    return np.asarray(np.where(total == 0, start, start + total))


def _solve(s: np.ndarray, b: np.ndarray) -> np.ndarray:
    """X of least norm with X s = b, s symmetric and positive semidefinite."""
    values, vectors = np.linalg.eigh(s)
    kept = values > len(s) * np.finfo(np.float64).eps * values[-1]  # the others are directions that nobody saw
    seen = vectors[:, kept]
    return np.asarray((b @ seen / values[kept]) @ seen.T)
