r"""The norm of queries and keys before their product, on the rows that one projection gives: [q | k | v].

============ =============================================================================== ====================
kind         q and k                                                                         parameters
============ =============================================================================== ====================
"head"       each head by its own root mean square, one weight for all heads                 q_norm, k_norm (d,)
"width"      all heads together                                                              q_norm (H d), k_norm
                                                                                             (G d)
"unit"       as "head", without weights                                                      none
============ =============================================================================== ====================

Formulas of both directions: ``ops.rms_norm``; v passes.  A rotation changes no root mean square, so "unit" before the
rotary positions is "unit" after them.  Sources: Dehghani et al., arXiv:2302.05442, section 2 (the norm of queries and
keys); OLMoE, arXiv:2409.02060 ("width"); Qwen3, arXiv:2505.09388 ("head").
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pymoe.backend import device, namespace
from pymoe.backend.namespace import Array
from pymoe.nn import initial
from pymoe.ops import rms_norm

KINDS = ("none", "head", "width", "unit")


class Cache(NamedTuple):
    kind: str
    sizes: tuple[int, int, int]  # H, G, d
    c_q: rms_norm.Cache
    c_k: rms_norm.Cache


def init(kind: str, h: int, g: int, d: int, dtype: Any) -> dict[str, Any]:
    """{"q_norm", "k_norm"} of ones; empty where the kind has no weights.

    >>> {name: a.shape for name, a in init("width", 4, 2, 3, "float32").items()}
    {'q_norm': (12,), 'k_norm': (6,)}
    """
    if kind not in ("head", "width"):
        return {}
    widths = (d, d) if kind == "head" else (h * d, g * d)
    return {name: initial.ones((n,), dtype) for name, n in zip(("q_norm", "k_norm"), widths, strict=True)}


def forward(
    qkv: Array, p: dict[str, Any], kind: str, sizes: tuple[int, int, int], eps: float
) -> tuple[Array, Cache | None]:
    """qkv (B, S, (H + 2G) d) -> the same with q and k normed; sizes (H, G, d).

    >>> import numpy as np
    >>> forward(np.array([[[3.0, 4.0, 6.0, 8.0, 1.0, 2.0]]]), {}, "unit", (1, 1, 2), 0.0)[0].round(4)
    array([[[0.8485, 1.1314, 0.8485, 1.1314, 1.    , 2.    ]]])
    """
    if kind == "none":
        return qkv, None
    xp = namespace(qkv)
    h, g, d = sizes
    q, k, v = _parts(qkv, sizes, kind)
    if kind == "unit":
        ones = xp.ones((d,), dtype=qkv.dtype, device=device(qkv))
        p = {"q_norm": ones, "k_norm": ones}
    q, c_q = rms_norm.forward(q, p["q_norm"], eps=eps)
    k, c_k = rms_norm.forward(k, p["k_norm"], eps=eps)
    lead = qkv.shape[:2]
    joined = xp.concat([xp.reshape(q, (*lead, h * d)), xp.reshape(k, (*lead, g * d)), v], axis=2)
    return joined, Cache(kind, sizes, c_q, c_k)


def backward(dqkv: Array, cache: Cache | None) -> tuple[Array, dict[str, Any]]:
    """dqkv after the norm -> before it, {"q_norm", "k_norm"} where the kind has weights."""
    if cache is None:
        return dqkv, {}
    kind, sizes, c_q, c_k = cache
    xp = namespace(dqkv)
    h, g, d = sizes
    dq, dk, dv = _parts(dqkv, sizes, kind)
    dq, d_q = rms_norm.backward(dq, c_q)
    dk, d_k = rms_norm.backward(dk, c_k)
    lead = dqkv.shape[:2]
    joined = xp.concat([xp.reshape(dq, (*lead, h * d)), xp.reshape(dk, (*lead, g * d)), dv], axis=2)
    return joined, {} if kind == "unit" else {"q_norm": d_q["weight"], "k_norm": d_k["weight"]}


def _parts(qkv: Array, sizes: tuple[int, int, int], kind: str) -> tuple[Array, Array, Array]:
    """q and k as rows of what is normed together, and v."""
    xp = namespace(qkv)
    h, g, d = sizes
    q, k, v = qkv[:, :, : h * d], qkv[:, :, h * d : (h + g) * d], qkv[:, :, (h + g) * d :]
    if kind == "width":
        return q, k, v
    lead = qkv.shape[:2]
    return xp.reshape(q, (*lead, h, d)), xp.reshape(k, (*lead, g, d)), v
