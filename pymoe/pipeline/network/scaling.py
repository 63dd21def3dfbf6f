r"""The scale of the features before the network: one number for all, or for classes a number for each.

========== =========================================================================================================
scale      x' =
========== =========================================================================================================
global     x / √(Σ_n s_n ‖x_n‖²), s_n the rows' shares: a mean square norm of 1 whatever the unit
log-ratio  x ⊙ r, each row then with its own norm 1; r_j = rms over the classes c of
           log((a_cj / Σ_j a_cj) / (ā_cj / Σ_j ā_cj)), a_cj = 1 + Σ_n w_n [y_n = c, x_nj ≠ 0], ā of all other classes
========== =========================================================================================================

The second weighs a feature by how differently the classes use it, as naive Bayes does.  Source: Wang and Manning,
*Baselines and Bigrams*, ACL 2012, section 2.1 (there one ratio of two classes, and the sign stays in x).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

SCALES = ("global", "log-ratio")


def unit(x: Any, share: np.ndarray) -> float:
    """√(Σ_n s_n ‖x_n‖²), 1 where x is 0.

    >>> unit(np.array([[3.0, 4.0], [0.0, 5.0]]), np.array([0.5, 0.5]))
    5.0
    """
    return float(np.sqrt(share @ _squares(x))) or 1.0


def log_ratio(x: Any, y: np.ndarray, weight: np.ndarray, n_classes: int) -> np.ndarray:
    """r (V,) of x (N, V), y (N,) class numbers, weight (N,); rms 1 where not all are 0.

    >>> log_ratio(np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), np.array([0, 1]), np.ones(2), 2).round(3)
    array([1.225, 1.225, 0.   ])
    """
    there = scipy.sparse.csr_array(x).astype(np.float64)
    there.data = (there.data != 0).astype(np.float64)
    of_class = scipy.sparse.csr_array((weight, (y, np.arange(len(y)))), shape=(n_classes, len(y)))
    count = np.asarray((of_class @ there).todense())  # (C, V)
    own, others = 1 + count, 1 + count.sum(axis=0) - count
    share = np.log(own / own.sum(axis=1, keepdims=True)) - np.log(others / others.sum(axis=1, keepdims=True))
    r = np.sqrt(np.square(share).mean(axis=0))
    return np.asarray(r / (np.sqrt(np.square(r).mean()) or 1.0))


def apply(x: Any, ratio: np.ndarray | None, size: float) -> Any:
    """x' (N, V) in the precision of x, CSR or dense."""
    sparse = scipy.sparse.issparse(x)
    if ratio is None:
        return x / x.dtype.type(size) if not sparse else scaled(x, np.full(x.shape[0], 1 / size))
    if sparse:
        x = type(x)((x.data * ratio.astype(x.dtype)[x.indices], x.indices, x.indptr), shape=x.shape)
    else:
        x = x * ratio.astype(x.dtype)
    norm = np.sqrt(_squares(x))
    return scaled(x, 1 / np.where(norm > 0, norm, 1))


def scaled(x: Any, by: np.ndarray) -> Any:
    """Each row of x times its number."""
    by = by.astype(x.dtype)
    if not scipy.sparse.issparse(x):
        return x * by[:, None]
    return type(x)((x.data * np.repeat(by, np.diff(x.indptr)), x.indices, x.indptr), shape=x.shape)


def _squares(x: Any) -> np.ndarray:
    """‖x_n‖² (N,) in double precision."""
    if not scipy.sparse.issparse(x):
        return np.asarray(np.einsum("nv,nv->n", x, x, dtype=np.float64))
    row = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    return np.bincount(row, np.square(x.data, dtype=np.float64), x.shape[0])
