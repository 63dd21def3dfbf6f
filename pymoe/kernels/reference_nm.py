"""A linear map whose weight W (F, D) keeps n of every m columns, and its two gradients, by definition.

The columns of a row fall into D/m groups of m, and each group stores n entries (N:M, arXiv:2104.08378): entry q of
row f is W[f, (q // n) m + position[f, q]] = data[f, q].  data and position (F, D/m · n), position integers in [0, m)
that ascend within a group.  n is not an argument: it is data.shape[1] · m / D.  Anything else is an IndexRangeError, a
ShapeError (order, sizes), a DtypeError, or a ConfigError (D no multiple of m).

As for CSR the definition spreads W over a dense array and the compiled twins touch stored entries only, which shows
where x is not finite.
"""

from __future__ import annotations

from pymoe.backend import namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.kernels.reference_csr import spread


def _dense(data: Array, places: Array, n_columns: int) -> Array:
    """W (F, n_columns): the entries, row by row, at the flat places, 0 elsewhere."""
    xp = namespace(data, places)
    rows = int(data.shape[0])
    return xp.reshape(spread(xp.reshape(data, (-1,)), places, rows * n_columns), (rows, n_columns))


def nm_linear(x: Array, data: Array, position: Array, m: int) -> Array:
    """y = x Wᵀ: y[t, f] = Σ_q x[t, column of q] data[f, q], q ascending; x (N, D), data (F, D/m · n) -> (N, F).

    Compiled: O(N F D n / m).

    >>> import numpy as np
    >>> x, position = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[1, 3], [0, 2]])
    >>> nm_linear(x, np.array([[10.0, 1.0], [1.0, 1.0]]), position, 4)
    array([[24.,  4.]])
    """
    xp = namespace(x, data, position)
    check_shape("x", x, (None, None))
    check_shape("data", data, tuple(position.shape))
    places = checks.nm(position, m, int(x.shape[1]))
    return x @ xp.matrix_transpose(_dense(data, places, int(x.shape[1])))


def nm_linear_dx(dy: Array, data: Array, position: Array, m: int, n_columns: int) -> Array:
    """dx = dy W: dx[t, j] = Σ_f dy[t, f] W[f, j] over the rows that store column j, ascending; dy (N, F) -> (N, D).

    D is ``n_columns``.  Compiled: O(N F D n / m).

    >>> import numpy as np
    >>> position = np.array([[1, 3], [0, 2]])
    >>> nm_linear_dx(np.array([[1.0, 2.0]]), np.array([[10.0, 1.0], [1.0, 1.0]]), position, 4, 4)
    array([[ 2., 10.,  2.,  1.]])
    """
    check_shape("data", data, tuple(position.shape))
    places = checks.nm(position, m, n_columns)
    check_shape("dy", dy, (None, data.shape[0]))
    return dy @ _dense(data, places, n_columns)


def nm_linear_ddata(dy: Array, x: Array, position: Array, m: int) -> Array:
    """ddata[f, q] = Σ_t dy[t, f] x[t, column of q]: dW at the stored places only; dy (N, F), x (N, D) -> (F, D/m · n).

    Compiled: O(N F D n / m); what is not stored is never computed.

    >>> import numpy as np
    >>> dy, x = np.array([[1.0, 2.0]]), np.array([[1.0, 2.0, 3.0, 4.0]])
    >>> nm_linear_ddata(dy, x, np.array([[1, 3], [0, 2]]), 4)
    array([[2., 4.],
           [2., 6.]])
    """
    xp = namespace(dy, x, position)
    check_shape("x", x, (None, None))
    rows, columns = int(position.shape[0]), int(x.shape[1])
    places = checks.nm(position, m, columns)
    check_shape("dy", dy, (x.shape[0], rows))
    dense = xp.reshape(xp.matrix_transpose(dy) @ x, (rows * columns,))
    return xp.reshape(xp.take(dense, places), tuple(position.shape))
