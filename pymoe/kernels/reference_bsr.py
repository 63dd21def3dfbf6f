"""A linear map whose weight W (F, D) is stored in blocks, and its two gradients, by definition.

W is cut into blocks of r rows and c columns, of which nb are stored (BSR): block row i has the blocks
indptr[i] <= e < indptr[i+1], and block e is W[i r : (i+1) r, j c : (j+1) c] = data[e] for j = indices[e].  The block
columns of a block row ascend.  data (nb, r, c), indices (nb,) and indptr (F/r + 1,) integers.  Anything else is an
IndexRangeError (a block column outside [0, D/c)), a ShapeError (order, offsets, blocks that do not fill D) or a
DtypeError.

As for CSR the definition spreads W over a dense array and the compiled twins touch stored blocks only, which shows
where x is not finite.
"""

from __future__ import annotations

from pymoe.backend import namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.kernels.reference_csr import spread


def _dense(data: Array, places: Array, n_rows: int, n_columns: int) -> Array:
    """W (n_rows, n_columns): block e at the place places[e] of the grid of blocks, 0 elsewhere."""
    xp = namespace(data, places)
    _, r, c = data.shape
    rows, columns = n_rows // r, n_columns // c
    blocks = xp.reshape(spread(data, places, rows * columns), (rows, columns, r, c))
    return xp.reshape(xp.permute_dims(blocks, (0, 2, 1, 3)), (n_rows, n_columns))


def bsr_linear(x: Array, data: Array, indices: Array, indptr: Array) -> Array:
    """y = x Wᵀ: y[t, i r + a] = Σ_e Σ_b x[t, indices[e] c + b] data[e, a, b] over the blocks of block row i, ascending.

    x (N, D), data (nb, r, c) -> (N, F).  Compiled: O(N nb r c).

    >>> import numpy as np
    >>> data = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> bsr_linear(np.array([[9.0, 9.0, 10.0, 1.0]]), data, np.array([1]), np.array([0, 0, 1]))
    array([[ 0.,  0., 12., 34.]])
    """
    xp = namespace(x, data, indices, indptr)
    check_shape("x", x, (None, None))
    check_shape("indices", indices, (None,))
    check_shape("data", data, (indices.shape[0], None, None))
    columns, r = int(x.shape[1]), int(data.shape[1])
    places = checks.bsr(indices, indptr, columns, (r, int(data.shape[2])))
    return x @ xp.matrix_transpose(_dense(data, places, (int(indptr.shape[0]) - 1) * r, columns))


def bsr_linear_dx(dy: Array, data: Array, indices: Array, indptr: Array, n_columns: int) -> Array:
    """dx = dy W: dx[t, j c + b] = Σ_e Σ_a dy[t, i r + a] data[e, a, b] over the blocks of block column j, ascending.

    dy (N, F), data (nb, r, c) -> (N, D); D is ``n_columns``.  Compiled: O(N nb r c).

    >>> import numpy as np
    >>> data = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> bsr_linear_dx(np.array([[9.0, 9.0, 10.0, 1.0]]), data, np.array([1]), np.array([0, 0, 1]), 4)
    array([[ 0.,  0., 13., 24.]])
    """
    check_shape("indices", indices, (None,))
    check_shape("data", data, (indices.shape[0], None, None))
    r = int(data.shape[1])
    places = checks.bsr(indices, indptr, n_columns, (r, int(data.shape[2])))
    rows = (int(indptr.shape[0]) - 1) * r
    check_shape("dy", dy, (None, rows))
    return dy @ _dense(data, places, rows, n_columns)


def bsr_linear_ddata(dy: Array, x: Array, indices: Array, indptr: Array, block: tuple[int, int]) -> Array:
    """ddata[e, a, b] = Σ_t dy[t, i r + a] x[t, indices[e] c + b]: dW at the stored blocks only.

    dy (N, F), x (N, D), block (r, c) -> (nb, r, c).  Compiled: O(N nb r c); what is not stored is never computed.

    >>> import numpy as np
    >>> dy, x = np.array([[9.0, 9.0, 10.0, 1.0]]), np.array([[9.0, 9.0, 2.0, 3.0]])
    >>> bsr_linear_ddata(dy, x, np.array([1]), np.array([0, 0, 1]), (2, 2))
    array([[[20., 30.],
            [ 2.,  3.]]])
    """
    xp = namespace(dy, x, indices, indptr)
    check_shape("x", x, (None, None))
    r, c = block
    columns = int(x.shape[1])
    places = checks.bsr(indices, indptr, columns, (r, c))
    rows = int(indptr.shape[0]) - 1
    check_shape("dy", dy, (x.shape[0], rows * r))
    dense = xp.reshape(xp.matrix_transpose(dy) @ x, (rows, r, columns // c, c))
    blocks = xp.reshape(xp.permute_dims(dense, (0, 2, 1, 3)), (rows * (columns // c), r, c))
    return xp.take(blocks, places, axis=0)
