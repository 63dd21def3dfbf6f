r"""DSelect-k: k selectors spell an expert's number in smooth bits, so that the choice is differentiable and sparse.

Forward, m = ⌈log₂ E⌉ bits, of k selectors i = 0..k-1 each::

    u = x W_zᵀ + b_z (k, m)        or, without tokens, the parameter u itself (``static``)
    S(u) = 0 below -γ/2, 1 above γ/2, -2u³/γ³ + 3u/(2γ) + 1/2 between            the smooth step
    r_ie = Π_j S(u_ij) if bit j of e is set, else 1 - S(u_ij)                      j = 0 is the highest bit
    a = softmax over the selectors of x W_aᵀ + b_a (k)
    g_e = Σ_i a_i r_ie        y = Σ_{e: g_e > 0} g_e f_e(x)

Losses, sums over tokens and selectors as in the authors' code::

    entropy       -Σ r log(r + 1e-6)                 small when every selector has made up its mind
    reachable     Σ 1 / Σ_{e < E} r_ie               only if E is no power of 2: codes from E on are no expert

Backward, dg_e = ⟨dy, f_e(x)⟩::

    dr_ie = a_i dg_e (+ losses)        da_i = Σ_e dg_e r_ie
    dS_ij = Σ_e ± dr_ie Π_{l ≠ j} ...  du = S'(u) dS,   S' = -6u²/γ³ + 3/(2γ) between, 0 outside

Constant: the set g > 0.  An expert with g = 0 is not computed, and its dg is 0; the true one would change nothing: a
factor of r is 0 for every selector, and where S is 0 or 1 its slope is 0.  Products without one factor are formed as
such, not by division: a factor may be 0.  Traps: bit order; an entropy over padding; the sum of g is
1 only when E is a power of 2 or all selectors have decided.
Source: DSelect-k, arXiv:2106.03760, and the authors' code.  Cost: T k E m; kept: S and r.

Parameters: router.selector_weight (k m, D), selector_bias (k m,), mix_weight (k, D), mix_bias (k,); static:
router.selector (k m,), router.mix (k,); experts.*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.moe import experts
from pymoe.moe.router_checks import finite
from pymoe.moe.rules import form
from pymoe.ops import linear, softmax

NAME = "dselect_k"
TINY = 1e-6  # within the logarithm of the entropy


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form``, and

    k        selectors: at most k experts a token, once all have decided
    gamma    γ, the width of the smooth step
    static   one choice for all tokens, a parameter, in the place of one for each token
    losses   of "entropy" and "reachable" (the latter for E that is no power of 2)
    """

    k: int = 2
    gamma: float = 1.0
    static: bool = False
    losses: tuple[str, ...] = ("entropy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        form.choices("k", self.k, self.n_experts)
        finite("gamma", self.gamma, 0)
        if not self.gamma:
            raise ConfigError("gamma must be positive: a step of width 0 has no slope")
        if self.n_experts == 1:
            raise ConfigError("n_experts must be at least 2: there is nothing to select")
        form.losses(self.losses, ("entropy", "reachable"))
        if "reachable" in self.losses and self.n_experts == 1 << self.bits:
            raise ConfigError(f"all codes of {self.n_experts} experts are reachable: leave out the loss 'reachable'")

    @property
    def bits(self) -> int:
        """m, the bits of an expert's number."""
        return (self.n_experts - 1).bit_length()


class Cache(NamedTuple):
    frame: form.Frame
    cfg: Config
    mask: Array | None
    selector: linear.Cache | None  # None: static
    mix: linear.Cache | None
    u: Array  # (T, k, m)
    s: Array  # (T, k, m) S(u)
    factors: Array  # (T, k, E, m)
    r: Array  # (T, k, E)
    a: Any  # cache of the softmax over selectors
    weights: Array  # (T, k) a
    experts: experts.Cache


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    km = cfg.k * cfg.bits
    if cfg.static:
        router: form.Shapes = {"router.selector": (km,), "router.mix": (cfg.k,)}
    else:
        router = {
            "router.selector_weight": (km, cfg.d_model),
            "router.selector_bias": (km,),
            "router.mix_weight": (cfg.k, cfg.d_model),
            "router.mix_bias": (cfg.k,),
        }
    return router | form.expert_shapes(cfg)


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0; the selectors within ±γ/100, so that none has decided."""
    p = form.init(rng, shapes(cfg), dtype)
    found = {}
    for name, value in p["router"].items():
        found[name] = value
        if name.startswith("selector"):
            found[name] = rng.uniform(-cfg.gamma / 100, cfg.gamma / 100, value.shape).astype(dtype)
    return {**p, "router": found}


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: None = None
) -> tuple[form.Output, Cache]:
    """(out, cache) of x (T, D) or (B, S, D); out.routing.idx is 0..E-1, kept where g > 0.

    >>> cfg = Config(d_model=2, d_ff=3, n_experts=4)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((3, 2)), p, cfg)
    >>> dx, dp = backward(np.ones((3, 2)), cache, {"entropy": 0.1})
    >>> out.routing.weight.sum(1).round(12), sorted(out.losses)
    (array([1., 1., 1.]), ['entropy'])
    """
    x, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask, cfg.losses)
    xp, w, tokens = namespace(x), p["router"], int(x.shape[0])
    selector, mix = None, None
    if cfg.static:
        u = xp.broadcast_to(w["selector"][None, :], (tokens, cfg.k * cfg.bits))
        alpha = xp.broadcast_to(w["mix"][None, :], (tokens, cfg.k))
    else:
        u, selector = linear.forward(x, w["selector_weight"], w["selector_bias"])
        alpha, mix = linear.forward(x, w["mix_weight"], w["mix_bias"])
    form.finite(NAME, u)
    form.finite(NAME, alpha)
    u = xp.reshape(u, (tokens, cfg.k, cfg.bits))
    s = _step(u, cfg.gamma)
    factors = xp.where(_codes(u, cfg)[None, None, :, :], s[:, :, None, :], 1 - s[:, :, None, :])
    r = _product(factors)
    a, a_cache = softmax.forward(alpha)
    g = xp.sum(a[:, :, None] * r, axis=1)
    kept = real(g) > 0
    if mask is not None:
        kept = kept & mask[:, None]
    g = xp.where(kept, g, xp.zeros_like(g))
    idx = xp.broadcast_to(xp.arange(cfg.n_experts, dtype=xp.int64, device=device(x))[None, :], kept.shape)
    y, routing, experts_cache = form.dispatch(x, g, p["experts"], idx, kept, cfg)
    losses = {name: _loss(name, r, mask) for name in cfg.losses}
    return form.Output(form.leave(y, frame), losses, routing), Cache(
        frame, cfg, mask, selector, mix, u, s, factors, r, a_cache, a, experts_cache
    )


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp)."""
    frame, cfg, mask, selector, mix, u, s, factors, r, a_cache, a, experts_cache = cache
    dy, given = form.upstream(dy, frame, dlosses)
    xp = namespace(dy)
    dx, dg, d_experts = form.collect(dy, experts_cache)
    dr = a[:, :, None] * dg[:, None, :]
    for name, d in given.items():
        dr = dr + _loss_backward(name, xp.astype(d, dr.dtype), r, mask)
    dalpha, _ = softmax.backward(xp.sum(dg[:, None, :] * r, axis=2), a_cache)
    one = xp.ones((1, 1), dtype=dr.dtype, device=device(dr))
    sign = xp.where(_codes(u, cfg), one, -one)  # (E, m)
    columns = []
    for j in range(cfg.bits):
        others = _product(xp.concat([factors[..., :j], factors[..., j + 1 :]], axis=-1))
        columns.append(xp.sum(dr * others * sign[:, j], axis=2))
    du = _step_backward(xp.stack(columns, axis=-1), u, cfg.gamma)
    du = xp.reshape(du, (int(u.shape[0]), cfg.k * cfg.bits))
    if selector is None or mix is None:
        router = {"selector": xp.sum(du, axis=0), "mix": xp.sum(dalpha, axis=0)}
    else:
        dx_u, d_u = linear.backward(du, selector)
        dx_a, d_a = linear.backward(dalpha, mix)
        dx = dx + dx_u + dx_a
        router = {
            "selector_weight": d_u["weight"],
            "selector_bias": d_u["bias"],
            "mix_weight": d_a["weight"],
            "mix_bias": d_a["bias"],
        }
    return form.leave(dx, frame), {"router": router, "experts": d_experts}


def _codes(like: Array, cfg: Config) -> Array:
    """(E, m) bool: the bits of every expert's number, the highest first."""
    xp = namespace(like)
    number = xp.arange(cfg.n_experts, dtype=xp.int64, device=device(like))[:, None]
    power = xp.asarray([1 << j for j in reversed(range(cfg.bits))], dtype=xp.int64, device=device(like))[None, :]
    return (number // power) % 2 == 1


def _step(u: Array, gamma: float) -> Array:
    """The smooth step, 0 to 1 over a width of γ."""
    xp = namespace(u)
    middle = (-2 / gamma**3) * u * u * u + (1.5 / gamma) * u + 0.5
    low, high = real(u) <= -gamma / 2, real(u) >= gamma / 2
    return xp.where(low, xp.zeros_like(u), xp.where(high, xp.ones_like(u), middle))


def _step_backward(ds: Array, u: Array, gamma: float) -> Array:
    xp = namespace(ds, u)
    inside = (real(u) > -gamma / 2) & (real(u) < gamma / 2)
    return xp.where(inside, ds * ((-6 / gamma**3) * u * u + 1.5 / gamma), xp.zeros_like(ds))


def _product(a: Array) -> Array:
    """Π over the last axis, factor by factor; of none 1."""
    xp = namespace(a)
    total = xp.ones(a.shape[:-1], dtype=a.dtype, device=device(a))
    for j in range(int(a.shape[-1])):
        total = total * a[..., j]
    return total


def _loss(name: str, r: Array, mask: Array | None) -> Array:
    xp, acc = namespace(r), accumulator(r)
    if name == "entropy":
        each = -xp.sum(r * xp.log(r + TINY), axis=2)
    else:
        each = 1 / xp.sum(r, axis=2)
    if mask is not None:
        each = xp.where(mask[:, None], each, xp.zeros_like(each))
    return xp.sum(each, dtype=acc)


def _loss_backward(name: str, d: Array, r: Array, mask: Array | None) -> Array:
    """d times dloss / dr (T, k, E)."""
    xp = namespace(r)
    if name == "entropy":
        dr = -d * (xp.log(r + TINY) + r / (r + TINY))
    else:
        total = xp.sum(r, axis=2, keepdims=True)
        dr = xp.broadcast_to(-d / (total * total), r.shape)
    return dr if mask is None else xp.where(mask[:, None, None], dr, xp.zeros_like(dr))
