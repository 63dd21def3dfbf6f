r"""A router: score -> select -> weigh, with noise before, capacity between, and the losses beside.

Forward, x (T, D)::

    x' = x ⊙ jitter                        the router's own input
    c  = x' W_rᵀ (+ b)                     clean logits              h = c + ε ⊙ σ(x' W_nᵀ)    noisy logits
    s  = score(h)
    idx, kept = select(s + selection bias), small choices skipped, second ones drawn, padding and capacity dropped
    g  = weigh(s[idx])
    losses: balance(s), z(c), importance(g), load(c, h, σ)

Backward, bottom to top: dg and the losses give ds, ds gives dh, dh gives dc and dσ, dc gives dx and the parameters.

Cost: T D E multiply-adds forward and twice that backward (twice both with learned noise), besides O(T E) to score,
select and weigh; kept: x, the T E scores (for a z-loss the logits too) and the T K choices.  Sources:
arXiv:1701.06538, eq. 2-5, and those of the parts, each in its own module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe import kernels
from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.errors import ConfigError, NonFiniteError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe import capacity, noise, score, select, weigh
from pymoe.moe.draws import Draws
from pymoe.moe.losses import balance, cv_squared, importance, load, z
from pymoe.moe.router_config import RouterConfig
from pymoe.ops import linear


class Routing(NamedTuple):
    """What was decided: values that backward, the plan and the user read."""

    idx: Array  # (T, K) int64 chosen experts, best first (expert choice: K = E, 0..E-1)
    weight: Array  # (T, K) combine weights; 0 where dropped
    kept: Array | None  # (T, K) bool; None: all kept
    load: Array  # (E,) int64 choices of real tokens before any drop


class Cache(NamedTuple):
    p: Mapping[str, Array]
    jitter: Array | None  # (T, D)
    c: Any  # cache of the logits
    noise: tuple[Any, noise.Cache] | None  # caches of x W_nᵀ and of the noise
    score: Any  # module of the score rule
    s: Any  # cache of the scores
    weigh: weigh.Cache
    losses: dict[str, Any]  # cache of each loss; None: a constant, no gradient


def forward(
    x: Array, p: Mapping[str, Array], cfg: RouterConfig, mask: Array | None = None, draws: Draws | None = None
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
    draws = _drawn(draws, x, cfg)
    if draws.jitter is not None:
        x = x * draws.jitter
    c, c_cache = linear.forward(x, p["weight"], p.get("bias"))
    h, sigma, noise_cache = c, None, None
    if draws.noise is not None:
        a, a_cache = linear.forward(x, p["noise_weight"])
        h, own = noise.forward(c, a, draws.noise)
        sigma, noise_cache = own.sigma, (a_cache, own)
    _check_finite(h, cfg)
    rule = score.get(cfg.score)
    s, s_cache = rule.forward(h)
    idx, kept, counted, load_ = _decide(s, p, cfg, mask, draws)
    g, g_cache = weigh.forward(s, idx, kept, norm=cfg.norm, eps=cfg.eps, scale=cfg.scale, counted=counted)

    losses: dict[str, Array] = {}
    caches: dict[str, Any] = {}
    for name in cfg.losses:
        if name == "balance":
            losses[name], caches[name] = balance.forward(s, _fractions(s, idx, cfg, mask, load_), mask)
        elif name == "z":
            losses[name], caches[name] = z.forward(c, mask)
        elif name == "importance":
            losses[name], caches[name] = importance.forward(
                g, idx, cfg.n_experts, kept, ddof=cfg.cv_ddof, eps=cfg.cv_eps
            )
        elif sigma is not None:
            losses[name], caches[name] = load.forward(c, h, sigma, cfg.k, mask, ddof=cfg.cv_ddof, eps=cfg.cv_eps)
        else:  # without noise the load is the count, a constant
            losses[name], _ = cv_squared.forward(xp.astype(load_, accumulator(s)), ddof=cfg.cv_ddof, eps=cfg.cv_eps)
            caches[name] = None
    routing = Routing(idx, g, kept, load_)
    return (routing, losses), Cache(p, draws.jitter, c_cache, noise_cache, rule, s_cache, g_cache, caches)


def backward(dg: Array, dlosses: Mapping[str, Any], cache: Cache) -> tuple[Array, dict[str, Array]]:
    """(dx, dp) from dg (T, K) and the cotangents of the losses by name.

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=3, k=2, norm="l1", losses=("balance",))
    >>> p = {"weight": np.log(np.array([[4.0], [2.0], [1.0]]))}
    >>> _, cache = forward(np.array([[1.0], [-1.0]]), p, cfg)
    >>> dx, dp = backward(np.array([[1.0, 0.0], [0.0, 0.0]]), {"balance": 0.01}, cache)
    >>> dx.shape, dp["weight"].round(4).tolist()  # g₀ (1 - g₀) = 2/9, and a little from the loss
    ((2, 1), [[0.2218], [-0.2222], [0.0005]])
    """
    p, jitter, c_cache, noise_cache, rule, s_cache, g_cache, loss_caches = cache
    xp = namespace(dg)
    given = {
        n: xp.asarray(dlosses[n], device=device(dg)) for n, c in loss_caches.items() if n in dlosses and c is not None
    }
    if "importance" in given:
        dg = dg + importance.backward(given["importance"], loss_caches["importance"])[0]
    ds, _ = weigh.backward(dg, g_cache)
    if "balance" in given:
        ds = ds + balance.backward(given["balance"], loss_caches["balance"])[0]
    dh, _ = rule.backward(ds, s_cache)
    dc, dsigma = None, None
    if "load" in given:
        dc, other = load.backward(given["load"], loss_caches["load"])
        dh, dsigma = dh + other["h"], other["sigma"]
    dx_noise, dp = None, {}
    if noise_cache is not None:
        a_cache, own = noise_cache
        dh, d = noise.backward(dh, own, dsigma)
        dx_noise, d = linear.backward(d["a"], a_cache)
        dp["noise_weight"] = d["weight"]
    dc = dh if dc is None else dc + dh
    if "z" in given:
        dc = dc + z.backward(given["z"], loss_caches["z"])[0]
    dx, d = linear.backward(dc, c_cache)
    dx = dx if dx_noise is None else dx + dx_noise
    dp.update(d)
    for name, value in p.items():  # a parameter that only decides, or that this pass did not use
        if name not in dp:
            dp[name] = xp.zeros_like(value)
    return (dx if jitter is None else dx * jitter), {name: dp[name] for name in p}


def _drawn(draws: Draws | None, x: Array, cfg: RouterConfig) -> Draws:
    """The draws in the precision and on the device of x; what the settings do not draw is refused."""
    if draws is None:
        return Draws()
    xp, tokens = namespace(x), int(x.shape[0])
    wanted = {
        "noise": (tokens, cfg.n_experts) if cfg.noise == "learned" else None,
        "jitter": tuple(x.shape) if cfg.jitter else None,
        "second": (tokens,) if cfg.second_threshold is not None else None,
    }
    found = {}
    for name, shape in wanted.items():
        value = getattr(draws, name)
        if value is not None:
            if shape is None:
                raise ConfigError(
                    f"draws.{name} was given, but these settings draw none: use moe.draw(rng, cfg, tokens)"
                )
            check_shape(f"draws.{name}", value, shape)
            found[name] = xp.astype(xp.asarray(value, device=device(x)), real(x).dtype, copy=False)
    return Draws(**found)


def _check_finite(h: Array, cfg: RouterConfig) -> None:
    """NaN and +inf have no rank; -inf is a masked expert, and k others must be left."""
    if cfg.nonfinite == "propagate" or not h.size:
        return
    xp, values = namespace(h), real(h)
    kernels.checks.no_nan("the router's logit", values)
    flat = int(xp.argmax(values))
    token, expert = divmod(flat, cfg.n_experts)
    if float(values[token, expert]) == float("inf"):
        raise NonFiniteError(
            f"the router's logit is +inf at (token {token}, expert {expert}): no softmax exists; "
            "scale the input or the weights down"
        )
    if cfg.select != "expert_choice" and float(xp.min(values)) == -float("inf"):
        left = xp.sum(xp.astype(values > -xp.inf, xp.int64), axis=1)
        if int(xp.min(left)) < cfg.k:
            token = int(xp.argmin(left))
            raise NonFiniteError(
                f"token {token} has {int(left[token])} experts that no logit of -inf masks, fewer than k={cfg.k}"
            )


def _decide(
    s: Array, p: Mapping[str, Array], cfg: RouterConfig, mask: Array | None, draws: Draws
) -> tuple[Array, Array | None, Array | None, Array]:
    """idx, kept, counted, load: every decision of the layer, from the real parts only.

    ``counted``: which choices the renormalisation sums over; None: all, whether they are kept or not.
    """
    xp = namespace(s)
    preference = real(s)
    if cfg.selection_bias:
        if bool(xp.any(xp.isnan(real(p["selection_bias"])))):
            raise NonFiniteError(
                "router.selection_bias holds NaN: no expert can be ranked; find the update that made it"
            )
        preference = preference + real(p["selection_bias"])
    idx, kept = select.get(cfg.select).select(preference, cfg, mask)
    if not isinstance(cfg.select, str):  # a rule of the caller's: twice the same expert would lose a gradient
        ranked = xp.sort(idx, axis=1)
        if bool(xp.any(ranked[:, 1:] == ranked[:, :-1])):
            raise ConfigError("a select rule must choose distinct experts for each token; this one chose one twice")
    if mask is not None:
        real_token = xp.broadcast_to(mask[:, None], idx.shape)
        kept = real_token if kept is None else kept & real_token
    load_ = _count(idx, kept, cfg.n_experts)
    chosen = xp.take_along_axis(real(s), idx, axis=1)
    counted = None
    if cfg.skip is not None:
        counted = _worth(chosen, cfg.skip)
        kept = counted if kept is None else kept & counted
    if draws.second is not None and cfg.second_threshold is not None:
        second = weigh.forward(real(s), idx, None, norm=cfg.norm, eps=cfg.eps)[0][:, 1]
        survives = draws.second < second / cfg.second_threshold
        drawn = xp.stack([xp.ones_like(survives), survives], axis=1)
        kept = drawn if kept is None else kept & drawn
    if cfg.capacity is not None:
        tokens = int(s.shape[0]) if mask is None else int(xp.sum(xp.astype(mask, xp.int64)))
        n = capacity.places(cfg.capacity, tokens, cfg.n_experts, cfg.k)
        kept = capacity.keep(cfg.capacity, idx, chosen, kept, cfg.n_experts, n)
        if cfg.capacity.renorm == "after":
            counted = kept
    return idx, kept, counted, load_


def _worth(chosen: Array, skip: float) -> Array:
    """(T, K) bool: the first choice, and every later one that does not weigh less than skip times the first.

    Equality stays, so 0 keeps all of them (weights are not negative), and a row of NaN skips nothing.  The first is the
    one that ranks first: with a selection bias a later one can weigh more, and then stays whatever skip <= 1 is.
    """
    xp = namespace(chosen)
    later = xp.arange(int(chosen.shape[1]), device=device(chosen))[None, :] > 0
    return ~(later & (chosen < skip * chosen[:, :1]))


def _count(idx: Array, alive: Array | None, experts: int) -> Array:
    """(E,) how often each expert was chosen."""
    xp = namespace(idx)
    ids = xp.reshape(idx if alive is None else xp.where(alive, idx, xp.full_like(idx, -1)), (-1,))
    _, start = kernels.of(idx).counting_sort(ids, experts)
    return start[1:] - start[:-1]


def _fractions(s: Array, idx: Array, cfg: RouterConfig, mask: Array | None, load_: Array) -> Array:
    """f (E,) of the balance loss: a constant.

    With a selection bias it counts what the scores alone would choose: the loss balances the scores, and a bias that
    has already balanced the choice must not hide that they are not (arXiv:2412.19437, eq. 18: of all experts, whatever
    groups the choice is limited to).
    """
    xp = namespace(s)
    count = load_
    if cfg.balance_choices == "first" or cfg.selection_bias:
        idx = kernels.of(s).topk(real(s), cfg.k) if cfg.selection_bias else idx
        idx = idx[:, :1] if cfg.balance_choices == "first" else idx
        alive = None if mask is None else xp.broadcast_to(mask[:, None], idx.shape)
        count = _count(idx, alive, cfg.n_experts)
    total = max(int(xp.sum(count)), 1)
    return xp.astype(count, xp.float64) / total
