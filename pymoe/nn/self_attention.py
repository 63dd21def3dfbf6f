r"""Self-attention with its parameters: one fused projection, rotary positions, grouped queries, KV cache.

H query heads of width d share G key and value heads (H a multiple of G; G = H is multi-head, G = 1 multi-query)::

    [q | k | v] = x qkv_projᵀ                              rows of qkv_proj: H d of q, then G d of k, then G d of v
    q, k        = R_pos q, R_pos k                         rotary positions, where cfg.rope_base is not None
    o_h         = softmax(q_h k_gᵀ / √d + mask) v_g        g = h // (H / G)
    y           = [o_1 | ... | o_H] o_projᵀ

Backward, the same lines from bottom to top (formulas in ``ops.attention``, ``ops.rope``, ``ops.linear``)::

    do = dy o_proj;   dq, dk, dv = attention backward;   [dq | dk] = R_posᵀ [dq | dk];   dx = [dq | dk | dv] qkv_proj

q, k and v come from one matrix product and q and k are rotated in one pass.  With ``past`` (the keys and values of
earlier positions) the new positions see both; the past is a constant: it gets no gradient.

Sources: Vaswani et al., arXiv:1706.03762, eq. 1; grouped queries, Ainslie et al., arXiv:2305.13245; RoPE, Su et al.,
arXiv:2104.09864, eq. 34.  Cost: 2 S D (2H + 2G) d + 4 H S² d flops a sequence, twice that backward; kept: x, q,
k, v, the attention weights (B, H, S, S) and o.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import device, namespace
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.backend.namespace import Array
from pymoe.nn import initial, projection
from pymoe.ops import attention, rope


def check_heads(where: str, d_model: int, n_heads: int, n_kv_heads: int | None, head_dim: int | None) -> None:
    """What every attention config must satisfy."""
    sizes = {"d_model": d_model, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim}
    initial.check_sizes(where, **{name: n for name, n in sizes.items() if n is not None})
    if n_kv_heads is not None and n_heads % n_kv_heads:
        raise ConfigError(f"{where}: n_heads must be a multiple of n_kv_heads, got {n_heads} and {n_kv_heads}")
    if head_dim is None and d_model % n_heads:
        raise ConfigError(f"{where}: n_heads must divide d_model, got {n_heads} and {d_model}; or give head_dim")


@dataclass(frozen=True)
class SelfAttentionConfig:
    """Self-attention of width d_model.

    n_heads, n_kv_heads   H and G (None: H)
    head_dim              d (None: d_model / H)
    causal                position i sees positions <= i
    rope_base             base of the rotary frequencies; None: no positions at all
    bias                  biases on both matrices
    std, out_std          start of qkv_proj, and of o_proj (None: ``std``)
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

    def __post_init__(self) -> None:
        check_heads("SelfAttentionConfig", self.d_model, self.n_heads, self.n_kv_heads, self.head_dim)
        initial.check_std("SelfAttentionConfig", std=self.std, out_std=self.out_std)
        if self.rope_base is not None and self.d_head % 2:
            raise ConfigError(f"SelfAttentionConfig: rotary positions need an even head width, got {self.d_head}")
        if self.rope_base is not None and not self.rope_base > 1:
            raise ConfigError(f"SelfAttentionConfig.rope_base must be above 1 (or None), got {self.rope_base!r}")

    @property
    def kv_heads(self) -> int:
        """G."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def d_head(self) -> int:
        """d."""
        return self.d_model // self.n_heads if self.head_dim is None else self.head_dim


class KV(NamedTuple):
    """What later positions need of earlier ones; a value: extended by making a new one, never written into."""

    k: Array  # (B, G, S, d) keys, rotated
    v: Array  # (B, G, S, d) values


class Cache(NamedTuple):
    cfg: SelfAttentionConfig
    kv: KV  # past and present keys and values: what the next step takes as ``past``
    n_past: int  # how many of them were given
    c_qkv: projection.Cache  # x (B, S, D)
    c_rope: rope.Cache | None
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
    qkv = projection.init(rng, "qkv_proj", ((h + 2 * g) * d, cfg.d_model), cfg.std, cfg.bias, dtype)
    return qkv | projection.init(rng, "o_proj", (cfg.d_model, h * d), out_std, cfg.bias, dtype)


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
    qkv = xp.permute_dims(xp.reshape(qkv, (b, s, h + 2 * g, d)), (0, 2, 1, 3))  # (B, H + 2G, S, d), a view
    qk, v = qkv[:, : h + g, :, :], qkv[:, h + g :, :, :]
    c_rope = None
    if cfg.rope_base is not None:
        where = xp.arange(n_past, n_past + s, device=device(x)) if positions is None else positions
        qk, c_rope = rope.forward(qk, where, base=cfg.rope_base)
    q, k = qk[:, :h, :, :], qk[:, h:, :, :]
    kv = KV(k, v) if past is None else KV(xp.concat([past.k, k], axis=2), xp.concat([past.v, v], axis=2))
    o, c_attention = attention.forward(q, kv.k, kv.v, mask, causal=cfg.causal)  # (B, H, S, d)
    o = xp.reshape(xp.permute_dims(o, (0, 2, 1, 3)), (b, s, h * d))
    y, c_out = projection.forward(o, p, "o_proj")
    return y, Cache(cfg, kv, n_past, c_qkv, c_rope, c_attention, c_out)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dy (B, S, D) -> dx (B, S, D), {"qkv_proj", "o_proj"[, "qkv_proj_bias", "o_proj_bias"]}."""
    cfg, _, n_past, c_qkv, c_rope, c_attention, c_out = cache
    xp = namespace(dy)
    b, s, _ = dy.shape
    h, g, d = cfg.n_heads, cfg.kv_heads, cfg.d_head
    do, d_out = projection.backward(dy, c_out, "o_proj")
    do = xp.permute_dims(xp.reshape(do, (b, s, h, d)), (0, 2, 1, 3))  # (B, H, S, d), a view
    dq, d_kv = attention.backward(do, c_attention)
    dk, dv = d_kv["k"][:, :, n_past:, :], d_kv["v"][:, :, n_past:, :]
    if c_rope is not None:
        (dq, _), (dk, _) = rope.backward(dq, c_rope), rope.backward(dk, c_rope)
    # joined in the order of the projection's rows, so that the reshape below is a view
    dqkv = xp.concat([xp.permute_dims(part, (0, 2, 1, 3)) for part in (dq, dk, dv)], axis=2)  # (B, S, H + 2G, d)
    dx, d_qkv = projection.backward(xp.reshape(dqkv, (b, s, (h + 2 * g) * d)), c_qkv, "qkv_proj")
    return dx, d_qkv | d_out
