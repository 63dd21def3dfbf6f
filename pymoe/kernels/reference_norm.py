"""Root-mean-square normalisation of rows and its gradients, by definition (names in ``reference.__all__``).

Sums over a row, and over all rows, run in ``accumulator(x)``: float64 for float32.
"""

from __future__ import annotations

from pymoe.backend import accumulator, namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


def rms_norm(x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    """(y, r) with y = x r ⊙ weight, r = (mean(x²) + eps)^{-1/2}: x (N, D), weight (D,) -> y (N, D), r (N,).

    The squares are taken in the accumulator, so that in float32 |x| up to 1e38 does not overflow.  O(N D).

    >>> import numpy as np
    >>> y, r = rms_norm(np.array([[3.0, 4.0]]), np.array([1.0, 10.0]), 0.0)
    >>> y.round(4), r.round(4)
    (array([[ 0.8485, 11.3137]]), array([0.2828]))
    """
    xp = namespace(x, weight)
    checks.floating("x", x)
    check_shape("x", x, (None, None))
    columns = int(x.shape[1])
    check_shape("weight", weight, (columns,))
    wide = xp.astype(x, accumulator(x), copy=False)
    mean = xp.sum(wide * wide, axis=1) / columns
    r = xp.astype(1 / xp.sqrt(mean + eps), x.dtype, copy=False)
    return x * r[:, None] * weight, r


def rms_norm_backward(dy: Array, x: Array, weight: Array, r: Array) -> tuple[Array, Array]:
    """(dx, dweight) of ``rms_norm``, from its r: dy, x (N, D), weight (D,), r (N,) -> dx (N, D), dweight (D,)::

        dx = r (dn - x r² mean(x ⊙ dn)),  dn = weight ⊙ dy        dweight = Σ_rows dy ⊙ x r

    The compiled twin adds dweight over blocks of 64 rows, then the blocks in ascending order in the accumulator: the
    order depends on N alone.  O(N D), each array read once.

    >>> import numpy as np
    >>> x, weight = np.array([[3.0, 4.0]]), np.ones(2)
    >>> dx, dweight = rms_norm_backward(np.array([[1.0, 0.0]]), x, weight, rms_norm(x, weight, 0.0)[1])
    >>> dx.round(4), dweight.round(4)
    (array([[ 0.181 , -0.1358]]), array([0.8485, 0.    ]))
    """
    xp = namespace(dy, x, weight, r)
    checks.floating("x", x)
    check_shape("x", x, (None, None))
    rows, columns = x.shape
    check_shape("dy", dy, (rows, columns))
    check_shape("weight", weight, (columns,))
    check_shape("r", r, (rows,))
    dn = dy * weight
    product = x * dn
    along = xp.sum(product, axis=1, dtype=accumulator(product))
    c = xp.astype(xp.astype(r, accumulator(r), copy=False) ** 2 * along / columns, product.dtype, copy=False)
    dx = r[:, None] * (dn - x * c[:, None])
    share = dy * (x * r[:, None])
    return dx, xp.astype(xp.sum(share, axis=0, dtype=accumulator(share)), share.dtype, copy=False)
