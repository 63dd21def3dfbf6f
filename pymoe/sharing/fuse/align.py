r"""Put the hidden units of one expert into the order of another's: a permutation, found by linear assignment.

For a feed-forward y = W_d act(W_g x) ⊙ (W_u x) a permutation P of the F hidden units leaves the function as it is::

    W_g <- P W_g        W_u <- P W_u        W_d <- W_d Pᵀ            (biases of the ways up are permuted too)

``weights`` picks the P that brings the matrices closest (Git Re-Basin's weight matching for one layer)::

    max_P Σ_f ⟨W_g^ref[f], W_g[P(f)]⟩ + ⟨W_u^ref[f], W_u[P(f)]⟩ + ⟨W_d^ref[:, f], W_d[:, P(f)]⟩

``activations`` the one that correlates the units' activations most (its activation matching).  Sources: Ainsworth et
al., arXiv:2209.04836, section 3.1-3.2; M-SMoE, arXiv:2310.01334, section 3.2.  The assignment is SciPy's, exact.  Cost:
F² D multiply-adds and an assignment of at most F³.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.sharing import inputs
from pymoe.sharing.fuse import average

Expert = Mapping[str, Any]


def _rows(expert: Expert) -> list[np.ndarray]:
    """Every matrix of an expert as (F, ...): what a hidden unit is made of."""
    down = np.asarray(expert["down_proj"], dtype=np.float64)
    f = down.shape[1]
    found = [down.T]
    for name, a in expert.items():
        if name.startswith(("gate_up_proj", "up_proj")):
            wide = np.asarray(a, dtype=np.float64).reshape(a.shape[0], -1)
            found += [wide[:f], wide[f:]] if name.startswith("gate_up_proj") else [wide]
    return found


def weights(reference: Expert, other: Expert) -> np.ndarray:
    """perm (F,): unit f of ``reference`` is met by unit perm[f] of ``other``.

    >>> one = {"up_proj": np.array([[1.0], [5.0]]), "down_proj": np.array([[2.0, -3.0]])}
    >>> two = {"up_proj": np.array([[5.0], [1.0]]), "down_proj": np.array([[-3.0, 2.0]])}
    >>> weights(one, two)
    array([1, 0])
    """
    average.check([reference, other])
    return _assigned(sum(a @ b.T for a, b in zip(_rows(reference), _rows(other), strict=True)))


def activations(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """perm (F,) from hidden activations (T, F) of both experts on the same tokens: the most correlated units meet.

    A unit that is constant correlates with nothing (0).
    """
    if reference.shape != other.shape or reference.ndim != 2:
        raise ShapeError(f"activations of both must be (T, F) of the same tokens, got {reference.shape}, {other.shape}")
    return _assigned(correlation(reference, other))


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(F_a, F_b) correlations of the columns of a (T, F_a) and b (T, F_b); 0 where one of them is constant."""
    inputs.finite("activations", a)
    inputs.finite("activations", b)

    def unit(h: np.ndarray) -> np.ndarray:
        centred = h.astype(np.float64) - h.mean(0, dtype=np.float64)
        length = np.sqrt((centred * centred).sum(0))
        return centred / np.where(length > 0, length, np.inf)

    return unit(a).T @ unit(b)


def apply(expert: Expert, perm: np.ndarray) -> dict[str, np.ndarray]:
    """The expert with its hidden units in the order ``perm``: the same function, to the rounding of a sum over F.

    >>> one = {"up_proj": np.array([[1.0], [5.0]]), "down_proj": np.array([[2.0, -3.0]])}
    >>> apply(one, np.array([1, 0]))["down_proj"]
    array([[-3.,  2.]])
    """
    f = expert["down_proj"].shape[1]
    order = np.asarray(perm)
    if order.shape != (f,) or sorted(order.tolist()) != list(range(f)):
        raise ConfigError(f"a permutation of the {f} hidden units is needed, got {order.tolist()[:8]}")
    made = {}
    for name, a in expert.items():
        if name == "down_proj":
            made[name] = a[:, order]
        elif name.startswith("gate_up_proj"):
            made[name] = a[np.concatenate([order, f + order])]
        elif name.startswith("up_proj"):
            made[name] = a[order]
        else:  # the bias of the way down belongs to no unit
            made[name] = a
    return made


def _assigned(gain: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    return np.asarray(linear_sum_assignment(gain, maximize=True)[1])
