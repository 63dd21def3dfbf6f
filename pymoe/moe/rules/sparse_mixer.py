r"""SparseMixer-v2 (GRIN): experts are sampled, and the router learns through an estimator of the gradient.

Forward, z = x W_rᵀ (T, E), slot j = 0..K-1, Z_j the experts that slots before j have not taken::

    top    = max_{e ∈ Z_j} z_e
    R_j    = {e ∈ Z_j : top - z_e <= 2 ε max(|z_e|, top)}       the experts near enough to be sampled
    π_j    = softmax of z over R_j, 0 elsewhere
    i_j    = argmax_e (log π_je + Gumbel_e)                     a sample of π_j;   without draws: argmax π_j
    m_j    = 1 if i_j = argmax π_j or U_j > 3/4, else 1/3       without draws: 1
    g_j    = m_j π_j[i_j]                                       y = Σ_j g_j f_{i_j}(x)

Backward, a **declared estimator** (dg_j = ⟨dy, f_{i_j}(x)⟩ as always, measured at the weight m_j π_j)::

    dz += dg_j π_j[i_j] (δ_{i_j} - π_j)                         m_j is left out

With draws this is *not* the derivative of the forward: no difference quotient agrees where some m_j = 1/3, and it must
not.  What it estimates: with L(s) the loss when the weight of expert i is s π_i, a quarter of the mass at s = 1 and
three quarters at s = 1/3 is Radau's rule, Heun's third order, so that for a loss of degree three in the weight

    E_m[dg π_i] = ∫₀¹ L'(s) ds = L(1) - L(0)        and        E[dz] = Σ_i (L_i(1) - L_i(0)) ∂π_i/∂z

over all i but the argmax, which contributes its first-order term.  Without draws m = 1 and the backward is exact.

Constant: R_j, i_j, m_j and the draws.  Traps: factor 1/3 in the backward too (then it is neither); the released code
multiplies by 0.3333 (``midpoint=0.3333`` gives its numbers); a mask by division is 0/0 at top = 0.  Padding is routed
nowhere.  Source: GRIN, arXiv:2409.12136; Liu et al., arXiv:2310.00811.  Cost: K softmaxes beside the layer's own cost;
kept: K (T, E) probabilities.

Parameters: router.weight (E, D), experts.* as in ``moe.parameters``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import device, namespace, real
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.moe import experts
from pymoe.moe.losses import balance
from pymoe.moe.router_checks import finite
from pymoe.moe.rules import form
from pymoe.ops import linear, softmax

NAME = "sparse_mixer"
LIKELY = 0.75  # U above it takes the weight at s = 1, the other end of Radau's rule


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form``, and

    k          slots; the published model has 2
    jitter     ε of the sampling range (router_jitter_noise)
    midpoint   the factor m of a sample that is not the best
    losses     () or ("balance",): the load-balancing loss over softmax(z), with the experts that were sampled
    """

    k: int = 2
    jitter: float = 0.01
    midpoint: float = 1 / 3
    losses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        form.choices("k", self.k, self.n_experts)
        finite("jitter", self.jitter, 0)
        finite("midpoint", self.midpoint, 0)
        form.losses(self.losses, ("balance",))


class Draws(NamedTuple):
    gumbel: Array  # (T, K, E) standard Gumbel
    uniform: Array  # (T, K) U(0, 1)


class Cache(NamedTuple):
    frame: form.Frame
    logits: linear.Cache
    pi: tuple[Array, ...]  # K times (T, E)
    idx: Array  # (T, K)
    experts: experts.Cache
    balance: tuple[Any, balance.Cache] | None  # of softmax(z), of the loss


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    return {"router.weight": (cfg.n_experts, cfg.d_model), **form.expert_shapes(cfg)}


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0."""
    return form.init(rng, shapes(cfg), dtype)


def draw(rng: np.random.Generator, cfg: Config, tokens: int, dtype: Any = np.float64) -> Draws:
    """What one forward of training draws, as values.

    >>> draw(np.random.default_rng(0), Config(3, 4, 5), 2).gumbel.shape
    (2, 2, 5)
    """
    return Draws(rng.gumbel(size=(tokens, cfg.k, cfg.n_experts)).astype(dtype), rng.random((tokens, cfg.k)))


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: Draws | None = None
) -> tuple[form.Output, Cache]:
    """(out, cache) of x (T, D) or (B, S, D); draws None: evaluation, the best experts and an exact backward.

    >>> cfg = Config(d_model=2, d_ff=3, n_experts=4)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> draws = draw(np.random.default_rng(1), cfg, 5)
    >>> out, cache = forward(np.ones((5, 2)), p, cfg, draws=draws)
    >>> dx, dp = backward(np.ones((5, 2)), cache)
    >>> out.routing.idx.shape, sorted(dp)
    ((5, 2), ['experts', 'router'])
    """
    x, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask, cfg.losses)
    xp = namespace(x)
    z, logits = linear.forward(x, p["router"]["weight"])
    form.finite(NAME, z)
    idx, weight, pi = _sample(z, cfg, _checked(draws, z, cfg))
    kept = form.of_tokens(mask, idx)
    if kept is not None:
        weight = xp.where(kept, weight, xp.zeros_like(weight))
    y, routing, experts_cache = form.dispatch(x, weight, p["experts"], idx, kept, cfg)
    losses, loss_cache = {}, None
    if "balance" in cfg.losses:
        s, s_cache = softmax.forward(z)
        losses["balance"], own = balance.forward(s, form.fractions(routing.load), mask)
        loss_cache = s_cache, own
    return form.Output(form.leave(y, frame), losses, routing), Cache(frame, logits, pi, idx, experts_cache, loss_cache)


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp): exact for the experts and the loss, the estimator for the router."""
    frame, logits, pi, idx, experts_cache, loss_cache = cache
    dy, given = form.upstream(dy, frame, dlosses)
    dx, dg, d_experts = form.collect(dy, experts_cache)
    dz = _sample_backward(dg, idx, pi)
    if loss_cache is not None and "balance" in given:
        s_cache, own = loss_cache
        dz = dz + softmax.backward(balance.backward(given["balance"], own)[0], s_cache)[0]
    dx_router, d = linear.backward(dz, logits)
    return form.leave(dx + dx_router, frame), {"router": {"weight": d["weight"]}, "experts": d_experts}


def _checked(draws: Draws | None, z: Array, cfg: Config) -> Draws | None:
    if draws is None:
        return None
    tokens = int(z.shape[0])
    check_shape(f"{NAME}: draws.gumbel", draws.gumbel, (tokens, cfg.k, cfg.n_experts))
    check_shape(f"{NAME}: draws.uniform", draws.uniform, (tokens, cfg.k))
    return draws


def _sample(z: Array, cfg: Config, draws: Draws | None) -> tuple[Array, Array, tuple[Array, ...]]:
    """idx (T, K), g (T, K) and the π of each slot."""
    xp, values = namespace(z), real(z)
    low = xp.full_like(values, -xp.inf)
    column = xp.arange(cfg.n_experts, device=device(z))[None, :]
    taken = xp.zeros_like(values, dtype=xp.bool)
    chosen, weights, pi = [], [], []
    for j in range(cfg.k):
        left = xp.where(taken, low, values)
        top = xp.max(left, axis=1, keepdims=True)
        far = taken | (top - values > 2 * cfg.jitter * xp.maximum(xp.abs(values), top))
        p = kernels.of(z).softmax(xp.where(far, xp.full_like(z, -xp.inf), z))
        near = xp.where(far, low, values)
        best = kernels.of(z).topk(near, 1)
        i, factor = best, xp.ones_like(top)
        if draws is not None:
            i = kernels.of(z).topk(near + draws.gumbel[:, j, :], 1)
            whole = (i == best) | (draws.uniform[:, j][:, None] > LIKELY)
            factor = xp.where(whole, factor, cfg.midpoint * factor)
        chosen.append(i)
        weights.append(xp.take_along_axis(p, i, axis=1) * factor)
        pi.append(p)
        taken = taken | (column == i)
    return xp.concat(chosen, axis=1), xp.concat(weights, axis=1), tuple(pi)


def _sample_backward(dg: Array, idx: Array, pi: tuple[Array, ...]) -> Array:
    """dz (T, E) = Σ_j dg_j π_j[i_j] (δ_{i_j} - π_j)."""
    xp = namespace(dg, idx)
    dz = xp.zeros_like(pi[0])
    for j, p in enumerate(pi):
        i = idx[:, j][:, None]
        step = dg[:, j][:, None] * xp.take_along_axis(p, i, axis=1)
        dz = dz + (kernels.of(p).expand(step, i, int(p.shape[1])) - step * p)
    return dz
