r"""The losses of a router that its settings ask for, computed by name and sent back to what they are functions of.

    name             of                                    its cotangent goes to
    balance          scores s, or softmax(c); f a count    s, or c
    balance_second   the same of s without the first       s, or c
                     choice; f of the second choices
    z                clean logits c                        c
    importance       weights g, or clean scores of c       g, or c
    load             c, noisy logits h, σ                  c, h, σ       (without noise: the count, a constant)
    entropy          logits h                              h
    l1               scores s                              s

Formulas and sources: ``pymoe.moe.losses``.  Without scores over all experts (``score_at="chosen"``) they are computed
here, by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe import kernels
from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.namespace import Array
from pymoe.moe.decide import Choice, count
from pymoe.moe.given import Given
from pymoe.moe.losses import balance, cv_squared, entropy, importance, l1, load, z
from pymoe.moe.router_config import RouterConfig
from pymoe.ops import softmax


class Scored(NamedTuple):
    """What the losses are functions of."""

    c: Array  # (T, n_ids) clean logits
    h: Array  # (T, n_ids) noisy ones
    sigma: Array | None  # (T, n_ids)
    s: Array | None  # (T, n_ids) scores of h; None: scored after the choice
    rule: Any  # module of the score
    g: Array  # (T, K) weights
    kept: Array | None  # (T, K)


class Sent(NamedTuple):
    """What the losses add to the gradients; None: nothing."""

    g: Array | None = None
    s: Array | None = None
    h: Array | None = None
    c: Array | None = None
    sigma: Array | None = None


def forward(
    x: Scored, choice: Choice, cfg: RouterConfig, mask: Array | None, given: Given
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The losses by name, and the cache of each: (cache, where its gradient goes, cache of scores made here)."""
    found: dict[str, Array] = {}
    caches: dict[str, Any] = {}
    cv: dict[str, Any] = {"ddof": cfg.cv_ddof, "eps": cfg.cv_eps}
    for name in cfg.losses:
        own: Any
        to, scored = "s", None
        if name in ("balance", "balance_second"):
            if cfg.balance_of == "softmax":
                s, scored = softmax.forward(x.c)
                to = "c"
            else:
                s, to, scored = _scores(x)
            second = name == "balance_second"
            ids = _ids(s, choice, cfg)
            f = fractions(ids, choice, cfg, mask, given, second=second)
            first = _first(s, ids, cfg) if second else None
            factor = {"switch": None, "fairscale": 1 / cfg.n_ids, "mixtral": float(cfg.k * cfg.n_ids)}
            how: dict[str, Any] = {"normalise": cfg.balance_normalise, "factor": factor[cfg.balance_factor]}
            found[name], loss_cache = balance.forward(_without(s, first), f, mask, **how)
            own = loss_cache, first
        elif name == "z":
            (found[name], own), to = z.forward(x.c, mask), "c"
        elif name == "entropy":
            (found[name], own), to = entropy.forward(x.h, mask), "h"
        elif name == "l1":
            s, to, scored = _scores(x)
            found[name], own = l1.forward(s, cfg.k, mask)
        elif name == "importance" and cfg.importance_of == "weights":
            found[name], own = importance.forward(x.g, choice.idx, cfg.n_ids, x.kept, distinct=choice.distinct, **cv)
            to = "g"
        elif name == "importance":
            s, scored = x.rule.forward(x.c)
            found[name], own = importance.of_scores(s, mask, **cv)
            to = "c"
        elif x.sigma is not None:
            single = cfg.noise == "gaussian"
            found[name], own = load.forward(x.c, x.h, x.sigma, cfg.k, mask, single=single, **cv)
            to = "load"
        else:  # without noise the load is the count, a constant
            found[name], _ = cv_squared.forward(namespace(x.h).astype(choice.load, accumulator(x.h)), **cv)
            own = None
        caches[name] = None if own is None else (own, to, scored)
    return found, caches


def _scores(x: Scored) -> tuple[Array, str, Any]:
    """The scores of the noisy logits, where their gradient goes, and their cache if they are made here."""
    if x.s is not None:
        return x.s, "s", None
    s, cache = x.rule.forward(x.h)
    return s, "h", cache


def backward(dlosses: Mapping[str, Any], caches: Mapping[str, Any], cfg: RouterConfig, rule: Any, like: Array) -> Sent:
    """What the cotangents of the losses, by name, send to g, s, h, c and σ."""
    xp = namespace(like)
    sent: dict[str, Array] = {}

    def add(to: str, d: Array) -> None:
        sent[to] = sent[to] + d if to in sent else d

    for name, kept in caches.items():
        if kept is None or name not in dlosses:
            continue
        own, to, scored = kept
        d = xp.asarray(dlosses[name], device=device(like))
        if to == "load":
            dc, other = load.backward(d, own)
            add("c", dc)
            add("h", other["h"])
            add("sigma", other["sigma"])
            continue
        if name == "importance":
            dv, _ = importance.backward(d, own) if to == "g" else importance.of_scores_backward(d, own)
        elif name in ("balance", "balance_second"):
            loss_cache, first = own
            dv = _without(balance.backward(d, loss_cache)[0], first)
        else:
            module = {"z": z, "entropy": entropy, "l1": l1}[name]
            dv, _ = module.backward(d, own)
        if scored is not None:
            softened = cfg.balance_of == "softmax" and name in ("balance", "balance_second")
            dv, _ = (softmax if softened else rule).backward(dv, scored)
        add(to, dv)
    return Sent(**sent)


def fractions(
    ids: Array, choice: Choice, cfg: RouterConfig, mask: Array | None, given: Given, second: bool = False
) -> Array:
    """f (B, n_ids) of the balance loss from whom it counts, ids (T, K): a constant.

    With a selection bias it counts what the scores alone would choose: the loss balances the scores, and a bias that
    has already balanced the choice must not hide that they are not (arXiv:2412.19437, eq. 18: of all experts, whatever
    groups the choice is limited to).  The same where the loss is of a softmax that does not route.
    """
    xp = namespace(ids)
    n, b = cfg.n_ids, given.sequences if cfg.balance_over == "sequence" else 1
    idx, alive = ids, choice.kept if ids is choice.idx else None
    if second or cfg.balance_choices == "first":
        idx = idx[:, 1:2] if second else idx[:, :1]
        alive = None
    if mask is not None:
        real_token = xp.broadcast_to(mask[:, None], idx.shape)
        alive = real_token if alive is None else alive & real_token
    if b > 1:
        size = max(int(idx.shape[0]) // b, 1)
        idx = idx + n * (xp.arange(idx.shape[0], dtype=xp.int64, device=device(idx)) // size)[:, None]
    counts = xp.astype(xp.reshape(count(idx, alive, n * b), (b, n)), xp.float64)
    if given.counts is not None and b == 1:
        counts = counts + xp.astype(given.counts, xp.float64)
    if given.reduce is not None and b == 1:
        counts = given.reduce(counts[0, :])[None, :]
    if cfg.null_balance == "mean" and cfg.null_experts:
        null = counts[:, cfg.n_experts :]
        mean = xp.mean(null, axis=1, keepdims=True)
        counts = xp.concat([counts[:, : cfg.n_experts], xp.broadcast_to(mean, null.shape)], axis=1)
    total = xp.sum(counts, axis=1, keepdims=True)
    return counts / xp.where(total > 0, total, xp.ones_like(total))


def _ids(s: Array, choice: Choice, cfg: RouterConfig) -> Array:
    """Whom the balance losses count: the chosen, or the best by the scores alone."""
    if cfg.selection_bias or cfg.balance_of == "softmax":
        return kernels.of(s).topk(real(s), min(cfg.k, cfg.n_ids))
    return choice.idx


def _first(s: Array, ids: Array, cfg: RouterConfig) -> Array:
    """(T, n_ids) bool: the first choice of each token, a decision."""
    one = namespace(s).ones((s.shape[0], 1), dtype=real(s).dtype, device=device(s))
    return kernels.of(one).expand(one, ids[:, :1], cfg.n_ids) > 0


def _without(s: Array, first: Array | None) -> Array:
    """s, 0 at the first choice."""
    xp = namespace(s)
    return s if first is None else xp.where(first, xp.zeros_like(s), s)
