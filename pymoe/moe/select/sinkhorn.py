r"""Sinkhorn: top-k of a transport plan that gives every expert the same share of the batch (S-BASE).

K = e^z, z the logits (of softmax scores log s does as well: a factor of a row does not matter), T real tokens::

    log u_t = -log T - lse_e(z_te + log v_e)         rows sum to 1 / T
    log v_e = -log E - lse_t(z_te + log u_t)         columns sum to 1 / E
    until mean_e |log v - log v before| <= tolerance
    idx = top-k of z + log v                         log u moves a whole row and does not decide

In logarithms, so that no logit overflows (as exp(z) does beyond 709 in float64, beyond 88 in float32).  Megatron's
version iterates on v itself, adds 1e-8 to the sums and stops at an absolute difference.
No gradient: weights are those of the scores, σ for k = 1 or softmax.  For training only: evaluation is plain ``topk``.
Source: Clark et al., arXiv:2202.01169.  Cost: an exponential a score and iteration, some tens of them.
"""

from __future__ import annotations

import math

from pymoe import kernels
from pymoe.backend import device, namespace
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig

TOLERANCE = 1e-4
ITERATIONS = 1000  # a bound for kernels with zeros, whose plan may not exist


def select(c: Array, cfg: RouterConfig, real_token: Array | None = None) -> tuple[Array, None]:
    """c (T, E) scores, or with ``select_on="logits"`` logits (exact where σ has rounded to 1) -> idx (T, k).

    >>> import numpy as np
    >>> s = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    >>> select(s, RouterConfig(n_experts=2, k=1, select="sinkhorn"))[0].ravel()  # top-1 would be 0 four times
    array([0, 0, 1, 1])
    """
    z = logits(c, cfg)
    return kernels.of(z).topk(z + prices(z, real_token)[None, :], cfg.k), None


def logits(c: Array, cfg: RouterConfig) -> Array:
    """z of the scores c, up to a number for each row; with ``select_on="logits"``, and of other scores, c itself.

    >>> import numpy as np
    >>> logits(np.array([[0.5, 0.5]]), RouterConfig(n_experts=2, k=1, score="sigmoid"))
    array([[0., 0.]])
    """
    xp = namespace(c)
    if cfg.select_on == "logits":
        return c
    if cfg.score == "softmax":
        one = xp.ones_like(c)
        return xp.where(c > 0, xp.log(xp.where(c > 0, c, one)), xp.full_like(c, -xp.inf))
    if cfg.score == "sigmoid":
        tiny = float(xp.finfo(c.dtype).smallest_normal)
        rest = xp.where(1 - c < tiny, xp.full_like(c, float(xp.finfo(c.dtype).eps) / 2), 1 - c)  # σ(z) rounded to 1
        return xp.log(xp.where(c < tiny, xp.full_like(c, tiny), c)) - xp.log(rest)
    return c


def prices(z: Array, real_token: Array | None = None, *, tolerance: float = TOLERANCE) -> Array:
    """log v (E,) of z (T, E), -inf allowed: what is added to the logits of an expert; of no token 0.

    >>> import numpy as np
    >>> v = prices(np.array([[5.0, 0.0], [5.0, 0.0]]), tolerance=1e-12)
    >>> float((v[1] - v[0]).round(9))  # the expert that nobody wants becomes as cheap as it must
    5.0
    """
    xp = namespace(z)
    tokens, experts = int(z.shape[0]), int(z.shape[1])
    if real_token is not None:
        tokens = int(xp.sum(xp.astype(real_token, xp.int64)))
        z = xp.where(real_token[:, None], z, xp.full_like(z, -xp.inf))
    v = xp.zeros((experts,), dtype=z.dtype, device=device(z))
    if not tokens:
        return v
    for _ in range(ITERATIONS):
        before = v
        u = -_lse(z + v[None, :], 1)
        v = math.log(tokens / experts) - _lse(z + u[:, None], 0)  # the 1 / T of u and the 1 / E of v
        if float(xp.mean(xp.abs(v - before))) <= tolerance:
            break
    return v


def _lse(a: Array, axis: int) -> Array:
    """log Σ exp along an axis; of nothing but -inf 0, so that such a row or column takes no part."""
    xp = namespace(a)
    top = xp.max(a, axis=axis, keepdims=True)
    safe = xp.where(top == -xp.inf, xp.zeros_like(top), top)
    total = xp.sum(xp.exp(a - safe), axis=axis, keepdims=True)
    found = safe + xp.log(xp.where(total == 0, xp.ones_like(total), total))
    return xp.squeeze(found, axis=axis)
