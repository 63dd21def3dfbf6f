r"""Every decision of a router, from the real parts only: who is chosen, which choices are dropped.  No gradient, ever.

    1. choose   idx = select(s or h, + selection bias), or by Gumbel noise, a table, the caller; padding goes nowhere
    2. drop     small choices (skip), the second choice by its policy, what finds no place (capacity)

Between the two the chosen are scored, since the second and third drop by their weights.  ``counted`` says which choices
the normalisation sums over; None: all, whether they are kept or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import device, namespace, real
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.backend.namespace import Array
from pymoe.moe import capacity, select, weigh
from pymoe.moe.draws import Draws
from pymoe.moe.given import Given
from pymoe.moe.router_config import RouterConfig

NO_DRAWS, NOTHING = Draws(), Given()


class Choice(NamedTuple):
    idx: Array  # (T, K)
    kept: Array | None  # (T, K) by the selection and the padding
    counted: Array | None  # (T, K) by the selection and the null experts
    load: Array  # (n_ids,) choices of real tokens before any drop
    distinct: bool  # no token chose one expert twice


def finite(h: Array, cfg: RouterConfig) -> None:
    """NaN and +inf have no rank; -inf is a masked expert, and k others must be left."""
    if cfg.nonfinite == "propagate" or not h.size:
        return
    xp, values = namespace(h), real(h)
    kernels.checks.no_nan("the router's logit", values)
    flat = int(xp.argmax(values))
    token, expert = divmod(flat, cfg.n_ids)
    if float(values[token, expert]) == float("inf"):
        raise NonFiniteError(
            f"the router's logit is +inf at (token {token}, expert {expert}): no softmax exists; "
            "scale the input or the weights down"
        )
    if cfg.select in ("expert_choice", "table", "given", "top_p") or float(xp.min(values)) != -float("inf"):
        return
    left = xp.sum(xp.astype(values > -xp.inf, xp.int64), axis=1)
    if int(xp.min(left)) < cfg.k:
        token = int(xp.argmin(left))
        raise NonFiniteError(
            f"token {token} has {int(left[token])} experts that no logit of -inf masks, fewer than k={cfg.k}"
        )


def choose(
    h: Array,
    s: Array | None,
    p: Mapping[str, Array],
    cfg: RouterConfig,
    mask: Array | None = None,
    draws: Draws = NO_DRAWS,
    given: Given = NOTHING,
) -> Choice:
    """Choice from the logits h and the scores s, both (T, n_ids); s None: not scored yet.

    >>> import numpy as np
    >>> h = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    >>> choose(h, h, {}, RouterConfig(n_experts=3, k=2))
    Choice(idx=array([[0, 1],
           [2, 1]]), kept=None, counted=None, load=array([1, 2, 1]), distinct=True)
    """
    xp = namespace(h)
    preference = real(h) if s is None or cfg.select_on == "logits" else real(s)
    if cfg.selection_bias:
        if bool(xp.any(xp.isnan(real(p["selection_bias"])))):
            raise NonFiniteError(
                "router.selection_bias holds NaN: no expert can be ranked; find the update that made it"
            )
        preference = preference + real(p["selection_bias"])
    rule = select.get(cfg.select)
    distinct, kept = True, None
    if draws.gumbel is not None:
        idx = _sampled(real(h), preference, draws.gumbel, cfg)
    elif cfg.select == "table":
        idx, kept = rule.select(preference, cfg, mask, table=p.get("table"), token_ids=given.token_ids)
        distinct = False
    elif cfg.select == "given":
        idx, kept = rule.select(preference, cfg, mask, idx=given.idx)
        distinct = False
    else:
        idx, kept = rule.select(preference, cfg, mask)
    if not isinstance(cfg.select, str):  # a rule of the caller's: twice the same expert would lose a gradient
        ranked = xp.sort(idx, axis=1)
        if bool(xp.any(ranked[:, 1:] == ranked[:, :-1])):
            raise ConfigError("a select rule must choose distinct experts for each token; this one chose one twice")
    counted = kept if cfg.select == "top_p" else None
    if cfg.null_norm != "all":
        counted = both(counted, _summed(idx, cfg))
    if mask is not None:
        kept = both(kept, xp.broadcast_to(mask[:, None], idx.shape))
    return Choice(idx, kept, counted, count(idx, kept, cfg.n_ids), distinct)


def drop(
    v: Array,
    choice: Choice,
    cfg: RouterConfig,
    mask: Array | None = None,
    draws: Draws = NO_DRAWS,
    given: Given = NOTHING,
) -> tuple[Array | None, Array | None]:
    """kept, counted (T, K) of the scores v (T, K) of the chosen.

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=3, k=2, skip=0.5)
    >>> v = np.array([[0.6, 0.2], [0.5, 0.4]])
    >>> drop(v, choose(np.eye(3)[:2], None, {}, cfg), cfg)[0]
    array([[ True, False],
           [ True,  True]])
    """
    xp = namespace(v)
    v = real(v)
    idx, kept, counted, _, _ = choice
    if cfg.skip is not None:
        stays = _worth(v, cfg.skip)
        kept, counted = both(kept, stays), both(counted, stays)
    if cfg.second_policy == "none" or cfg.second_threshold is not None:
        survives = _second(v, counted, cfg, draws)
        if survives is not None:
            kept = both(kept, xp.stack([xp.ones_like(survives), survives], axis=1))
    if cfg.capacity is not None:
        priority = v if cfg.capacity.priority == "score" else _weight(v, counted, cfg)
        kept = capacity.assign(cfg.capacity, idx, priority, kept, cfg.n_ids, mask, draws.places, given.sequences)
        if cfg.capacity.renorm == "after":
            counted = both(counted, kept)
    return kept, counted


def both(a: Array | None, b: Array) -> Array:
    """a and b, where None is all True."""
    return b if a is None else a & b


def count(idx: Array, alive: Array | None, n: int) -> Array:
    """(n,) how often each id was chosen."""
    xp = namespace(idx)
    ids = xp.reshape(idx if alive is None else xp.where(alive, idx, xp.full_like(idx, -1)), (-1,))
    _, start = kernels.of(idx).counting_sort(ids, n)
    return start[1:] - start[:-1]


def _sampled(h: Array, preference: Array, gumbel: Array, cfg: RouterConfig) -> Array:
    """The k largest of h + gumbel: a draw without replacement from softmax(h); the first choice may be the best."""
    xp, kernel = namespace(h), kernels.of(h)
    noisy = h + gumbel
    if cfg.sample == "all":
        return kernel.topk(noisy, cfg.k)
    first = kernel.topk(preference, 1)
    taken = kernel.expand(xp.ones_like(noisy[:, :1]), first, cfg.n_ids) > 0
    later = kernel.topk(xp.where(taken, xp.full_like(noisy, -xp.inf), noisy), cfg.k - 1)
    return xp.concat([first, later], axis=1)


def _summed(idx: Array, cfg: RouterConfig) -> Array:
    """(T, K) bool: the choices that the norm sums over."""
    xp = namespace(idx)
    true = [True] * cfg.n_experts
    null = [cfg.null_norm == "nonzero" and kind not in ("zero", "skip") for kind in cfg.null_experts]
    table = xp.asarray(true + null, device=device(idx))
    return xp.reshape(xp.take(table, xp.reshape(idx, (-1,))), idx.shape)


def _worth(v: Array, skip: float) -> Array:
    """(T, K) bool: the first choice, and every later one that does not weigh less than skip times the first.

    Equality stays, so 0 keeps all of them (weights are not negative), and a row of NaN skips nothing.  The first is the
    one that ranks first: with a selection bias a later one can weigh more, and then stays whatever skip <= 1 is.
    """
    xp = namespace(v)
    later = xp.arange(int(v.shape[1]), device=device(v))[None, :] > 0
    return ~(later & (v < skip * v[:, :1]))


def _weight(v: Array, counted: Array | None, cfg: RouterConfig) -> Array:
    """The weights as they are before the drop, without any scale."""
    xp = namespace(v)
    ids = xp.broadcast_to(xp.arange(int(v.shape[1]), dtype=xp.int64, device=device(v))[None, :], v.shape)
    norm = "none" if cfg.norm == "joint" else cfg.norm
    return weigh.forward(v, ids, None, norm=norm, eps=cfg.eps, norm_p=cfg.norm_p, counted=counted)[0]


def _second(v: Array, counted: Array | None, cfg: RouterConfig, draws: Draws) -> Array | None:
    """(T,) bool: the second choice is kept; None: all are."""
    xp = namespace(v)
    if cfg.second_policy == "none":
        return xp.zeros((v.shape[0],), dtype=xp.bool, device=device(v))
    if cfg.second_threshold is None or (cfg.second_policy == "random" and draws.second is None):
        return None
    gate = (v if cfg.second_gate == "score" else _weight(v, counted, cfg))[:, 1]
    if cfg.second_policy == "threshold":
        return gate > cfg.second_threshold
    return draws.second < gate / cfg.second_threshold
