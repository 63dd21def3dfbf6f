"""Take experts out of a layer, and everything that speaks of them: router rows, biases, the selection bias, noise.

    W_r <- W_r[kept]        b, selection bias, W_noise likewise        experts <- experts[kept]        k <- min(k, E')

Where no token of a set chose a dropped expert, and the rule that weighs does not see the others (sigmoid scores, or
softmax renormalised over the chosen), the layer's output on that set stays.  A softmax that is not renormalised shares
its 1 among fewer: then all weights grow.  Statistics that were collected before are of the old ids.

Sources: Lu et al., arXiv:2402.14800, sec. 3 (dropped logits are -inf, then softmax, top-k and renormalisation: the same
as no rows at all); Lasby et al., arXiv:2510.13999.  Cost: a copy of what is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend import device, namespace
from pymoe.backend.errors import ConfigError, DtypeError
from pymoe.moe import MoEConfig, parameters
from pymoe.storage import Weight


def cut(p: Mapping[str, Any], cfg: MoEConfig, kept: Any) -> tuple[dict[str, Any], MoEConfig]:
    """(p', cfg') with only the stored experts ``kept`` (ids, in any order; the new ids are theirs in ascending order).

    With tied experts the router loses every id that stood for a dropped one.  Groups of experts (``n_group`` > 1) must
    each lose the same number: anything else is a ConfigError, as are ids that do not exist and an empty ``kept``.
    Shared experts stay.  Matrices must be arrays: cut first, and store them as sparse weights afterwards (DtypeError).

    >>> from pymoe import moe, presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p, smaller = cut(moe.init(np.random.default_rng(0), cfg), cfg, [3, 1])
    >>> smaller.n_experts, smaller.k, p["router"]["weight"].shape, p["experts"]["down_proj"].shape
    (2, 2, (2, 5), (2, 5, 6))
    """
    parameters.check(p, cfg)
    given = np.asarray(kept)
    if given.size and given.dtype.kind not in "iu":
        raise ConfigError(
            f"kept must be ids of experts, integers, got {given.dtype}: of a mask take np.flatnonzero(mask)"
        )
    stored = np.sort(given.astype(np.int64).reshape(-1))
    if not stored.size or stored[0] < 0 or stored[-1] >= cfg.n_stored or (stored[1:] == stored[:-1]).any():
        raise ConfigError(
            f"kept must name at least one of the stored experts 0 to {cfg.n_stored - 1}, none twice, got {kept!r}"
        )
    if cfg.tied is None:
        ids, tied = stored, None
    else:
        table = np.asarray(cfg.tied)
        ids = np.flatnonzero(np.isin(table, stored))
        tied = tuple(np.searchsorted(stored, table[ids]).tolist())
    router = _router(cfg, ids)
    smaller = dataclasses.replace(cfg, router=router, tied=tied)
    own = {name: _of_router(name, value, ids, cfg.router) for name, value in p["router"].items()}
    for name, value in p["experts"].items():
        if isinstance(value, Weight):
            raise DtypeError(
                f"experts.{name} is a stored {type(value).__name__}: cut the array, w.dense(), and store it then"
            )
    experts = {name: _rows(value, stored) for name, value in p["experts"].items()}
    return {**p, "router": own, "experts": experts}, smaller


def _router(cfg: MoEConfig, ids: np.ndarray) -> Any:
    r = cfg.router
    if r.n_group > 1:
        per = r.n_experts // r.n_group
        left = np.bincount(ids // per, minlength=r.n_group)
        if (left != left[0]).any():
            raise ConfigError(
                f"the router chooses among {r.n_group} groups, and these experts leave {left.tolist()} in them: keep "
                "the same number in each group, e.g. experts.keep(score, n, n_group=...)"
            )
        if r.k > r.topk_group * int(left[0]):
            raise ConfigError(
                f"k={r.k} choices do not fit into {r.topk_group} groups of the {int(left[0])} experts that are kept: "
                "keep more"
            )
    changes: dict[str, Any] = {"n_experts": int(ids.size), "k": min(r.k, int(ids.size))}
    if changes["k"] < 2 and r.second_threshold is not None:
        changes["second_threshold"] = None  # there is no second choice any more
    return dataclasses.replace(r, **changes)


def _of_router(name: str, value: Any, ids: np.ndarray, r: Any) -> Any:
    """The rows of these experts, and of the null and the shared ones behind them; a scale of the input has none."""
    if name == "table":
        raise ConfigError("router.table names experts by id: make the table of the smaller layer, then cut")
    if name in ("input_scale", "global_scale"):
        return value
    return _rows(value, np.concatenate([ids, np.arange(r.n_experts, int(value.shape[0]))]))


def _rows(value: Any, ids: np.ndarray) -> Any:
    xp = namespace(value)
    return xp.take(value, xp.asarray(ids, device=device(value)), axis=0)
