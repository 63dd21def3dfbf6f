r"""Mean over the positions of a sequence, padding left out.

Forward, with M_b the number of real positions of row b::

    y_b = 1/M_b Σ_{s: mask[b,s]} x_bs                an empty row gives 0

Backward::

    dx_bs = mask[b,s] dy_b / M_b

Source: Reimers and Gurevych, *Sentence-BERT*, arXiv:1908.10084, section 3 (MEAN strategy).  Cost: one pass over x.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.errors import DtypeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


class Cache(NamedTuple):
    mask: Array  # (B, S) bool, True for a real position
    share: Array  # (B, 1) 1 / M, of an empty row 1
    width: int  # D


def forward(x: Array, mask: Array | None = None) -> tuple[Array, Cache]:
    """x (B, S, D), mask (B, S) bool (None: all positions are real) -> y (B, D).

    >>> import numpy as np
    >>> forward(np.array([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]]), np.array([[True, True, False]]))[0]
    array([[2., 4.]])
    """
    xp = namespace(x, mask)
    checks.floating("x", x)
    check_shape("x", x, (None, None, None))
    if mask is None:
        mask = xp.ones(x.shape[:2], dtype=xp.bool, device=device(x))
    check_shape("mask", mask, tuple(x.shape[:2]))
    if not xp.isdtype(mask.dtype, "bool"):
        raise DtypeError(f"mask must be bool, True for a real position, got {mask.dtype}: write e.g. mask != 0")
    count = xp.sum(xp.astype(mask, real(x).dtype), axis=1, keepdims=True)
    share = 1 / xp.where(count > 0, count, xp.ones_like(count))
    total = xp.sum(xp.where(mask[:, :, None], x, xp.zeros_like(x)), axis=1, dtype=accumulator(x))
    return xp.astype(total * share, x.dtype, copy=False), Cache(mask, share, int(x.shape[2]))


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (B, D) -> dx (B, S, D) = mask dy / M; the mask has no gradient, so no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.ones((1, 3, 1)), np.array([[True, True, False]]))
    >>> backward(np.array([[1.0]]), cache)[0][0, :, 0]
    array([0.5, 0.5, 0. ])
    """
    mask, share, width = cache
    check_shape("dy", dy, (mask.shape[0], width))
    xp = namespace(dy, mask)
    each = (dy * share)[:, None, :]
    return xp.where(mask[:, :, None], each, xp.zeros_like(each)), {}
