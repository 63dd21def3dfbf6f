r"""Scaled dot-product attention with grouped queries, padding mask, causal order, windows, a bias and sinks.

B batch, H query heads, G key/value heads, Sq queries, Sk keys, d width of a head.  Query head h reads the key head
h // (H/G); the H/G query heads of a group lie side by side, so a reshape of q to (B, G, H/G·Sq, d) makes each group one
matrix product and k, v are never repeated.

Forward, with A the keys a query may see (mask[b, j], j <= i + Sk - Sq if causal, j >= first[i] where given)::

    s = scale q kᵀ [+ bias], -∞ outside A
    p = softmax(s), or with a sink z_h for each head  p_j = e^{s_j} / (e^{z_h} + Σ_l e^{s_l})
    o = p v

Backward; a sink is one more logit whose value is 0, so it changes no line but its own::

    dv = pᵀ do           dp = do vᵀ           ds = p ⊙ (dp - ⟨p, dp⟩)
    dq = scale ds k      dk = scale dsᵀ q     dbias = Σ_b ds
    dsinks_h = -Σ_{b,i} p_sink ⟨p, dp⟩        p_sink = e^{z_h} / (e^{z_h} + Σ_l e^{s_l})

A query that may see no key has p = 0: output 0, gradient 0.  The offset Sk - Sq lets new queries follow Sk - Sq cached
keys.  ``first`` is a decision, an integer for each query: i + 1 - w for a sliding window of w keys, the first position
of its chunk for chunked attention.

Source: Vaswani et al., arXiv:1706.03762, eq. 1; grouped queries Ainslie et al., arXiv:2305.13245; windows Beltagy et
al., arXiv:2004.05150; an additive bias of positions Raffel et al., arXiv:1910.10683; sinks as logits, the GPT-OSS
model card, arXiv:2508.10925.  Cost: 4 B H Sq Sk d flops forward, 8 backward; p (B, H, Sq, Sk) is kept.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import device, namespace
from pymoe.backend.errors import DtypeError, ShapeError, check_shape
from pymoe.backend.namespace import Array, Namespace
from pymoe.kernels import checks
from pymoe.ops._rows import rows


class Cache(NamedTuple):
    q: Array  # (B, H, Sq, d)
    k: Array  # (B, G, Sk, d)
    v: Array  # (B, G, Sk, dv)
    p: Array  # (B, G, H/G·Sq, Sk) attention probabilities
    p_sink: Array | None  # (B, G, H/G·Sq, 1) what the sink takes
    biased: bool  # was a bias given?
    scale: float


def forward(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    sinks: Array | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    first: Array | None = None,
) -> tuple[Array, Cache]:
    """o = softmax(scale q kᵀ + bias) v: q (B, H, Sq, d), k (B, G, Sk, d), v (B, G, Sk, dv) -> o (B, H, Sq, dv).

    mask (B, Sk) bool, True for a real key; bias (H, Sq, Sk); sinks (H,); ``scale`` is d^{-1/2} unless given; first
    (Sq,) integers, the first key each query may see; H must be a multiple of G (ShapeError).

    >>> import numpy as np
    >>> q, k, v = np.zeros((1, 2, 2, 3)), np.ones((1, 1, 2, 3)), np.array([[[[2.0], [4.0]]]])
    >>> forward(q, k, v, causal=True)[0][0, 0]  # the first query sees one key, the second sees both
    array([[2.],
           [3.]])
    >>> forward(q, k, v, causal=True, sinks=np.zeros(2))[0][0, 0]  # and a sink whose value is 0
    array([[1.],
           [2.]])
    """
    xp = namespace(q, k, v, mask, bias, sinks)
    scale = _checked_scale(xp, q, k, v, mask, scale)
    b, h, queries, d = q.shape
    g, keys = k.shape[1], k.shape[2]
    q_grouped = xp.reshape(q, (b, g, h // g * queries, d))
    s = (q_grouped * scale) @ xp.matrix_transpose(k)  # (B, G, H/G·Sq, Sk)
    if bias is not None:
        check_shape("bias", bias, (h, queries, keys))
        s = s + xp.reshape(bias, (1, g, h // g * queries, keys))
    if mask is not None:
        s = _only(xp, s, xp.reshape(mask, (b, 1, 1, keys)))
    if first is not None:
        check_shape("first", first, (queries,))
        near = xp.arange(keys, dtype=first.dtype, device=device(s))[None, :] >= first[:, None]  # (Sq, Sk)
        s = _only(xp, s, xp.reshape(xp.broadcast_to(near[None, :, :], (h // g, queries, keys)), (1, 1, -1, keys)))
    limit = _limit(xp, s, queries) if causal and queries > 1 else None  # a single query is the last: it sees all
    p_sink = None
    if sinks is not None:
        check_shape("sinks", sinks, (h,))
        sink = xp.broadcast_to(xp.reshape(sinks, (1, g, h // g, 1)), (b, g, h // g, queries))
        s = xp.concat([xp.reshape(sink, (b, g, -1, 1)), s], axis=3)  # in front, where every query sees it
        limit = None if limit is None else limit + 1
    p = xp.reshape(kernels.of(s).softmax(rows(s), limit), s.shape) if s.shape[3] else s
    if sinks is not None:
        p_sink, p = p[..., :1], p[..., 1:]
    o = xp.reshape(p @ v, (b, h, queries, v.shape[3]))
    return o, Cache(q, k, v, p, p_sink, bias is not None, scale)


def backward(do: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """do (B, H, Sq, dv) -> dq (B, H, Sq, d), {"k": (B, G, Sk, d), "v": (B, G, Sk, dv)[, "bias", "sinks"]}.

    >>> import numpy as np
    >>> _, cache = forward(np.ones((1, 1, 1, 1)), np.array([[[[0.0], [0.0]]]]), np.array([[[[1.0], [3.0]]]]))
    >>> dq, dp = backward(np.ones((1, 1, 1, 1)), cache)
    >>> dp["k"][0, 0, :, 0], dp["v"][0, 0, :, 0]
    (array([-0.5,  0.5]), array([0.5, 0.5]))
    """
    q, k, v, p, p_sink, biased, scale = cache
    xp = namespace(do, q, k, v)
    check_shape("do", do, (*q.shape[:3], v.shape[3]))
    _, h, queries, d = q.shape
    grouped = p.shape[:3]
    q_grouped, do = xp.reshape(q, (*grouped, d)), xp.reshape(do, (*grouped, v.shape[3]))
    dv = xp.matrix_transpose(p) @ do
    dp = do @ xp.matrix_transpose(v)
    ds = xp.reshape(kernels.of(p).softmax_backward(rows(dp), rows(p)), p.shape)  # p ⊙ (dp - ⟨p, dp⟩)
    dq = xp.reshape((ds @ k) * scale, q.shape)
    found = {"k": (xp.matrix_transpose(ds) @ q_grouped) * scale, "v": dv}
    if biased:
        found["bias"] = xp.reshape(xp.sum(ds, axis=0), (h, queries, k.shape[2]))
    if p_sink is not None:
        taken = p_sink * xp.sum(p * dp, axis=3, keepdims=True)  # (B, G, H/G·Sq, 1)
        found["sinks"] = -xp.sum(xp.reshape(taken, (-1, h, queries)), axis=(0, 2))
    return dq, found


def _only(xp: Namespace, s: Array, seen: Array) -> Array:
    """s where ``seen``, -∞ elsewhere."""
    return xp.where(seen, s, xp.asarray(-xp.inf, dtype=s.dtype, device=device(s)))


def _limit(xp: Namespace, s: Array, queries: int) -> Array:
    """How many leading keys each row of s (B, G, H/G·Sq, Sk) may see: query i those up to i + Sk - Sq."""
    keys = int(s.shape[3])
    seen = xp.arange(queries, dtype=xp.int64, device=device(s)) + (keys - queries + 1)
    seen = xp.where(seen > 0, seen, xp.zeros_like(seen))
    blocks = math.prod(s.shape[:3]) // queries
    return xp.reshape(xp.broadcast_to(seen[None, :], (blocks, queries)), (-1,))


def _checked_scale(xp: Namespace, q: Array, k: Array, v: Array, mask: Array | None, scale: float | None) -> float:
    """Raise for shapes that do not fit; the scale to use."""
    for name, a in (("q", q), ("k", k), ("v", v)):
        checks.floating(name, a)
    check_shape("q", q, (None, None, None, None))
    b, h, _, d = q.shape
    check_shape("k", k, (b, None, None, d))
    g, keys = k.shape[1], k.shape[2]
    check_shape("v", v, (b, g, keys, None))
    if g == 0 or h % g:
        raise ShapeError(f"{h} query heads must be a multiple of {g} key heads: each key head serves H/G of them")
    if mask is not None:
        check_shape("mask", mask, (b, keys))
        if not xp.isdtype(mask.dtype, "bool"):
            raise DtypeError(f"mask must be bool, True for a real key, got {mask.dtype}: write e.g. mask != 0")
    return float(d) ** -0.5 if scale is None else scale
