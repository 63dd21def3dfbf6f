r"""ReMoE: the router is a ReLU, so that it says who and how much at once, and an L1 loss holds its sparsity.

Forward::

    z  = x W_rᵀ        R = max(z, 0) (T, E)        y = Σ_e R_e f_e(x)         only the experts with R > 0 run
    l1 = mean_{t, e} f_e R_te,        f_e = E / (k T) #{t : R_te > 0}         (``balanced``; else f = 1)

Backward, T real tokens, dR_te = ⟨dy_t, f_e(x_t)⟩::

    dz = 1[z > 0] (dR + dl1 f_e / (T E))

The coefficient of l1 follows the measured sparsity S = 1 - #{R > 0} / (T E), once a step (``update``)::

    λ <- λ α^{sign((1 - k/E) - S)}                     λ₀ = 1e-8, α = 1.2; more than k experts a token: λ grows

Constant: f, the set {R > 0}, S and λ.  A token may get 0 to E experts; z = 0 is off.  Traps: a softmax before the ReLU;
the L1 term reaches every expert that is on, also where a cotangent of y is 0; S over real tokens only.
Source: ReMoE, arXiv:2412.14711.  Cost: T D E and an expert for each R > 0; (T, E) integers for the plan.

Parameters: router.weight (E, D), experts.*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.namespace import Array
from pymoe.moe import experts
from pymoe.moe.router import Routing
from pymoe.moe.router_checks import finite
from pymoe.moe.rules import form
from pymoe.ops import linear

NAME = "remoe"


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form``, and

    k           the number of experts a token shall have on average
    balanced    weigh the L1 loss of an expert by how busy it is
    start, factor   λ₀ and α of the coefficient of the loss
    """

    k: int = 1
    balanced: bool = True
    start: float = 1e-8
    factor: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        form.choices("k", self.k, self.n_experts)
        finite("start", self.start, 0)
        finite("factor", self.factor, 1)


class Output(NamedTuple):
    y: Array  # like x
    losses: dict[str, Array]  # "l1", without its coefficient
    routing: Routing  # idx 0..E-1 for every token, kept where R > 0
    sparsity: float  # S


class Cache(NamedTuple):
    frame: form.Frame
    logits: linear.Cache
    on: Array  # (T, E) bool
    share: Array  # (E,) f / (T E), a constant
    experts: experts.Cache


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    return {"router.weight": (cfg.n_experts, cfg.d_model), **form.expert_shapes(cfg)}


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0."""
    return form.init(rng, shapes(cfg), dtype)


def update(coefficient: float, sparsity: float, cfg: Config) -> float:
    """λ of the next step from λ and the sparsity of this one.

    >>> cfg = Config(3, 4, 4, k=1)  # wants S = 0.75
    >>> update(1.0, 0.5, cfg), update(1.0, 0.75, cfg), update(1.2, 0.9, cfg)
    (1.2, 1.0, 1.0)
    """
    gap = (1 - cfg.k / cfg.n_experts) - sparsity
    return coefficient * cfg.factor if gap > 0 else coefficient / cfg.factor if gap < 0 else coefficient


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: None = None
) -> tuple[Output, Cache]:
    """(out, cache) of x (T, D) or (B, S, D).

    >>> cfg = Config(d_model=2, d_ff=3, n_experts=4)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((5, 2)), p, cfg)
    >>> dx, dp = backward(np.ones((5, 2)), cache, {"l1": update(cfg.start, out.sparsity, cfg)})
    >>> out.routing.weight.shape, out.sparsity
    ((5, 4), 0.5)
    """
    x, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask, ("l1",))
    xp = namespace(x)
    z, logits = linear.forward(x, p["router"]["weight"])
    form.finite(NAME, z)
    on = real(z) > 0  # padding is x = 0, so z = 0: off
    r = xp.where(on, z, xp.zeros_like(z))
    idx = xp.broadcast_to(xp.arange(cfg.n_experts, dtype=xp.int64, device=device(x))[None, :], on.shape)
    y, routing, experts_cache = form.dispatch(x, r, p["experts"], idx, on, cfg)
    tokens = max(form.number_of(mask, int(x.shape[0])), 1)
    busy = xp.astype(routing.load, xp.float64) * (cfg.n_experts / (cfg.k * tokens))
    share = (busy if cfg.balanced else xp.ones_like(busy)) / (tokens * cfg.n_experts)
    acc = accumulator(r)
    l1 = xp.sum(xp.astype(share, acc) * xp.sum(r, axis=0, dtype=acc))
    sparsity = 1 - int(xp.sum(routing.load)) / (tokens * cfg.n_experts)
    return Output(form.leave(y, frame), {"l1": l1}, routing, sparsity), Cache(frame, logits, on, share, experts_cache)


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp); dlosses {"l1": λ}."""
    frame, logits, on, share, experts_cache = cache
    dy, given = form.upstream(dy, frame, dlosses)
    xp = namespace(dy)
    dx, dr, d_experts = form.collect(dy, experts_cache)
    if "l1" in given:
        dr = dr + xp.astype(given["l1"], dr.dtype) * xp.astype(share, dr.dtype)
    dx_router, d = linear.backward(xp.where(on, dr, xp.zeros_like(dr)), logits)
    return form.leave(dx + dx_router, frame), {"router": {"weight": d["weight"]}, "experts": d_experts}
