r"""SparseGPT on the experts of one MoE layer: each expert is calibrated by the tokens that were routed to it.

For expert e with the routed tokens x (T_e, D)::

    up:    h = 2/T xᵀx              W_u' = sparsegpt(W_u, h)           (gated: gate and up at once, 2F rows)
    down:  u = act(x W_u'ᵀ + b)     W_d' = sparsegpt(W_d, 2/T uᵀu)     u of the *pruned* up: down makes up for it

The router, the biases and the choice of experts stay as they are.  An expert that no token reached has no Hessian: its
rule is magnitude within the same blocks (h = I), no compensation.  The shared expert sees every real token.

Source: Frantar & Alistarh, arXiv:2301.00774 (layer by layer); of MoE experts, QMoE, arXiv:2310.16795, section 3.  Cost:
one forward, then for each expert D³ + F³ for the factors and F D (D + F) for the updates; kept: one Hessian at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import moe
from pymoe.backend import namespace, to_numpy
from pymoe.backend.errors import DataError
from pymoe.backend.namespace import Array
from pymoe.moe import Draws, MoEConfig
from pymoe.moe.experts import names
from pymoe.sparsity import sparsegpt, statistics
from pymoe.sparsity.pruned import Pruned


class Layer(NamedTuple):
    p: dict[str, Any]  # like the given tree; exactly 0 where pruned
    masks: dict[str, np.ndarray]  # {"experts.gate_up_proj": (E, 2F, D) bool, ...}, for ``masked``
    errors: dict[str, np.ndarray]  # of each matrix (E,), by the same names; "shared.<...>" are 0-d


def prune(
    x: Array,
    p: Mapping[str, Any],
    cfg: MoEConfig,
    s: float | None = None,
    *,
    nm: tuple[int, int] | None = None,
    block: int = 128,
    damp: float = 0.01,
    mask: Array | None = None,
    draws: Draws | None = None,
) -> Layer:
    """The layer with every matrix of its experts (and of the shared one) pruned by ``sparsegpt.prune``.

    x (T, D) or (B, S, D) calibration inputs of this layer, mask and draws as ``moe.forward``.  DataError without any
    real token, DtypeError for a matrix that is stored sparse already (give ``w.dense()``).

    >>> from pymoe import presets
    >>> cfg = presets.mixtral(d_model=6, d_ff=4, n_experts=3, k=1)
    >>> p = moe.init(np.random.default_rng(0), cfg)
    >>> done = prune(np.random.default_rng(1).standard_normal((40, 6)), p, cfg, 0.5)
    >>> {name: int((~mask).sum()) for name, mask in done.masks.items()}
    {'experts.gate_up_proj': 72, 'experts.down_proj': 36}
    """
    _, cache = moe.forward(x, p, cfg, mask, draws)
    seen, plan = to_numpy(cache.experts.x), cache.experts.plan
    real = np.ones(len(seen), bool) if mask is None else to_numpy(mask).reshape(-1)
    if not real.any():
        raise DataError("calibration needs at least one real token: x is empty, or its mask is all False")
    token, start = to_numpy(plan.token), to_numpy(plan.start)
    amount = {"s": s, "nm": nm, "block": block, "damp": damp}
    namespace(*p["experts"].values(), *p.get("shared", {}).values())  # arrays, nothing stored otherwise
    each = {name: to_numpy(w) for name, w in p["experts"].items()}
    done = [
        _expert({name: w[e] for name, w in each.items()}, seen[token[start[e] : start[e + 1]]], cfg, amount)
        for e in range(len(start) - 1)
    ]
    new = {**p, "experts": dict(each)}
    masks, errors = {}, {}
    for name in names(cfg.gated):
        new["experts"][name] = np.stack([one[name].w for one in done])
        masks[f"experts.{name}"] = np.stack([one[name].mask for one in done])
        errors[f"experts.{name}"] = np.array([one[name].error for one in done])
    if cfg.d_shared:
        given = {name: to_numpy(w) for name, w in p["shared"].items()}
        found = _expert(given, seen[real], cfg, amount)
        new["shared"] = {**given, **{name: one.w for name, one in found.items()}}
        masks |= {f"shared.{name}": one.mask for name, one in found.items()}
        errors |= {f"shared.{name}": np.asarray(one.error) for name, one in found.items()}
    return Layer(new, masks, errors)


def _expert(w: Mapping[str, np.ndarray], x: np.ndarray, cfg: MoEConfig, amount: Mapping[str, Any]) -> dict[str, Pruned]:
    """{name: Pruned} of the two matrices of one expert that saw x (T_e, D)."""
    up, down = names(cfg.gated)
    if not len(x):
        return {name: sparsegpt.prune(w[name], np.eye(w[name].shape[1]), **amount) for name in (up, down)}
    first = sparsegpt.prune(w[up], sparsegpt.hessian(x), **amount)
    a = x @ first.w.T
    if up + "_bias" in w:
        a = a + w[up + "_bias"]
    h = statistics.hidden(a, cfg)
    return {up: first, down: sparsegpt.prune(w[down], sparsegpt.hessian(h), **amount)}
