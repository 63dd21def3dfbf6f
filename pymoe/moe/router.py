r"""A router: score -> select -> weigh, with noise before, capacity between, and the losses beside.

Forward, x (T, D)::

    c, h = logits(x)                       clean and noisy logits
    s    = score(h)
    idx  = select(s + selection bias)      who; small choices skipped, second ones drawn, padding and capacity dropped
    g    = weigh(s[idx])
    losses: balance(s), z(c), importance(g), load(c, h, σ), ...

Backward, bottom to top: dg and the losses give ds, ds gives dh, dh gives dc and dσ, dc gives dx and the parameters.

Each part has its formulas in its own module: ``logits``, ``score``, ``decide`` (no gradient), ``weigh``, ``auxiliary``.
Cost: T D E multiply-adds forward and twice that backward (twice both with learned noise), besides O(T E) to score,
select and weigh; kept: x, the T E scores and logits, and the T K choices.  Sources: arXiv:1701.06538, eq. 2-5, and
those of the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe.backend import device, namespace
from pymoe.backend.namespace import Array
from pymoe.moe import auxiliary, decide, joint, logits, score, weigh
from pymoe.moe import draws as draws_
from pymoe.moe.draws import Draws
from pymoe.moe.given import Given
from pymoe.moe.router_config import RouterConfig


class Routing(NamedTuple):
    """What was decided: values that backward, the plan and the user read."""

    idx: Array  # (T, K) int64 chosen experts, best first (expert choice: K = E, 0..E-1); E and more: null experts
    weight: Array  # (T, K) combine weights; 0 where dropped
    kept: Array | None  # (T, K) bool; None: all kept
    load: Array  # (n_ids,) int64 choices of real tokens before any drop
    logits: Array | None = None  # (T, n_ids) clean logits
    shared_weight: Array | None = None  # (T, n_shared) of norm "joint"; 0 for padding


class Cache(NamedTuple):
    p: Mapping[str, Array]
    cfg: RouterConfig
    logits: logits.Cache
    score: Any  # module of the score rule
    s: Any  # cache of the scores over all; None: scored after the choice
    weigh: weigh.Cache
    losses: dict[str, Any]  # cache of each loss; None: a constant, no gradient


def forward(
    x: Array,
    p: Mapping[str, Array],
    cfg: RouterConfig,
    mask: Array | None = None,
    draws: Draws | None = None,
    given: Given | None = None,
) -> tuple[tuple[Routing, dict[str, Array]], Cache]:
    """((routing, losses), cache) of x (T, D); mask (T,) True for real tokens.

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=3, k=2, norm="l1", losses=("balance",))
    >>> p = {"weight": np.log(np.array([[4.0], [2.0], [1.0]]))}
    >>> (routing, losses), cache = forward(np.array([[1.0], [-1.0]]), p, cfg)
    >>> routing.idx
    array([[0, 1],
           [2, 1]])
    >>> routing.weight.round(4), routing.load, float(losses["balance"].round(4))
    (array([[0.6667, 0.3333],
           [0.6667, 0.3333]]), array([1, 2, 1]), 0.9643)
    """
    xp = namespace(x, p["weight"])
    given = given or Given()
    given = given._replace(sequences=max(given.sequences, 1))  # no sequence is one of no token
    draws = draws_.checked(draws, x, cfg)
    z, z_cache = logits.forward(x, p, cfg, draws, given.logits)
    decide.finite(z.h, cfg)
    rule = score.get(cfg.score)
    s, s_cache = (None, None) if cfg.score_at == "chosen" else rule.forward(z.h)
    choice = decide.choose(z.h, s, p, cfg, mask, draws, given)
    idx, after = choice.idx, None
    if s is None:
        after = rule
        v = rule.forward(xp.take_along_axis(z.h, idx, axis=1))[0]
    else:
        v = xp.take_along_axis(s, idx, axis=1)
    kept, counted = decide.drop(v, choice, cfg, mask, draws, given)
    source, all_idx, all_kept = (z.h if s is None else s), idx, kept
    if cfg.norm == "joint":
        after, source = joint, z.c
        all_idx, all_kept = _with_shared(idx, kept, cfg, mask)
    g, g_cache = weigh.forward(
        source, all_idx, all_kept, p.get("global_scale"), p.get("expert_scale"), norm=_norm(cfg), eps=cfg.eps,
        norm_p=cfg.norm_p, scale=cfg.scale if cfg.scale_at == "weights" else 1.0, counted=counted, rule=after,
        distinct=choice.distinct,
    )  # fmt: skip
    shared_weight = None
    if cfg.norm == "joint":
        k = int(idx.shape[1])
        g, shared_weight = g[:, :k], g[:, k:]
    clean = z.c[:, : cfg.n_ids] if cfg.n_shared_logits else z.c
    scored = auxiliary.Scored(clean, z.h, z.sigma, s, rule, g, kept)
    losses, caches = auxiliary.forward(scored, choice, cfg, mask, given)
    routing = Routing(idx, g, kept, choice.load, clean, shared_weight)
    return (routing, losses), Cache(p, cfg, z_cache, rule, s_cache, g_cache, caches)


def backward(
    dg: Array,
    dlosses: Mapping[str, Any],
    cache: Cache,
    *,
    dlogits: Array | None = None,
    dshared: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """(dx, dp) from dg (T, K), the cotangents of the losses by name, those of the logits and of the shared weights.

    Where forward was given the logits of the layer before, dp has their gradient too, as "previous".

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=3, k=2, norm="l1", losses=("balance",))
    >>> p = {"weight": np.log(np.array([[4.0], [2.0], [1.0]]))}
    >>> _, cache = forward(np.array([[1.0], [-1.0]]), p, cfg)
    >>> dx, dp = backward(np.array([[1.0, 0.0], [0.0, 0.0]]), {"balance": 0.01}, cache)
    >>> dx.shape, dp["weight"].round(4).tolist()  # g₀ (1 - g₀) = 2/9, and a little from the loss
    ((2, 1), [[0.2218], [-0.2222], [0.0005]])
    """
    p, cfg, z_cache, rule, s_cache, g_cache, loss_caches = cache
    xp = namespace(dg)
    sent = auxiliary.backward(dlosses, loss_caches, cfg, rule, dg)
    dg = _sum(dg, sent.g)
    if cfg.norm == "joint":
        n = cfg.n_shared_logits
        none = xp.zeros((dg.shape[0], n), dtype=dg.dtype, device=device(dg))
        dg = xp.concat([dg, none if dshared is None else dshared], axis=1)
    dv, dp = weigh.backward(dg, g_cache)  # of the scores; scored after the choice: of the logits
    dc, dh = None, sent.h
    if cfg.norm == "joint":
        dc = dv
        ds = sent.s
    elif s_cache is None:
        dh, ds = _sum(dv, dh), None
    else:
        ds = _sum(dv, sent.s)
    if ds is not None:
        dh = _sum(rule.backward(ds, s_cache)[0], dh)
    if dh is None:
        dh = xp.zeros((dg.shape[0], cfg.n_ids), dtype=dg.dtype, device=device(dg))
    dclean = sent.c if dlogits is None else _sum(dlogits, sent.c)
    if dclean is not None:
        dc = dclean if dc is None else dc + _wide(dclean, cfg)
    dx, d = logits.backward(dh, z_cache, dc, sent.sigma)
    dp = {**d, **dp}
    for name, value in p.items():  # a parameter that only decides, or that this pass did not use
        if name not in dp:
            dp[name] = xp.zeros_like(value)
    return dx, {name: dp[name] for name in ("previous", *p) if name in dp}


def _norm(cfg: RouterConfig) -> str:
    return "none" if cfg.norm == "joint" else cfg.norm  # the rule after the choice is the norm


def _sum(a: Array, b: Array | None) -> Array:
    return a if b is None else a + b


def _wide(d: Array, cfg: RouterConfig) -> Array:
    """(T, n_ids) -> (T, n_logits), zeros for the shared."""
    xp = namespace(d)
    return xp.concat([d, xp.zeros((d.shape[0], cfg.n_shared_logits), dtype=d.dtype, device=device(d))], axis=1)


def _with_shared(idx: Array, kept: Array | None, cfg: RouterConfig, mask: Array | None) -> tuple[Array, Array | None]:
    """The chosen ids, then those of the shared experts' logits, which every real token takes."""
    xp, n = namespace(idx), cfg.n_shared_logits
    ids = cfg.n_ids + xp.arange(n, dtype=xp.int64, device=device(idx))
    idx = xp.concat([idx, xp.broadcast_to(ids[None, :], (idx.shape[0], n))], axis=1)
    if kept is None:
        return idx, None
    every = xp.ones((kept.shape[0], n), dtype=xp.bool, device=device(idx))
    if mask is not None:
        every = every & mask[:, None]
    return idx, xp.concat([kept, every], axis=1)
