r"""The convex parts of the network: linear maps of the features mixed with given weights, and the best of them.

Forward, x (N, V) dense or scipy.sparse, g (N, E) and o (N, C) given, map e = (W_e (V, C), b_e (C,))::

    y    = o + Σ_e g_e ⊙ (x W_e + b_e)                       (N, C)
    loss = L(y) + λ/2 Σ_e (‖W_e‖² + ‖b_e‖²)

Backward::

    dW_e = xᵀ (g_e ⊙ dy) + λ W_e                             db_e = g_eᵀ dy + λ b_e

x, g and o are constants.  One map with g = 1 and o = 0 is the linear part; E maps with g of a router that stays as it
is are the linear experts, and o what the linear part says.  With L convex in y and λ > 0 there is one best (W, b), and
L-BFGS (``pipeline.descent``) goes there.  All E maps are computed, in one product of x with (V, E C): a row of x is
read once.  The bias is pulled to 0 as well: a class that no row has would else get -∞.  Source: textbook (Bishop,
*Pattern Recognition and Machine Learning*, 2006, section 4.3.4).  Cost: 2 nnz E C flops each way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import namespace, real
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.pipeline import descent

ITERATIONS, TOL, FTOL = 100, 1e-6, 1e-7  # of L-BFGS: the most, max|gradient|, and what a step has to gain
# (y (N, C), targets, share (N,) of each row) -> (loss, dy)
Loss = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray]]


class Cache(NamedTuple):
    x: Any  # (N, V)
    g: Array  # (N, E)


def forward(x: Any, weight: Array, bias: Array, *, g: Array) -> tuple[Array, Cache]:
    """y (N, C) of x (N, V), weight (V, E, C), bias (E, C), g (N, E).

    >>> weight = np.array([[[1.0], [10.0]], [[0.0], [0.0]]])
    >>> forward(np.array([[2.0, 7.0]]), weight, np.array([[0.0], [4.0]]), g=np.array([[0.75, 0.25]]))[0]
    array([[7.5]])
    """
    v, e, c = (int(n) for n in weight.shape)
    check_shape("x", x, (None, v))
    check_shape("bias", bias, (e, c))
    check_shape("g", g, (int(x.shape[0]), e))
    xp = namespace(weight)
    g = xp.astype(g, real(weight).dtype, copy=False)
    said = _product(x, weight.reshape(v, e * c)).reshape(-1, e, c) + bias
    return xp.sum(g[:, :, None] * said, axis=1), Cache(x, g)


def backward(dy: Array, cache: Cache) -> tuple[None, dict[str, Array]]:
    """dy (N, C) -> None for x, {"weight": (V, E, C), "bias": (E, C)}.

    >>> _, cache = forward(np.array([[2.0]]), np.zeros((1, 2, 1)), np.zeros((2, 1)), g=np.array([[0.75, 0.25]]))
    >>> backward(np.ones((1, 1)), cache)[1]["weight"].tolist()
    [[[1.5], [0.5]]]
    """
    x, g = cache
    n, e = (int(size) for size in g.shape)
    dz = g[:, :, None] * dy[:, None, :]
    c = int(dy.shape[1])
    return None, {"weight": _product(x.T, dz.reshape(n, e * c)).reshape(-1, e, c), "bias": g.T @ dy}


def fit(
    x: Any,
    t: np.ndarray,
    share: np.ndarray,
    loss: Loss,
    *,
    l2: float,
    outputs: int,
    g: np.ndarray | None = None,
    offset: np.ndarray | None = None,
    start: descent.Parameters | None = None,
    iterations: int = ITERATIONS,
) -> descent.Parameters:
    """{"weight": (V, E, C), "bias": (E, C)}, float64: the best for targets t; l2: λ; g None: one map; offset: o.

    >>> def square(y, t, share):
    ...     return 0.5 * float(share @ (y - t)[:, 0] ** 2), (y - t) * share[:, None]
    >>> x, t = np.array([[1.0], [2.0], [3.0]]), np.array([[3.0], [5.0], [7.0]])  # 2 x + 1
    >>> found = fit(x, t, np.full(3, 1 / 3), square, l2=1e-9, outputs=1)
    >>> found["weight"].ravel().round(3), found["bias"].ravel().round(3)
    (array([2.]), array([1.]))
    """
    n, v = (int(size) for size in x.shape)
    weights = np.ones((n, 1)) if g is None else g.astype(np.float64)
    e = int(weights.shape[1])
    p = start or {"weight": np.zeros((v, e, outputs)), "bias": np.zeros((e, outputs))}

    def objective(p: descent.Parameters, _: Any) -> tuple[float, descent.Parameters]:
        y, cache = forward(x, p["weight"], p["bias"], g=weights)
        value, dy = loss(y if offset is None else y + offset, t, share)
        _, d = backward(dy, cache)
        value += l2 / 2 * sum(float(np.vdot(a, a)) for a in p.values())
        return value, {name: d[name] + l2 * a for name, a in p.items()}

    settings = descent.Settings(rounds=1, length=iterations, tol=TOL, ftol=FTOL)
    return descent.run(objective, p, settings).result


def _product(x: Any, table: Array) -> Array:
    """x @ table.  A real x multiplies in its own precision, which is half the time for float32 rows."""
    if np.iscomplexobj(table) or x.dtype == real(table).dtype:
        return np.asarray(x @ table)
    return np.asarray(x @ table.astype(x.dtype)).astype(table.dtype)
