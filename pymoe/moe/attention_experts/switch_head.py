r"""SwitchHead: in each of H attention heads the projections are mixtures of experts, and the attention matrix is one.

Forward, x (B, S, D), head h, E experts a head, K of them chosen by the σ of their own logits, without any norm::

    source  s_t = σ(x_t W_Sᵀ)[h],  chosen idx^S_t         for keys and values, at the token that is looked at
    target  s'_t = σ(x_t W_Tᵀ)[h], chosen idx^T_t         for queries and outputs, at the token that looks
    v_t = Σ_{e in idx^S_t} s_te W_v[h, e] x_t             a dense projection:  v_t = W_v[h] x_t
    o   = softmax(q kᵀ / √d) v                            one attention matrix a head
    y_t = Σ_h Σ_{e in idx^T_t} s'_te W_o[h, e] o_th

Backward, the same from bottom to top (``spread``, ``ops.attention``)::

    do, ds' = outputᵀ(dy)      dq, dk, dv = attentionᵀ(do)      dx, ds = projectionsᵀ(dq, dk, dv)
    dW_S = (s ⊙ (1 - s) ⊙ ds)ᵀ x on the chosen, exactly 0 on the others;   dx += (s ⊙ (1 - s) ⊙ ds) W_S;  W_T alike

``experts_on`` says which of the four projections are mixtures; the paper's choice is values and outputs.  Where both q
and o (or k and v) are, they share one routing.  Source: Csordás, Piękos, Irie and Schmidhuber, SwitchHead,
arXiv:2312.07987.  Cost: T H E D multiply-adds a router, T H K D d a mixture (T H D d where dense), 2 B H S² d in
attention, twice that backward; kept: x, q, k, v, o and the attention weights (B, H, S, S).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import device, namespace, real
from pymoe.backend.errors import ConfigError, ShapeError, check_integer
from pymoe.backend.namespace import Array
from pymoe.moe import plan, weigh
from pymoe.moe.attention_experts import spread
from pymoe.moe.attention_experts.moa import check_rope
from pymoe.moe.rules import form
from pymoe.ops import attention, linear, rope, sigmoid

SIDES = {"k": "source", "v": "source", "q": "target", "o": "target"}


@dataclass(frozen=True)
class Config:
    """n_heads H of width d_head, with n_experts E each, K = k of them; experts_on: of "q", "k", "v", "o".

    causal, rope_base: position i sees positions <= i; the base of rotary positions, None: none.
    """

    d_model: int
    n_heads: int
    d_head: int
    n_experts: int
    k: int
    experts_on: tuple[str, ...] = ("v", "o")
    causal: bool = True
    rope_base: float | None = 10000.0

    def __post_init__(self) -> None:
        for name in ("d_model", "n_heads", "d_head", "n_experts", "k"):
            check_integer(f"switch_head: {name}", getattr(self, name))
        form.choices("switch_head", self.k, self.n_experts)
        check_rope("switch_head", self.rope_base, self.d_head)
        on = tuple(self.experts_on)
        if not on or len(set(on)) != len(on) or not set(on) <= set(SIDES):
            raise ConfigError(
                f"switch_head: experts_on names some of {tuple(SIDES)}, each once, got {self.experts_on!r}"
            )
        object.__setattr__(self, "experts_on", tuple(n for n in SIDES if n in on))

    @property
    def sides(self) -> tuple[str, ...]:
        """Which of the two routers there are."""
        return tuple(s for s in ("source", "target") if s in {SIDES[n] for n in self.experts_on})


class Choice(NamedTuple):
    """What one of the two routers decided."""

    idx: Array  # (T, H, K) the experts of each head, best first
    weight: Array  # (T, H, K) σ of their logits; 0 for padding
    load: Array  # (H, E) choices of real tokens


class Output(NamedTuple):
    y: Array  # like x
    losses: dict[str, Array]  # none
    routing: dict[str, Choice]  # "source", "target"


class Side(NamedTuple):
    """One router's caches, and what its projections need."""

    z: linear.Cache
    s: sigmoid.Cache
    weigh: weigh.Cache
    g: Array  # (T, H K)
    plan: plan.Plan  # of T H K pairs and H E experts


class Cache(NamedTuple):
    frame: form.Frame
    cfg: Config
    sides: dict[str, Side]
    projections: dict[str, Any]  # a spread.Cache or a linear.Cache each
    rope: rope.Cache | None
    attention: attention.Cache


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape, in the order of the tree.

    >>> shapes(Config(d_model=6, n_heads=2, d_head=4, n_experts=3, k=2))  # doctest: +NORMALIZE_WHITESPACE
    {'router.source': (2, 3, 6), 'router.target': (2, 3, 6), 'q_proj': (8, 6), 'k_proj': (8, 6),
     'v_proj': (2, 3, 4, 6), 'o_proj': (2, 3, 6, 4)}
    """
    h, e, d, wide = cfg.n_heads, cfg.n_experts, cfg.d_head, cfg.d_model
    found: form.Shapes = {f"router.{side}": (h, e, wide) for side in cfg.sides}
    for n in ("q", "k", "v", "o"):
        out, into = (wide, d) if n == "o" else (d, wide)
        if n in cfg.experts_on:
            found[f"{n}_proj"] = (h, e, out, into)
        else:
            found[f"{n}_proj"] = (wide, h * d) if n == "o" else (h * d, wide)
    return found


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """The parameters at their start: normal with std 1/√fan_in.

    >>> init(np.random.default_rng(0), Config(6, 2, 4, n_experts=3, k=2))["v_proj"].shape
    (2, 3, 4, 6)
    """
    return form.init(rng, shapes(cfg), dtype)


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, positions: Array | None = None
) -> tuple[Output, Cache]:
    """(out, cache) of x (B, S, D); mask (B, S), True for real tokens; positions (S,) or (B, S), default 0, 1, ...

    >>> cfg = Config(2, 1, 2, n_experts=3, k=2, rope_base=None)
    >>> out, cache = forward(np.ones((1, 4, 2)), init(np.random.default_rng(0), cfg), cfg)
    >>> out.y.shape, out.routing["source"].idx.shape
    ((1, 4, 2), (4, 1, 2))
    """
    if x.ndim != 3:
        raise ShapeError(f"switch_head: attention takes x (batch, sequence, {cfg.d_model}), got {tuple(x.shape)}")
    xp, (b, s, _), seen = namespace(x), x.shape, mask
    x, mask, frame = form.enter("switch_head", x, p, shapes(cfg), cfg.d_model, mask)
    h, d, tokens = cfg.n_heads, cfg.d_head, int(x.shape[0])
    routing, sides = {}, {}
    for side in cfg.sides:
        routing[side], sides[side] = _choose(x, p["router"][side], cfg, mask, side)
    made: dict[str, Any] = {}
    heads = {}
    for n in ("q", "k", "v"):
        y, made[n] = _project(x, p, n, cfg, sides, tokens * h)  # (T H, d) or (T, H d)
        heads[n] = xp.permute_dims(xp.reshape(y, (b, s, h, d)), (0, 2, 1, 3))
    c_rope = None
    if cfg.rope_base is not None:
        where = xp.arange(s, dtype=xp.int64, device=device(x)) if positions is None else positions
        qk, c_rope = rope.forward(xp.concat([heads["q"], heads["k"]], axis=1), where, base=cfg.rope_base)
        heads["q"], heads["k"] = qk[:, :h, :, :], qk[:, h:, :, :]
    o, c_attention = attention.forward(heads["q"], heads["k"], heads["v"], seen, causal=cfg.causal)
    o = xp.permute_dims(o, (0, 2, 1, 3))  # (B, S, H, d)
    o = xp.reshape(o, (tokens * h, d) if "o" in cfg.experts_on else (tokens, h * d))
    y, made["o"] = _project(o, p, "o", cfg, sides, tokens)
    if mask is not None:
        y = xp.where(mask[:, None], y, xp.zeros_like(y))
    return Output(form.leave(y, frame), {}, routing), Cache(frame, cfg, sides, made, c_rope, c_attention)


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp) from dy like y; dp has the names of p; there are no losses here.

    >>> cfg = Config(2, 1, 2, n_experts=3, k=2, rope_base=None)
    >>> out, cache = forward(np.ones((1, 4, 2)), init(np.random.default_rng(0), cfg), cfg)
    >>> dx, dp = backward(np.ones((1, 4, 2)), cache)
    >>> dx.shape, sorted(dp)
    ((1, 4, 2), ['k_proj', 'o_proj', 'q_proj', 'router', 'v_proj'])
    """
    frame, cfg, sides, made, c_rope, c_attention = cache
    xp, (b, s, _) = namespace(dy), frame.shape
    dy, _ = form.upstream(dy, frame, dlosses)
    h, d = cfg.n_heads, cfg.d_head
    dp: dict[str, Any] = {}
    dg: dict[str, Array] = {}
    do, dp["o_proj"] = _project_backward(dy, made["o"], "o", cfg, dg)
    do = xp.permute_dims(xp.reshape(do, (b, s, h, d)), (0, 2, 1, 3))
    dq, inner = attention.backward(do, c_attention)
    dk, dv = inner["k"], inner["v"]
    if c_rope is not None:
        (dq, _), (dk, _) = rope.backward(dq, c_rope), rope.backward(dk, c_rope)
    dx = None
    for n, dhead in (("q", dq), ("k", dk), ("v", dv)):
        rows = (b * s * h, d) if n in cfg.experts_on else (b * s, h * d)
        dhead = xp.reshape(xp.permute_dims(dhead, (0, 2, 1, 3)), rows)
        part, dp[f"{n}_proj"] = _project_backward(dhead, made[n], n, cfg, dg)
        dx = part if dx is None else dx + part
    dp["router"] = {}
    for side, own in sides.items():
        ds, _ = weigh.backward(xp.reshape(dg[side], (b * s * h, cfg.k)), own.weigh)
        dz, _ = sigmoid.backward(ds, own.s)
        part, dw = linear.backward(xp.reshape(dz, (b * s, h * cfg.n_experts)), own.z)
        dx = dx + part
        dp["router"][side] = xp.reshape(dw["weight"], (h, cfg.n_experts, cfg.d_model))
    return form.leave(dx, frame), dp


def _choose(x: Array, weight: Array, cfg: Config, mask: Array | None, side: str) -> tuple[Choice, Side]:
    """K experts of every head of every token, and the plan of all of them."""
    xp = namespace(x)
    h, e, k, tokens = cfg.n_heads, cfg.n_experts, cfg.k, int(x.shape[0])
    z, c_z = linear.forward(x, xp.reshape(weight, (h * e, cfg.d_model)))
    form.finite(f"switch_head, {side}", z)
    s, c_s = sigmoid.forward(xp.reshape(z, (tokens * h, e)))
    idx = kernels.of(real(s)).topk(real(s), k)
    g, c_g = weigh.forward(s, idx)
    first = xp.arange(h, dtype=idx.dtype, device=device(idx))[None, :, None] * e  # the first id of each head
    ids = xp.reshape(xp.reshape(idx, (tokens, h, k)) + first, (tokens, h * k))
    plan_ = plan.make(ids, form.of_tokens(mask, ids), h * e)
    g = xp.reshape(g, (tokens, h * k))
    shown = g if mask is None else xp.where(mask[:, None], g, xp.zeros_like(g))
    load = xp.reshape(plan_.start[1:] - plan_.start[:-1], (h, e))
    choice = Choice(xp.reshape(idx, (tokens, h, k)), xp.reshape(shown, (tokens, h, k)), load)
    return choice, Side(c_z, c_s, c_g, g, plan_)


def _project(
    a: Array, p: Mapping[str, Any], n: str, cfg: Config, sides: Mapping[str, Side], n_out: int
) -> tuple[Array, Any]:
    """A dense projection, or a mixture into n_out rows."""
    weight = p[f"{n}_proj"]
    if n not in cfg.experts_on:
        return linear.forward(a, weight)
    side = sides[SIDES[n]]
    flat = namespace(weight).reshape(weight, (cfg.n_heads * cfg.n_experts, *weight.shape[2:]))
    return spread.forward(a, side.g, flat, side.plan, n_out)


def _project_backward(dy: Array, cache: Any, n: str, cfg: Config, dg: dict[str, Array]) -> tuple[Array, Array]:
    """(da, dW); the gradient of the weights is added up in ``dg``, by side."""
    if n not in cfg.experts_on:
        da, d = linear.backward(dy, cache)
        return da, d["weight"]
    da, own, dw = spread.backward(dy, cache)
    assert own is not None
    side = SIDES[n]
    dg[side] = own if side not in dg else dg[side] + own
    return da, namespace(dw).reshape(dw, (cfg.n_heads, cfg.n_experts, *dw.shape[1:]))
