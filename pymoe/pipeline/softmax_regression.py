r"""The sub-model: multinomial logistic regression on dense or scipy.sparse rows, its loss and gradients by hand.

Forward, rows n with weight s_n >= 0 (None: 1), S = Σ s_n, A and a where the parameters are pulled to (None: 0)::

    z    = x Wᵀ + b                                          (N, C)
    loss = 1/S Σ_n s_n (lse_n - z_{n,t_n}) + λ/2 (‖W - A‖² + ‖b - a‖²)

Backward, p = softmax(z)::

    dz_n = dloss s_n / S (p_n - onehot(t_n))
    dW   = dzᵀ x + dloss λ (W - A)
    db   = Σ_n dz_n + dloss λ (b - a)
    dx   = dz W                                              None for a sparse x: data have no gradient

The bias is pulled as well: a class that no row has would else get a bias of -∞, and a sub-model that never saw a class
must still give it a probability.  Strictly convex for λ > 0, so there is one best (W, b).  Source: textbook (Bishop,
*Pattern Recognition and Machine Learning*, 2006, section 4.3.4).  Cost: 2 nnz C multiply-adds and N C exponentials.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from pymoe.backend import namespace, real
from pymoe.backend.errors import ConfigError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops import log_softmax


class Cache(NamedTuple):
    x: Any  # (N, D), dense or CSR
    weight: Array  # W (C, D)
    bias: Array  # b (C,)
    log_p: Array  # (N, C)
    targets: Array  # (N,)
    share: Array  # (N,) s_n / S
    l2: float  # λ
    anchor: tuple[Array, Array] | None  # A (C, D), a (C,)


def logits(x: Any, weight: Array, bias: Array) -> Array:
    """z = x Wᵀ + b (N, C) of x (N, D), dense or CSR.

    >>> logits(scipy.sparse.csr_array([[0.0, 2.0]]), np.array([[1.0, 3.0], [5.0, -1.0]]), np.array([0.5, 0.0]))
    array([[ 6.5, -2. ]])
    """
    check_shape("weight", weight, (None, int(x.shape[-1])))
    check_shape("bias", bias, (int(weight.shape[0]),))
    return np.asarray(x @ weight.T) + bias


def log_p(x: Any, weight: Array, bias: Array) -> Array:
    """log p(c | x) = log softmax(z) (N, C)."""
    return log_softmax.forward(logits(x, weight, bias))[0]


def forward(
    x: Any,
    weight: Array,
    bias: Array,
    targets: Array,
    *,
    row_weight: Array | None = None,
    l2: float = 0.0,
    anchor: tuple[Array, Array] | None = None,
) -> tuple[Array, Cache]:
    """x (N, D), weight (C, D), bias (C,), targets (N,) in [0, C), row_weight (N,) -> loss, 0-d.

    >>> loss, _ = forward(np.array([[1.0]]), np.log(np.array([[3.0], [1.0]])), np.zeros(2), np.array([0]))
    >>> round(float(np.exp(-loss)), 12)
    0.75
    """
    z = logits(x, weight, bias)
    check_shape("targets", targets, (int(x.shape[0]),))
    checks.index("targets", targets, int(weight.shape[0]))
    xp = namespace(weight, bias)
    share = xp.ones(int(x.shape[0]), dtype=xp.float64) if row_weight is None else row_weight
    check_shape("row_weight", share, (int(x.shape[0]),))
    total = float(xp.sum(share))
    if not total > 0 or not bool(xp.all(share >= 0)):
        raise ConfigError(f"row_weight must hold numbers >= 0, and one above 0 at least; their sum is {total}")
    log_p = log_softmax.forward(z)[0]
    share = xp.astype(share / total, real(log_p).dtype, copy=False)
    said = xp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
    loss = -xp.sum(share * said)
    if l2:
        w, b = _pulled(weight, bias, anchor)
        loss = loss + l2 / 2 * (xp.sum(w * w) + xp.sum(b * b))
    return loss, Cache(x, weight, bias, log_p, targets, share, l2, anchor)


def backward(dloss: Any, cache: Cache) -> tuple[Any, dict[str, Array]]:
    """dloss, 0-d -> dx (N, D), or None for a sparse x, and {"weight": (C, D), "bias": (C,)}.

    >>> _, cache = forward(np.array([[1.0]]), np.log(np.array([[3.0], [1.0]])), np.zeros(2), np.array([0]))
    >>> backward(1.0, cache)[1]["weight"].round(12).tolist()
    [[-0.25], [0.25]]
    """
    x, weight, bias, log_p, targets, share, l2, anchor = cache
    xp = namespace(log_p)
    hit = xp.arange(int(weight.shape[0]))[None, :] == targets[:, None]
    dz = (xp.exp(log_p) - xp.astype(hit, log_p.dtype)) * (dloss * share)[:, None]  # s/S (p - onehot)
    sparse = scipy.sparse.issparse(x)
    dw, db = np.asarray(x.T @ dz).T, xp.sum(dz, axis=0)
    if l2:
        w, b = _pulled(weight, bias, anchor)
        dw, db = dw + dloss * l2 * w, db + dloss * l2 * b
    return None if sparse else dz @ weight, {"weight": dw, "bias": db}


def _pulled(weight: Array, bias: Array, anchor: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """W - A, b - a, in the precision of the parameters."""
    if anchor is None:
        return weight, bias
    xp = namespace(weight)
    dtype = real(weight).dtype
    return weight - xp.astype(anchor[0], dtype, copy=False), bias - xp.astype(anchor[1], dtype, copy=False)
