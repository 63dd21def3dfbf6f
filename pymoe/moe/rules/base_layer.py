r"""BASE: one expert a token by a balanced assignment in training, greedily in evaluation; a sigmoid mixes it with x.

Forward, z = x cᵀ (T, E), c the experts' centroids::

    idx = the assignment of largest Σ z with at most ⌈T / E⌉ tokens an expert (``select.assignment``), or argmax z
    α   = σ(z[idx])        y = α f(x) + (1 - α) x

Backward::

    dα = ⟨dy, f(x) - x⟩        dz[idx] = α (1 - α) dα        dx = α Jᵀ dy + (1 - α) dy + dz c        dc = dzᵀ x

Constant: idx.  The load is even by construction: no loss.  fairseq's expert is itself a residual x + g(x), which makes
y = x + α g(x); here f is any expert.  The assignment looks at the whole batch and is no rule for generating.
Trap: assigning by σ(z) in the place of z (the sums order the assignments differently).
Source: BASE layers, arXiv:2103.16716.  Cost: T D E, the assignment, one expert a token.

Parameters: router.weight (E, D) the centroids; experts.*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import device, namespace, real, to_numpy
from pymoe.backend.namespace import Array
from pymoe.moe import experts
from pymoe.moe.router_checks import one_of
from pymoe.moe.rules import form
from pymoe.moe.select import assignment
from pymoe.ops import linear, sigmoid

NAME = "base_layer"


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form``, and

    select   "assignment" (training) or "topk" (evaluation)
    """

    select: str = "assignment"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("select", self.select, ("assignment", "topk"))


class Cache(NamedTuple):
    frame: form.Frame
    mask: Array | None
    logits: linear.Cache
    idx: Array  # (T, 1)
    alpha: sigmoid.Cache  # (T, 1)
    x: Array  # (T, D)
    experts: experts.Cache


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    return {"router.weight": (cfg.n_experts, cfg.d_model), **form.expert_shapes(cfg)}


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0."""
    return form.init(rng, shapes(cfg), dtype)


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: None = None
) -> tuple[form.Output, Cache]:
    """(out, cache) of x (T, D) or (B, S, D), all tokens in one pool.

    >>> cfg = Config(d_model=2, d_ff=3, n_experts=4)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.random.default_rng(1).standard_normal((8, 2)), p, cfg)
    >>> dx, dp = backward(np.ones((8, 2)), cache)
    >>> out.routing.load
    array([2, 2, 2, 2])
    """
    x, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask)
    xp = namespace(x)
    z, logits = linear.forward(x, p["router"]["weight"])
    form.finite(NAME, z)
    if cfg.select == "topk":
        idx = kernels.of(z).topk(real(z), 1)
    else:
        host = assignment.balanced(to_numpy(real(z)), None if mask is None else to_numpy(mask))
        idx = xp.asarray(host, device=device(x))
    alpha, alpha_cache = sigmoid.forward(xp.take_along_axis(z, idx, axis=1))
    kept = form.of_tokens(mask, idx)
    if kept is not None:
        alpha = xp.where(kept, alpha, xp.zeros_like(alpha))
    y, routing, experts_cache = form.dispatch(x, alpha, p["experts"], idx, kept, cfg)
    y = y + (1 - alpha) * x
    return form.Output(form.leave(y, frame), {}, routing), Cache(
        frame, mask, logits, idx, alpha_cache, x, experts_cache
    )


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp); there are no losses here."""
    frame, mask, logits, idx, alpha, x, experts_cache = cache
    dy, _ = form.upstream(dy, frame, dlosses)
    xp = namespace(dy)
    if mask is not None:
        dy = xp.where(mask[:, None], dy, xp.zeros_like(dy))
    dx, dg, d_experts = form.collect(dy, experts_cache)
    dz, _ = sigmoid.backward(dg - xp.sum(dy * x, axis=1, keepdims=True), alpha)
    dx_router, d = linear.backward(kernels.of(dz).expand(dz, idx, int(logits.weight.shape[0])), logits)
    dx = dx + (1 - alpha.s) * dy + dx_router
    return form.leave(dx, frame), {"router": {"weight": d["weight"]}, "experts": d_experts}
