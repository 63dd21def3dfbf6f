r"""Zaya: a router that is a small network with a state carried from layer to layer, and may choose to skip.

Forward, R the router's width, E experts and one class more, r⁻ (T, R) the state of the layer before (none in the
first)::

    r  = x W_downᵀ + b_down (+ scale ⊙ r⁻)                      the state that the next layer gets
    n  = rms_norm(r) ⊙ w                                         a₁ = n W₁ᵀ + b₁, a₂ = gelu(a₁) W₂ᵀ + b₂
    z  = gelu(a₂) W_outᵀ                                         (T, E+1)
    s  = softmax(z)
    idx = top-K of s + selection bias                            a decision
    g  = s[idx], 0 where idx = E                                 the class E is «skip»: no expert, weight 0
    y  = Σ_j g_j f_{idx_j}(x)

Backward: ds[idx] = dg (0 for skip; its probability still moves through the softmax), then the network from bottom to
top, and dr gets what the next layer hands back::

    dz = s ⊙ (ds - ⟨s, ds⟩)        dr = network(dz) + dstate
    dx += dr W_down                dscale = Σ_t dr ⊙ r⁻        dr⁻ = scale ⊙ dr

Constant: idx and the selection bias (router.selection_bias; the published start is 0, and -1 for skip).  Traps: the
state goes on *before* the norm; the bias must not reach the weights; a skipped token is routed nowhere, so it must not
make expert 0 look busy; K counts classes, so that skipping uses up a choice.
Source: ZAYA1, arXiv:2511.17127; forms as in the published model's code.  Cost: T (D R + 2 R² + R E) for the router.

Parameters: router.down_weight (R, D), down_bias (R,), norm_weight (R,), fc1_weight, fc2_weight (R, R), fc1_bias,
fc2_bias (R,), out_weight (E+1, R), selection_bias (E+1,), state_scale (R,) if ``carried``; experts.*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import namespace, real
from pymoe.backend.errors import ConfigError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe import experts
from pymoe.moe.router import Routing
from pymoe.moe.router_checks import finite
from pymoe.moe.rules import form
from pymoe.ops import gelu, linear, rms_norm, softmax

NAME = "zaya"
SKIP_BIAS = -1.0  # the published first value of the selection bias of skip


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form`` (n_experts without the skip class), and

    d_router   R
    k          classes a token chooses; the published model has 1
    eps        ε of the norm
    carried    is there a state_scale, that is: is this not the first layer?
    """

    d_router: int = 256
    k: int = 1
    eps: float = 1e-5
    carried: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("d_router", self.d_router)
        form.choices("k", self.k, self.n_experts + 1)
        finite("eps", self.eps, 0)


class Output(NamedTuple):
    y: Array  # like x
    losses: dict[str, Array]  # empty
    routing: Routing  # idx may be E: skipped; load counts the E experts
    state: Array  # like x, with R in the place of D


class Cache(NamedTuple):
    frame: form.Frame
    mask: Array | None
    p: Mapping[str, Array]  # the router's
    down: linear.Cache
    state: Array | None  # (T, R) of the layer before
    network: tuple[Any, ...]  # caches of the norm, fc1, gelu, fc2, gelu, out
    s: softmax.Cache
    idx: Array  # (T, K)
    skipped: Array  # (T, K) bool
    experts: experts.Cache


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    r, classes = cfg.d_router, cfg.n_experts + 1
    router: form.Shapes = {
        "down_weight": (r, cfg.d_model),
        "down_bias": (r,),
        "norm_weight": (r,),
        "fc1_weight": (r, r),
        "fc1_bias": (r,),
        "fc2_weight": (r, r),
        "fc2_bias": (r,),
        "out_weight": (classes, r),
        "selection_bias": (classes,),
    }
    if cfg.carried:
        router["state_scale"] = (r,)
    return {f"router.{name}": shape for name, shape in router.items()} | form.expert_shapes(cfg)


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0, scales 1, the selection bias of skip -1.

    >>> init(np.random.default_rng(0), Config(3, 4, 2, d_router=5))["router"]["selection_bias"]
    array([ 0.,  0., -1.])
    """
    p = form.init(rng, shapes(cfg), dtype, norm_weight=1.0, state_scale=1.0)
    bias = np.zeros(cfg.n_experts + 1, dtype)
    bias[-1] = SKIP_BIAS
    return {**p, "router": {**p["router"], "selection_bias": bias}}


def forward(
    x: Array,
    p: Mapping[str, Any],
    cfg: Config,
    mask: Array | None = None,
    draws: None = None,
    state: Array | None = None,
) -> tuple[Output, Cache]:
    """(out, cache) of x (T, D) or (B, S, D) and the state of the layer before, like x but R wide.

    >>> cfg = Config(d_model=3, d_ff=4, n_experts=2, d_router=5)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((6, 3)), p, cfg, state=np.ones((6, 5)))
    >>> dx, dp, dstate = backward(np.ones((6, 3)), cache)
    >>> out.state.shape, dstate.shape
    ((6, 5), (6, 5))
    """
    x, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask)
    xp, w = namespace(x), p["router"]
    r, down = linear.forward(x, w["down_weight"], w["down_bias"])
    if state is not None:
        if not cfg.carried:
            raise ConfigError(f"{NAME}: a state was given to a layer without a state_scale: set carried=True")
        check_shape(f"{NAME}: state", state, (*frame.shape[:-1], cfg.d_router))
        state = xp.reshape(state, (-1, cfg.d_router))
        if mask is not None:
            state = xp.where(mask[:, None], state, xp.zeros_like(state))
        r = r + w["state_scale"] * state
    z, network = _network(r, w, cfg.eps)
    form.finite(NAME, z)
    s, s_cache = softmax.forward(z)
    idx = kernels.of(s).topk(real(s) + real(w["selection_bias"]), cfg.k)
    skipped = idx == cfg.n_experts
    kept = ~skipped if mask is None else ~skipped & mask[:, None]
    g = xp.take_along_axis(s, idx, axis=1)
    g = xp.where(kept, g, xp.zeros_like(g))
    inside = xp.where(skipped, xp.zeros_like(idx), idx)
    y, routing, experts_cache = form.dispatch(x, g, p["experts"], inside, kept, cfg)
    passed = r if mask is None else xp.where(mask[:, None], r, xp.zeros_like(r))
    out = Output(
        form.leave(y, frame),
        {},
        routing._replace(idx=idx),
        xp.reshape(passed, (*frame.shape[:-1], cfg.d_router)),
    )
    return out, Cache(frame, mask, w, down, state, network, s_cache, idx, skipped, experts_cache)


def backward(
    dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None, dstate: Array | None = None
) -> tuple[Array, ...]:
    """(dx, dp), and as a third the gradient of the state if forward was given one.  dstate: of out.state."""
    frame, mask, w, down, state, network, s_cache, idx, skipped, experts_cache = cache
    dy, _ = form.upstream(dy, frame, dlosses)
    xp = namespace(dy)
    dx, dg, d_experts = form.collect(dy, experts_cache)
    classes, width = int(w["out_weight"].shape[0]), int(w["down_bias"].shape[0])
    ds = kernels.of(dg).expand(dg, idx, classes)  # dg is 0 where skipped
    dz, _ = softmax.backward(ds, s_cache)
    dr, router = _network_backward(dz, network)
    if dstate is not None:
        check_shape(f"{NAME}: dstate", dstate, (*frame.shape[:-1], width))
        given = xp.astype(xp.reshape(dstate, (-1, width)), dr.dtype, copy=False)
        dr = dr + (given if mask is None else xp.where(mask[:, None], given, xp.zeros_like(given)))
    dx_router, d = linear.backward(dr, down)
    router |= {"down_weight": d["weight"], "down_bias": d["bias"]}
    router["selection_bias"] = xp.zeros_like(w["selection_bias"])
    if "state_scale" in w:
        router["state_scale"] = xp.zeros_like(w["state_scale"]) if state is None else xp.sum(dr * state, axis=0)
    dp = {"router": {name: router[name] for name in w}, "experts": d_experts}
    found = form.leave(dx + dx_router, frame), dp
    if state is None:
        return found
    return (*found, xp.reshape(dr * w["state_scale"], (*frame.shape[:-1], width)))


def _network(r: Array, w: Mapping[str, Array], eps: float) -> tuple[Array, tuple[Any, ...]]:
    """z (T, E+1) of the state r (T, R)."""
    n, c0 = rms_norm.forward(r, w["norm_weight"], eps=eps)
    a1, c1 = linear.forward(n, w["fc1_weight"], w["fc1_bias"])
    h1, c2 = gelu.forward(a1)
    a2, c3 = linear.forward(h1, w["fc2_weight"], w["fc2_bias"])
    h2, c4 = gelu.forward(a2)
    z, c5 = linear.forward(h2, w["out_weight"])
    return z, (c0, c1, c2, c3, c4, c5)


def _network_backward(dz: Array, caches: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
    c0, c1, c2, c3, c4, c5 = caches
    dh2, out = linear.backward(dz, c5)
    dh1, fc2 = linear.backward(gelu.backward(dh2, c4)[0], c3)
    dn, fc1 = linear.backward(gelu.backward(dh1, c2)[0], c1)
    dr, norm = rms_norm.backward(dn, c0)
    return dr, {
        "out_weight": out["weight"],
        "fc2_weight": fc2["weight"],
        "fc2_bias": fc2["bias"],
        "fc1_weight": fc1["weight"],
        "fc1_bias": fc1["bias"],
        "norm_weight": norm["weight"],
    }
