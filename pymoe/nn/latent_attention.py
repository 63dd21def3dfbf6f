r"""Multi-head latent attention (MLA): queries, keys and values through low-rank bottlenecks, positions beside them.

H heads; a query and a key have n channels without and r channels with rotary positions, a value has v channels; the
bottlenecks have the ranks R_q (None: none) and R_kv; N_q and N_kv are RMS norms::

    [q_n | q_r]   = N_q(x q_a_projᵀ) q_b_projᵀ             (B, H, S, n + r), or x q_projᵀ without a bottleneck
    [c | k_r]     = x kv_a_projᵀ                           c (B, S, R_kv), k_r (B, 1, S, r): one for all heads
    [k_n | u]     = N_kv(c) kv_b_projᵀ                     (B, H, S, n + v)
    q             = [q_n | R_pos q_r],   k = [k_n | R_pos k_r]
    o_h           = softmax(scale q_h k_hᵀ + mask) u_h      scale = 1/√(n + r) unless given
    y             = [o_1 | ... | o_H] o_projᵀ

Backward, the same lines from bottom to top; k_r is read by every head, and x by both bottlenecks: written sums::

    do = dy o_proj;          dq, dk, du = attention backward
    dk_r = R_posᵀ Σ_h dk[:, n:];                dc = N_kvᵀ ([dk_n | du] kv_b_proj)
    dq_r = R_posᵀ dq[:, n:];                    dq_a = N_qᵀ ([dq_n | dq_r] q_b_proj)
    dx = dq_a q_a_proj + [dc | dk_r] kv_a_proj

Rotary channels are paired as halves (``ops.rope``).  The cache of earlier positions holds the keys and values of all
heads.  Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.  Cost: the products of the seven matrices, and
2 H S² (n + r + v) flops a sequence, twice that backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import device, namespace
from pymoe.backend.errors import ShapeError
from pymoe.backend.namespace import Array
from pymoe.nn import initial, projection, rotary
from pymoe.nn.rotary import Stretch
from pymoe.nn.self_attention import KV, check_rope
from pymoe.ops import attention, rms_norm, rope


@dataclass(frozen=True)
class LatentAttentionConfig:
    """Latent attention of width d_model.

    n_heads                     H
    kv_rank, q_rank             R_kv and R_q (None: queries straight from x)
    nope_dim, rope_dim, v_dim   n, r, v
    causal                      position i sees positions <= i
    rope_base, rope_stretch     rotary frequencies (``nn.rotary``)
    scale                       of the scores; None: 1/√(n + r)
    bias                        biases on q_a_proj, kv_a_proj and o_proj
    norm_eps                    of the two norms
    std, out_std                start of the matrices, and of o_proj (None: ``std``)
    """

    d_model: int
    n_heads: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    q_rank: int | None = None
    causal: bool = True
    rope_base: float = 10000.0
    rope_stretch: Stretch | None = None
    scale: float | None = None
    bias: bool = False
    norm_eps: float = 1e-6
    std: float = 0.02
    out_std: float | None = None

    def __post_init__(self) -> None:
        names = ("d_model", "n_heads", "kv_rank", "nope_dim", "rope_dim", "v_dim")
        initial.check_sizes("LatentAttentionConfig", **{name: getattr(self, name) for name in names})
        if self.q_rank is not None:
            initial.check_sizes("LatentAttentionConfig", q_rank=self.q_rank)
        initial.check_std("LatentAttentionConfig", std=self.std, out_std=self.out_std, norm_eps=self.norm_eps)
        check_rope("LatentAttentionConfig", self.rope_dim, self.rope_base)


class Cache(NamedTuple):
    cfg: LatentAttentionConfig
    kv: KV  # past and present keys (B, H, S, n + r) and values (B, H, S, v)
    n_past: int  # how many of them were given
    c_q: projection.Cache  # of q_proj, or of q_b_proj
    c_q_norm: rms_norm.Cache | None  # None without a bottleneck
    c_q_a: projection.Cache | None
    c_kv_a: projection.Cache  # x (B, S, D)
    c_kv_norm: rms_norm.Cache
    c_kv_b: projection.Cache
    c_rope: rope.Cache
    c_attention: attention.Cache
    c_out: projection.Cache  # o (B, S, H v)


def init(rng: np.random.Generator, cfg: LatentAttentionConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters at their start.

    >>> p = init(np.random.default_rng(0), LatentAttentionConfig(12, 2, 5, 3, 4, 6, q_rank=7))
    >>> [(name, a.shape) for name, a in p.items() if "kv" in name]
    [('kv_a_proj', (9, 12)), ('kv_a_norm', (5,)), ('kv_b_proj', (18, 5))]
    """
    h, d, rank = cfg.n_heads, cfg.d_model, cfg.q_rank
    width = h * (cfg.nope_dim + cfg.rope_dim)
    out_std = cfg.std if cfg.out_std is None else cfg.out_std
    if rank is None:
        p = projection.init(rng, "q_proj", (width, d), cfg.std, False, dtype)
    else:
        p = projection.init(rng, "q_a_proj", (rank, d), cfg.std, cfg.bias, dtype)
        p |= {"q_a_norm": initial.ones((rank,), dtype)}
        p |= projection.init(rng, "q_b_proj", (width, rank), cfg.std, False, dtype)
    p |= projection.init(rng, "kv_a_proj", (cfg.kv_rank + cfg.rope_dim, d), cfg.std, cfg.bias, dtype)
    p |= {"kv_a_norm": initial.ones((cfg.kv_rank,), dtype)}
    p |= projection.init(rng, "kv_b_proj", (h * (cfg.nope_dim + cfg.v_dim), cfg.kv_rank), cfg.std, False, dtype)
    return p | projection.init(rng, "o_proj", (d, h * cfg.v_dim), out_std, cfg.bias, dtype)


def forward(
    x: Array,
    p: dict[str, Any],
    cfg: LatentAttentionConfig,
    *,
    mask: Array | None = None,
    positions: Array | None = None,
    past: KV | None = None,
) -> tuple[Array, Cache]:
    """x (B, S, D) -> y (B, S, D); arguments as in ``self_attention.forward``.

    >>> cfg = LatentAttentionConfig(d_model=2, n_heads=1, kv_rank=2, nope_dim=1, rope_dim=2, v_dim=2, norm_eps=0.0)
    >>> p = init(np.random.default_rng(0), cfg, np.float64)
    >>> p |= {"q_proj": np.zeros((3, 2)), "kv_b_proj": np.array([[0.0, 0], [1, 0], [0, 1]]), "o_proj": np.eye(2)}
    >>> p |= {"kv_a_proj": np.eye(4, 2)}
    >>> forward(np.array([[[3.0, 3.0], [5.0, -5.0]]]), p, cfg)[0]  # q = 0: the mean of the normed latents seen
    array([[[1., 1.],
            [1., 0.]]])
    """
    xp = namespace(x)
    if x.ndim != 3:
        raise ShapeError(f"latent attention takes x of shape (batch, sequence, {cfg.d_model}), got {tuple(x.shape)}")
    b, s, _ = x.shape
    h, n, r, rank = cfg.n_heads, cfg.nope_dim, cfg.rope_dim, cfg.kv_rank
    n_past = 0 if past is None else int(past.k.shape[2])
    c_q_norm = c_q_a = None
    if cfg.q_rank is None:
        q, c_q = projection.forward(x, p, "q_proj")
    else:
        a, c_q_a = projection.forward(x, p, "q_a_proj")
        a, c_q_norm = rms_norm.forward(a, p["q_a_norm"], eps=cfg.norm_eps)
        q, c_q = projection.forward(a, p, "q_b_proj")
    q = _heads(q, h)  # (B, H, S, n + r), a view
    a, c_kv_a = projection.forward(x, p, "kv_a_proj")  # (B, S, R_kv + r)
    c, c_kv_norm = rms_norm.forward(a[:, :, :rank], p["kv_a_norm"], eps=cfg.norm_eps)
    kv, c_kv_b = projection.forward(c, p, "kv_b_proj")
    kv = _heads(kv, h)  # (B, H, S, n + v), a view
    where = xp.arange(n_past, n_past + s, device=device(x)) if positions is None else positions
    turned = xp.concat([q[..., n:], xp.expand_dims(a[:, :, rank:], axis=1)], axis=1)  # (B, H + 1, S, r)
    theta = rotary.frequencies(r, cfg.rope_base, cfg.rope_stretch)
    turned, c_rope = rope.forward(turned, where, frequencies=theta, amplitude=rotary.amplitude(cfg.rope_stretch))
    q = xp.concat([q[..., :n], turned[:, :h, :, :]], axis=3)
    k = xp.concat([kv[..., :n], xp.broadcast_to(turned[:, h:, :, :], (b, h, s, r))], axis=3)
    v = kv[..., n:]
    seen = KV(k, v) if past is None else KV(xp.concat([past.k, k], axis=2), xp.concat([past.v, v], axis=2))
    o, c_attention = attention.forward(q, seen.k, seen.v, mask, causal=cfg.causal, scale=cfg.scale)  # (B, H, S, v)
    y, c_out = projection.forward(_joined(o), p, "o_proj")
    return y, Cache(cfg, seen, n_past, c_q, c_q_norm, c_q_a, c_kv_a, c_kv_norm, c_kv_b, c_rope, c_attention, c_out)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dy (B, S, D) -> dx (B, S, D), dp with the names of ``init``."""
    cfg, _, n_past, c_q, c_q_norm, c_q_a, c_kv_a, c_kv_norm, c_kv_b, c_rope, c_attention, c_out = cache
    xp = namespace(dy)
    h, n = cfg.n_heads, cfg.nope_dim
    do, d_out = projection.backward(dy, c_out, "o_proj")
    dq, d_kv = attention.backward(_heads(do, h), c_attention)
    dk, dv = d_kv["k"][:, :, n_past:, :], d_kv["v"][:, :, n_past:, :]
    dk_r = xp.sum(dk[..., n:], axis=1, keepdims=True)  # (B, 1, S, r): one key for all heads
    turned, _ = rope.backward(xp.concat([dq[..., n:], dk_r], axis=1), c_rope)
    dq = _joined(xp.concat([dq[..., :n], turned[:, :h, :, :]], axis=3))
    dkv = _joined(xp.concat([dk[..., :n], dv], axis=3))
    dc, d_kv_b = projection.backward(dkv, c_kv_b, "kv_b_proj")
    dc, d_kv_norm = rms_norm.backward(dc, c_kv_norm)
    dx, d_kv_a = projection.backward(xp.concat([dc, turned[:, h, :, :]], axis=2), c_kv_a, "kv_a_proj")
    if c_q_a is None or c_q_norm is None:
        dx_q, d_q = projection.backward(dq, c_q, "q_proj")
    else:
        da, d_q_b = projection.backward(dq, c_q, "q_b_proj")
        da, d_q_norm = rms_norm.backward(da, c_q_norm)
        dx_q, d_q = projection.backward(da, c_q_a, "q_a_proj")
        d_q = d_q | {"q_a_norm": d_q_norm["weight"]} | d_q_b
    return dx + dx_q, d_q | d_kv_a | {"kv_a_norm": d_kv_norm["weight"]} | d_kv_b | d_out


def _heads(a: Array, h: int) -> Array:
    """(B, S, H w) -> (B, H, S, w), a view."""
    xp = namespace(a)
    return xp.permute_dims(xp.reshape(a, (*a.shape[:2], h, a.shape[2] // h)), (0, 2, 1, 3))


def _joined(a: Array) -> Array:
    """(B, H, S, w) -> (B, S, H w)."""
    xp = namespace(a)
    b, h, s, w = a.shape
    return xp.reshape(xp.permute_dims(a, (0, 2, 1, 3)), (b, s, h * w))
