r"""The first step of a router, x -> z: what the router looks at, the linear map, and what is done to its output.

Forward, x (T, D); every part is there only if the settings ask for it::

    x' = x ⊙ jitter                                       the router's own input, nobody else's
    x' = x' / √(mean x'² + ε) ⊙ router.input_scale        times the input multiplier
    c  = m (W x' + b + W_g c')                            m the logit multiplier, c' the logits of the layer before
    c  = cap tanh(c / cap)                                clean logits
    h  = c + ε ⊙ σ                                        noisy ones, of the E ids; σ learned, or noise_std / E

Backward, bottom to top: dh and dσ give dc, dc goes through tanh' = 1 - (c / cap)², m, the map (and to c', see
``gate_residual``), the norm and the jitter.

Constants: jitter, ε, and the gaussian σ.  Sources: arXiv:2101.03961 (jitter), arXiv:1701.06538 eq. 4 and
arXiv:2106.05974 (noise), transformers ``models/gemma4`` (norm and scale), ``models/muse_spark`` (multiplier),
``models/laguna`` (cap).  The jitter multiplies a copy: several ports multiply the caller's tensor in place, and the
experts then see the noise.  Cost: T D E multiply-adds forward, twice that backward (twice both with learned noise).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe.backend import device, namespace, real
from pymoe.backend.namespace import Array
from pymoe.moe import gate_residual, noise
from pymoe.moe.draws import Draws
from pymoe.moe.router_config import RouterConfig
from pymoe.ops import linear, rms_norm, tanh


class Cache(NamedTuple):
    jitter: Array | None  # (T, D)
    norm: rms_norm.Cache | None
    linear: linear.Cache
    residual: gate_residual.Cache | None
    tanh: tanh.Cache | None
    noise: tuple[Any, noise.Cache] | None  # caches of x W_nᵀ and of the learned noise
    cfg: RouterConfig


class Logits(NamedTuple):
    c: Array  # (T, n_logits) clean: those of the ids, then those of jointly weighted shared experts
    h: Array  # (T, n_ids) what the router decides and weighs by
    sigma: Array | None  # (T, n_ids) the noise scale; None: no noise


def forward(
    x: Array, p: Mapping[str, Array], cfg: RouterConfig, draws: Draws, previous: Array | None = None
) -> tuple[Logits, Cache]:
    """Logits of x (T, D), and of those of the layer before (T, n_ids).

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=2, k=1, logit_multiplier=0.5, soft_cap=2.0)
    >>> forward(np.ones((1, 1)), {"weight": np.array([[2.0], [800.0]])}, cfg, Draws())[0].h.round(4)
    array([[0.9242, 2.    ]])
    """
    if draws.jitter is not None:
        x = x * draws.jitter
    norm_cache = None
    if cfg.input_norm == "rms":
        x, norm_cache = rms_norm.forward(x, p["input_scale"], eps=cfg.input_norm_eps)
    if cfg.input_multiplier != 1:
        x = x * cfg.input_multiplier
    c, linear_cache = linear.forward(x, p["weight"], p.get("bias"))
    residual_cache = None
    if previous is not None:
        c, residual_cache = gate_residual.forward(c, previous, p["residual_weight"])
    if cfg.logit_multiplier != 1:
        c = c * cfg.logit_multiplier
    tanh_cache = None
    if cfg.soft_cap is not None:
        t, tanh_cache = tanh.forward(c * (1 / cfg.soft_cap))
        c = t * cfg.soft_cap
    h = c[:, : cfg.n_ids] if cfg.n_shared_logits else c
    sigma, noise_cache = None, None
    if draws.noise is not None and cfg.noise == "learned":
        a, a_cache = linear.forward(x, p["noise_weight"])
        h, own = noise.forward(h, a, draws.noise)
        sigma, noise_cache = own.sigma, (a_cache, own)
    elif draws.noise is not None:
        width = cfg.noise_std / cfg.n_experts
        sigma = namespace(h).full_like(real(h), width)
        h = h + draws.noise * width
    cache = Cache(draws.jitter, norm_cache, linear_cache, residual_cache, tanh_cache, noise_cache, cfg)
    return Logits(c, h, sigma), cache


def backward(
    dh: Array, cache: Cache, dc: Array | None = None, dsigma: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """dx (T, D) and the gradients of the parameters, from dh (T, n_ids), dc (T, n_logits) and dσ (T, n_ids).

    With a c' there is also "previous" (T, n_ids), its gradient.

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=2, k=1, logit_multiplier=0.5)
    >>> _, cache = forward(np.ones((1, 1)), {"weight": np.array([[2.0], [4.0]])}, cfg, Draws())
    >>> backward(np.array([[1.0, 0.0]]), cache)
    (array([[1.]]), {'weight': array([[0.5],
           [0. ]])})
    """
    jitter, norm_cache, linear_cache, residual_cache, tanh_cache, noise_cache, cfg = cache
    xp = namespace(dh)
    dx_noise, dp = None, {}
    if noise_cache is not None:
        a_cache, own = noise_cache
        dh, d = noise.backward(dh, own, dsigma)
        dx_noise, d = linear.backward(d["a"], a_cache)
        dp["noise_weight"] = d["weight"]
    if cfg.n_shared_logits:
        none = xp.zeros((dh.shape[0], cfg.n_shared_logits), dtype=dh.dtype, device=device(dh))
        dh = xp.concat([dh, none], axis=1)
    dc = dh if dc is None else dc + dh
    if tanh_cache is not None and cfg.soft_cap is not None:
        dc = tanh.backward(dc * cfg.soft_cap, tanh_cache)[0] * (1 / cfg.soft_cap)
    if cfg.logit_multiplier != 1:
        dc = dc * cfg.logit_multiplier
    if residual_cache is not None:
        dp["previous"], dp["residual_weight"] = gate_residual.backward(dc, residual_cache)
    dx, d = linear.backward(dc, linear_cache)
    dp.update(d)
    dx = dx if dx_noise is None else dx + dx_noise
    if cfg.input_multiplier != 1:
        dx = dx * cfg.input_multiplier
    if norm_cache is not None:
        dx, d = rms_norm.backward(dx, norm_cache)
        dp["input_scale"] = d["weight"]
    return (dx if jitter is None else dx * jitter), dp
