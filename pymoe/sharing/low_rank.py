r"""Experts as their mean and a low-rank difference each: the truncated SVD of what sets an expert apart.

::

    M = 1/E Σ_e W_e,      W_e - M = U_e S_e V_eᵀ  (singular values descending)
    a_e = U_e[:, :r] √S_e[:r],      b_e = √S_e[:r] V_e[:, :r]ᵀ,      W_e ≈ M + a_e b_e

Of all matrices of rank r, a_e b_e is nearest to W_e - M in the Frobenius (and the spectral) norm, and

    ‖W_e - M - a_e b_e‖_F² = Σ_{i > r} S_e[i]²                                     (Eckart and Young, 1936)

M itself is the best common part only at rank 0; with r > 0 another could do better, at the cost of an iteration.  √S on
both sides gives a and b like sizes, so that one learning rate suits both.  Signs: of each column of U the entry of
largest magnitude (the first of them) is positive, so that runs, and LAPACK libraries, agree wherever the singular
values are distinct.

Stored: F D + E r (F + D) for E F D.  Sources: the form, Hu et al., *LoRA*, arXiv:2106.09685, eq. 3; SVD of what
sets experts apart from a common base, Gu et al., *Delta Decompression (D²-MoE)*, arXiv:2502.17298, section 3 (there the
base is a Fisher-weighted mean, and the SVD is scaled by the activations).  Cost: E singular value
decompositions, O(F D min(F, D)) each.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.sharing import btx, inputs
from pymoe.sharing.split.copies import placed
from pymoe.storage import Delta


def delta(experts: Array, rank: int) -> Delta:
    """``storage.Delta`` of rank ``rank`` of experts (E, F, D), in their dtype; 0 <= rank <= min(F, D).

    rank 0 is the mean alone, min(F, D) the experts themselves to rounding.  Identical experts give their very bits.

    >>> w = np.array([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 1.0]]])  # they differ in one place: rank 1
    >>> bool(np.allclose(delta(w, 1).dense(), w)), delta(w, 0).dense()[0].tolist()
    (True, [[2.0, 0.0], [0.0, 1.0]])
    """
    mean, a, b = factors(experts, rank)
    return Delta(*(placed(part, experts) for part in (mean, a, b)))


def factors(experts: Array, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean (F, D), a (E, F, r), b (E, r, D)) in double precision.

    >>> mean, a, b = factors(np.array([[[1.0, 0.0]], [[3.0, 0.0]]]), 1)
    >>> mean.tolist(), a.tolist(), b.tolist()
    ([[2.0, 0.0]], [[[1.0]], [[1.0]]], [[[-1.0, -0.0]], [[1.0, 0.0]]])
    """
    w = _checked(experts)
    most = min(w.shape[1:])
    if check_integer("rank", rank, 0) > most:
        raise ConfigError(f"rank must be at most min(F, D) = {most}, got {rank}")
    mean = btx.mean(list(w))
    a, b = [], []
    for one in w:
        u, s, vt = svd(one - mean)
        root = np.sqrt(s[:rank])
        a.append(u[:, :rank] * root)
        b.append(root[:, None] * vt[:rank])
    return mean, np.stack(a), np.stack(b)


def errors(experts: Array) -> np.ndarray:
    """(E, min(F, D) + 1): ‖W_e - M - a_e b_e‖_F for every rank from 0 up: how to choose one.

    >>> errors(np.array([[[2.0, 0.0], [0.0, 1.0]], [[-2.0, 0.0], [0.0, -1.0]]])).round(4).tolist()  # singular 2 and 1
    [[2.2361, 1.0, 0.0], [2.2361, 1.0, 0.0]]
    """
    w = _checked(experts)
    mean = btx.mean(list(w))
    s = np.stack([scipy.linalg.svdvals(one - mean) for one in w])
    tail = np.cumsum((s**2)[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(np.sqrt(np.concatenate([tail, np.zeros((len(w), 1))], axis=1)))


def svd(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(u, s, vᵀ) with the sign of each pair fixed: the first largest entry of each column of u is positive.

    >>> u, s, vt = svd(np.array([[0.0, -3.0], [2.0, 0.0]]))
    >>> np.abs(u).tolist(), s.tolist(), (u * s @ vt).tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [3.0, 2.0], [[0.0, -3.0], [2.0, 0.0]])
    """
    u, s, vt = scipy.linalg.svd(w, full_matrices=False)
    u, vt = signed(u, vt)
    return u, s, vt


def signed(u: np.ndarray, vt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u (F, r) and vᵀ (r, D) with the first largest entry of each column of u positive; their product stays."""
    lead = u[np.argmax(np.abs(u), axis=0), np.arange(u.shape[1])]
    sign = np.where(lead < 0, -1, 1).astype(u.dtype)
    return u * sign, vt * sign[:, None]


def _checked(experts: Array) -> np.ndarray:
    """(E, F, D) in double precision."""
    check_shape("experts", experts, (None, None, None))
    inputs.finite("experts", experts)
    check_integer("the number of experts", int(experts.shape[0]))
    return to_numpy(experts).astype(np.float64)
