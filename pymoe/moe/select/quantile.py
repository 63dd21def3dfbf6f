r"""Quantile balancing: each expert has a price β at which T k / E tokens still want it.

T real tokens, m = ⌊T k / E⌋::

    α_t = the (k+1)-th largest of c_t - β⁰                   what a choice of this token must beat
    β_e = the (m+1)-th largest over the tokens of c_te - α_t  exceeded by m of them, fewer at a tie with α
    idx = top-k of c - β

``select`` starts from β⁰ = 0 and uses the β of this very batch.  ``update`` is the pure function for training as
published: choose with the β of the step before, which as the router's selection_bias is -β, and take the new one to the
next step; it needs no loss and no step size.  k = E chooses everybody and β = 0.
Trap: with the β of this very batch c_te - β_e is α_t up to rounding for the token t that sets β_e, a tie at the cut in
nearly every batch that rounding breaks; with the β of the step before there is none.
No gradient: weights are those of the scores.  Like every price from a batch it looks at all its tokens.
Source: quantile balancing as in Megatron-LM (``qb_dual_update``).  Cost: a sort of the rows and of the columns.
"""

from __future__ import annotations

from pymoe import kernels
from pymoe.backend import device, namespace
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig


def select(c: Array, cfg: RouterConfig, real_token: Array | None = None) -> tuple[Array, None]:
    """c (T, E) -> idx (T, k).

    >>> import numpy as np
    >>> s = np.array([[0.875, 0.125], [0.75, 0.25], [0.625, 0.375], [0.5, 0.5]])
    >>> select(s, RouterConfig(n_experts=2, k=1, select="quantile"))[0].ravel()  # the third is at the margin: a tie
    array([0, 0, 0, 1])
    """
    xp = namespace(c)
    beta = update(c, xp.zeros((int(c.shape[1]),), dtype=c.dtype, device=device(c)), cfg.k, real_token)
    return kernels.of(c).topk(c - beta[None, :], cfg.k), None


def update(c: Array, beta: Array, k: int, real_token: Array | None = None) -> Array:
    """β (E,) of the next step from the scores c (T, E) and the β of this one; of no token β as it is.

    >>> import numpy as np
    >>> update(np.array([[3.0, 1.0], [2.0, 1.0]]), np.zeros(2), 1)
    array([1., 0.])
    """
    xp = namespace(c)
    tokens, experts = int(c.shape[0]), int(c.shape[1])
    if real_token is not None:
        tokens = int(xp.sum(xp.astype(real_token, xp.int64)))
    if not tokens or k == experts:
        return beta if not tokens else xp.zeros_like(beta)
    kernel = kernels.of(c)
    adjusted = c - beta[None, :]
    cut = kernel.topk(adjusted, k + 1)[:, k:]
    over = c - xp.take_along_axis(adjusted, cut, axis=1)  # c - α
    if real_token is not None:
        over = xp.where(real_token[:, None], over, xp.full_like(over, -xp.inf))
    by_expert = xp.permute_dims(over, (1, 0))
    target = tokens * k // experts
    place = kernel.topk(by_expert, target + 1)[:, target:]
    return xp.take_along_axis(by_expert, place, axis=1)[:, 0]
