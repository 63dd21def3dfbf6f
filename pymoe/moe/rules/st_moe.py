r"""Top-n gating of st-moe-pytorch: a random threshold for every later choice, and a dispatch that passes gradient on.

Forward, s = softmax(x W_rᵀ), each sequence of x (B, S, D) by itself (x (T, D) is one), n real tokens in it::

    idx = top-K of s            v_j = s[idx_j] / max(Σ_j s[idx_j], ε)
    wanted_j = j = 0 or U_j < v_j / max(threshold_j, ε)                  without draws: all
    place of (t, j) = how many wanted choices j of earlier tokens, + how many choices before j were *kept*
    kept_j = wanted_j and place < C,        C = max(4, min(n, ⌊factor n / E⌋))
    g_j = v_j where kept        y = Σ_j g_j f(x̃_j),  x̃_j = x (1 + g_j - sg(g_j)) = x

sg(a) is a with a gradient of 0: the value of x̃ is x, its derivative is not.  Backward, dx̃ the gradient at the input of
each row::

    dg_j = ⟨dy, f(x)⟩ + ⟨dx̃_j, x⟩          the second term is the **straight-through** dispatch, a declared estimator
    dv_j = dg_j where kept                  ds[idx_j] = (dv_j - ⟨dv, v⟩) / Σ
    dx   = Σ_j dx̃_j + W_rᵀ dz

With ``straight_through=False`` the backward is exact.  The gates are normalised before the drop: a survivor of a
dropped pair keeps its share.  Losses: balance, the mean over sequences of E Σ_e f_e P_e with the first choices before
any drop (in the published code the mask of the first choices is a view that the drop then changes, so it counts after
it); z.
Constant: idx, U, kept, places, f.  Traps: later choices queue behind the kept ones, not behind all; U of the first
choice must not count.
Source: ST-MoE, arXiv:2202.08906, in lucidrains' st-moe-pytorch.  Cost: T D E and an expert for each kept choice; the
rows are kept apart, T K D numbers, for ⟨dx̃, x⟩.

Parameters: router.weight (E, D), experts.*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.errors import ConfigError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe import experts
from pymoe.moe.losses import z as z_loss
from pymoe.moe.router import Routing
from pymoe.moe.router_checks import finite
from pymoe.moe.rules import form
from pymoe.ops import linear, softmax

NAME = "st_moe"


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form``, and

    k                 choices a token
    threshold         of each choice after the first: kept with probability min(1, v / threshold); one number for all
    factor, minimum   capacity factor (1.25 in training, 2 in evaluation) and the least capacity
    eps               ε
    straight_through  the extra path of the gradient
    losses            of "balance" and "z"
    """

    k: int = 2
    threshold: float | tuple[float, ...] = 0.2
    factor: float = 1.25
    minimum: int = 4
    eps: float = 1e-9
    straight_through: bool = True
    losses: tuple[str, ...] = ("balance", "z")

    def __post_init__(self) -> None:
        super().__post_init__()
        form.choices("k", self.k, self.n_experts)
        each = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,) * (self.k - 1)
        for value in each:
            finite("threshold", value, 0)
        if len(each) != self.k - 1:
            raise ConfigError(f"threshold must have one number for each of the {self.k - 1} later choices, got {each}")
        object.__setattr__(self, "threshold", each)
        finite("factor", self.factor, 0)
        check_integer("minimum", self.minimum, 0)
        finite("eps", self.eps, 0)
        if not self.eps:
            raise ConfigError("eps must be positive: it stands in a denominator")
        form.losses(self.losses, ("balance", "z"))


class Draws(NamedTuple):
    uniform: Array  # (T, K) U(0, 1); the first column is not looked at


class Cache(NamedTuple):
    frame: form.Frame
    cfg: Config
    logits: linear.Cache
    s: softmax.Cache
    idx: Array  # (T, K)
    kept: Array  # (T, K)
    v: Array  # (T, K) before the drop
    total: Array  # (T, 1) Σ s[idx], at least ε
    low: Array  # (T, 1) bool: below ε
    x: Array  # (T, D)
    experts: experts.Cache  # of T K rows
    balance: Array | None  # (T, E) dbalance / ds
    z: Any


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    return {"router.weight": (cfg.n_experts, cfg.d_model), **form.expert_shapes(cfg)}


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0."""
    return form.init(rng, shapes(cfg), dtype)


def draw(rng: np.random.Generator, cfg: Config, tokens: int, dtype: Any = np.float64) -> Draws:
    """What one forward draws, as values."""
    return Draws(rng.random((tokens, cfg.k)).astype(dtype))


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: Draws | None = None
) -> tuple[form.Output, Cache]:
    """(out, cache) of x (B, S, D), or of one sequence (S, D); draws None: no choice is dropped at random.

    >>> cfg = Config(d_model=2, d_ff=3, n_experts=4)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((1, 6, 2)), p, cfg, draws=draw(np.random.default_rng(1), cfg, 6))
    >>> dx, dp = backward(np.ones((1, 6, 2)), cache, {"balance": 0.01})
    >>> out.routing.load, int(out.routing.kept.sum())  # capacity 4: all want the same two
    (array([0, 4, 0, 4]), 8)
    """
    length = x.shape[-2] if x.ndim > 1 else 0
    x, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask, cfg.losses)
    xp, tokens = namespace(x), int(x.shape[0])
    z, logits = linear.forward(x, p["router"]["weight"])
    form.finite(NAME, z)
    s, s_cache = softmax.forward(z)
    idx = kernels.of(s).topk(real(s), cfg.k)
    v = xp.take_along_axis(s, idx, axis=1)
    total = xp.sum(v, axis=1, keepdims=True)
    low = real(total) < cfg.eps
    total = xp.where(low, xp.full_like(total, cfg.eps), total)
    v = v / total
    wanted = _wanted(real(v), mask, draws, cfg)
    kept = _kept(idx, wanted, mask, length, cfg)
    g = xp.where(kept, v, xp.zeros_like(v))
    rows = xp.reshape(xp.broadcast_to(x[:, None, :], (tokens, cfg.k, cfg.d_model)), (tokens * cfg.k, cfg.d_model))
    single = (tokens * cfg.k, 1)
    y, routing, experts_cache = form.dispatch(
        rows, xp.reshape(g, single), p["experts"], xp.reshape(idx, single), xp.reshape(kept, single), cfg
    )
    y = xp.sum(xp.reshape(y, (tokens, cfg.k, cfg.d_model)), axis=1)
    losses, slope, z_cache = {}, None, None
    if "balance" in cfg.losses:
        losses["balance"], slope = _balance(s, idx, mask, length)
    if "z" in cfg.losses:
        losses["z"], z_cache = z_loss.forward(z, mask)
    routing = Routing(idx=idx, weight=g, kept=kept, load=routing.load)
    return form.Output(form.leave(y, frame), losses, routing), Cache(
        frame, cfg, logits, s_cache, idx, kept, v, total, low, x, experts_cache, slope, z_cache
    )


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp): exact without ``straight_through``, with it the estimator in the router."""
    frame, cfg, logits, s_cache, idx, kept, v, total, low, x, experts_cache, slope, z_cache = cache
    dy, given = form.upstream(dy, frame, dlosses)
    xp, tokens = namespace(dy), int(dy.shape[0])
    wide = (tokens, cfg.k, cfg.d_model)
    rows = xp.reshape(xp.broadcast_to(dy[:, None, :], wide), (tokens * cfg.k, cfg.d_model))
    drows, dg, d_experts = form.collect(rows, experts_cache)
    drows, dg = xp.reshape(drows, wide), xp.reshape(dg, (tokens, cfg.k))
    if cfg.straight_through:
        dg = dg + xp.sum(drows * x[:, None, :], axis=2)
    dv = xp.where(kept, dg, xp.zeros_like(dg))
    mixed = xp.sum(dv * v, axis=1, keepdims=True)
    dv = (dv - xp.where(low, xp.zeros_like(mixed), mixed)) / total
    ds = kernels.of(dv).expand(dv, idx, cfg.n_experts)
    if "balance" in given and slope is not None:
        ds = ds + xp.astype(given["balance"], ds.dtype) * xp.astype(slope, ds.dtype)
    dz, _ = softmax.backward(ds, s_cache)
    if "z" in given:
        dz = dz + z_loss.backward(given["z"], z_cache)[0]
    dx_router, d = linear.backward(dz, logits)
    dx = xp.sum(drows, axis=1) + dx_router
    return form.leave(dx, frame), {"router": {"weight": d["weight"]}, "experts": d_experts}


def _wanted(v: Array, mask: Array | None, draws: Draws | None, cfg: Config) -> Array:
    """(T, K) bool: the choices of real tokens that chance leaves."""
    xp = namespace(v)
    wanted = xp.ones(v.shape, dtype=xp.bool, device=device(v))
    if draws is not None:
        check_shape(f"{NAME}: draws.uniform", draws.uniform, tuple(v.shape))
        least = [max(float(t), cfg.eps) for t in cfg.threshold] if isinstance(cfg.threshold, tuple) else []
        limit = xp.asarray([cfg.eps, *least], dtype=v.dtype, device=device(v))[None, :]
        first = xp.arange(cfg.k, device=device(v))[None, :] == 0
        wanted = first | (draws.uniform < v / limit)
    return wanted if mask is None else wanted & mask[:, None]


def _kept(idx: Array, wanted: Array, mask: Array | None, length: int, cfg: Config) -> Array:
    """(T, K) bool: those of the wanted that find a place."""
    xp = namespace(idx)
    if idx.shape[0] == 0:
        return wanted
    groups = int(idx.shape[0]) // length
    n = xp.full((groups,), length, dtype=xp.int64, device=device(idx))
    if mask is not None:
        n = xp.sum(xp.astype(xp.reshape(mask, (groups, length)), xp.int64), axis=1)
    share = xp.astype(xp.floor(xp.astype(n, xp.float64) * cfg.factor / cfg.n_experts), xp.int64)
    places = xp.maximum(xp.minimum(n, share), xp.full_like(n, cfg.minimum))[:, None, None]
    column = xp.arange(cfg.n_experts, dtype=idx.dtype, device=device(idx))[None, :]
    before = xp.zeros((groups, 1, cfg.n_experts), dtype=xp.int64, device=device(idx))
    kept = []
    for j in range(cfg.k):
        ask = xp.reshape((idx[:, j][:, None] == column) & wanted[:, j][:, None], (groups, length, cfg.n_experts))
        number = xp.astype(ask, xp.int64)
        place = xp.cumulative_sum(number, axis=1) - number + before
        fits = ask & (place < places)
        before = before + xp.sum(xp.astype(fits, xp.int64), axis=1, keepdims=True)
        kept.append(xp.reshape(xp.any(fits, axis=2), (-1,)))
    return xp.stack(kept, axis=1)


def _balance(s: Array, idx: Array, mask: Array | None, length: int) -> tuple[Array, Array]:
    """The mean over sequences with a real token of E Σ_e f_e P_e, and its slope in s (T, E)."""
    xp, acc = namespace(s), accumulator(s)
    experts_ = int(s.shape[1])
    if s.shape[0] == 0:
        return xp.zeros((), dtype=acc, device=device(s)), xp.zeros_like(s)
    groups = int(s.shape[0]) // length
    one = xp.ones((int(s.shape[0]), 1), dtype=s.dtype, device=device(s))
    alive = one if mask is None else xp.where(mask[:, None], one, xp.zeros_like(one))
    alive = xp.reshape(alive, (groups, length, 1))
    n = xp.sum(alive, axis=1, keepdims=True)
    weight = alive / xp.where(n == 0, xp.ones_like(n), n)
    column = xp.arange(experts_, dtype=idx.dtype, device=device(idx))[None, :]
    first = xp.reshape(xp.astype(idx[:, :1] == column, s.dtype), (groups, length, experts_))
    f = xp.sum(first * weight, axis=1, keepdims=True)
    mean = xp.sum(xp.reshape(s, first.shape) * weight, axis=1, keepdims=True)
    filled = max(int(xp.sum(xp.astype(real(n) > 0, xp.int64))), 1)
    loss = xp.sum(f * mean, dtype=acc) * (experts_ / filled)
    return loss, xp.reshape(f * weight * (experts_ / filled), s.shape)
