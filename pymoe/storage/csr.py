"""CSR: the stored entries of each row, one behind the other; any pattern of zeros.

Row f has the entries indptr[f] <= e < indptr[f+1], entry e is W[f, indices[e]] = data[e], and the columns of a row
ascend.  The leading axes of a stack are folded into the rows: (E, F, D) is E F rows of D columns.  Bytes: 8 or 12 for
each float32 or float64 value with 32-bit indices, so float32 pays in memory from 50 % zeros.

Source of the form: Eisenstat et al., Yale sparse matrix package, Int. J. Numer. Meth. Eng. 18, 1982.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pymoe import kernels
from pymoe.backend import device, namespace, to_numpy
from pymoe.backend.errors import ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.storage._make import chosen, compressed, integer, lengths, scatter
from pymoe.storage.sparse import Compressed


@dataclass(frozen=True, eq=False, repr=False)
class CSR(Compressed):
    """data (nnz,), indices (nnz,), indptr (rows + 1,), shape (..., F, D); rows is the product of all but D.

    Columns out of order or twice in a row, and offsets that do not fit, are a ShapeError; a column outside [0, D) an
    IndexRangeError; values that are not floating point a DtypeError.  NaN may be stored.

    >>> w = CSR(np.array([5.0, 7.0]), np.array([0, 2]), np.array([0, 2, 2]), (2, 3))
    >>> w.dense().tolist(), w.linear(np.array([1.0, 2.0, 3.0])).tolist()
    ([[5.0, 0.0, 7.0], [0.0, 0.0, 0.0]], [26.0, 0.0])
    >>> w.dparts(np.array([[1.0, 1.0]]), np.array([[1.0, 2.0, 3.0]]))
    {'data': array([1., 3.])}
    """

    data: Array
    indices: Array
    indptr: Array
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", lengths(self.shape))
        namespace(self.data, self.indices, self.indptr)
        checks.floating("data", self.data)
        check_shape("data", self.data, (None,))
        check_shape("indices", self.indices, tuple(self.data.shape))
        *lead, columns = self.shape
        rows = int(np.prod(lead))
        check_shape("indptr", self.indptr, (rows + 1,))
        checks.csr(self.indices, self.indptr, columns)
        self._cut()

    def _spread(self, data: Array) -> Array:
        places = checks.csr(self.indices, self.indptr, self.shape[-1])
        return namespace(data).reshape(scatter(data, places, self.size), self.shape)

    def _linear(self, x: Array) -> Array:
        return kernels.of(x).csr_linear(x, self.data, self.indices, self.indptr)

    def _linear_dx(self, dy: Array) -> Array:
        return kernels.of(dy).csr_linear_dx(dy, self.data, self.indices, self.indptr, self.shape[-1])

    def _dparts(self, dy: Array, x: Array) -> dict[str, Array]:
        return {"data": kernels.of(x).csr_linear_ddata(dy, x, self.indices, self.indptr)}

    def to_scipy(self) -> Any:
        """A ``scipy.sparse.csr_array`` on the arrays of this weight (no copy); one matrix only.

        >>> from_dense(np.array([[0.0, 2.0]])).to_scipy().toarray()
        array([[0., 2.]])
        """
        from scipy.sparse import csr_array

        self._matrix()
        arrays = tuple(to_numpy(a) for a in (self.data, self.indices, self.indptr))
        return csr_array(arrays, shape=self.shape)


def from_dense(w: Array, mask: Array | None = None) -> CSR:
    """The entries of w (..., F, D) where ``mask`` is True, also those that are 0; without a mask those that are not 0.

    A mask of another shape is a ShapeError, one that is not bool a DtypeError.  NaN is not 0: it is stored.

    >>> from_dense(np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [3.0, 4.0]]]))
    CSR(shape=(2, 2, 2), nnz=4, dtype=float64)
    """
    xp = namespace(w, mask)
    stays = chosen(w, mask)
    *lead, columns = (int(n) for n in w.shape)
    places, indices, indptr = compressed(xp.reshape(stays, (-1,)), columns)
    if not columns:
        indptr = xp.zeros(int(np.prod(lead)) + 1, dtype=indptr.dtype, device=device(w))
    data = xp.take(xp.reshape(w, (-1,)), places)
    return CSR(data, indices, indptr, tuple(w.shape))


def from_scipy(matrix: Any) -> CSR:
    """Any sparse matrix or array of scipy, in canonical form: sorted, what stands twice added up; his stays as it is.

    Entries that are stored stay, also those that are 0.

    >>> from scipy.sparse import coo_array
    >>> from_scipy(coo_array(([1.0, 2.0, 3.0], ([0, 0, 0], [2, 0, 2])), shape=(1, 4))).dense()
    array([[2., 0., 4., 0.]])
    """
    rows = matrix.tocsr()
    if rows.ndim != 2:
        raise ShapeError(f"a weight from scipy must be one matrix (F, D), got shape {tuple(rows.shape)}")
    from scipy.sparse import csr_array

    own = csr_array((rows.data, rows.indices, rows.indptr), shape=rows.shape, copy=True)
    own.sum_duplicates()  # sorts too
    small = integer(own.data, max(own.nnz, *own.shape))
    return CSR(own.data, own.indices.astype(small, copy=False), own.indptr.astype(small, copy=False), own.shape)
