r"""Load loss of noisy top-k: the CV² of a smooth estimate of how many tokens each expert gets.

Forward, c clean logits, h noisy logits, σ the noise scale, all (T, E)::

    θ_te = the (k+1)-th largest of h_t  if e is among the k largest, else the k-th largest
           (``single``, V-MoE: the k-th largest for every expert)
    u = (c - θ) / σ        P_te = Φ(u_te)        L = CV²(Σ_t P_te)

P is the probability that e is chosen when only its own noise is drawn again.  Backward, with φ = Φ'::

    du = φ(u) ⊙ dP         dc = du / σ          dσ = -du ⊙ u / σ
    dh[t, place of θ_te] += -du_te / σ_te       θ is one of the noisy logits, so it has a gradient

θ is part of the graph: a port that takes it for a constant, or compares softmaxed scores with it, has another gradient.
Sources: arXiv:1701.06538, eq. 8-11 (appendix A); one threshold: arXiv:2106.05974.
Cost: a top-(k+1) and an erf a logit forward, an exponential backward.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import accumulator, erf, namespace, real
from pymoe.backend.namespace import Array
from pymoe.moe.losses import cv_squared


class Cache(NamedTuple):
    u: Array  # (T, E)
    sigma: Array  # (T, E)
    best: Array  # (T, k+1) the decision
    inside: Array  # (T, E) bool: has the (k+1)-th to beat, not the k-th
    mask: Array | None  # (T,)
    cv: cv_squared.Cache


def forward(
    c: Array,
    h: Array,
    sigma: Array,
    k: int,
    mask: Array | None = None,
    *,
    ddof: int = 0,
    eps: float = 0.0,
    single: bool = False,
) -> tuple[Array, Cache]:
    """L (0-d); k < E.

    >>> import numpy as np
    >>> c = np.array([[2.0, 0.0, -2.0], [-2.0, 0.0, 2.0]])
    >>> loss, cache = forward(c, c, np.ones((2, 3)), 1)
    >>> cache.u  # the distance to what an expert has to beat
    array([[ 2., -2., -4.],
           [-4., -2.,  2.]])
    >>> float(loss.round(4))  # the middle one is hardly ever chosen
    0.4341
    """
    xp = namespace(c, h, sigma)
    kernel = kernels.of(h)
    best = kernel.topk(real(h), k + 1)
    ranked = xp.take_along_axis(h, best, axis=1)
    inside = kernel.expand(xp.ones_like(real(ranked[:, :k])), best[:, :k], int(h.shape[1])) > 0
    if single:  # nobody has the (k+1)-th to beat
        inside = xp.zeros_like(inside)
    theta = xp.where(inside, ranked[:, k:], ranked[:, k - 1 : k])
    u = (c - theta) / sigma
    p = (1 + erf(u * math.sqrt(0.5))) * 0.5
    if mask is not None:
        p = xp.where(mask[:, None], p, xp.zeros_like(p))
    loss, cv = cv_squared.forward(xp.sum(p, axis=0, dtype=accumulator(p)), ddof=ddof, eps=eps)
    return loss, Cache(u, sigma, best, inside, mask, cv)


def backward(dloss: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dc (T, E) and {"h": dh, "sigma": dσ}."""
    u, sigma, best, inside, mask, cv = cache
    xp = namespace(u)
    k = int(best.shape[1]) - 1
    dp = xp.astype(cv_squared.backward(dloss, cv)[0], u.dtype)[None, :]
    du = xp.exp(-0.5 * u * u) * (1 / math.sqrt(2 * math.pi)) * dp
    if mask is not None:
        du = xp.where(mask[:, None], du, xp.zeros_like(du))
    dc = du / sigma
    zero = xp.zeros_like(dc)
    d_next = -xp.sum(xp.where(inside, dc, zero), axis=1, keepdims=True)  # at the (k+1)-th largest
    d_last = -xp.sum(xp.where(inside, zero, dc), axis=1, keepdims=True)  # at the k-th largest
    dh = kernels.of(u).expand(xp.concat([d_last, d_next], axis=1), best[:, k - 1 :], int(u.shape[1]))
    return dc, {"h": dh, "sigma": -du * u / sigma}
