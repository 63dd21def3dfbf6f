r"""Null experts: ids of the router beyond the E experts that have no matrices, so that a token may be cheap.

Forward, id E + i is of kind ``RouterConfig.null_experts[i]``, w its combine weight, m counts the constant ones::

    "zero", "skip"        0
    "identity", "copy"    w x
    "constant"            w (α x + β v_m),    (α, β) = softmax(x W_mᵀ)      W_m (2, D), v_m (D,)

    y_t = a_t x_t + Σ_m c_tm β_tm v_m,    a_t = Σ_identity w + Σ_m c_tm α_tm,    c_tm the weight of constant m

Backward, r_t = ⟨dy_t, x_t⟩, q_tm = ⟨dy_t, v_m⟩::

    dw = 0  |  r  |  α r + β q            zero and skip get exactly 0, as a sentinel of another worker's expert does
    dv_m = Σ_t c β dy        (dα, dβ) = c (r, q)        dz through the softmax        dW_m = dzᵀ x
    dx = a dy + dz W

The weight is on the output whatever ``weight_at`` is, and the space is that of x whatever ``d_latent`` is.  They take
no row of the plan and no row of the experts' parameters.  Sources: zero, copy, constant MoE++, arXiv:2410.07348; zero
AdaMoE, arXiv:2406.13233; identity LongCat-Flash, arXiv:2509.01322; skip Zaya, arXiv:2511.17127.  Cost: O(T K) and one
pass over x; 2 T C D multiply-adds each way for C constant experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pymoe.backend import device, namespace
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig
from pymoe.ops import softmax


class Cache(NamedTuple):
    x: Array  # (T, D)
    copies: Array  # (T, K) bool: kept choices of an identity
    which: Array | None  # (T, K) the number of the constant that a kept choice is of, -1: of none
    a: Array  # (T, 1) the coefficient of x
    constant: tuple[Mapping[str, Array], Array, softmax.Cache] | None  # p, c (T, C), the softmax (T, C, 2)


def experts_only(idx: Array, kept: Array | None, cfg: RouterConfig) -> tuple[Array, Array | None]:
    """(idx, kept) of the choices that are experts with matrices; the others are dropped, their id is 0.

    >>> import numpy as np
    >>> experts_only(np.array([[1, 3]]), None, RouterConfig(3, 2, null_experts=("zero",)))
    (array([[1, 0]]), array([[ True, False]]))
    """
    if not cfg.null_experts:
        return idx, kept
    xp = namespace(idx)
    own = idx < cfg.n_experts
    return xp.where(own, idx, xp.zeros_like(idx)), own if kept is None else own & kept


def forward(
    x: Array, idx: Array, kept: Array | None, g: Array, p: Mapping[str, Array], cfg: RouterConfig
) -> tuple[Array, Cache]:
    """y (T, D) of x (T, D), idx, kept, g (T, K); p {"weight": (C, 2, D), "vector": (C, D)} of C constants.

    >>> import numpy as np
    >>> cfg = RouterConfig(1, 2, null_experts=("zero", "copy"))
    >>> forward(np.array([[4.0, 8.0]]), np.array([[2, 1]]), None, np.array([[0.25, 0.5]]), {}, cfg)[0]
    array([[1., 2.]])
    """
    xp = namespace(x)
    zero = xp.zeros_like(g)
    copies = _among(idx, kept, [k in ("identity", "copy") for k in cfg.null_experts], cfg)
    a = xp.sum(xp.where(copies, g, zero), axis=1, keepdims=True)
    n = cfg.null_experts.count("constant")
    if not n:
        return a * x, Cache(x, copies, None, a, None)
    which = _numbers(idx, kept, cfg)
    number = xp.arange(n, dtype=which.dtype, device=device(which))[None, :]
    c = xp.zeros((x.shape[0], n), dtype=g.dtype, device=device(g))
    for j in range(int(g.shape[1])):
        c = xp.where(which[:, j][:, None] == number, c + g[:, j][:, None], c)
    z = x @ xp.matrix_transpose(xp.reshape(p["weight"], (2 * n, -1)))
    mix, c_mix = softmax.forward(xp.reshape(z, (-1, n, 2)))
    a = a + xp.sum(c * mix[:, :, 0], axis=1, keepdims=True)
    return a * x + (c * mix[:, :, 1]) @ p["vector"], Cache(x, copies, which, a, (p, c, c_mix))


def backward(dy: Array, cache: Cache) -> tuple[Array, Array, dict[str, Array]]:
    """dx (T, D), dg (T, K), and the gradients of p.

    >>> import numpy as np
    >>> cfg = RouterConfig(1, 2, null_experts=("zero", "copy"))
    >>> _, cache = forward(np.array([[4.0, 8.0]]), np.array([[2, 1]]), None, np.array([[0.25, 0.5]]), {}, cfg)
    >>> backward(np.array([[1.0, 1.0]]), cache)
    (array([[0.25, 0.25]]), array([[12.,  0.]]), {})
    """
    x, copies, which, a, constant = cache
    xp = namespace(dy, x)
    r = xp.sum(dy * x, axis=1, keepdims=True)  # ⟨dy, x⟩
    dg = xp.where(copies, r, xp.zeros_like(r))
    dx = a * dy
    if constant is None or which is None:
        return dx, dg, {}
    p, c, c_mix = constant
    n, mix = int(c.shape[1]), c_mix.p
    q = dy @ xp.matrix_transpose(p["vector"])  # ⟨dy, v⟩
    dc = mix[:, :, 0] * r + mix[:, :, 1] * q
    at = xp.where(which >= 0, which, xp.zeros_like(which))
    dg = xp.where(which >= 0, xp.take_along_axis(dc, at, axis=1), dg)
    dz, _ = softmax.backward(xp.stack([c * r, c * q], axis=2), c_mix)
    dz = xp.reshape(dz, (-1, 2 * n))
    weight = xp.reshape(p["weight"], (2 * n, -1))
    dp = {
        "weight": xp.reshape(xp.matrix_transpose(dz) @ x, p["weight"].shape),
        "vector": xp.matrix_transpose(c * mix[:, :, 1]) @ dy,
    }
    return dx + dz @ weight, dg, dp


def _among(idx: Array, kept: Array | None, true: list[bool], cfg: RouterConfig) -> Array:
    """(T, K) bool: kept choices whose null id has True."""
    xp = namespace(idx)
    table = xp.asarray([False] * cfg.n_experts + true, device=device(idx))
    found = xp.reshape(xp.take(table, xp.reshape(idx, (-1,))), idx.shape)
    return found if kept is None else found & kept


def _numbers(idx: Array, kept: Array | None, cfg: RouterConfig) -> Array:
    """(T, K): the number of the constant expert of each kept choice, -1 for all others."""
    xp = namespace(idx)
    numbers, seen = [-1] * cfg.n_experts, 0
    for kind in cfg.null_experts:
        numbers.append(seen if kind == "constant" else -1)
        seen += kind == "constant"
    table = xp.asarray(numbers, dtype=idx.dtype, device=device(idx))
    found = xp.reshape(xp.take(table, xp.reshape(idx, (-1,))), idx.shape)
    return found if kept is None else xp.where(kept, found, xp.full_like(found, -1))
