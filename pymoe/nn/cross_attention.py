r"""Cross-attention with its parameters: queries from x, keys and values from another sequence, the memory m.

::

    q       = x q_projᵀ                                    (B, H, Sq, d)
    [k | v] = m kv_projᵀ                                   rows of kv_proj: G d of k, then G d of v
    o_h     = softmax(scale q_h k_gᵀ + mask) v_g           g = h // (H / G), scale = 1/√d unless given
    y       = [o_1 | ... | o_H] o_projᵀ

Backward, the same lines from bottom to top, gives dx and, because the memory is a second differentiable input, dm::

    do = dy o_proj;   dq, dk, dv = attention backward;   dx = dq q_proj;   dm = [dk | dv] kv_proj

There are no rotary positions: query and key count different sequences.  While a decoder generates, the memory stands
still: ``keys_values`` computes [k | v] once and ``forward`` takes it as ``kv``.

Source: Vaswani et al., arXiv:1706.03762, section 3.2.3.  Kept: x, m, q, k, v, the weights (B, H, Sq, Sk) and o.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import namespace
from pymoe.backend.errors import ShapeError
from pymoe.backend.namespace import Array
from pymoe.nn import initial, projection
from pymoe.nn.self_attention import KV, check_heads
from pymoe.ops import attention


@dataclass(frozen=True)
class CrossAttentionConfig:
    """Cross-attention of width d_model over a memory of width d_memory (None: d_model); else as self-attention."""

    d_model: int
    n_heads: int
    n_kv_heads: int | None = None
    head_dim: int | None = None
    d_memory: int | None = None
    bias: bool = False
    std: float = 0.02
    out_std: float | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        check_heads("CrossAttentionConfig", self.d_model, self.n_heads, self.n_kv_heads, self.head_dim)
        if self.d_memory is not None:
            initial.check_sizes("CrossAttentionConfig", d_memory=self.d_memory)
        initial.check_std("CrossAttentionConfig", std=self.std, out_std=self.out_std)

    @property
    def kv_heads(self) -> int:
        """G."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def d_head(self) -> int:
        """d."""
        return self.d_model // self.n_heads if self.head_dim is None else self.head_dim


class Cache(NamedTuple):
    cfg: CrossAttentionConfig
    kv: KV  # (B, G, Sk, d) of the memory
    c_q: projection.Cache  # x (B, Sq, D)
    c_kv: projection.Cache | None  # m (B, Sk, Dm); None where the keys and values were given
    c_attention: attention.Cache
    c_out: projection.Cache  # o (B, Sq, H d)


def init(rng: np.random.Generator, cfg: CrossAttentionConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters at their start.

    >>> p = init(np.random.default_rng(0), CrossAttentionConfig(d_model=12, n_heads=6, n_kv_heads=2, d_memory=5))
    >>> p["q_proj"].shape, p["kv_proj"].shape, p["o_proj"].shape
    ((12, 12), (8, 5), (12, 12))
    """
    h, g, d = cfg.n_heads, cfg.kv_heads, cfg.d_head
    d_memory = cfg.d_model if cfg.d_memory is None else cfg.d_memory
    out_std = cfg.std if cfg.out_std is None else cfg.out_std
    q = projection.init(rng, "q_proj", (h * d, cfg.d_model), cfg.std, cfg.bias, dtype)
    kv = projection.init(rng, "kv_proj", (2 * g * d, d_memory), cfg.std, cfg.bias, dtype)
    return q | kv | projection.init(rng, "o_proj", (cfg.d_model, h * d), out_std, cfg.bias, dtype)


def keys_values(memory: Array, p: dict[str, Any], cfg: CrossAttentionConfig) -> tuple[KV, projection.Cache]:
    """The keys and values of memory (B, Sk, Dm), each (B, G, Sk, d)."""
    xp = namespace(memory)
    if memory.ndim != 3:
        raise ShapeError(f"cross-attention takes a memory of shape (batch, sequence, width), got {tuple(memory.shape)}")
    b, s, _ = memory.shape
    g, d = cfg.kv_heads, cfg.d_head
    kv, c_kv = projection.forward(memory, p, "kv_proj")  # (B, Sk, 2 G d)
    kv = xp.permute_dims(xp.reshape(kv, (b, s, 2 * g, d)), (0, 2, 1, 3))  # (B, 2G, Sk, d), a view
    return KV(kv[:, :g, :, :], kv[:, g:, :, :]), c_kv


def forward(
    x: Array,
    p: dict[str, Any],
    cfg: CrossAttentionConfig,
    memory: Array | None = None,
    *,
    mask: Array | None = None,
    kv: KV | None = None,
) -> tuple[Array, Cache]:
    """x (B, Sq, D), memory (B, Sk, Dm) -> y (B, Sq, D).

    mask (B, Sk) bool, True = a real key.  ``kv`` in place of ``memory``: keys and values already computed.

    >>> cfg = CrossAttentionConfig(d_model=2, n_heads=1)
    >>> p = {"q_proj": np.zeros((2, 2)), "kv_proj": np.array([[0.0, 0], [0, 0], [1, 0], [0, 1]]), "o_proj": np.eye(2)}
    >>> forward(np.ones((1, 1, 2)), p, cfg, np.array([[[2.0, 4.0], [6.0, 0.0]]]))[0]  # q = 0: the mean of the memory
    array([[[4., 2.]]])
    """
    xp = namespace(x, memory)
    if x.ndim != 3:
        raise ShapeError(f"cross-attention takes x of shape (batch, sequence, {cfg.d_model}), got {tuple(x.shape)}")
    if (memory is None) == (kv is None):
        raise ShapeError("cross-attention takes either the memory or its keys and values, got both or neither")
    b, s, _ = x.shape
    h, d = cfg.n_heads, cfg.d_head
    c_kv = None
    if kv is None:
        kv, c_kv = keys_values(memory, p, cfg)
    q, c_q = projection.forward(x, p, "q_proj")  # (B, Sq, H d)
    q = xp.permute_dims(xp.reshape(q, (b, s, h, d)), (0, 2, 1, 3))  # (B, H, Sq, d), a view
    o, c_attention = attention.forward(q, kv.k, kv.v, mask, causal=False, scale=cfg.scale)  # (B, H, Sq, d)
    o = xp.reshape(xp.permute_dims(o, (0, 2, 1, 3)), (b, s, h * d))
    y, c_out = projection.forward(o, p, "o_proj")
    return y, Cache(cfg, kv, c_q, c_kv, c_attention, c_out)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any], Array]:
    """dy (B, Sq, D) -> dx (B, Sq, D), dp with the names of ``init``, dmemory (B, Sk, Dm)."""
    cfg, kv, c_q, c_kv, c_attention, c_out = cache
    if c_kv is None:
        raise ShapeError(
            "cross-attention ran on given keys and values: the memory they came from is not there to differentiate"
        )
    xp = namespace(dy)
    b, s, _ = dy.shape
    h, g, d = cfg.n_heads, cfg.kv_heads, cfg.d_head
    do, d_out = projection.backward(dy, c_out, "o_proj")
    do = xp.permute_dims(xp.reshape(do, (b, s, h, d)), (0, 2, 1, 3))  # (B, H, Sq, d), a view
    dq, d_kv = attention.backward(do, c_attention)
    dq = xp.reshape(xp.permute_dims(dq, (0, 2, 1, 3)), (b, s, h * d))
    dx, d_q = projection.backward(dq, c_q, "q_proj")
    dkv = xp.concat([xp.permute_dims(d_kv[name], (0, 2, 1, 3)) for name in ("k", "v")], axis=2)  # (B, Sk, 2G, d)
    dkv = xp.reshape(dkv, (b, kv.k.shape[2], 2 * g * d))
    dmemory, d_kv_proj = projection.backward(dkv, c_kv, "kv_proj")
    return dx, d_q | d_kv_proj | d_out, dmemory
