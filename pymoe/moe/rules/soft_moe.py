r"""Soft MoE: every slot of every expert gets a mixture of all tokens, every token a mixture of all slots.

Forward, x (B, S, D) (x (T, D) is one sequence), E experts of P slots, n(a) = a / (‖a‖ + ε) over D::

    L = n(x) · (scale n(Φ))              (S, E P)
    D = softmax of L over the tokens     C = softmax of L over the slots
    X̃ = Dᵀ x (E P, D)                    Ỹ = f_e(X̃) slot by slot              y = C Ỹ

Backward::

    dC = dy Ỹᵀ        dỸ = Cᵀ dy        dX̃ from the experts        dD = x dX̃ᵀ        dx = D dX̃ + ...
    dL = C ⊙ (dC - ⟨C, dC⟩ over the slots) + D ⊙ (dD - ⟨D, dD⟩ over the tokens)
    da = dn / (‖a‖ + ε) - n ⟨n, dn⟩ / ‖a‖           for n(x) and n(Φ);   dscale = Σ dL ⊙ L / scale, formed without /

Nothing is decided: no constant, no loss, no ties.  Padding gets L = -inf before the softmax over the tokens, so that no
slot sees it, and y = 0.  Not causal: a slot mixes the whole sequence.  Traps: ε is added to the norm, not to its
square, and is no lower bound; a softmax over the tokens of several sequences at once.
Source: Soft MoE, arXiv:2308.00951, with its normalisation and ε = 1e-6.  Cost: 2 S E P D for each of L, X̃, y, and E P
rows through an expert, whatever S is.

Parameters: router.slots (E, P, D), router.scale (1,), experts.*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import device, namespace, real
from pymoe.backend.errors import check_integer
from pymoe.backend.namespace import Array
from pymoe.moe import experts
from pymoe.moe.router_checks import finite
from pymoe.moe.rules import form

NAME = "soft_moe"


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form``, and

    slots   P, slots of an expert
    eps     ε added to a norm
    """

    slots: int = 1
    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("slots", self.slots)
        finite("eps", self.eps, 0)


class Output(NamedTuple):
    y: Array  # like x
    losses: dict[str, Array]  # empty
    dispatch: Array  # (B, S, E P) D, columns sum to 1
    combine: Array  # (B, S, E P) C, rows sum to 1, 0 for padding


class Unit(NamedTuple):
    unit: Array  # (..., D) a / (‖a‖ + ε)
    size: Array  # (..., 1) ‖a‖


class Cache(NamedTuple):
    frame: form.Frame
    eps: float
    x: Array  # (B, S, D)
    tokens: Unit
    slots: Unit  # (E P, D)
    shape: tuple[int, ...]  # of router.slots
    scale: Array  # (1,)
    cosine: Array  # (B, S, E P) L without its scale
    dispatch: Array
    combine: Array
    out: Array  # (B, E P, D) Ỹ
    experts: experts.Cache


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    slots: form.Shapes = {"router.slots": (cfg.n_experts, cfg.slots, cfg.d_model), "router.scale": (1,)}
    return slots | form.expert_shapes(cfg)


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0, the scale 1."""
    return form.init(rng, shapes(cfg), dtype, scale=1.0)


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: None = None
) -> tuple[Output, Cache]:
    """(out, cache) of x (B, S, D), or of one sequence (S, D).

    >>> cfg = Config(d_model=2, d_ff=3, n_experts=4, slots=2)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((1, 5, 2)), p, cfg)
    >>> dx, dp = backward(np.ones((1, 5, 2)), cache)
    >>> out.dispatch.shape, float(out.combine[0, 0].sum().round(12))
    ((1, 5, 8), 1.0)
    """
    shape = tuple(x.shape)
    flat, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask)
    xp = namespace(flat)
    length, wide = shape[-2], cfg.n_experts * cfg.slots
    groups = shape[0] if len(shape) == 3 else 1
    x = xp.reshape(flat, (groups, length, cfg.d_model))
    tokens = _unit(x, cfg.eps)
    slots = _unit(xp.reshape(p["router"]["slots"], (wide, cfg.d_model)), cfg.eps)
    scale = p["router"]["scale"]
    cosine = tokens.unit @ slots.unit.T
    logits = cosine * scale
    form.finite(NAME, xp.reshape(logits, (groups * length, wide)))
    combine = xp.reshape(_softmax(xp.reshape(logits, (-1, wide))), logits.shape)
    by_slot = xp.permute_dims(logits, (0, 2, 1))
    if mask is not None:
        alive = xp.reshape(mask, (groups, length))
        by_slot = xp.where(alive[:, None, :], by_slot, xp.full_like(by_slot, -xp.inf))
        combine = xp.where(alive[:, :, None], combine, xp.zeros_like(combine))
    by_slot = xp.reshape(_softmax(xp.reshape(by_slot, (groups * wide, length))), (groups, wide, length))
    rows = xp.reshape(by_slot @ x, (groups * wide, cfg.d_model))  # X̃
    owner = xp.arange(groups * wide, dtype=xp.int64, device=device(x)) % wide // cfg.slots
    whole = xp.ones((groups * wide, 1), dtype=x.dtype, device=device(x))
    out, _, experts_cache = form.dispatch(rows, whole, p["experts"], owner[:, None], None, cfg)
    out = xp.reshape(out, (groups, wide, cfg.d_model))  # Ỹ
    dispatch = xp.permute_dims(by_slot, (0, 2, 1))
    y = xp.reshape(combine @ out, (-1, cfg.d_model))
    return Output(form.leave(y, frame), {}, dispatch, combine), Cache(
        frame,
        cfg.eps,
        x,
        tokens,
        slots,
        tuple(p["router"]["slots"].shape),
        scale,
        cosine,
        dispatch,
        combine,
        out,
        experts_cache,
    )


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp); there are no losses here."""
    frame, eps, x, tokens, slots, shape, scale, cosine, dispatch, combine, out, experts_cache = cache
    dy, _ = form.upstream(dy, frame, dlosses)
    xp = namespace(dy)
    dy = xp.reshape(dy, x.shape)
    transposed = xp.matrix_transpose
    dcombine = dy @ transposed(out)
    drows, _, d_experts = form.collect(xp.reshape(transposed(combine) @ dy, experts_cache.x.shape), experts_cache)
    drows = xp.reshape(drows, out.shape)
    ddispatch = x @ transposed(drows)
    dlogits = combine * (dcombine - xp.sum(combine * dcombine, axis=2, keepdims=True))
    dlogits = dlogits + dispatch * (ddispatch - xp.sum(dispatch * ddispatch, axis=1, keepdims=True))
    dcosine = dlogits * scale
    dtokens = dcosine @ slots.unit
    dslots = xp.sum(transposed(dcosine) @ tokens.unit, axis=0)
    dx = dispatch @ drows + _unit_backward(dtokens, tokens, eps)
    router = {
        "slots": xp.reshape(_unit_backward(dslots, slots, eps), shape),
        "scale": xp.reshape(xp.sum(dlogits * cosine), (1,)),
    }
    return form.leave(dx, frame), {"router": router, "experts": d_experts}


def _softmax(rows: Array) -> Array:
    """Over the last axis; of a row without columns, or of nothing but -inf, zeros."""
    return kernels.of(rows).softmax(rows) if rows.size else rows


def _unit(a: Array, eps: float) -> Unit:
    xp = namespace(a)
    size = xp.sqrt(xp.sum(a * a, axis=-1, keepdims=True))
    below = size + eps
    return Unit(a / xp.where(real(below) == 0, xp.ones_like(below), below), size)


def _unit_backward(dn: Array, cache: Unit, eps: float) -> Array:
    unit, size = cache
    xp = namespace(dn)
    zero = real(size) == 0
    safe = xp.where(zero, xp.ones_like(size), size)
    along = unit * (xp.sum(unit * dn, axis=-1, keepdims=True) / safe)
    below = size + eps
    return dn / xp.where(real(below) == 0, xp.ones_like(below), below) - along
