r"""Cross-entropy of logits against target ids, averaged over the targets that are not ignored.

Forward, n over the M kept rows, t_n the target, α the label smoothing, V the classes::

    lse_n = m_n + log Σ_j e^{z_nj - m_n}                        m_n = max_j z_nj
    loss  = 1/M Σ_n [(1 - α) (lse_n - z_{n,t_n}) + α (lse_n - mean_j z_nj)]

Backward, p = softmax(z), q = (1 - α) onehot(t) + α / V::

    dz_n = dloss / M (p_n - q_n)                                0 for an ignored row

With nothing kept the loss is 0 and so is the gradient.  Source: Szegedy et al., *Rethinking the Inception
Architecture*, arXiv:1512.00567, section 7 (label smoothing; α = 0 is the plain cross-entropy).  Cost: one exponential
a logit; e^{z - m} is kept in the dtype of the logits, and only numbers of one row each are in double precision.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.errors import ConfigError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops._rows import rows


class Cache(NamedTuple):
    e: Array  # (N, V) e^{z - m}
    total: Array  # (N, 1) Σ e, in the accumulator's dtype
    target: Array  # (N, 1) int64, 0 where ignored
    kept: Array  # (N, 1) bool
    n_kept: int  # M
    label_smoothing: float  # α
    shape: tuple[int, ...]  # of the logits


def forward(
    logits: Array, targets: Array, *, ignore_index: int = -100, label_smoothing: float = 0.0
) -> tuple[Array, Cache]:
    """logits (..., V), targets (...) ids in [0, V) or ``ignore_index`` -> loss, 0-d, in double precision.

    >>> import numpy as np
    >>> loss, _ = forward(np.log(np.array([[0.25, 0.75], [0.5, 0.5]])), np.array([1, -100]))
    >>> round(float(loss), 6)  # -log 0.75
    0.287682
    """
    xp = namespace(logits, targets)
    checks.floating("logits", logits)
    check_shape("targets", targets, tuple(logits.shape[:-1]))
    if not 0 <= label_smoothing <= 1:
        raise ConfigError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    z = rows(logits)
    n, v = z.shape
    target = xp.reshape(targets, (n, 1))
    kept = target != ignore_index
    target = xp.where(kept, target, xp.zeros_like(target))
    checks.index("targets", target, v)
    target = xp.astype(target, xp.int64, copy=False)

    wide = accumulator(logits)
    m = xp.max(real(z), axis=-1, keepdims=True)
    m = xp.where(m == -xp.inf, xp.zeros_like(m), m)
    e = xp.exp(z - m)  # (N, V)
    total = xp.sum(e, axis=-1, keepdims=True, dtype=wide)
    total = xp.where(kept, total, xp.ones_like(total))
    picked = xp.astype(xp.take_along_axis(z, target, axis=-1), wide)  # z_{n,t_n}
    m = xp.astype(m, wide)
    nll = xp.log(total) + (m - picked)  # lse - z_t
    if label_smoothing:
        mean = xp.sum(z, axis=-1, keepdims=True, dtype=wide) / v
        nll = (1 - label_smoothing) * nll + label_smoothing * (xp.log(total) + (m - mean))
    n_kept = int(xp.sum(xp.astype(kept, xp.int64)))
    loss = xp.sum(xp.where(kept, nll, xp.zeros_like(nll))) / max(n_kept, 1)
    return loss, Cache(e, total, target, kept, n_kept, label_smoothing, tuple(logits.shape))


def backward(dloss: Array | float, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dloss, 0-d -> dlogits (..., V) = dloss / M (p - q), in the dtype of the logits; no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.log(np.array([[0.25, 0.75], [0.5, 0.5]])), np.array([1, -100]))
    >>> backward(2.0, cache)[0]
    array([[ 0.5, -0.5],
           [ 0. ,  0. ]])
    """
    if not isinstance(dloss, (int, float, complex)):
        check_shape("dloss", dloss, ())
    e, total, target, kept, n_kept, label_smoothing, shape = cache
    xp = namespace(e)
    n, v = e.shape
    each = dloss / max(n_kept, 1)
    share = e  # (p - α / V) Σ e
    if label_smoothing:
        share = e - xp.astype(total * (label_smoothing / v), e.dtype, copy=False)
    at_target = xp.take_along_axis(share, target, axis=-1) - (1 - label_smoothing) * total  # 1 - p to full precision
    hit = xp.arange(v, device=device(e))[None, :] == target
    dz = xp.where(hit, xp.astype(at_target, e.dtype, copy=False), share)  # (p - q) Σ e
    dz = dz * xp.astype(each / total, e.dtype, copy=False)
    if n_kept < n:
        dz = xp.where(kept, dz, xp.zeros_like(dz))  # also where an ignored row holds NaN
    return xp.reshape(dz, shape), {}
