r"""The scale of the features before the network: x / √(Σ_n s_n ‖x_n‖²), s_n the rows' shares of the weight.

A mean square norm of 1 whatever the unit, so that one penalty and one learning rate serve all data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse


def unit(x: Any, share: np.ndarray) -> float:
    """√(Σ_n s_n ‖x_n‖²), 1 where x is 0.

    >>> unit(np.array([[3.0, 4.0], [0.0, 5.0]]), np.array([0.5, 0.5]))
    5.0
    """
    return float(np.sqrt(share @ _squares(x))) or 1.0


def apply(x: Any, size: float) -> Any:
    """x / size (N, V) in the precision of x, CSR or dense.

    >>> apply(scipy.sparse.csr_array([[0.0, 3.0]]), 6.0).toarray()
    array([[0. , 0.5]])
    """
    by = x.dtype.type(1 / size)
    return x * by if not scipy.sparse.issparse(x) else type(x)((x.data * by, x.indices, x.indptr), shape=x.shape)


def _squares(x: Any) -> np.ndarray:
    """‖x_n‖² (N,) in double precision."""
    if not scipy.sparse.issparse(x):
        return np.asarray(np.einsum("nv,nv->n", x, x, dtype=np.float64))
    row = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    return np.bincount(row, np.square(x.data, dtype=np.float64), x.shape[0])
