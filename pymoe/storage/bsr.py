"""BSR: stored blocks of r rows and c columns; zeros that come in blocks.

Block row i has the blocks indptr[i] <= e < indptr[i+1], block e is W[i r : (i+1) r, j c : (j+1) c] = data[e] for
j = indices[e], and the block columns of a block row ascend.  The leading axes of a stack are folded into the rows, so r
has to divide F and c has to divide D.  One index for r c values: bytes are those of the stored blocks.

Source of the form: Eisenstat et al., Yale sparse matrix package, 1982; blocks as in scipy.sparse and in Gray et al.,
GPU kernels for block-sparse weights, 2017.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

from pymoe import kernels
from pymoe.backend import device, namespace, to_numpy
from pymoe.backend.errors import ConfigError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.storage._make import chosen, compressed, integer, lengths, scatter
from pymoe.storage.sparse import Compressed


@dataclass(frozen=True, eq=False, repr=False)
class BSR(Compressed):
    """data (nb, r, c), indices (nb,), indptr (rows / r + 1,), shape (..., F, D); rows is the product of all but D.

    Blocks that do not divide F and D are a ConfigError; block columns out of order or twice in a row, and offsets that
    do not fit, a ShapeError; a block column outside [0, D / c) an IndexRangeError.  NaN may be stored.

    >>> import numpy as np
    >>> w = BSR(np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([1]), np.array([0, 1, 1]), (4, 4))
    >>> w.linear(np.array([9.0, 9.0, 1.0, 10.0])), w.nnz
    (array([21., 43.,  0.,  0.]), 4)
    """

    data: Array
    indices: Array
    indptr: Array
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", lengths(self.shape))
        namespace(self.data, self.indices, self.indptr)
        checks.floating("data", self.data)
        check_shape("indices", self.indices, (None,))
        check_shape("data", self.data, (self.indices.shape[0], None, None))
        r, c = divides(self.block, self.shape)
        rows = math.prod(self.shape[:-1])
        check_shape("indptr", self.indptr, (rows // r + 1,))
        checks.bsr(self.indices, self.indptr, self.shape[-1], (r, c))
        self._cut()

    @property
    def block(self) -> tuple[int, int]:
        """(r, c)."""
        return int(self.data.shape[1]), int(self.data.shape[2])

    def _spread(self, data: Array) -> Array:
        xp, (r, c), columns = namespace(data), self.block, self.shape[-1]
        rows, across = math.prod(self.shape[:-1]) // r, columns // c
        places = checks.bsr(self.indices, self.indptr, columns, self.block)
        grid = xp.reshape(scatter(data, places, rows * across), (rows, across, r, c))
        return xp.reshape(xp.permute_dims(grid, (0, 2, 1, 3)), self.shape)

    def _linear(self, x: Array) -> Array:
        return kernels.of(x).bsr_linear(x, self.data, self.indices, self.indptr)

    def _linear_dx(self, dy: Array) -> Array:
        return kernels.of(dy).bsr_linear_dx(dy, self.data, self.indices, self.indptr, self.shape[-1])

    def _dparts(self, dy: Array, x: Array) -> dict[str, Array]:
        return {"data": kernels.of(x).bsr_linear_ddata(dy, x, self.indices, self.indptr, self.block)}

    def to_scipy(self) -> Any:
        """A ``scipy.sparse.bsr_array`` on the arrays of this weight (no copy); one matrix only.

        >>> import numpy as np
        >>> from_dense(np.array([[0.0, 0.0, 2.0, 0.0]]), (1, 2)).to_scipy().toarray()
        array([[0., 0., 2., 0.]])
        """
        from scipy.sparse import bsr_array

        self._matrix()
        arrays = tuple(to_numpy(a) for a in (self.data, self.indices, self.indptr))
        return bsr_array(arrays, shape=self.shape, blocksize=self.block)


def divides(block: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """``block`` as (r, c) that divide the rows of a matrix and its columns."""
    try:
        r, c = block
        whole = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) and int(n) >= 1 for n in (r, c))
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ConfigError(f"a block must be two integers (rows, columns) and at least (1, 1), got {block!r}")
    if shape[-2] % r or shape[-1] % c:
        raise ConfigError(
            f"blocks of {r} x {c} must divide the matrix of {shape[-2]} x {shape[-1]}: {shape[-2] % r} rows and "
            f"{shape[-1] % c} columns are left; choose a block whose sides divide it, or storage.csr"
        )
    return int(r), int(c)


def from_dense(w: Array, block: tuple[int, int], mask: Array | None = None) -> BSR:
    """The blocks of w (..., F, D) that hold a place where ``mask`` is True; without a mask, one that is not 0.

    What the mask leaves out inside a stored block is stored as 0, and gets a gradient: a block is stored whole.

    >>> import numpy as np
    >>> w = np.array([[1.0, 2.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]])
    >>> from_dense(w, (2, 2)).data.tolist()
    [[[1.0, 2.0], [0.0, 3.0]]]
    """
    xp = namespace(w, mask)
    stays = chosen(w, mask)
    r, c = divides(block, tuple(w.shape))
    rows, columns = math.prod(w.shape[:-1]) // r, w.shape[-1] // c

    def cut(a: Array) -> Array:  # (rows, columns, r, c)
        return xp.permute_dims(xp.reshape(a, (rows, r, columns, c)), (0, 2, 1, 3))

    blocks = cut(xp.where(stays, w, xp.zeros_like(w)))
    stored = xp.reshape(xp.any(cut(stays), axis=(2, 3)), (-1,))
    places, indices, indptr = compressed(stored, columns)
    if not columns:
        indptr = xp.zeros(rows + 1, dtype=indptr.dtype, device=device(w))
    data = xp.take(xp.reshape(blocks, (rows * columns, r, c)), places, axis=0)
    return BSR(data, indices, indptr, tuple(w.shape))


def from_scipy(matrix: Any, block: tuple[int, int] | None = None) -> BSR:
    """A sparse matrix or array of scipy, in canonical form: sorted, what stands twice added up; his stays as it is.

    ``block`` is that of a ``bsr_array`` unless given; other formats need it.

    >>> from scipy.sparse import bsr_array
    >>> data, indices = [[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]], [1, 0, 1]
    >>> from_scipy(bsr_array((data, indices, [0, 3]), shape=(1, 4))).dense()
    array([[3., 4., 6., 8.]])
    """
    from scipy.sparse import bsr_array

    if len(matrix.shape) != 2:
        raise ShapeError(f"a weight from scipy must be one matrix (F, D), got shape {tuple(matrix.shape)}")
    if block is None:
        if matrix.format != "bsr":
            raise ConfigError(f"a matrix in the format {matrix.format!r} has no blocks: say block=(r, c)")
        block = matrix.blocksize
    r, c = divides(block, tuple(matrix.shape))
    if matrix.format == "bsr" and tuple(matrix.blocksize) == (r, c):
        own = bsr_array((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape, copy=True)
    else:
        rows = matrix.tocsr(copy=True)
        rows.sum_duplicates()
        own = bsr_array(rows.tobsr(blocksize=(r, c)))
    own.sum_duplicates()  # sorts too
    small = integer(own.data, max(own.indices.size, *own.shape))
    return BSR(own.data, own.indices.astype(small, copy=False), own.indptr.astype(small, copy=False), own.shape)
