r"""Root-mean-square normalisation of an input that was scaled first: the scale changes what is averaged.

Forward::

    v = x ⊙ w            r = (mean(v²) + ε)^{-1/2}            y = v r

Backward::

    dv = r (dy - y mean(dy ⊙ y))
    dx = dv ⊙ w            dw = Σ_n dv ⊙ x                    (sum over all leading axes)

``rms_norm`` scales what was normalised; here a feature with a large w takes its share of the length of y from the
others, and scaling all of w changes nothing (but for ε).  Source: the post-expert norm of MuseSpark, its published
modelling code; the norm itself arXiv:1910.07467, eq. 4.  Cost: ``rms_norm`` and two products; x, v and r are kept.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.ops import rms_norm
from pymoe.ops._rows import check_columns, column_sum, rows


class Cache(NamedTuple):
    x: Array  # (..., D)
    weight: Array  # (D,)
    v: Array  # (..., D) x ⊙ w
    r: Array  # (N,) 1 / root mean square of each row of v, all leading axes as one


def forward(x: Array, weight: Array, *, eps: float = 1e-6) -> tuple[Array, Cache]:
    """y = v / √(mean(v²) + ε), v = x ⊙ w: x (..., D), weight (D,) -> y (..., D).  D = 0 is a ShapeError.

    >>> import numpy as np
    >>> forward(np.array([[3.0, 4.0]]), np.array([1.0, 10.0]), eps=0.0)[0].round(4)
    array([[0.1058, 1.4103]])
    """
    check_columns("x", x)
    check_shape("weight", weight, (x.shape[-1],))
    v = x * weight
    y, (_, _, r) = rms_norm.forward(v, namespace(x, weight).ones_like(weight), eps=eps)
    return y, Cache(x, weight, v, r)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (..., D) -> dx (..., D), {"weight": (D,)}.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[3.0, 4.0]]), np.ones(2), eps=0.0)
    >>> dx, dp = backward(np.array([[1.0, 0.0]]), cache)
    >>> dx.round(4), dp["weight"].round(4)
    (array([[ 0.181 , -0.1358]]), array([ 0.5431, -0.5431]))
    """
    x, weight, v, r = cache
    dv, _ = rms_norm.backward(dy, rms_norm.Cache(v, namespace(v).ones_like(weight), r))
    return dv * weight, {"weight": column_sum(rows(dv * x))}
