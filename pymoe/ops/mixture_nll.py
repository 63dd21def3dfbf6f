r"""Negative log-likelihood of a mixture of models, averaged over the targets that are not ignored.

The *probabilities* are mixed, not the logits: a model that is sure and right is not outvoted by one that knows nothing.

Forward, over models i, rows n of which N are kept, p_i = softmax(z_i), y the target::

    L_n  = log Σ_i λ_i p_i(y_n)          as log Σ_i λ_i e^{l_i - s} + s, l_i = log p_i(y_n), s = max of l_i, λ_i > 0
    loss = -1/N Σ_n L_n

Backward, r_i = λ_i p_i(y) / Σ_j λ_j p_j(y) the responsibility of model i for the target::

    dz_i = dloss / N r_i (p_i - onehot(y))       a model learns in the measure of its share in what was said
    dλ_i = -dloss / N p_i(y) / Σ_j λ_j p_j(y)    of λ (M,) summed over the rows; also where λ_i = 0

0 for an ignored row; with nothing kept the loss is 0.  λ is taken as it is: whoever wants Σ λ = 1 makes λ by a softmax.
A target that no model with weight can say costs inf, and has gradient 0.  Source: Li et al., *Branch-Train-Merge*,
arXiv:2208.03306, eq. 1-2, and Gururangan et al., *c-BTM*, arXiv:2303.14177, eq. 4 (mixture of next-token
probabilities); the gradient by responsibilities, Jacobs et al., Neural Computation 3, 1991.  Cost: one exponential a
logit; e^{z - m} is kept in the dtype of the logits, numbers of one row and model each are in double precision.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.errors import ConfigError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks

HUGE = 700.0  # e^700 is finite in double precision: the cap of a model without weight


class Cache(NamedTuple):
    e: Array  # (M, N, V) e^{z - m}
    total: Array  # (M, N, 1) Σ e, in the accumulator's dtype
    target: Array  # (N,) int64, 0 where ignored
    kept: Array  # (N,) bool
    share: Array  # (M, N) p_i(y) / Σ λ_j p_j(y)
    weight: Array  # (M,) or (M, ...)
    n_kept: int  # N
    shape: tuple[int, ...]  # of the logits


def forward(logits: Array, weight: Array, targets: Array, *, ignore_index: int = -100) -> tuple[Array, Cache]:
    """logits (M, ..., V), weight (M,) or (M, ...), targets (...) ids in [0, V) or ``ignore_index`` -> loss, 0-d double.

    A weight below 0, or a kept row whose weights are all 0, is a ConfigError.

    >>> import numpy as np
    >>> z = np.log(np.array([[[0.9, 0.1]], [[0.8, 0.2]]]))
    >>> loss, _ = forward(z, np.array([0.6, 0.4]), np.array([0]))
    >>> round(float(np.exp(-loss)), 12)  # 0.6 · 0.9 + 0.4 · 0.8
    0.86
    """
    xp = namespace(logits, weight, targets)
    checks.floating("logits", logits)
    checks.floating("weight", weight)
    if logits.ndim < 2 or logits.shape[0] == 0 or logits.shape[-1] == 0:
        raise ShapeError(f"logits must have shape (M, ..., V), at least one model and class, got {tuple(logits.shape)}")
    check_shape("targets", targets, tuple(logits.shape[1:-1]))
    check_shape("weight", weight, tuple(logits.shape[:1] if weight.ndim == 1 else logits.shape[:-1]))
    models, v = int(logits.shape[0]), int(logits.shape[-1])
    n = int(targets.size)
    z = xp.reshape(logits, (models, n, v))
    target = xp.reshape(targets, (n,))
    kept = target != ignore_index
    target = xp.where(kept, target, xp.zeros_like(target))
    checks.index("targets", target, v)
    target = xp.astype(target, xp.int64, copy=False)
    lam = _rows(weight, n)  # (M, N)
    alive = real(lam) > 0
    _check(real(lam), alive, kept)

    m = xp.max(real(z), axis=-1, keepdims=True)
    m = xp.where(m == -xp.inf, xp.zeros_like(m), m)
    e = xp.exp(z - m)  # (M, N, V)
    total = xp.sum(e, axis=-1, keepdims=True, dtype=accumulator(z))
    total = xp.where(real(total) != 0, total, xp.ones_like(total))  # 0: all its logits are -inf
    at = xp.broadcast_to(target[None, :, None], (models, n, 1))
    picked = xp.astype(xp.take_along_axis(z - m, at, axis=-1), total.dtype, copy=False)
    log_p = (picked - xp.log(total))[:, :, 0]  # l_i (M, N)
    log_p = xp.where(kept[None, :], log_p, xp.zeros_like(log_p))
    s = xp.max(xp.where(alive, real(log_p), xp.full_like(real(log_p), -xp.inf)), axis=0)  # (N,)
    s = xp.where(s == -xp.inf, xp.zeros_like(s), s)
    gap = log_p - s
    gap = xp.where(real(gap) > HUGE, xp.full_like(gap, HUGE), gap)  # only without weight: the others are <= 0
    u = xp.exp(gap)
    mixed = xp.sum(lam * u, axis=0)  # Σ λ_i e^{l_i - s}
    said = real(mixed) > 0
    mixed = xp.where(said, mixed, xp.ones_like(mixed))
    nll = -(xp.log(mixed) + s)
    nll = xp.where(said, nll, xp.full_like(nll, xp.inf))
    n_kept = int(xp.sum(xp.astype(kept, xp.int64)))
    loss = xp.sum(xp.where(kept, nll, xp.zeros_like(nll))) / max(n_kept, 1)
    share = xp.where(kept & said, u / mixed, xp.zeros_like(u))
    return loss, Cache(e, total, target, kept, share, weight, n_kept, tuple(logits.shape))


def backward(dloss: Array | float, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dloss, 0-d -> dlogits (M, ..., V) in their dtype, and {"weight": (M,) or (M, ...)}.

    >>> import numpy as np
    >>> z = np.log(np.array([[[0.9, 0.1]], [[0.8, 0.2]]]))
    >>> _, cache = forward(z, np.array([0.6, 0.4]), np.array([0]))
    >>> dz, d = backward(0.86, cache)
    >>> dz.round(6).tolist(), d["weight"].round(6).tolist()  # r = 0.54 / 0.86, 0.32 / 0.86
    ([[[-0.054, 0.054]], [[-0.064, 0.064]]], [-0.9, -0.8])
    """
    if not isinstance(dloss, (int, float, complex)):
        check_shape("dloss", dloss, ())
    e, total, target, kept, share, weight, n_kept, shape = cache
    xp = namespace(e)
    models, n, v = e.shape
    each = dloss / max(n_kept, 1)
    d_weight = -each * share  # (M, N)
    if weight.ndim == 1:
        d_weight = xp.sum(d_weight, axis=1)
    r = _rows(weight, n) * share  # responsibilities (M, N)
    at = xp.broadcast_to(target[None, :, None], (models, n, 1))
    at_target = xp.take_along_axis(e, at, axis=-1) - total  # (p - 1) Σ e to full precision
    hit = xp.arange(v, device=device(e))[None, None, :] == at
    dz = xp.where(hit, xp.astype(at_target, e.dtype, copy=False), e)  # (p - onehot) Σ e
    dz = dz * xp.astype((each * r)[:, :, None] / total, e.dtype, copy=False)
    if n_kept < n:
        dz = xp.where(kept[None, :, None], dz, xp.zeros_like(dz))  # also where an ignored row holds NaN
    d_weight = xp.astype(xp.reshape(d_weight, weight.shape), weight.dtype, copy=False)
    return xp.reshape(dz, shape), {"weight": d_weight}


def _rows(weight: Array, n: int) -> Array:
    """λ (M, N), or (M, 1) where every row has the same."""
    xp = namespace(weight)
    return xp.reshape(weight, (int(weight.shape[0]), 1 if weight.ndim == 1 else n))


def _check(lam: Array, alive: Array, kept: Array) -> None:
    """Weights of at least 0, and something above 0 in each row that counts."""
    xp = namespace(lam)
    if not bool(xp.all(lam >= 0)):
        raise ConfigError("weights of a mixture must be numbers of at least 0: make them e.g. by a softmax")
    empty = kept & ~xp.any(alive, axis=0)
    if bool(xp.any(empty)):
        row = int(xp.argmax(xp.astype(empty, xp.int64)))
        raise ConfigError(f"no model has weight in row {row}: give at least one of them more than 0")
