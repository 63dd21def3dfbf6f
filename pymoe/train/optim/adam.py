"""Adam, with weight decay (if any) as an L2 term inside the gradient.

Update, for each parameter, with g = dp + decay p and t = step counted from 1::

    m <- β₁ m + (1 - β₁) g            m̂ = m / (1 - β₁ᵗ)
    v <- β₂ v + (1 - β₂) g²           v̂ = v / (1 - β₂ᵗ)
    p <- p - lr m̂ / (√v̂ + ε)

Source: Kingma and Ba, arXiv:1412.6980, algorithm 1.  Cost: one fused pass (kernel ``adamw`` without its decay).
"""

from __future__ import annotations

from typing import Any

from pymoe import kernels
from pymoe.backend import namespace, tree
from pymoe.backend.namespace import Array
from pymoe.backend.tree import Tree
from pymoe.train.optim import common


def init(p: Tree) -> dict[str, Any]:
    """{"m": zeros like p, "v": zeros like p}."""
    return {key: tree.map(lambda a: namespace(a).zeros_like(a), p) for key in ("m", "v")}


def update(
    p: Tree,
    dp: Tree,
    state: Tree,
    *,
    lr: float,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    decay: float = 0.0,
    decays: common.Decays = common.is_matrix,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One step of number ``step`` (1, 2, ...).

    >>> import numpy as np
    >>> p = {"w": np.array([[1.0, 1.0]])}
    >>> p, state = update(p, {"w": np.array([[5.0, -0.01]])}, init(p), lr=0.1, step=1)
    >>> p["w"].round(6)  # the first step has length lr whatever the size of the gradient
    array([[0.9, 1.1]])
    """
    common.positive(lr=lr, decay=decay, eps=eps)
    common.momentum(beta1=beta1, beta2=beta2)

    def one(name: str, w: Array, g: Array, m: Array, v: Array) -> tuple[Array, ...]:
        g = g + decay * w if decay and decays(name, w) else g
        settings = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "decay": 0.0, "step": step}
        return kernels.of(w).adamw(w, g, m, v, **settings)  # type: ignore[no-any-return]

    new_p, m, v = common.leaves(one, p, dp, state["m"], state["v"])
    return new_p, {"m": m, "v": v}
