r"""Weighted sum of what several models say: probabilities (an ensemble), or logits (a product of experts).

Forward, over models i::

    y = Σ_i λ_i x_i                        λ (M,), one weight a model, or (M, ...), one for each row

Backward::

    dx_i = λ_i dy
    dλ_i = ⟨dy, x_i⟩                       over the last axis; of λ (M,) over the rows too

λ need not sum to 1: whoever wants a mean divides first, and differentiates that.  Source: the linear opinion pool,
Stone, Annals of Mathematical Statistics 32, 1961; experts, Jacobs et al., Neural Computation 3, 1991, eq. 1.
Cost: one multiply-add an element forward, two backward; x and λ are kept.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace
from pymoe.backend.errors import ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


class Cache(NamedTuple):
    x: Array  # (M, ..., C)
    weight: Array  # (M,) or (M, ...)


def forward(x: Array, weight: Array) -> tuple[Array, Cache]:
    """x (M, ..., C) of M models, weight (M,) or (M, ...) -> y (..., C), the models added up in ascending order.

    >>> import numpy as np
    >>> forward(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0.6, 0.4]))[0].round(15)
    array([0.86, 0.14])
    """
    namespace(x, weight)
    checks.floating("x", x)
    checks.floating("weight", weight)
    if x.ndim < 2 or x.shape[0] == 0:
        raise ShapeError(f"x must have shape (M, ..., C) with at least one model, got {tuple(x.shape)}")
    check_shape("weight", weight, tuple(x.shape[:1] if weight.ndim == 1 else x.shape[:-1]))
    lam = _over_rows(weight, x.ndim)
    y = lam[0, ...] * x[0, ...]
    for i in range(1, int(x.shape[0])):
        y = y + lam[i, ...] * x[i, ...]  # y = Σ λ_i x_i
    return y, Cache(x, weight)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (..., C) -> dx (M, ..., C) and {"weight": (M,) or (M, ...)}.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0.6, 0.4]))
    >>> dx, d = backward(np.array([1.0, 0.0]), cache)
    >>> dx.tolist(), d["weight"].tolist()
    ([[0.6, 0.0], [0.4, 0.0]], [0.9, 0.8])
    """
    x, weight = cache
    check_shape("dy", dy, tuple(x.shape[1:]))
    xp = namespace(dy, x)
    d_weight = xp.sum(dy[None, ...] * x, axis=-1)  # ⟨dy, x_i⟩
    if weight.ndim == 1 and d_weight.ndim > 1:
        d_weight = xp.sum(xp.reshape(d_weight, (int(x.shape[0]), -1)), axis=1)
    return _over_rows(weight, x.ndim) * dy[None, ...], {"weight": d_weight}  # λ_i dy


def _over_rows(weight: Array, ndim: int) -> Array:
    """λ with axes of length 1 for the rows, where it has none, and for the classes."""
    xp = namespace(weight)
    return xp.reshape(weight, (*weight.shape, *([1] * (ndim - weight.ndim))))
