"""AdamW: Adam whose weight decay acts on the parameter, not through the gradient's scale.

Update, for each parameter, with m̂ and v̂ as in ``adam`` (g = dp)::

    p <- p - lr (m̂ / (√v̂ + ε) + decay p)

Only matrices decay unless ``decays`` says otherwise.  Source: Loshchilov and Hutter, arXiv:1711.05101, algorithm 2.
Cost: one fused pass over p, dp, m, v (kernel ``adamw``).
"""

from __future__ import annotations

from typing import Any

from pymoe import kernels
from pymoe.backend.namespace import Array
from pymoe.backend.tree import Tree
from pymoe.train.optim import common
from pymoe.train.optim.adam import init

__all__ = ["init", "update"]


def update(
    p: Tree,
    dp: Tree,
    state: Tree,
    *,
    lr: float,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    decay: float = 0.1,
    decays: common.Decays = common.is_matrix,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One step of number ``step`` (1, 2, ...).

    >>> import numpy as np
    >>> p = {"w": np.array([[1.0]]), "bias": np.array([1.0])}
    >>> p, state = update(p, {"w": np.array([[0.0]]), "bias": np.array([0.0])}, init(p), lr=0.5, step=1)
    >>> p["w"].item(), p["bias"].item()  # no gradient: the matrix decays, the bias stays
    (0.95, 1.0)
    """
    common.positive(lr=lr, decay=decay, eps=eps)
    common.momentum(beta1=beta1, beta2=beta2)

    def one(name: str, w: Array, g: Array, m: Array, v: Array) -> tuple[Array, ...]:
        rate = decay if decays(name, w) else 0.0
        settings = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "decay": rate, "step": step}
        return kernels.of(w).adamw(w, g, m, v, **settings)  # type: ignore[no-any-return]

    new_p, m, v = common.leaves(one, p, dp, state["m"], state["v"])
    return new_p, {"m": m, "v": v}
