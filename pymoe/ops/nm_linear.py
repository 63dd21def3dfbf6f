r"""Linear map of the last axis whose weight W (F, D) keeps n of every m columns (N:M), y = x Wᵀ.

Each group of m columns of a row stores n entries: entry q of row f is W[f, j(f, q)] = data[f, q] with the column
j(f, q) = (q // n) m + position[f, q].

Forward::

    y[t, f] = Σ_q x[t, j(f, q)] data[f, q]

Backward::

    dx[t,j] = Σ_f  dy[t, f] W[f, j]                           over the rows that store column j
    ddata[f,q] = Σ_t dy[t, f] x[t, j(f, q)]                   dW at the stored places

with t over all leading axes.  Source: Mishra et al., *Accelerating Sparse Deep Neural Networks*, arXiv:2104.08378,
section 3 (2:4).  Cost: 2 N F D n/m flops each for y, dx and ddata (kernels ``nm_linear``, ``nm_linear_dx``,
``nm_linear_ddata``); one byte an entry for where it is.
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
    data: Array  # (F, D/m · n)
    position: Array  # (F, D/m · n) integers in [0, m), the place of each entry in its group
    m: int  # columns of a group


def forward(x: Array, data: Array, *, position: Array, m: int) -> tuple[Array, Cache]:
    """y = x Wᵀ: x (..., D), data and position (F, D/m · n), m -> y (..., F).

    A D that is no multiple of m is a ConfigError, positions that do not ascend within a group a ShapeError, positions
    outside [0, m) an IndexRangeError.

    >>> import numpy as np
    >>> x, data = np.array([1.0, 2.0, 3.0, 4.0]), np.array([[10.0, 1.0], [1.0, 1.0]])
    >>> forward(x, data, position=np.array([[1, 3], [0, 2]]), m=4)[0]
    array([24.,  4.])
    """
    checks.floating("x", x)
    if x.ndim == 0:
        raise ShapeError("x must be (..., D), got a number without axes")
    y = kernels.of(x).nm_linear(rows(x), data, position, m)  # (N, F)
    return namespace(x).reshape(y, (*x.shape[:-1], y.shape[1])), Cache(x, data, position, m)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (..., F) -> dx (..., D), {"data": (F, D/m · n)}.

    >>> import numpy as np
    >>> x, data = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[10.0, 1.0], [1.0, 1.0]])
    >>> _, cache = forward(x, data, position=np.array([[1, 3], [0, 2]]), m=4)
    >>> dx, dp = backward(np.array([[1.0, 2.0]]), cache)
    >>> dx, dp["data"].tolist()
    (array([[ 2., 10.,  2.,  1.]]), [[2.0, 4.0], [2.0, 6.0]])
    """
    x, data, position, m = cache
    check_shape("dy", dy, (*x.shape[:-1], data.shape[0]))
    k, dy2 = kernels.of(dy), rows(dy)
    dx = k.nm_linear_dx(dy2, data, position, m, int(x.shape[-1]))
    return namespace(dy).reshape(dx, x.shape), {"data": k.nm_linear_ddata(dy2, rows(x), position, m)}
