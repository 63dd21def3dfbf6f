r"""The last third of a router: the scores of the chosen experts become combine weights.

Forward, v = s[idx] (T, K)::

    norm "none":  g = scale v
    norm "l1":    g = scale v / n,    n = Σ_j v_j + ε        (n = 0: g = 0)
    a dropped choice has g = 0; it counts in Σ where ``counted`` says so (renormalised before the drop, or after it)

Backward, dg of a dropped choice is 0 (but its v still gets a share through n when it was counted)::

    norm "none":  dv = scale dg
    norm "l1":    dv = scale (dg - ⟨dg, g/scale⟩) / n
    ds[idx] = dv, 0 elsewhere

idx is a decision: no gradient.  ε is part of the formula: it lets a gradient of order ε/Σv reach the logits that a
pure ratio would not move.  With k = 1, ε = 0 the weight is 1 and its gradient exactly 0: such a router does not learn
from the output.  Sources: arXiv:2401.04088 (renormalised), arXiv:2101.03961 (not), arXiv:2412.19437 eq. 13 (scale).
Cost: O(T K) each way, and T E zeros for ds; no score is kept, only g and the T normalisers.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import namespace, real
from pymoe.backend.namespace import Array


class Cache(NamedTuple):
    idx: Array  # (T, K) the decision
    kept: Array | None  # (T, K) the decision
    counted: Array | None  # (T, K) which choices count in Σ
    g: Array  # (T, K) normalised, before scale and drop
    n: Array | None  # (T, 1) the normaliser; None: norm "none"
    experts: int
    scale: float


def forward(
    s: Array,
    idx: Array,
    kept: Array | None = None,
    *,
    norm: str = "none",
    eps: float = 0.0,
    scale: float = 1.0,
    counted: Array | None = None,
) -> tuple[Array, Cache]:
    """g (T, K) from s (T, E), idx (T, K), kept (T, K) bool or None; counted: the choices in Σ, None all of them.

    >>> import numpy as np
    >>> forward(np.array([[0.5, 0.2, 0.3]]), np.array([[0, 2]]), norm="l1")[0]
    array([[0.625, 0.375]])
    """
    xp = namespace(s, idx)
    v = xp.take_along_axis(s, idx, axis=1)
    if counted is not None:
        v = xp.where(counted, v, xp.zeros_like(v))
    n = None
    if norm == "l1":
        n = xp.sum(v, axis=1, keepdims=True) + eps
        n = xp.where(real(n) == 0, xp.full_like(n, xp.inf), n)  # nothing to share out: g = 0 / inf = 0
        v = v / n
    g = scale * v
    if kept is not None:
        g = xp.where(kept, g, xp.zeros_like(g))
    return g, Cache(idx, kept, counted, v, n, int(s.shape[1]), scale)


def backward(dg: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """ds (T, E); no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[0.5, 0.25, 0.25]]), np.array([[0, 2]]))
    >>> backward(np.array([[1.0, 3.0]]), cache)[0]
    array([[1., 0., 3.]])
    """
    idx, kept, counted, g, n, experts, scale = cache
    xp = namespace(dg, idx)
    if kept is not None:
        dg = xp.where(kept, dg, xp.zeros_like(dg))
    dv = scale * dg
    if n is not None:
        dv = (dv - xp.sum(dv * g, axis=1, keepdims=True)) / n
    if counted is not None:
        dv = xp.where(counted, dv, xp.zeros_like(dv))
    return kernels.of(dv).expand(dv, idx, experts), {}
