r"""The gate residual: a router hears what the router of the layer before said of the same token.

Forward, c' (T, n) the clean logits of the layer before (``out.routing.logits``), n ids::

    c = W x' + b + W_g c'              W_g = router.residual_weight (n, n); the first layer has no c': c = W x' + b

Backward::

    dW_g = dcᵀ c'                      dc' = dc W_g       the third value of ``moe.backward``, to be added to what the
                                                          layer before is told as ``dlogits``

A padding token's c' counts as 0 and gets exactly 0.  Source: MoE++, arXiv:2410.07348 (its pathway-aware router).
Cost: T n² multiply-adds forward, twice that backward; c' is kept.
"""

from __future__ import annotations

from pymoe.backend import is_floating, namespace
from pymoe.backend.errors import ConfigError, DtypeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig
from pymoe.ops import linear

Cache = linear.Cache


def checked(previous: Array | None, cfg: RouterConfig, lead: tuple[int, ...], mask: Array | None) -> Array | None:
    """c' as (T, n), 0 for padding, of previous (*lead, n) or (T, n); mask (T,).

    >>> import numpy as np
    >>> cfg = RouterConfig(2, 1, gate_residual=True)
    >>> checked(np.ones((1, 2, 2)), cfg, (1, 2), np.array([True, False])).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    if previous is None:
        return None
    if not cfg.gate_residual:
        raise ConfigError("given.logits, the logits of the layer before, go with gate_residual=True, which is not set")
    if not is_floating(previous):
        raise DtypeError(f"given.logits must be floating point, got {previous.dtype}: cast it explicitly")
    xp = namespace(previous)
    if previous.ndim != 2:
        check_shape("given.logits", previous, (*lead, cfg.n_ids))
    previous = xp.reshape(previous, (-1, cfg.n_ids)) if previous.ndim != 2 else previous
    tokens = 1
    for n in lead:
        tokens *= n
    check_shape("given.logits", previous, (tokens, cfg.n_ids))
    return previous if mask is None else xp.where(mask[:, None], previous, xp.zeros_like(previous))


def forward(c: Array, previous: Array, weight: Array) -> tuple[Array, Cache]:
    """c (T, n) with the residual of c' (T, n), weight (n, n).

    >>> import numpy as np
    >>> forward(np.array([[1.0, 2.0]]), np.array([[0.0, 3.0]]), np.array([[1.0, 0.5], [0.0, 1.0]]))[0]
    array([[2.5, 5. ]])
    """
    r, cache = linear.forward(previous, weight)
    return c + r, cache


def backward(dc: Array, cache: Cache) -> tuple[Array, Array]:
    """dc' (T, n) and dW_g (n, n); dc itself goes on as it is.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[1.0, 2.0]]), np.array([[0.0, 3.0]]), np.array([[1.0, 0.5], [0.0, 1.0]]))
    >>> backward(np.array([[1.0, 0.0]]), cache)
    (array([[1. , 0.5]]), array([[0., 3.],
           [0., 0.]]))
    """
    dprevious, d = linear.backward(dc, cache)
    return dprevious, d["weight"]
