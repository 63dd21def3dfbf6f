r"""Self-attention with its parameters: one fused projection, rotary positions, grouped queries, KV cache.

H query heads of width d share G key and value heads (H a multiple of G; G = H is multi-head, G = 1 multi-query)::

    [q | k | v] = x qkv_projᵀ                              rows of qkv_proj: H d of q, then G d of k, then G d of v
    q, k        = norm(q), norm(k)                         where cfg.qk_norm (``nn.qk_norm``)
    q, k        = R_pos q, R_pos k                         rotary positions, where cfg.rope_base is not None
    q           = t_pos q                                  where cfg.temperature: t = 1 + a ln(1 + ⌊(pos + 1) / n⌋)
    o_h         = softmax(scale q_h k_gᵀ + bias + mask) v_g     g = h // (H / G), scale = 1/√d unless given
    y           = [o_1 | ... | o_H] o_projᵀ

A query at position i sees the keys at j <= i if causal, of these the last ``window``, or those of its own ``chunk``,
[⌊i/c⌋ c, i].  cfg.sinks gives each head one more logit whose value is 0; cfg.relative a bias that depends on j - i.

Backward, the same lines from bottom to top (formulas in ``ops.attention``, ``ops.rope``, ``ops.linear``)::

    do = dy o_proj;   dq, dk, dv = attention backward;   dq = t_pos dq;   [dq | dk] = R_posᵀ [dq | dk]
    [dq | dk | dv] = norm backward;                      dx = [dq | dk | dv] qkv_proj

q, k and v come from one matrix product and q and k are rotated in one pass.  With ``past`` (the keys and values of
earlier positions) the new positions see both; the past is a constant: it gets no gradient.

Sources: Vaswani et al., arXiv:1706.03762, eq. 1; grouped queries, Ainslie et al., arXiv:2305.13245; RoPE, Su et al.,
arXiv:2104.09864, eq. 34; windows, Beltagy et al., arXiv:2004.05150; the temperature, Nakanishi, arXiv:2501.19399, in
the steps of Llama 4.  Cost: 2 S D (2H + 2G) d + 4 H S² d flops a sequence, twice that backward; kept: x, q, k, v, the
attention weights (B, H, S, S) and o.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import device, namespace, real
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.backend.namespace import Array
from pymoe.nn import initial, projection, qk_norm, relative_positions, rotary
from pymoe.nn.relative_positions import RelativePositions
from pymoe.nn.rotary import Stretch
from pymoe.ops import attention, rope


def check_heads(where: str, d_model: int, n_heads: int, n_kv_heads: int | None, head_dim: int | None) -> None:
    """What every attention config must satisfy."""
    sizes = {"d_model": d_model, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim}
    initial.check_sizes(where, **{name: n for name, n in sizes.items() if n is not None})
    if n_kv_heads is not None and n_heads % n_kv_heads:
        raise ConfigError(f"{where}: n_heads must be a multiple of n_kv_heads, got {n_heads} and {n_kv_heads}")
    if head_dim is None and d_model % n_heads:
        raise ConfigError(f"{where}: n_heads must divide d_model, got {n_heads} and {d_model}; or give head_dim")


def check_rope(where: str, width: int, base: float | None) -> None:
    """Rotary positions turn pairs of channels, by a base above 1."""
    if base is not None and width % 2:
        raise ConfigError(f"{where}: rotary positions need an even head width, got {width}")
    if base is not None and not base > 1:
        raise ConfigError(f"{where}.rope_base must be above 1 (or None), got {base!r}")


@dataclass(frozen=True)
class Temperature:
    """Queries at position pos times 1 + scale ln(1 + ⌊(pos + 1) / every⌋)."""

    scale: float
    every: int

    def __post_init__(self) -> None:
        initial.check_sizes("Temperature", every=self.every)
        initial.check_std("Temperature", scale=self.scale)


@dataclass(frozen=True)
class SelfAttentionConfig:
    """Self-attention of width d_model.

    n_heads, n_kv_heads   H and G (None: H)
    head_dim              d (None: d_model / H)
    causal                position i sees positions <= i
    rope_base             base of the rotary frequencies; None: no positions at all
    bias                  biases on q, k and v, and on o (out_bias None: the same)
    std, out_std          start of qkv_proj, and of o_proj (None: ``std``)
    scale                 of the scores; None: 1/√d
    rope_stretch          for contexts beyond the trained one (``nn.rotary``)
    qk_norm, norm_eps     "none" | "head" | "width" | "unit" (``nn.qk_norm``)
    window, chunk         how many of the last keys a query sees; or the width of the chunks that see themselves only
    sinks                 a logit for each head that takes weight and gives nothing
    temperature           of the queries, by position
    relative              a bias by distance (``nn.relative_positions``)
    """

    d_model: int
    n_heads: int
    n_kv_heads: int | None = None
    head_dim: int | None = None
    causal: bool = True
    rope_base: float | None = 10000.0
    bias: bool = False
    std: float = 0.02
    out_std: float | None = None
    out_bias: bool | None = None
    scale: float | None = None
    rope_stretch: Stretch | None = None
    qk_norm: str = "none"
    norm_eps: float = 1e-5
    window: int | None = None
    chunk: int | None = None
    sinks: bool = False
    temperature: Temperature | None = None
    relative: RelativePositions | None = None

    def __post_init__(self) -> None:
        check_heads("SelfAttentionConfig", self.d_model, self.n_heads, self.n_kv_heads, self.head_dim)
        initial.check_std("SelfAttentionConfig", std=self.std, out_std=self.out_std, norm_eps=self.norm_eps)
        check_rope("SelfAttentionConfig", self.d_head, self.rope_base)
        initial.check_one_of("SelfAttentionConfig.qk_norm", self.qk_norm, qk_norm.KINDS)
        spans = {name: n for name, n in (("window", self.window), ("chunk", self.chunk)) if n is not None}
        initial.check_sizes("SelfAttentionConfig", **spans)
        if len(spans) == 2 or (spans and not self.causal):
            raise ConfigError("SelfAttentionConfig has a window or a chunk, not both, and only where causal")
        if self.qk_norm == "unit" and rotary.amplitude(self.rope_stretch) != 1:
            raise ConfigError("SelfAttentionConfig.qk_norm='unit' needs rotary positions of amplitude 1")

    @property
    def kv_heads(self) -> int:
        """G."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def d_head(self) -> int:
        """d."""
        return self.d_model // self.n_heads if self.head_dim is None else self.head_dim

    @property
    def has_out_bias(self) -> bool:
        """Has o_proj a bias?"""
        return self.bias if self.out_bias is None else self.out_bias


class KV(NamedTuple):
    """What later positions need of earlier ones; a value: extended by making a new one, never written into."""

    k: Array  # (B, G, S, d) keys, rotated
    v: Array  # (B, G, S, d) values


class Cache(NamedTuple):
    cfg: SelfAttentionConfig
    kv: KV  # past and present keys and values: what the next step takes as ``past``
    n_past: int  # how many of them were given
    c_qkv: projection.Cache  # x (B, S, D)
    c_norm: qk_norm.Cache | None
    c_rope: rope.Cache | None
    t: Array | None  # (S, 1) or (B, 1, S, 1) the temperature of the queries
    c_relative: relative_positions.Cache | None
    c_attention: attention.Cache
    c_out: projection.Cache  # o (B, S, H d)


def init(rng: np.random.Generator, cfg: SelfAttentionConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters at their start.

    >>> p = init(np.random.default_rng(0), SelfAttentionConfig(d_model=12, n_heads=6, n_kv_heads=2))
    >>> p["qkv_proj"].shape, p["o_proj"].shape
    ((20, 12), (12, 12))
    """
    h, g, d = cfg.n_heads, cfg.kv_heads, cfg.d_head
    out_std = cfg.std if cfg.out_std is None else cfg.out_std
    p = projection.init(rng, "qkv_proj", ((h + 2 * g) * d, cfg.d_model), cfg.std, cfg.bias, dtype)
    p |= qk_norm.init(cfg.qk_norm, h, g, d, dtype)
    p |= {"sinks": initial.zeros((h,), dtype)} if cfg.sinks else {}
    p |= {"relative_bias": initial.zeros((cfg.relative.buckets, h), dtype)} if cfg.relative is not None else {}
    return p | projection.init(rng, "o_proj", (cfg.d_model, h * d), out_std, cfg.has_out_bias, dtype)


def forward(
    x: Array,
    p: dict[str, Any],
    cfg: SelfAttentionConfig,
    *,
    mask: Array | None = None,
    positions: Array | None = None,
    past: KV | None = None,
) -> tuple[Array, Cache]:
    """x (B, S, D) -> y (B, S, D).

    mask (B, n_past + S) bool, True = a real key; positions (S,) or (B, S) integers, default n_past, n_past + 1, ...

    >>> cfg = SelfAttentionConfig(d_model=2, n_heads=1, rope_base=None)
    >>> p = {"qkv_proj": np.array([[0.0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [0, 1]]), "o_proj": np.eye(2)}
    >>> forward(np.array([[[2.0, 4.0], [6.0, 0.0]]]), p, cfg)[0]  # q = k = 0: the mean of what is visible
    array([[[2., 4.],
            [4., 2.]]])
    """
    xp = namespace(x)
    if x.ndim != 3:
        raise ShapeError(f"self-attention takes x of shape (batch, sequence, {cfg.d_model}), got {tuple(x.shape)}")
    b, s, _ = x.shape
    h, g, d = cfg.n_heads, cfg.kv_heads, cfg.d_head
    n_past = 0 if past is None else int(past.k.shape[2])
    qkv, c_qkv = projection.forward(x, p, "qkv_proj")  # (B, S, (H + 2G) d)
    qkv, c_norm = qk_norm.forward(qkv, p, cfg.qk_norm, (h, g, d), cfg.norm_eps)
    qkv = xp.permute_dims(xp.reshape(qkv, (b, s, h + 2 * g, d)), (0, 2, 1, 3))  # (B, H + 2G, S, d), a view
    qk, v = qkv[:, : h + g, :, :], qkv[:, h + g :, :, :]
    where = xp.arange(n_past, n_past + s, device=device(x)) if positions is None else positions
    c_rope = t = c_relative = bias = None
    if cfg.rope_base is not None:
        theta = rotary.frequencies(d, cfg.rope_base, cfg.rope_stretch)
        qk, c_rope = rope.forward(qk, where, frequencies=theta, amplitude=rotary.amplitude(cfg.rope_stretch))
    q, k = qk[:, :h, :, :], qk[:, h:, :, :]
    if cfg.temperature is not None:
        t = _temperature(where, cfg.temperature, x)
        q = q * t
    kv = KV(k, v) if past is None else KV(xp.concat([past.k, k], axis=2), xp.concat([past.v, v], axis=2))
    if cfg.relative is not None:
        table = p["relative_bias"]
        bias, c_relative = relative_positions.forward(table, cfg.relative, s, n_past + s, causal=cfg.causal)
    first = first_seen(xp.arange(n_past, n_past + s, device=device(x)), cfg.window, cfg.chunk)
    o, c_attention = attention.forward(
        q, kv.k, kv.v, mask, bias, p.get("sinks"), causal=cfg.causal, scale=cfg.scale, first=first
    )  # (B, H, S, d)
    o = xp.reshape(xp.permute_dims(o, (0, 2, 1, 3)), (b, s, h * d))
    y, c_out = projection.forward(o, p, "o_proj")
    return y, Cache(cfg, kv, n_past, c_qkv, c_norm, c_rope, t, c_relative, c_attention, c_out)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dy (B, S, D) -> dx (B, S, D), dp with the names of ``init``."""
    cfg, _, n_past, c_qkv, c_norm, c_rope, t, c_relative, c_attention, c_out = cache
    xp = namespace(dy)
    b, s, _ = dy.shape
    h, g, d = cfg.n_heads, cfg.kv_heads, cfg.d_head
    do, d_out = projection.backward(dy, c_out, "o_proj")
    do = xp.permute_dims(xp.reshape(do, (b, s, h, d)), (0, 2, 1, 3))  # (B, H, S, d), a view
    dq, d_inner = attention.backward(do, c_attention)
    dk, dv = d_inner["k"][:, :, n_past:, :], d_inner["v"][:, :, n_past:, :]
    dq = dq if t is None else dq * t
    if c_rope is not None:
        (dq, _), (dk, _) = rope.backward(dq, c_rope), rope.backward(dk, c_rope)
    # joined in the order of the projection's rows, so that the reshape below is a view
    dqkv = xp.concat([xp.permute_dims(part, (0, 2, 1, 3)) for part in (dq, dk, dv)], axis=2)  # (B, S, H + 2G, d)
    dqkv, d_norm = qk_norm.backward(xp.reshape(dqkv, (b, s, (h + 2 * g) * d)), c_norm)
    dx, d_qkv = projection.backward(dqkv, c_qkv, "qkv_proj")
    dp = d_qkv | d_norm | ({"sinks": d_inner["sinks"]} if cfg.sinks else {})
    if c_relative is not None:
        dp |= {"relative_bias": relative_positions.backward(d_inner["bias"], c_relative)}
    return dx, dp | d_out


def first_seen(at: Array, window: int | None, chunk: int | None) -> Array | None:
    """The first key that the queries at ``at`` (S,) see, for ``ops.attention``; None: the first of all.

    >>> first_seen(np.arange(5), 2, None).tolist(), first_seen(np.arange(5), None, 2).tolist()
    ([-1, 0, 1, 2, 3], [0, 0, 2, 2, 4])
    """
    if window is not None:
        return at - (window - 1)
    return None if chunk is None else at // chunk * chunk


def _temperature(where: Array, cfg: Temperature, x: Array) -> Array:
    """(S, 1) or (B, 1, S, 1) in the real dtype of x."""
    xp = namespace(where, x)
    steps = xp.astype((where + 1) // cfg.every, xp.float64)
    t = xp.astype(1 + cfg.scale * xp.log1p(steps), real(x).dtype, copy=False)[..., None]
    return t if t.ndim == 2 else xp.expand_dims(t, axis=1)
