r"""The MoE layer: y = Σ_e g_e(x) FFN_e(x) over the chosen experts (+ the shared expert).

Forward::

    (routing, losses) = router(x)              score -> select -> weigh
    plan = Plan(routing)                       the permutation, once
    m = experts(x, g, plan) (+ nulls(x, g))    or post(experts(pre(x), g, plan)) in a latent space
    y = output(m, shared(x))                   their sum, or what the settings make of it

Backward, bottom to top::

    dm, df                 = output.backward(dy)
    dx_shared              = shared.backward(df)
    dx_experts, dg         = experts.backward(dm)          between the two projections of a latent space; nulls likewise
    dx_router              = router.backward(dg, cotangents of the losses)
    dx = dx_experts + dx_router + dx_shared

Source: Shazeer et al., arXiv:1701.06538, eq. 1.  Cost: T D E multiply-adds in the router, 3 T K D F in gated experts
and 3 T D d_shared in a gated shared one, twice that backward; no array of size T E D.  The router, the plan and the
experts have their formulas in their own modules; ``docs/layer.md`` walks through one example with numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe.backend import device, is_complex, is_floating, namespace
from pymoe.backend.errors import ConfigError, DtypeError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe import experts, gate_residual, latent, nulls, output, parameters, plan, router, shared
from pymoe.moe.config import MoEConfig
from pymoe.moe.draws import Draws
from pymoe.moe.given import Given


class Output(NamedTuple):
    y: Array  # like x
    losses: dict[str, Array]  # 0-d, by name, without coefficients
    routing: router.Routing


class Cache(NamedTuple):
    shape: tuple[int, ...]  # of x
    dtype: Any  # of y
    router: router.Cache
    experts: experts.Cache
    latent: tuple[Any, Any] | None  # caches of the projections before and after the experts
    null: nulls.Cache | None
    shared: shared.Cache | None
    output: output.Cache
    mask: Array | None  # (T,)


def forward(
    x: Array,
    p: Mapping[str, Any],
    cfg: MoEConfig,
    mask: Array | None = None,
    draws: Draws | None = None,
    given: Given | None = None,
) -> tuple[Output, Cache]:
    """(out, cache) of x (T, D) or (B, S, D); mask (T,) or (B, S), True for real tokens; draws from ``moe.draw``;
    given: what the router is told beside the tokens (token ids, a choice, counts of the global batch).

    out.y like x; out.losses by name; out.routing.idx (T, K), .weight, .kept, .load.  A padding token is routed
    nowhere, counts nowhere, and gets y = 0.  Wrong widths are a ShapeError, integers a DtypeError, NaN logits a
    NonFiniteError unless ``nonfinite="propagate"``.

    >>> import numpy as np
    >>> from pymoe import presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p = parameters.init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((3, 5)), p, cfg)
    >>> out.y.shape, out.routing.idx.shape, sorted(out.losses)
    ((3, 5), (3, 2), ['balance', 'z'])
    """
    xp = namespace(x)
    shape = tuple(x.shape)
    if not is_floating(x):
        raise DtypeError(f"moe.forward: x must be floating point, got {x.dtype}: cast it explicitly")
    if len(shape) < 2 or shape[-1] != cfg.d_model:
        raise ShapeError(f"moe.forward: x must have shape (T, {cfg.d_model}) or (B, S, {cfg.d_model}), got {shape}")
    parameters.check(p, cfg)
    x = xp.reshape(x, (-1, cfg.d_model))
    if mask is not None:
        if tuple(mask.shape) != shape[:-1]:
            raise ShapeError(f"moe.forward: mask must have shape {shape[:-1]}, got {tuple(mask.shape)}")
        if not xp.isdtype(mask.dtype, "bool"):
            raise DtypeError(f"moe.forward: mask must be bool, True for real tokens, got {mask.dtype}: write mask != 0")
        mask = xp.reshape(mask, (-1,))
        x = xp.where(mask[:, None], x, xp.zeros_like(x))  # whatever stands in the padding, even NaN, stays there
    given = given or Given()
    previous = gate_residual.checked(given.logits, cfg.router, shape[:-1], mask)
    given = given._replace(sequences=shape[0] if len(shape) == 3 else 1, logits=previous)
    (routing, losses), router_cache = router.forward(x, p["router"], cfg.router, mask, draws, given)
    idx, kept = nulls.experts_only(routing.idx, routing.kept, cfg.router)
    plan_ = plan.make(_stored(idx, cfg), kept, cfg.n_stored)
    seen, latent_cache, null_cache, common, shared_cache = x, None, None, None, None
    if cfg.d_latent:
        seen, pre = latent.forward_pre(x, p["latent"], cfg.latent_norm)
    m, experts_cache = experts.forward(
        seen, routing.weight, p["experts"], plan_, form=cfg.form, weight_at=cfg.weight_at, norm=cfg.post_expert_norm
    )
    if cfg.d_latent:
        m, post = latent.forward_post(m, p["latent"])
        latent_cache = pre, post
    if cfg.router.null_experts:
        extra, null_cache = nulls.forward(x, routing.idx, routing.kept, routing.weight, p.get("null", {}), cfg.router)
        m = m + extra
    if cfg.d_shared:
        common, shared_cache = shared.forward(x, p["shared"], cfg, mask, routing.shared_weight)
    y, output_cache = output.forward(m, common, p.get("output", {}), cfg, mask)
    cache = Cache(
        shape, y.dtype, router_cache, experts_cache, latent_cache, null_cache, shared_cache, output_cache, mask
    )
    return Output(xp.reshape(y, shape), losses, routing), cache


def _stored(idx: Array, cfg: MoEConfig) -> Array:
    """The stored expert of each choice: several ids of the router may stand for one."""
    if cfg.tied is None:
        return idx
    xp = namespace(idx)
    table = xp.asarray(cfg.tied, dtype=idx.dtype, device=device(idx))
    return xp.reshape(xp.take(table, xp.reshape(idx, (-1,))), idx.shape)


def backward(
    dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None, dlogits: Array | None = None
) -> tuple[Any, ...]:
    """(dx, dp) from dy like y, the cotangents of the losses, e.g. {"balance": 0.01}, and of out.routing.logits.

    Where forward was given the logits of the layer before, a third value is their gradient (T, n_ids).

    dp has the keys of p; selection_bias gets exact zeros (it only decides).  A dy of another precision is cast to that
    of y.  A loss that the layer does not compute is a ShapeError that names it; dlosses that are no mapping, a
    ConfigError.

    >>> import numpy as np
    >>> from pymoe import presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p = parameters.init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((3, 5)), p, cfg)
    >>> dx, dp = backward(np.ones((3, 5)), cache, {"balance": 0.01})
    >>> dx.shape, sorted(dp)
    ((3, 5), ['experts', 'router'])
    """
    shape, dtype, router_cache, experts_cache, latent_cache, null_cache, shared_cache, output_cache, mask = cache
    xp = namespace(dy)
    check_shape("dy", dy, shape)
    dlosses = {} if dlosses is None else dlosses
    if not isinstance(dlosses, Mapping):
        raise ConfigError(
            "moe.backward: dlosses must be a mapping from the names of the losses to their cotangents, e.g. "
            f'{{"balance": 0.01}}, got {dlosses!r}'
        )
    unknown = sorted(set(dlosses) - set(router_cache.losses))
    if unknown:
        raise ShapeError(f"moe.backward: no such loss in this layer: {unknown}; it has {sorted(router_cache.losses)}")
    if not is_floating(dy):
        raise DtypeError(f"moe.backward: dy must be floating point, got {dy.dtype}: cast it explicitly")
    dy = xp.reshape(dy, (-1, shape[-1]))
    if not is_complex(dy):
        dy = xp.astype(dy, dtype, copy=False)
    dp: dict[str, Any] = {}
    dm, df, dp["output"] = output.backward(dy, output_cache)
    dx_null, dg_null, dx_shared, dshared = None, None, None, None
    if null_cache is not None:
        dx_null, dg_null, dp["null"] = nulls.backward(dm, null_cache)
    if shared_cache is not None:
        dx_shared, d = shared.backward(df, shared_cache)
        dshared = d.pop("weight", None)
        dp["shared"] = d
    if latent_cache is not None:
        dm, d_post = latent.backward_post(dm, latent_cache[1])
    dx_experts, d = experts.backward(dm, experts_cache)
    if latent_cache is not None:
        dx_experts, d_pre = latent.backward_pre(dx_experts, latent_cache[0])
        dp["latent"] = d_pre | d_post
    dp["experts"] = {name: d[name] for name in experts_cache.p}
    dg = d["g"] if dg_null is None else d["g"] + dg_null
    dx_router, dp["router"] = router.backward(dg, dlosses, router_cache, dlogits=dlogits, dshared=dshared)
    dx = dx_experts + dx_router
    if dx_null is not None:
        dx = dx + dx_null
    if dx_shared is not None:
        dx = dx + dx_shared
    previous = dp["router"].pop("previous", None)
    if mask is not None and dlogits is not None:  # the logits of padding are shown, but do not come from x
        dx = xp.where(mask[:, None], dx, xp.zeros_like(dx))
        previous = None if previous is None else xp.where(mask[:, None], previous, xp.zeros_like(previous))
    found = xp.reshape(dx, shape), {name: dp[name] for name in parameters.BRANCHES if dp.get(name)}
    return found if previous is None else (*found, previous)
