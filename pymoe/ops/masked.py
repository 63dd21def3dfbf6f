r"""A weight with some entries switched off: masked training, where the mask is an argument like any other.

Forward::

    y = w ⊙ mask

Backward::

    dw = dy ⊙ mask

Source: Zhu and Gupta, *To prune, or not to prune*, arXiv:1710.01878, section 3 (a mask of the shape of the weight; the
gradient of what is off is 0).  Cost: one pass over memory each way.  An entry that is off is exactly 0, even where w is
not finite.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace
from pymoe.backend.errors import DtypeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


class Cache(NamedTuple):
    mask: Array  # the shape of w, bool, True where the weight stays


def forward(w: Array, *, mask: Array) -> tuple[Array, Cache]:
    """y = w ⊙ mask: w of any shape, mask bool of the same shape, True where the weight stays.

    >>> import numpy as np
    >>> forward(np.array([1.0, 2.0, 3.0]), mask=np.array([True, False, True]))[0]
    array([1., 0., 3.])
    """
    xp = namespace(w, mask)
    checks.floating("w", w)
    check_shape("mask", mask, tuple(w.shape))
    if not xp.isdtype(mask.dtype, "bool"):
        raise DtypeError(f"mask must be bool, True where the weight stays, got {mask.dtype}: write e.g. mask != 0")
    return xp.where(mask, w, xp.zeros_like(w)), Cache(mask)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dw = dy ⊙ mask; no parameters beside w.

    >>> import numpy as np
    >>> backward(np.array([1.0, 1.0]), Cache(np.array([True, False])))[0]
    array([1., 0.])
    """
    (mask,) = cache
    check_shape("dy", dy, tuple(mask.shape))
    xp = namespace(dy, mask)
    return xp.where(mask, dy, xp.zeros_like(dy)), {}
