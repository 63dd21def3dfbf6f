r"""X-MoE: the logits are cosines between a projected token and the experts' embeddings, over a temperature.

Forward, e (E, d_key) embeddings, n(a) = a / max(‖a‖, ε) row by row::

    v = x W_pᵀ (+ b_p)
    variant       logits                                      temperature
    paper         z = n(v) n(e)ᵀ / τ                          τ, at least ``floor``
    tutel         z = n(v) n(e)ᵀ exp(min(τ, log 100))         with b_p
    torchscale    z =   v  n(e)ᵀ / max(τ, floor)              the token is not normalised
    s = softmax(z) or σ(z)        idx = top-K of s        g = s[idx], norm "l1": over their sum

Backward, a = n(v) or v, ê = n(e), c = a êᵀ, β the factor after it::

    da = β dz ê        dê = β dzᵀ a        dβ = Σ dz ⊙ c
    de = (dê - ê ⟨ê, dê⟩) / ‖e‖            the same for v; below ε: dê / ε
    dτ = -dβ / τ² or β dβ                   0 where τ is cut off

torchscale also sets every row of e to norm 1.5 before each forward, under no_grad: that is a change of the parameters,
not of the function; ``rescale`` does it, and since de is divided by ‖e‖ it fixes the step size.  Constant: idx.
Traps: the norm of a row of padding is 0: ε, not 0 / 0; the temperature of tutel is a logarithm.
Sources: Chi et al., arXiv:2204.09179; Tutel, arXiv:2206.03382.  Cost: T (D + E) d_key; kept: v, the unit rows, s.

Parameters: router.projection (d_key, D), router.projection_bias (d_key,) for tutel, router.embedding (E, d_key),
router.temperature (1,); experts.*.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import namespace, real
from pymoe.backend.errors import ConfigError, check_integer
from pymoe.backend.namespace import Array
from pymoe.moe import experts, score, weigh
from pymoe.moe.losses import balance
from pymoe.moe.router_checks import finite, one_of
from pymoe.moe.rules import form
from pymoe.ops import linear

NAME = "cosine"
VARIANTS = ("paper", "tutel", "torchscale")
LARGEST = math.log(100.0)  # of tutel's temperature, a logarithm
RADIUS = 1.5  # to which torchscale sets the rows of the embeddings
START = {"paper": 0.07, "tutel": math.log(2.0), "torchscale": 0.07}


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form``, and

    k          experts a token
    d_key      width of the projection
    variant    "paper", "tutel" or "torchscale"
    score      "softmax" or "sigmoid" of the logits
    norm       "none" or "l1" of the chosen scores
    eps, floor the smallest norm of a row, the smallest temperature
    losses     () or ("balance",)
    """

    k: int = 1
    d_key: int = 256
    variant: str = "paper"
    score: str = "softmax"
    norm: str = "none"
    eps: float = 1e-12
    floor: float = 1e-4
    losses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        form.choices("k", self.k, self.n_experts)
        check_integer("d_key", self.d_key)
        one_of("variant", self.variant, VARIANTS)
        one_of("score", self.score, ("softmax", "sigmoid"))
        one_of("norm", self.norm, ("none", "l1"))
        for name in ("eps", "floor"):
            finite(name, getattr(self, name), 0)
            if not getattr(self, name):
                raise ConfigError(f"{name} must be positive: it stands in a denominator")
        form.losses(self.losses, ("balance",))


class Cache(NamedTuple):
    frame: form.Frame
    cfg: Config
    projection: linear.Cache
    a: Unit | None  # the token's side; None: not normalised
    v: Array  # (T, d_key) what meets the embeddings
    e: Unit
    c: Array  # (T, E) before the temperature
    beta: Array  # (1,)
    tau: Array  # (1,)
    rule: Any  # module of the score
    s: Any  # its cache
    weigh: weigh.Cache
    balance: balance.Cache | None
    experts: experts.Cache


class Unit(NamedTuple):
    unit: Array  # (R, d)
    size: Array  # (R, 1) max(‖a‖, ε)
    short: Array  # (R, 1) bool: ‖a‖ < ε


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    found: form.Shapes = {"router.projection": (cfg.d_key, cfg.d_model)}
    if cfg.variant == "tutel":
        found["router.projection_bias"] = (cfg.d_key,)
    found |= {"router.embedding": (cfg.n_experts, cfg.d_key), "router.temperature": (1,)}
    return found | form.expert_shapes(cfg)


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0, the temperature 0.07 (tutel: log 2).

    >>> init(np.random.default_rng(0), Config(3, 4, 2, d_key=5))["router"]["temperature"]
    array([0.07])
    """
    return form.init(rng, shapes(cfg), dtype, temperature=START[cfg.variant])


def rescale(p: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with every row of router.embedding at norm 1.5, as torchscale does before each forward.

    >>> p = rescale({"router": {"embedding": np.array([[3.0, 4.0]])}})
    >>> p["router"]["embedding"].round(15)
    array([[0.9, 1.2]])
    """
    e = p["router"]["embedding"]
    xp = namespace(e)
    return {**p, "router": {**p["router"], "embedding": e * (RADIUS / xp.sqrt(xp.sum(e * e, axis=1, keepdims=True)))}}


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: None = None
) -> tuple[form.Output, Cache]:
    """(out, cache) of x (T, D) or (B, S, D).

    >>> cfg = Config(d_model=2, d_ff=3, n_experts=4, k=2, d_key=5, variant="tutel")
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((3, 2)), p, cfg)
    >>> dx, dp = backward(np.ones((3, 2)), cache)
    >>> out.routing.idx.shape, dp["router"]["temperature"].shape
    ((3, 2), (1,))
    """
    x, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask, cfg.losses)
    w = p["router"]
    v, projection = linear.forward(x, w["projection"], w.get("projection_bias"))
    a = None
    if cfg.variant != "torchscale":
        a = _unit(v, cfg.eps)
        v = a.unit
    e = _unit(w["embedding"], cfg.eps)
    c = v @ e.unit.T
    beta = _factor(w["temperature"], cfg)
    z = c * beta
    form.finite(NAME, z)
    rule = score.get(cfg.score)
    s, s_cache = rule.forward(z)
    idx = kernels.of(s).topk(real(s), cfg.k)
    kept = form.of_tokens(mask, idx)
    g, g_cache = weigh.forward(s, idx, kept, norm=cfg.norm)
    y, routing, experts_cache = form.dispatch(x, g, p["experts"], idx, kept, cfg)
    losses, loss_cache = {}, None
    if "balance" in cfg.losses:
        losses["balance"], loss_cache = balance.forward(s, form.fractions(routing.load), mask)
    return form.Output(form.leave(y, frame), losses, routing), Cache(
        frame, cfg, projection, a, v, e, c, beta, w["temperature"], rule, s_cache, g_cache, loss_cache, experts_cache
    )


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp)."""
    frame, cfg, projection, a, v, e, c, beta, tau, rule, s_cache, g_cache, loss_cache, experts_cache = cache
    dy, given = form.upstream(dy, frame, dlosses)
    xp = namespace(dy)
    dx, dg, d_experts = form.collect(dy, experts_cache)
    ds, _ = weigh.backward(dg, g_cache)
    if "balance" in given and loss_cache is not None:
        ds = ds + balance.backward(given["balance"], loss_cache)[0]
    dz, _ = rule.backward(ds, s_cache)
    dc = dz * beta
    dv = dc @ e.unit
    if a is not None:
        dv = _unit_backward(dv, a)
    dx_router, d = linear.backward(dv, projection)
    router = {
        "projection": d["weight"],
        "embedding": _unit_backward(dc.T @ v, e),
        "temperature": _factor_backward(xp.reshape(xp.sum(dz * c), (1,)), beta, tau, cfg),
    }
    if "bias" in d:
        router["projection_bias"] = d["bias"]
    return form.leave(dx + dx_router, frame), {
        "router": {n.removeprefix("router."): router[n.removeprefix("router.")] for n in shapes(cfg) if "router." in n},
        "experts": d_experts,
    }


def _unit(a: Array, eps: float) -> Unit:
    """Rows over their norm, or over eps where that is larger."""
    xp = namespace(a)
    size = xp.sqrt(xp.sum(a * a, axis=1, keepdims=True))
    short = real(size) < eps
    size = xp.where(short, xp.full_like(size, eps), size)
    return Unit(a / size, size, short)


def _unit_backward(du: Array, cache: Unit) -> Array:
    unit, size, short = cache
    xp = namespace(du)
    along = unit * xp.sum(unit * du, axis=1, keepdims=True)
    return (du - xp.where(short, xp.zeros_like(along), along)) / size


def _factor(tau: Array, cfg: Config) -> Array:
    """β (1,) from the temperature."""
    xp = namespace(tau)
    if cfg.variant == "tutel":
        return xp.exp(xp.where(real(tau) > LARGEST, xp.full_like(tau, LARGEST), tau))
    return 1 / xp.where(real(tau) < cfg.floor, xp.full_like(tau, cfg.floor), tau)


def _factor_backward(dbeta: Array, beta: Array, tau: Array, cfg: Config) -> Array:
    """dτ: a bound that is just met still lets the gradient through."""
    xp = namespace(tau)
    if cfg.variant == "tutel":
        return xp.where(real(tau) > LARGEST, xp.zeros_like(dbeta), dbeta * beta)
    return xp.where(real(tau) < cfg.floor, xp.zeros_like(dbeta), -dbeta * beta * beta)
