r"""Inverted dropout with the mask as an argument: who trains draws it, so that backward never draws again.

Forward::

    y = x ⊙ mask / (1 - rate)

Backward::

    dx = dy ⊙ mask / (1 - rate)

Source: Srivastava et al., JMLR 15, 2014 (here scaled at training time, so that inference is the identity).  Cost: one
pass over memory each way.  A dropped entry is exactly 0, even where x is not finite.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, DtypeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


class Cache(NamedTuple):
    mask: Array  # (...) bool, True where kept
    rate: float  # probability of a False


def forward(x: Array, mask: Array, *, rate: float) -> tuple[Array, Cache]:
    """y = x ⊙ mask / (1 - rate): x of any shape, mask bool of the same shape, 0 <= rate < 1.

    >>> import numpy as np
    >>> forward(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]), rate=0.5)[0]
    array([2., 0., 6.])
    """
    xp = namespace(x, mask)
    checks.floating("x", x)
    check_shape("mask", mask, tuple(x.shape))
    if not xp.isdtype(mask.dtype, "bool"):
        raise DtypeError(f"mask must be bool, True where x is kept, got {mask.dtype}: e.g. rng.random(x.shape) >= rate")
    if not 0 <= rate < 1:
        raise ConfigError(f"rate, the probability of dropping an entry, must lie in [0, 1), got {rate}")
    return _scaled(x, mask, rate), Cache(mask, rate)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = dy ⊙ mask / (1 - rate); no parameters.

    >>> import numpy as np
    >>> backward(np.array([1.0, 1.0]), Cache(np.array([True, False]), 0.75))[0]
    array([4., 0.])
    """
    mask, rate = cache
    check_shape("dy", dy, tuple(mask.shape))
    return _scaled(dy, mask, rate), {}


def _scaled(x: Array, mask: Array, rate: float) -> Array:
    """x ⊙ mask / (1 - rate)."""
    xp = namespace(x, mask)
    return xp.where(mask, x * (1 / (1 - rate)), xp.zeros_like(x))
