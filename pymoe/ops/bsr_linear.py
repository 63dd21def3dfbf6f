r"""Linear map of the last axis whose weight W (F, D) is stored in blocks (BSR), y = x Wᵀ.

Block e of the stored blocks indptr[i] <= e < indptr[i+1] of block row i is W[i r : (i+1) r, j c : (j+1) c] = data[e],
j = indices[e].

Forward::

    y[n,i·r+a] = Σ_e Σ_b x[n, indices[e] c + b] data[e, a, b]       over the blocks of block row i

Backward::

    dx[n,j·c+b] = Σ_e Σ_a dy[n, i r + a] data[e, a, b]              over the blocks of block column j, i their rows
    ddata[e,a,b] = Σ_n dy[n, i r + a] x[n, indices[e] c + b]       dW at the stored blocks

with n over all leading axes.  Source: textbook (Saad, *Iterative Methods for Sparse Linear Systems*, 2nd ed., section
3.4); block-sparse weights as in Gray, Radford, Kingma, *GPU Kernels for Block-Sparse Weights*, 2017.  Cost: 2 N nb r c
flops each for y, dx and ddata (kernels ``bsr_linear``, ``bsr_linear_dx``, ``bsr_linear_ddata``).
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
    data: Array  # (nb, r, c)
    indices: Array  # (nb,) integers, the block column of each block
    indptr: Array  # (F/r + 1,) integers, where the blocks of each block row begin


def forward(x: Array, data: Array, *, indices: Array, indptr: Array) -> tuple[Array, Cache]:
    """y = x Wᵀ: x (..., D), data (nb, r, c), indices (nb,), indptr (F/r + 1,) -> y (..., F).

    A D that is no multiple of c, or block columns that do not ascend within a block row, are a ShapeError, block
    columns outside [0, D/c) an IndexRangeError.

    >>> import numpy as np
    >>> data = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> forward(np.array([9.0, 9.0, 10.0, 1.0]), data, indices=np.array([1]), indptr=np.array([0, 0, 1]))[0]
    array([ 0.,  0., 12., 34.])
    """
    checks.floating("x", x)
    if x.ndim == 0:
        raise ShapeError("x must be (..., D), got a number without axes")
    y = kernels.of(x).bsr_linear(rows(x), data, indices, indptr)  # (N, F)
    return namespace(x).reshape(y, (*x.shape[:-1], y.shape[1])), Cache(x, data, indices, indptr)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (..., F) -> dx (..., D), {"data": (nb, r, c)}.

    >>> import numpy as np
    >>> x, data = np.array([[9.0, 9.0, 2.0, 3.0]]), np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> _, cache = forward(x, data, indices=np.array([1]), indptr=np.array([0, 0, 1]))
    >>> dx, dp = backward(np.array([[9.0, 9.0, 10.0, 1.0]]), cache)
    >>> dx, dp["data"].tolist()
    (array([[ 0.,  0., 13., 24.]]), [[[20.0, 30.0], [2.0, 3.0]]])
    """
    x, data, indices, indptr = cache
    _, r, c = data.shape
    check_shape("dy", dy, (*x.shape[:-1], (indptr.shape[0] - 1) * r))
    k, dy2 = kernels.of(dy), rows(dy)
    dx = k.bsr_linear_dx(dy2, data, indices, indptr, int(x.shape[-1]))
    return namespace(dy).reshape(dx, x.shape), {"data": k.bsr_linear_ddata(dy2, rows(x), indices, indptr, (r, c))}
