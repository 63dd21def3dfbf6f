r"""Learned noise of noisy top-k gating: each expert's logit trembles by as much as the token asks for.

Forward, c (T, E) clean logits, a (T, E) = x W_nᵀ, ε (T, E) standard normal draws (a value, kept)::

    σ = softplus(a) + 0.01
    h = c + ε ⊙ σ

Backward::

    dc = dh
    da = dσ ⊙ softplus'(a),     dσ += dh ⊙ ε        (dσ also comes from the load loss)

Source: Shazeer et al., arXiv:1701.06538, eq. 4; the floor 0.01 is the authors' code.  Cost: one softplus and a
multiply-add a logit; ε, σ and the softplus's own cache are kept.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend.namespace import Array
from pymoe.ops import softplus

FLOOR = 1e-2


class Cache(NamedTuple):
    epsilon: Array  # (T, E) the draws
    sigma: Array  # (T, E) σ
    softplus: softplus.Cache


def forward(c: Array, a: Array, epsilon: Array) -> tuple[Array, Cache]:
    """h = c + ε ⊙ (softplus(a) + 0.01).

    >>> import numpy as np
    >>> forward(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1)))[0].round(4)
    array([[0.7031]])
    """
    sp, cache = softplus.forward(a)
    sigma = sp + FLOOR
    return c + epsilon * sigma, Cache(epsilon, sigma, cache)


def backward(dh: Array, cache: Cache, dsigma: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """dc and {"a": da}; ``dsigma``: what the load loss adds to dσ.

    >>> import numpy as np
    >>> _, cache = forward(np.zeros((1, 1)), np.zeros((1, 1)), np.full((1, 1), 3.0))
    >>> backward(np.ones((1, 1)), cache)  # softplus'(0) = 1/2
    (array([[1.]]), {'a': array([[1.5]])})
    """
    epsilon, _, softplus_cache = cache
    total = dh * epsilon if dsigma is None else dh * epsilon + dsigma
    return dh, {"a": softplus.backward(total, softplus_cache)[0]}
