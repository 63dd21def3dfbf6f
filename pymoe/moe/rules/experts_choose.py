r"""Expert choice with all that papers and programs vary: the axis of the softmax, the capacity, the division.

Forward, z = x W_rᵀ (T, E), T real tokens, C = max(1, min(T, r(factor T / E))), r = floor or ceil::

    over "experts"    s = softmax of a token's logits over the experts       (the paper)
    over "tokens"     s = softmax of an expert's logits over the tokens      (mesh)
    expert e takes its C tokens of largest s, ties to the first token
    n_t = how many experts took t                                            a constant
    g_te = s_te, or s_te / n_t if ``divide``                                 y = Σ_e g_te f_e(x_t)

    loss "tokens":  q_t = T mean_e s_te,  L = Σ_t q_t² / T   1 where all tokens are wanted alike, T where only one is

Backward: ds = dg where taken (/ n_t), plus 2 q_t dL / E, then the softmax along its own axis::

    dz = s ⊙ (ds - ⟨s, ds⟩)            the inner product over the experts, or over the tokens

The load is even by construction, so there is no balance loss over experts; over tokens the scores can be balanced, so
that no token is left out, which is the loss of Mesh TensorFlow (over experts q is T / E for every token, so there it is
refused).  A token may get 0 to E experts.  Not causal, twice so over tokens: the weight of a token depends on all
others too.  Constant: who takes whom, n.  The softmax over tokens leaves padding out.  Trap: dividing by n = 0.
Sources: arXiv:2202.09368; over tokens with division and loss, Mesh TensorFlow, ``_expert_selection_gating``.
Cost: T D E and E C rows through an expert.

Parameters: router.weight (E, D), experts.*.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.moe import experts
from pymoe.moe.router_checks import finite, one_of
from pymoe.moe.rules import form
from pymoe.ops import linear

NAME = "experts_choose"


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form``, and

    factor     the capacity factor: experts a token gets on average
    rounding   "floor" or "ceil" of factor T / E
    over       the softmax is over "experts" or over "tokens"
    divide     divide by the number of experts that took the token
    losses     "tokens", or none
    """

    factor: float = 2.0
    rounding: str = "floor"
    over: str = "experts"
    divide: bool = False
    losses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        finite("factor", self.factor, 0)
        one_of("rounding", self.rounding, ("floor", "ceil"))
        one_of("over", self.over, ("experts", "tokens"))
        form.losses(self.losses, ("tokens",))
        if self.losses and self.over == "experts":
            raise ConfigError("the loss over tokens is a constant where the softmax is over experts: leave losses=()")


class Cache(NamedTuple):
    frame: form.Frame
    logits: linear.Cache
    over: str
    s: Array  # (T, E)
    share: Array  # (T, E) 1 / n or 1 where taken, 0 elsewhere: a constant
    q: Array | None  # (T,) T mean_e s; None: no loss
    experts: experts.Cache


def mesh(d_model: int, d_ff: int, n_experts: int, **others: Any) -> Config:
    """The form of Mesh TensorFlow: over tokens, divided, with its loss, experts with a ReLU.

    >>> mesh(3, 4, 5).divide
    True
    """
    settings: dict[str, Any] = {"over": "tokens", "divide": True, "losses": ("tokens",)}
    return Config(d_model, d_ff, n_experts, **{**settings, "gated": False, "activation": "relu", **others})


def places(cfg: Config, tokens: int) -> int:
    """C of so many real tokens.

    >>> places(Config(3, 4, 4, factor=1.5), 7), places(Config(3, 4, 4, factor=1.5, rounding="ceil"), 7)
    (2, 3)
    """
    share = cfg.factor * tokens / cfg.n_experts
    return max(min(1, tokens), min(tokens, math.floor(share) if cfg.rounding == "floor" else math.ceil(share)))


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    return {"router.weight": (cfg.n_experts, cfg.d_model), **form.expert_shapes(cfg)}


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0."""
    return form.init(rng, shapes(cfg), dtype)


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: None = None
) -> tuple[form.Output, Cache]:
    """(out, cache) of x (T, D) or (B, S, D), all tokens in one pool; out.routing.idx is 0..E-1, kept where taken.

    >>> cfg = mesh(d_model=2, d_ff=3, n_experts=4)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.random.default_rng(1).standard_normal((6, 2)), p, cfg)
    >>> dx, dp = backward(np.ones((6, 2)), cache)
    >>> out.routing.load
    array([3, 3, 3, 3])
    """
    x, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask, cfg.losses)
    xp = namespace(x)
    z, logits = linear.forward(x, p["router"]["weight"])
    form.finite(NAME, z)
    s = _scores(z, cfg.over, mask)
    tokens = form.number_of(mask, int(x.shape[0]))
    taken = _take(real(s), places(cfg, tokens), mask)
    share = xp.astype(taken, z.dtype)
    if cfg.divide:
        count = xp.sum(share, axis=1, keepdims=True)
        share = share / xp.where(real(count) == 0, xp.ones_like(count), count)
    idx = xp.broadcast_to(xp.arange(cfg.n_experts, dtype=xp.int64, device=device(x))[None, :], taken.shape)
    y, routing, experts_cache = form.dispatch(x, s * share, p["experts"], idx, taken, cfg)
    found: dict[str, Array] = {}
    q = None
    if cfg.losses:
        acc = accumulator(s)
        q = xp.sum(s, axis=1, dtype=acc) * (tokens / cfg.n_experts)
        found["tokens"] = xp.sum(q * q) / max(tokens, 1)
    cache = Cache(frame, logits, cfg.over, s, share, q, experts_cache)
    return form.Output(form.leave(y, frame), found, routing), cache


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp); dlosses {"tokens": c} where the settings have that loss."""
    frame, logits, over, s, share, q, experts_cache = cache
    dy, given = form.upstream(dy, frame, dlosses)
    xp = namespace(dy)
    dx, dg, d_experts = form.collect(dy, experts_cache)
    ds = dg * share
    if "tokens" in given and q is not None:
        ds = ds + xp.astype((2 / s.shape[1]) * given["tokens"] * q, ds.dtype)[:, None]
    dz = s * (ds - xp.sum(s * ds, axis=1 if over == "experts" else 0, keepdims=True))
    dx_router, d = linear.backward(dz, logits)
    return form.leave(dx + dx_router, frame), {"router": {"weight": d["weight"]}, "experts": d_experts}


def _scores(z: Array, over: str, mask: Array | None) -> Array:
    """s (T, E), 0 for padding."""
    xp = namespace(z)
    if z.shape[0] == 0:
        return z
    if over == "experts":
        s = kernels.of(z).softmax(z)
        return s if mask is None else xp.where(mask[:, None], s, xp.zeros_like(s))
    by_expert = xp.permute_dims(z, (1, 0))
    if mask is not None:
        by_expert = xp.where(mask[None, :], by_expert, xp.full_like(by_expert, -xp.inf))
    return xp.permute_dims(kernels.of(z).softmax(by_expert), (1, 0))


def _take(s: Array, count: int, mask: Array | None) -> Array:
    """(T, E) bool: the ``count`` best real tokens of each expert."""
    xp = namespace(s)
    if count == 0:
        return xp.zeros(s.shape, dtype=xp.bool, device=device(s))
    if mask is not None:
        s = xp.where(mask[:, None], s, xp.full_like(s, -xp.inf))
    by_expert = xp.permute_dims(s, (1, 0))
    kernel = kernels.of(by_expert)
    chosen = kernel.topk(by_expert, count)
    one = xp.ones(chosen.shape, dtype=s.dtype, device=device(s))
    return xp.permute_dims(kernel.expand(one, chosen, int(s.shape[0])) > 0, (1, 0))
