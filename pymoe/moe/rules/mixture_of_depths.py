r"""Mixture-of-Depths: of each sequence the block takes the tokens that want it most; the others pass by.

Forward, x (B, S, D), n real tokens in a sequence (x (T, D) is one sequence), f one expert::

    r = x w                          a number for each token, not squashed
    C = ⌊capacity n⌋                 chosen: the C largest r of the sequence, ties to the first token
    y = x + r f(x) where chosen, x elsewhere

Backward::

    dx = dy (+ r Jᵀ dy + w dr where chosen)        dr = ⟨dy, f(x)⟩ where chosen        dw = Σ dr x

r multiplies, so that the router learns from the output.  The choice looks at later tokens; two losses teach to do
without, both the mean over real tokens of the binary cross-entropy with «chosen» as a constant target::

    router        of r itself: dr += (σ(r) - target) / T; it moves the router and x
    predictor     of a small network l = v · gelu(V x̄ + b) + c, x̄ = x as a constant: **stop-gradient**, no dx; only
                  its own parameters move, dl = (σ(l) - target) / T

``select="predictor"`` (l > 0) or ``"router"`` (r > 0) then chooses without looking ahead.  The loss of the predictor is
not a function whose dx a difference quotient would give: x̄ is held.
Constant: who is chosen, C.  Traps: a sigmoid on r (the paper has none); a predictor that trains the model through x.
Source: Mixture-of-Depths, arXiv:2404.02258.  Cost: T D for the router, and of the block the share ``capacity``.

Parameters: router.weight (1, D); predictor.fc1_weight (R, D), fc1_bias (R,), fc2_weight (1, R), fc2_bias (1,) if
d_predictor = R > 0; experts.* with E = 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.errors import ConfigError, check_integer
from pymoe.backend.namespace import Array
from pymoe.moe import experts
from pymoe.moe.router_checks import finite, one_of
from pymoe.moe.rules import form
from pymoe.ops import gelu, linear, sigmoid, softplus

NAME = "mixture_of_depths"


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form`` with n_experts = 1, and

    capacity      the share of a sequence that the block takes
    d_predictor   width of the causal predictor; 0: none
    select        "topk", or without looking ahead "router" or "predictor"
    losses        of "router" and "predictor"
    """

    n_experts: int = 1
    capacity: float = 0.125
    d_predictor: int = 0
    select: str = "topk"
    losses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_experts != 1:
            raise ConfigError(f"n_experts must be 1, one block that a token passes or not; got {self.n_experts}")
        finite("capacity", self.capacity, 0)
        if self.capacity > 1:
            raise ConfigError(f"capacity must be a share of the sequence, at most 1, got {self.capacity}")
        check_integer("d_predictor", self.d_predictor, 0)
        one_of("select", self.select, ("topk", "router", "predictor"))
        form.losses(self.losses, ("router", "predictor"))
        if not self.d_predictor and (self.select == "predictor" or "predictor" in self.losses):
            raise ConfigError("there is no predictor: set d_predictor, the width of its network")


class Cache(NamedTuple):
    frame: form.Frame
    mask: Array | None
    router: linear.Cache
    experts: experts.Cache
    losses: dict[str, Array]  # by name (T,): (σ(logit) - target) / T, 0 for padding
    predictor: Predictor | None


class Predictor(NamedTuple):
    first: linear.Cache
    gelu: gelu.Cache
    second: linear.Cache


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    found: form.Shapes = {"router.weight": (1, cfg.d_model)}
    if cfg.d_predictor:
        found["predictor.fc1_weight"] = (cfg.d_predictor, cfg.d_model)
        found["predictor.fc1_bias"] = (cfg.d_predictor,)
        found["predictor.fc2_weight"] = (1, cfg.d_predictor)
        found["predictor.fc2_bias"] = (1,)
    return found | form.expert_shapes(cfg)


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0."""
    return form.init(rng, shapes(cfg), dtype)


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: None = None
) -> tuple[form.Output, Cache]:
    """(out, cache) of x (B, S, D), or of one sequence (S, D); out.routing.kept (T, 1): who passed the block.

    >>> cfg = Config(d_model=2, d_ff=3, capacity=0.5, d_predictor=4, losses=("router", "predictor"))
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.random.default_rng(1).standard_normal((2, 6, 2)), p, cfg)
    >>> dx, dp = backward(np.ones((2, 6, 2)), cache, {"predictor": 1.0})
    >>> out.routing.load, sorted(dp)
    (array([6]), ['experts', 'predictor', 'router'])
    """
    shape = tuple(x.shape)
    x, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask, cfg.losses)
    xp = namespace(x)
    r, router = linear.forward(x, p["router"]["weight"])
    form.finite(NAME, r)
    guess, predictor = None, None
    if cfg.d_predictor:
        guess, predictor = _predict(x, p["predictor"])
        form.finite(NAME, guess)
    if cfg.select == "topk":
        chosen = _best(real(r), mask, shape[-2], cfg.capacity)
    else:
        chosen = real(r if guess is None or cfg.select == "router" else guess) > 0
        chosen = chosen if mask is None else chosen & mask[:, None]
    g = xp.where(chosen, r, xp.zeros_like(r))
    idx = xp.zeros(chosen.shape, dtype=xp.int64, device=device(x))
    y, routing, experts_cache = form.dispatch(x, g, p["experts"], idx, chosen, cfg)
    losses, slopes = {}, {}
    for name in cfg.losses:
        losses[name], slopes[name] = _cross_entropy(r if name == "router" or guess is None else guess, chosen, mask)
    return form.Output(form.leave(x + y, frame), losses, routing), Cache(
        frame, mask, router, experts_cache, slopes, predictor
    )


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp); nothing of the predictor's loss in dx."""
    frame, mask, router, experts_cache, slopes, predictor = cache
    dy, given = form.upstream(dy, frame, dlosses)
    xp = namespace(dy)
    if mask is not None:
        dy = xp.where(mask[:, None], dy, xp.zeros_like(dy))
    dx, dr, d_experts = form.collect(dy, experts_cache)
    if "router" in given:
        dr = dr + xp.astype(given["router"], dr.dtype) * slopes["router"]
    dx_router, d = linear.backward(dr, router)
    dp: dict[str, Any] = {"router": {"weight": d["weight"]}}
    if predictor is not None:
        guess = xp.zeros_like(dr)
        if "predictor" in given:
            guess = xp.astype(given["predictor"], dr.dtype) * slopes["predictor"]
        dp["predictor"] = _predict_backward(guess, predictor)
    return form.leave(dy + dx + dx_router, frame), {**dp, "experts": d_experts}


def _best(r: Array, mask: Array | None, length: int, capacity: float) -> Array:
    """(T, 1) bool: the ⌊capacity n⌋ best real tokens of every sequence of that length."""
    xp = namespace(r)
    if r.shape[0] == 0:
        return xp.zeros(r.shape, dtype=xp.bool, device=device(r))
    rows = xp.reshape(r, (-1, length))
    n = xp.full((int(rows.shape[0]),), length, dtype=xp.int64, device=device(r))
    if mask is not None:
        alive = xp.reshape(mask, rows.shape)
        rows = xp.where(alive, rows, xp.full_like(rows, -xp.inf))
        n = xp.sum(xp.astype(alive, xp.int64), axis=1)
    places = xp.astype(xp.floor(xp.astype(n, xp.float64) * capacity), xp.int64)
    rank = xp.argsort(kernels.of(rows).topk(rows, length), axis=1, stable=True)  # of each token in its sequence
    return xp.reshape(rank < places[:, None], (-1, 1))


def _predict(x: Array, w: Mapping[str, Array]) -> tuple[Array, Predictor]:
    """l (T, 1) of x (T, D)."""
    a, first = linear.forward(x, w["fc1_weight"], w["fc1_bias"])
    h, middle = gelu.forward(a)
    guess, second = linear.forward(h, w["fc2_weight"], w["fc2_bias"])
    return guess, Predictor(first, middle, second)


def _predict_backward(dguess: Array, cache: Predictor) -> dict[str, Array]:
    """The gradients of the predictor's parameters; its dx is thrown away: stop-gradient."""
    dh, second = linear.backward(dguess, cache.second)
    _, first = linear.backward(gelu.backward(dh, cache.gelu)[0], cache.first)
    return {
        "fc1_weight": first["weight"],
        "fc1_bias": first["bias"],
        "fc2_weight": second["weight"],
        "fc2_bias": second["bias"],
    }


def _cross_entropy(logit: Array, target: Array, mask: Array | None) -> tuple[Array, Array]:
    """Mean over real tokens of softplus(l) - target l, and its slope in l (T, 1)."""
    xp = namespace(logit)
    count = max(form.number_of(mask, int(logit.shape[0])), 1)
    wanted = xp.astype(target, logit.dtype)
    each = softplus.forward(logit)[0] - wanted * logit
    slope = (sigmoid.forward(logit)[0] - wanted) / count
    if mask is not None:
        alive = mask[:, None]
        each, slope = (xp.where(alive, a, xp.zeros_like(a)) for a in (each, slope))
    return xp.sum(each, dtype=accumulator(logit)) / count, slope
