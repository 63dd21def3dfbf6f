r"""Merge the experts of one MoE layer group by group; the router keeps its rows, the ids of a group are tied.

    experts'[g] = mean of the experts e with group_of[e] = g,          tied'[id] = group_of[tied[id]]

The layer then computes y = Σ_g (Σ_{id in g} g_id(x)) FFN_g(x): what the router prefers inside a group makes no
difference any more (M3).  Nothing else of the layer changes.  Before the mean each member's hidden units are brought
into the order of the group's most used expert (``align``); identical experts merge into their very bits.

=========== ================================ =======================================================================
how         mean                             needs
=========== ================================ =======================================================================
uniform     1/n Σ                            nothing
frequency   Σ n_e W_e / Σ n_e                statistics (count); a group of which no member was chosen: uniform
fisher      by diagonal Fisher information   fisher = {name: mean squared gradient}, shapes of the experts' parameters
regmean     RegMean for each matrix          statistics with hessians; biases, and a group that saw no token: uniform
ties        base + λ τ (``ties``)            base: the dense ancestor; else the group's mean (of two experts it stays)
zipit       pairs of units                   x (T, D) calibration tokens; by frequency where statistics are given
=========== ================================ =======================================================================

Not offered: folding the E router rows to G.  The weight of a group is Σ over its *chosen* ids of softmax(W_r x), and no
single logit w·x has it: log Σ_id exp(w_id·x) is not linear in x, and top-k chooses ids, not groups.  Rows cost E D
numbers beside 3 G D F, so keeping them costs nothing worth having.

Sources: M-SMoE, arXiv:2310.01334, section 3.2; HC-SMoE, arXiv:2410.08589, section 3.2; the means in their modules.
Cost: that of the mean, and an assignment of O(F³) for each expert but the first of its group where it aligns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import unit_roundoff
from pymoe.backend.errors import ConfigError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe import MoEConfig, parameters
from pymoe.moe.experts import names
from pymoe.sharing.fuse import align as alignment
from pymoe.sharing.fuse import average, ties, zipit
from pymoe.sharing.fuse import experts as single
from pymoe.sparsity.statistics import Statistics, hidden

SETTINGS: dict[str, set[str]] = {
    "uniform": set(),
    "frequency": set(),
    "fisher": {"eps"},
    "regmean": {"alpha"},
    "ties": {"density", "scale"},
    "zipit": {"within"},
}
ALIGN = (True, False, "weights", "activations")
One = dict[str, np.ndarray]


class Given(NamedTuple):
    """What a mean may look at beside the weights; float64, one for each stored expert."""

    used: np.ndarray  # (G,) how often each was chosen, 0 without statistics
    statistics: Statistics | None
    fisher: list[One] | None
    h: list[np.ndarray] | None  # (T, F) each
    base: One | None
    h_base: np.ndarray | None  # (T, F)


def merge_groups(
    p: Mapping[str, Any],
    cfg: MoEConfig,
    group_of: Any,
    how: str = "frequency",
    *,
    statistics: Statistics | None = None,
    align: bool | str = True,
    fisher: Mapping[str, Array] | None = None,
    x: Array | None = None,
    base: Mapping[str, Array] | None = None,
    **settings: float,
) -> tuple[dict[str, Any], MoEConfig]:
    """(p', cfg') of the layer with one stored expert for each group.

    group_of (G,): the group of each *stored* expert (E of them unless experts are tied already), numbered from 0 on
    with none left out.  align: True or "weights" (Git Re-Basin), "activations" (needs x), or False; ZipIt needs none.
    settings: eps of fisher, alpha of regmean, density and scale of ties, within of zipit.  A method without what it
    needs, or labels that are no groups: ConfigError; statistics of another layer: ShapeError; NaN in a weight:
    NonFiniteError.

    >>> from pymoe import moe, presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p, merged = merge_groups(moe.init(np.random.default_rng(0), cfg), cfg, [0, 1, 0, 1], how="uniform")
    >>> merged.tied, p["experts"]["down_proj"].shape, p["router"]["weight"].shape
    ((0, 1, 0, 1), (2, 5, 6), (4, 5))
    """
    if how not in SETTINGS:
        raise ConfigError(f"how must be one of {tuple(SETTINGS)}, got {how!r}")
    if align not in ALIGN:
        raise ConfigError(f"align must be one of {ALIGN}, got {align!r}")
    if not settings.keys() <= SETTINGS[how]:
        raise ConfigError(f"how={how!r} has the settings {sorted(SETTINGS[how])}, got {sorted(settings)}")
    parameters.check(p, cfg)
    groups = labels(group_of, cfg.n_stored)
    experts = single.unstacked(p["experts"])
    _required(how, cfg, statistics, fisher, x, align)
    given = _read(experts, cfg, statistics, fisher, x if how == "zipit" or align == "activations" else None, base)
    u = unit_roundoff(single.model(p["experts"]["down_proj"]))
    merged = []
    for g in range(int(groups.max()) + 1):
        ids = np.flatnonzero(groups == g)
        order = _orders(ids, experts, given, align if how != "zipit" else False)
        these = [alignment.apply(experts[e], perm) for e, perm in zip(ids, order, strict=True)]
        merged.append(_mean(how, these, ids, order, given, u, settings))
    table = groups if cfg.tied is None else groups[np.asarray(cfg.tied)]
    tied = None if np.array_equal(table, np.arange(cfg.n_experts)) else tuple(table.tolist())
    return {**p, "experts": single.stacked(merged, p["experts"])}, dataclasses.replace(cfg, tied=tied)


def labels(group_of: Any, n: int) -> np.ndarray:
    """group_of (n,) with each group of 0..max in use; else ConfigError."""
    found = np.asarray(group_of)
    if found.shape != (n,) or found.dtype.kind not in "iu":
        raise ConfigError(
            f"group_of must give each of the {n} stored experts the number of its group, got shape {found.shape} of "
            f"{found.dtype}"
        )
    if not np.array_equal(np.unique(found), np.arange(int(found.max()) + 1)):
        raise ConfigError(f"groups must be numbered from 0 on, none left out, got {sorted(set(found.tolist()))}")
    return found.astype(np.int64)


def _required(how: str, cfg: MoEConfig, s: Statistics | None, fisher: Any, x: Any, align: bool | str) -> None:
    if s is not None:
        check_shape("statistics.x_sumsq", s.x_sumsq, (cfg.n_stored, cfg.d_model))
        check_shape("statistics.h_sumsq", s.h_sumsq, (cfg.n_stored, cfg.d_ff))
    needs = {
        "frequency": ("statistics", s),
        "regmean": ("statistics", s),
        "fisher": ("fisher", fisher),
        "zipit": ("x", x),
    }
    if how in needs and needs[how][1] is None:
        raise ConfigError(f"how={how!r} needs {needs[how][0]}=: see the table of merge_groups")
    if how == "regmean" and s is not None and (s.x_gram is None or s.h_gram is None):
        raise ConfigError("regmean needs Gram matrices: statistics.observe(cache, cfg, hessians=True)")
    if align == "activations" and x is None:
        raise ConfigError('align="activations" needs x=, calibration tokens (T, D)')


def _read(experts: list[One], cfg: MoEConfig, s: Statistics | None, fisher: Any, x: Any, base: Any) -> Given:
    """The rest of what came, checked, in float64."""
    used = np.zeros(cfg.n_stored) if s is None else np.asarray(s.count, dtype=np.float64)
    info = None if fisher is None else single.unstacked(fisher, "fisher.")
    if info is not None:
        if len(info) != len(experts):
            raise ShapeError(f"fisher is of {len(info)} experts, the layer has {len(experts)}")
        single.alike([*experts[:1], *info], "expert (0) or Fisher information")
    origin = None if base is None else {name: single.read("base." + name, a) for name, a in base.items()}
    if origin is not None:
        single.alike([experts[0], origin], "expert (0) or base")
    if x is None:
        return Given(used, s, info, None, origin, None)
    check_shape("x", x, (None, cfg.d_model))
    tokens = single.read("x", x)
    h = [activations(tokens, e, cfg) for e in experts]
    return Given(used, s, info, h, origin, None if origin is None else activations(tokens, origin, cfg))


def activations(x: np.ndarray, expert: One, cfg: MoEConfig) -> np.ndarray:
    """h (T, F) of one expert on x (T, D)."""
    up, _ = names(cfg.gated)
    a = x @ expert[up].T
    return np.asarray(hidden(a + expert[up + "_bias"] if cfg.bias else a, cfg))


def _orders(ids: np.ndarray, experts: list[One], given: Given, align: bool | str) -> list[np.ndarray]:
    """For each member the order of its hidden units: beside those of the most used member, or of the base."""
    count, h = given.used[ids], given.h
    head = ids[int(np.argmax(count))]  # of equal counts the lowest id
    found = []
    for e in ids:
        if align is False or (e == head and given.base is None):
            found.append(np.arange(single.width(experts[e])))
        elif align == "activations":
            assert h is not None
            found.append(alignment.by_activations(h[head] if given.h_base is None else given.h_base, h[e]))
        else:
            found.append(alignment.permutation(experts[head] if given.base is None else given.base, experts[e]))
    return found


def _mean(
    how: str,
    these: list[One],
    ids: np.ndarray,
    order: list[np.ndarray],
    given: Given,
    u: float,
    settings: Mapping[str, Any],
) -> One:
    """One expert of the aligned members of a group."""
    count = given.used[ids]
    weight = count if count.any() else np.ones(len(ids))  # nobody of the group was ever chosen: uniform
    if how == "uniform":
        return average.uniform(these)
    if how == "frequency":
        return average.weighted(these, weight)
    if how == "fisher":
        assert given.fisher is not None
        info = [alignment.apply(given.fisher[e], perm) for e, perm in zip(ids, order, strict=True)]
        return average.fisher(these, info, **settings)
    if how == "regmean":
        return _regmean(these, ids, order, given.statistics, settings)
    if how == "ties":
        origin = average.uniform(these) if given.base is None else given.base
        return {n: ties.merge(a, [e[n] for e in these], u=u, **settings) for n, a in origin.items()}
    assert given.h is not None
    return zipit.merge(these, [given.h[e] for e in ids], weight, **settings)


def _regmean(
    these: list[One], ids: np.ndarray, order: list[np.ndarray], s: Statistics | None, settings: Mapping[str, Any]
) -> One:
    assert s is not None and s.x_gram is not None and s.h_gram is not None
    up, down = names("gate_up_proj" in these[0])
    one = average.uniform(these)
    one[up] = average.regmean([e[up] for e in these], [s.x_gram[i] for i in ids], **settings)
    grams = [s.h_gram[i][np.ix_(perm, perm)] for i, perm in zip(ids, order, strict=True)]
    one[down] = average.regmean([e[down] for e in these], grams, **settings)
    return one
