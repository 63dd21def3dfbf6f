r"""Experts merged in the space of their weights, one mixture for a sequence (SMEAR) or for a segment of it (Lory).

Forward, x (B, S, D) (x (T, D) is one sequence), segments of L tokens (0: the whole sequence), h̄ the mean of the real
tokens of a segment (of none: 0)::

    e_k  = softmax(h̄_k W_rᵀ)                                         (E)
    γ_k  = e_{k-1} for k >= 1;  γ_0 = e_0, or sg(e_0) (``first="stopped"``)
    θ̄_k  = Σ_e γ_ke θ_e          for every matrix and bias of the experts
    y_t  = f_{θ̄_k}(x_t)          for the tokens of segment k

Backward::

    dγ_ke = ⟨dθ̄_k, θ_e⟩           dθ_e = Σ_k γ_ke dθ̄_k               dx from f
    de_{k-1} = dγ_k, de_0 += dγ_0 unless stopped          dz = e ⊙ (de - ⟨e, de⟩)          dh̄ = dz W_r, shared by L

Every expert learns from every token: nothing is decided, there are no ties and no losses.  With several segments a
token gets the mixture of what came before its segment; in the first one that of its own segment, which looks ahead.
The **stop-gradient** there keeps the router from learning to use that, and is no derivative of the forward.  SMEAR as
such (segment 0) looks ahead and is for encoders.
Trap: merging outputs and merging weights differ as soon as the expert is not linear.
Sources: SMEAR, arXiv:2306.03745; Lory, arXiv:2405.03133.  Cost: one expert a token, and B ⌈S / L⌉ times all the
experts' weights to merge; kept: the merged weights.

Parameters: router.weight (E, D), experts.*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import device, namespace
from pymoe.backend.errors import check_integer
from pymoe.backend.namespace import Array
from pymoe.moe import experts
from pymoe.moe.router_checks import one_of
from pymoe.moe.rules import form
from pymoe.ops import linear, softmax

NAME = "merged"


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form``, and

    segment   L, tokens that share a mixture; 0: the whole sequence
    first     the mixture of the first segment: its "own", or its own without a gradient, "stopped"
    """

    segment: int = 0
    first: str = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("segment", self.segment, 0)
        one_of("first", self.first, ("own", "stopped"))


def lory(d_model: int, d_ff: int, n_experts: int, *, segment: int = 256, **others: Any) -> Config:
    """Lory's causal segment routing.

    >>> lory(3, 4, 5).first
    'stopped'
    """
    return Config(d_model, d_ff, n_experts, segment=segment, first="stopped", **others)


class Output(NamedTuple):
    y: Array  # like x
    losses: dict[str, Array]  # empty
    gates: Array  # (B, ⌈S / L⌉, E) γ


class Cache(NamedTuple):
    frame: form.Frame
    cfg: Config
    mask: Array | None
    logits: linear.Cache
    e: softmax.Cache
    share: Array  # (B, n, L) 1 / real tokens of the segment, 0 for padding
    gates: Array  # (B, n, E)
    p: Mapping[str, Array]  # the experts'
    experts: experts.Cache


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    return {"router.weight": (cfg.n_experts, cfg.d_model), **form.expert_shapes(cfg)}


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0."""
    return form.init(rng, shapes(cfg), dtype)


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: None = None
) -> tuple[Output, Cache]:
    """(out, cache) of x (B, S, D), or of one sequence (S, D).

    >>> cfg = lory(d_model=2, d_ff=3, n_experts=4, segment=2)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((1, 5, 2)), p, cfg)
    >>> dx, dp = backward(np.ones((1, 5, 2)), cache)
    >>> out.gates.shape, bool((dp["experts"]["down_proj"] != 0).all())
    ((1, 3, 4), True)
    """
    shape = tuple(x.shape)
    flat, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask)
    xp = namespace(flat)
    length, groups = shape[-2], shape[0] if len(shape) == 3 else 1
    size = max(cfg.segment or length, 1)
    number = -(-length // size)
    share, owner = _segments(flat, mask, groups, length, size, number)
    rows = _padded(xp.reshape(flat, (groups, length, cfg.d_model)), number * size)
    rows = xp.reshape(rows, (groups, number, size, cfg.d_model))
    mean = xp.sum(rows * share[..., None], axis=2)
    z, logits = linear.forward(xp.reshape(mean, (groups * number, cfg.d_model)), p["router"]["weight"])
    form.finite(NAME, z)
    e, e_cache = softmax.forward(z)
    e = xp.reshape(e, (groups, number, cfg.n_experts))
    gates = xp.concat([e[:, :1, :], e[:, :-1, :]], axis=1)
    mixture = xp.reshape(gates, (groups * number, cfg.n_experts))
    theta = {name: _mix(mixture, a) for name, a in p["experts"].items()}
    whole = xp.ones(owner.shape, dtype=flat.dtype, device=device(flat))
    kept = form.of_tokens(mask, owner)
    merged = dataclasses.replace(cfg, n_experts=max(groups * number, 1))
    if groups * number == 0:
        theta = {name: xp.zeros_like(a[:1, ...]) for name, a in p["experts"].items()}
    y, _, experts_cache = form.dispatch(flat, whole, theta, owner, kept, merged)
    return Output(form.leave(y, frame), {}, gates), Cache(
        frame, cfg, mask, logits, e_cache, share, gates, p["experts"], experts_cache
    )


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp); there are no losses here."""
    frame, cfg, mask, logits, e_cache, share, gates, theta, experts_cache = cache
    dy, _ = form.upstream(dy, frame, dlosses)
    xp = namespace(dy)
    groups, number, experts_ = gates.shape
    size = int(share.shape[2])
    mixture = xp.reshape(gates, (groups * number, experts_))
    dx, _, d = form.collect(dy, experts_cache)
    d_experts, dgates = {}, xp.zeros_like(mixture)
    for name, a in theta.items():
        dmerged = xp.reshape(d[name], (int(d[name].shape[0]), -1))[: groups * number, :]
        d_experts[name] = xp.reshape(mixture.T @ dmerged, a.shape)
        dgates = dgates + dmerged @ xp.reshape(a, (experts_, -1)).T
    dgates = xp.reshape(dgates, gates.shape)
    de = xp.concat([dgates[:, 1:, :], xp.zeros_like(dgates[:, :1, :])], axis=1)
    if cfg.first == "own":
        de = xp.concat([de[:, :1, :] + dgates[:, :1, :], de[:, 1:, :]], axis=1)
    dz, _ = softmax.backward(xp.reshape(de, mixture.shape), e_cache)
    dmean, d_router = linear.backward(dz, logits)
    dmean = xp.reshape(dmean, (groups, number, 1, int(dy.shape[1])))
    spread = xp.reshape(dmean * share[..., None], (groups, number * size, int(dy.shape[1])))
    length = frame.shape[-2]
    dx = dx + xp.reshape(spread[:, :length, :], dx.shape)
    return form.leave(dx, frame), {"router": {"weight": d_router["weight"]}, "experts": d_experts}


def _segments(x: Array, mask: Array | None, groups: int, length: int, size: int, number: int) -> tuple[Array, Array]:
    """share (B, n, L): each token's part in the mean of its segment; owner (T, 1): the mixture that a token gets."""
    xp = namespace(x)
    ones = xp.ones((groups, length), dtype=x.dtype, device=device(x))
    alive = ones if mask is None else xp.astype(xp.reshape(mask, (groups, length)), x.dtype)
    alive = xp.reshape(_padded(alive, number * size), (groups, number, size))
    count = xp.sum(alive, axis=2, keepdims=True)
    share = alive / xp.where(count == 0, xp.ones_like(count), count)
    place = xp.arange(length, dtype=xp.int64, device=device(x))[None, :] // size
    first = xp.arange(groups, dtype=xp.int64, device=device(x))[:, None] * number
    return share, xp.reshape(first + place, (groups * length, 1))


def _padded(a: Array, length: int) -> Array:
    """a (B, S, ...) with zeros behind up to ``length`` along the second axis."""
    xp = namespace(a)
    missing = length - int(a.shape[1])
    if not missing:
        return a
    return xp.concat([a, xp.zeros((a.shape[0], missing, *a.shape[2:]), dtype=a.dtype, device=device(a))], axis=1)


def _mix(gates: Array, a: Array) -> Array:
    """Σ_e γ_ke a_e: gates (K, E), a (E, ...) -> (K, ...)."""
    xp = namespace(gates, a)
    return xp.reshape(gates @ xp.reshape(a, (int(a.shape[0]), -1)), (int(gates.shape[0]), *a.shape[1:]))
