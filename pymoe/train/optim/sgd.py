"""Stochastic gradient descent with momentum.

Update, for each parameter, with g = dp + decay p::

    b <- μ b + g                      b starts at 0
    p <- p - lr b                     plain
    p <- p - lr (g + μ b)             Nesterov

Source: Sutskever et al., *On the importance of initialization and momentum in deep learning*, ICML 2013, in the form
that PyTorch uses (lr outside the average).  Cost: two passes over memory.
"""

from __future__ import annotations

from typing import Any

from pymoe.backend import namespace, tree
from pymoe.backend.namespace import Array
from pymoe.backend.tree import Tree
from pymoe.train.optim import common


def init(p: Tree) -> dict[str, Any]:
    """{"b": zeros like p}."""
    return {"b": tree.map(lambda a: namespace(a).zeros_like(a), p)}


def update(
    p: Tree,
    dp: Tree,
    state: Tree,
    *,
    lr: float,
    step: int = 1,
    momentum: float = 0.9,
    nesterov: bool = False,
    decay: float = 0.0,
    decays: common.Decays = common.is_matrix,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One step; ``step`` is not used (all optimisers have the same signature).

    >>> import numpy as np
    >>> p = {"w": np.array([[1.0]])}
    >>> p1, state = update(p, {"w": np.array([[2.0]])}, init(p), lr=0.5)
    >>> p2, state = update(p1, {"w": np.array([[2.0]])}, state, lr=0.5)
    >>> p1["w"].item(), p2["w"].item()
    (0.0, -1.9)
    """
    common.positive(lr=lr, decay=decay)
    common.momentum(momentum=momentum)

    def one(name: str, w: Array, g: Array, b: Array) -> tuple[Array, Array]:
        g = g + decay * w if decay and decays(name, w) else g
        b = momentum * b + g
        return w - lr * (g + momentum * b if nesterov else b), b

    new_p, new_b = common.leaves(one, p, dp, state["b"])
    return new_p, {"b": new_b}
