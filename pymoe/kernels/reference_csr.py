"""A linear map whose weight W (F, D) is sparse, and its two gradients, by definition (names in ``reference.__all__``).

W is stored by rows (CSR): row f has the entries indptr[f] <= e < indptr[f+1], entry e is W[f, indices[e]] = data[e],
and the columns of a row ascend, so no place is stored twice.  data (nnz,), indices (nnz,) and indptr (F+1,) integers.
Anything else is an IndexRangeError (a column outside [0, D)), a ShapeError (order, offsets) or a DtypeError.

The definition spreads W over a dense array.  The compiled twins touch stored entries only, which shows where x is not
finite: here 0 · NaN is NaN in every output of that token, there in those outputs that store an entry in its column.
"""

from __future__ import annotations

from pymoe.backend import device, namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


def spread(data: Array, places: Array, n: int) -> Array:
    """out (n, ...): data[e] at place places[e] (ascending), 0 elsewhere."""
    xp = namespace(data, places)
    if data.shape[0] == 0:
        return xp.zeros((n, *data.shape[1:]), dtype=data.dtype, device=device(data))
    everywhere = xp.arange(n, device=device(places))
    at = xp.searchsorted(places, everywhere)
    at = xp.where(at < data.shape[0], at, xp.zeros_like(at))
    values = xp.take(data, at, axis=0)
    stored = xp.reshape(xp.take(places, at) == everywhere, (n, *(1 for _ in data.shape[1:])))
    return xp.where(stored, values, xp.zeros_like(values))


def _dense(data: Array, places: Array, rows: int, columns: int) -> Array:
    """W (rows, columns): data[e] at the flat place places[e], 0 elsewhere."""
    return namespace(data).reshape(spread(data, places, rows * columns), (rows, columns))


def csr_linear(x: Array, data: Array, indices: Array, indptr: Array) -> Array:
    """y = x Wᵀ: y[t, f] = Σ_e x[t, indices[e]] data[e] over the entries of row f, ascending; x (N, D) -> (N, F).

    Compiled: O(N nnz).

    >>> import numpy as np
    >>> csr_linear(np.array([[1.0, 2.0, 3.0]]), np.array([10.0, 5.0]), np.array([0, 2]), np.array([0, 2, 2]))
    array([[25.,  0.]])
    """
    xp = namespace(x, data, indices, indptr)
    check_shape("x", x, (None, None))
    check_shape("data", data, tuple(indices.shape))
    places = checks.csr(indices, indptr, int(x.shape[1]))
    return x @ xp.matrix_transpose(_dense(data, places, int(indptr.shape[0]) - 1, int(x.shape[1])))


def csr_linear_dx(dy: Array, data: Array, indices: Array, indptr: Array, n_columns: int) -> Array:
    """dx = dy W: dx[t, j] = Σ_e dy[t, row of e] data[e] over the entries of column j, ascending; dy (N, F) -> (N, D).

    D is ``n_columns``, which the stored entries do not tell.  Compiled: O(N nnz).

    >>> import numpy as np
    >>> csr_linear_dx(np.array([[1.0, 2.0]]), np.array([10.0, 5.0]), np.array([0, 2]), np.array([0, 2, 2]), 3)
    array([[10.,  0.,  5.]])
    """
    check_shape("data", data, tuple(indices.shape))
    places = checks.csr(indices, indptr, n_columns)
    rows = int(indptr.shape[0]) - 1
    check_shape("dy", dy, (None, rows))
    return dy @ _dense(data, places, rows, n_columns)


def csr_linear_ddata(dy: Array, x: Array, indices: Array, indptr: Array) -> Array:
    """ddata[e] = Σ_t dy[t, row of e] x[t, indices[e]]: dW at the stored places only; dy (N, F), x (N, D) -> (nnz,).

    Compiled: O(N nnz); what is not stored is never computed.

    >>> import numpy as np
    >>> csr_linear_ddata(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0, 5.0]]), np.array([0, 2]), np.array([0, 1, 2]))
    array([ 3., 10.])
    """
    xp = namespace(dy, x, indices, indptr)
    check_shape("x", x, (None, None))
    rows, columns = int(indptr.shape[0]) - 1, int(x.shape[1])
    places = checks.csr(indices, indptr, columns)
    check_shape("dy", dy, (x.shape[0], rows))
    return xp.take(xp.reshape(xp.matrix_transpose(dy) @ x, (rows * columns,)), places)
