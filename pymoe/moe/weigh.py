r"""The last third of a router: the scores of the chosen experts become combine weights.

Forward, v = s[idx] (T, K); with a ``rule`` (scored after the choice) v = rule(z[idx]) of the chosen logits::

    norm "none":   u = v
    norm "l1":     u = v / n,    n = Σ_j v_j + ε          (n = 0: u = 0)
    norm "clamp":  u = v / n,    n = max(Σ_j v_j, ε)
    norm "lp":     u = v / n,    n = (Σ_j |v_j|^p)^(1/p)

    g = scale α β[idx] u           α the global, β the expert scale, both trained, any sign
    a dropped choice has g = 0; it counts in Σ where ``counted`` says so (renormalised before the drop, or after it)

Backward, dg of a dropped choice is 0 (but its v still gets a share through n when it was counted)::

    dα = Σ dg scale β[idx] u       dβ_e = Σ_{idx = e} dg scale α u       du = scale α β[idx] dg
    norm "none":   dv = du
    norm "l1":     dv = (du - ⟨du, u⟩) / n
    norm "clamp":  the same, but du / ε where Σ v < ε: n is then a constant
    norm "lp":     dv = (du - ⟨du, u⟩ sign(u) |u|^{p-1}) / n
    ds[idx] = dv (with a rule: dz[idx] = rule.backward(dv)), 0 elsewhere

idx is a decision: no gradient.  ε is part of the formula: it lets a gradient of order ε/Σv reach the logits that a
pure ratio would not move.  With k = 1, ε = 0 the weight is 1 and its gradient exactly 0: such a router does not learn
from the output.  Sources: arXiv:2401.04088 (renormalised), arXiv:2101.03961 (not), arXiv:2412.19437 eq. 13 (scale),
DBRX and MegaBlocks (Lp), Ernie 4.5 (clamp), Gemma 4 (expert scale), transformers ``models/inkling`` (global scale).
Cost: O(T K) each way, and T E zeros for ds; no score is kept, only u and the T normalisers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pymoe import kernels
from pymoe.backend import device, namespace, real
from pymoe.backend.namespace import Array


class Cache(NamedTuple):
    idx: Array  # (T, K) the decision
    kept: Array | None  # (T, K) the decision
    counted: Array | None  # (T, K) which choices count in Σ
    u: Array  # (T, K) normalised, before scales and drop
    n: Array | None  # (T, 1) the normaliser; None: norm "none"
    mixing: Array | None  # (T, K) what ⟨du, u⟩ is multiplied with; None: 1
    experts: int  # E
    scale: float
    alpha: Array | None  # (1,)
    beta: Array | None  # (E,)
    rule: Any  # module of the score after the choice
    rule_cache: Any
    distinct: bool  # no row of idx names an expert twice


def forward(
    s: Array,
    idx: Array,
    kept: Array | None = None,
    global_scale: Array | None = None,
    expert_scale: Array | None = None,
    *,
    norm: str = "none",
    eps: float = 0.0,
    norm_p: float = 2.0,
    scale: float = 1.0,
    counted: Array | None = None,
    rule: Any = None,
    distinct: bool = True,
) -> tuple[Array, Cache]:
    """g (T, K) from s (T, E), idx (T, K), kept (T, K) bool or None; counted: the choices in Σ, None all of them.

    With a ``rule`` s are logits.  ``distinct=False``: a row of idx may name an expert twice.

    >>> import numpy as np
    >>> forward(np.array([[0.5, 0.2, 0.3]]), np.array([[0, 2]]), norm="l1")[0]
    array([[0.625, 0.375]])
    >>> forward(np.array([[0.3, 0.2, 0.4]]), np.array([[2, 0]]), norm="lp")[0]
    array([[0.8, 0.6]])
    """
    xp = namespace(s, idx)
    v = xp.take_along_axis(s, idx, axis=1)
    rule_cache = None
    if rule is not None:
        v, rule_cache = rule.forward(v)
    if counted is not None:
        v = xp.where(counted, v, xp.zeros_like(v))
    u, n, mixing = _normalise(v, norm, eps, norm_p)
    g = scale * u
    if global_scale is not None:
        g = g * global_scale
    if expert_scale is not None:
        g = g * _of(expert_scale, idx)
    if kept is not None:
        g = xp.where(kept, g, xp.zeros_like(g))
    own = (global_scale, expert_scale, rule, rule_cache, distinct)
    return g, Cache(idx, kept, counted, u, n, mixing, int(s.shape[1]), scale, *own)


def _normalise(v: Array, norm: str, eps: float, p: float) -> tuple[Array, Array | None, Array | None]:
    """u, n, mixing."""
    xp = namespace(v)
    if norm == "none":
        return v, None, None
    mixing = None
    if norm == "lp":
        sign = xp.sign(real(v))
        size = v * sign  # |v|, written so that a complex step passes
        top = xp.max(real(size), axis=1, keepdims=True)  # so that no power underflows
        top = xp.where(top > 0, top, xp.ones_like(top))
        n = top * xp.sum((size / top) ** p, axis=1, keepdims=True) ** (1 / p)
    else:
        n = xp.sum(v, axis=1, keepdims=True)
        if norm == "l1":
            n = n + eps
        else:
            free = real(n) >= eps
            n = xp.where(free, n, xp.full_like(n, eps))
            mixing = xp.astype(free, v.dtype)
    n = xp.where(real(n) == 0, xp.full_like(n, xp.inf), n)  # nothing to share out: u = 0 / inf = 0
    u = v / n
    return u, n, sign * (u * sign) ** (p - 1) if norm == "lp" else mixing


def _of(expert_scale: Array, idx: Array) -> Array:
    xp = namespace(expert_scale, idx)
    return xp.reshape(xp.take(expert_scale, xp.reshape(idx, (-1,))), idx.shape)


def backward(dg: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """ds (T, E), and the gradients of the two trained scales where there are any.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[0.5, 0.25, 0.25]]), np.array([[0, 2]]))
    >>> backward(np.array([[1.0, 3.0]]), cache)[0]
    array([[1., 0., 3.]])
    """
    idx, kept, counted, u, n, mixing, experts, scale, alpha, beta, rule, rule_cache, distinct = cache
    xp = namespace(dg, idx)
    if kept is not None:
        dg = xp.where(kept, dg, xp.zeros_like(dg))
    du, dp = scale * dg, {}
    if alpha is not None:
        dp["global_scale"] = xp.reshape(xp.sum(du * u if beta is None else du * u * _of(beta, idx)), (1,))
        du = du * alpha
    if beta is not None:
        dp["expert_scale"] = xp.sum(_spread(du * u, idx, experts, distinct), axis=0)
        du = du * _of(beta, idx)
    dv = du
    if n is not None:
        mixed = xp.sum(du * u, axis=1, keepdims=True)
        dv = (du - (mixed if mixing is None else mixed * mixing)) / n
    if counted is not None:
        dv = xp.where(counted, dv, xp.zeros_like(dv))
    if rule is not None:
        dv, _ = rule.backward(dv, rule_cache)
    return _spread(dv, idx, experts, distinct), dp


def _spread(dv: Array, idx: Array, experts: int, distinct: bool) -> Array:
    """(T, E): dv at the places idx; where an expert is named twice, the sum."""
    kernel = kernels.of(dv)
    if distinct:
        return kernel.expand(dv, idx, experts)
    xp = namespace(dv)
    total = xp.zeros((dv.shape[0], experts), dtype=dv.dtype, device=device(dv))
    for j in range(int(idx.shape[1])):
        total = total + kernel.expand(dv[:, j : j + 1], idx[:, j : j + 1], experts)
    return total
