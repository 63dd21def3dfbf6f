r"""Linear map of the last axis whose weight W (F, D) is stored by rows (CSR), y = x Wᵀ.

Entry e of the stored entries indptr[f] <= e < indptr[f+1] of row f is W[f, indices[e]] = data[e].

Forward::

    y[n, f] = Σ_e x[n, indices[e]] data[e]                    over the entries of row f

Backward::

    dx[n, j] = Σ_e dy[n, row of e] data[e]                    over the entries of column j
    ddata[e] = Σ_n dy[n, row of e] x[n, indices[e]]           dW at the stored places, the only ones that may change

with n over all leading axes.  Source: textbook (Saad, *Iterative Methods for Sparse Linear Systems*, 2nd ed., section
3.4); ddata is the sampled dense-dense product.  Cost: 2 N nnz flops each for y, dx and ddata (kernels ``csr_linear``,
``csr_linear_dx``, ``csr_linear_ddata``).
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.errors import ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops._rows import rows


class Cache(NamedTuple):
    x: Array  # (..., D)
    data: Array  # (nnz,)
    indices: Array  # (nnz,) integers, the column of each entry
    indptr: Array  # (F+1,) integers, where the entries of each row begin


def forward(x: Array, data: Array, *, indices: Array, indptr: Array) -> tuple[Array, Cache]:
    """y = x Wᵀ: x (..., D), data and indices (nnz,), indptr (F+1,) -> y (..., F).

    Columns that do not ascend within a row are a ShapeError, columns outside [0, D) an IndexRangeError.

    >>> import numpy as np
    >>> x, data = np.array([1.0, 2.0, 3.0]), np.array([10.0, 5.0])
    >>> forward(x, data, indices=np.array([0, 2]), indptr=np.array([0, 2, 2]))[0]
    array([25.,  0.])
    """
    checks.floating("x", x)
    if x.ndim == 0:
        raise ShapeError("x must be (..., D), got a number without axes")
    y = kernels.of(x).csr_linear(rows(x), data, indices, indptr)  # (N, F)
    return namespace(x).reshape(y, (*x.shape[:-1], y.shape[1])), Cache(x, data, indices, indptr)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (..., F) -> dx (..., D), {"data": (nnz,)}.

    >>> import numpy as np
    >>> x, data = np.array([[3.0, 4.0, 5.0]]), np.array([10.0, 5.0])
    >>> _, cache = forward(x, data, indices=np.array([0, 2]), indptr=np.array([0, 1, 2]))
    >>> backward(np.array([[1.0, 2.0]]), cache)
    (array([[10.,  0., 10.]]), {'data': array([ 3., 10.])})
    """
    x, data, indices, indptr = cache
    check_shape("dy", dy, (*x.shape[:-1], indptr.shape[0] - 1))
    k, dy2 = kernels.of(dy), rows(dy)
    dx = k.csr_linear_dx(dy2, data, indices, indptr, int(x.shape[-1]))
    return namespace(dy).reshape(dx, x.shape), {"data": k.csr_linear_ddata(dy2, rows(x), indices, indptr)}
