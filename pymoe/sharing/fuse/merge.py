"""Merge the experts of one MoE layer in groups; the router keeps its rows, the ids of a group share one stored expert.

    for every group: align its members to the one that is used most, then average by ``how``
    MoEConfig.tied  = the group of every id             experts: one for each group

After it the output does not depend on where inside a group a token is routed (M3).  Router rows are not merged: a
group's share of the softmax is the sum over its ids, and no single row gives that, so folding G rows out of E would
change who is chosen.  Source: M-SMoE, arXiv:2310.01334, section 3.2 (align, then frequency-weighted mean).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError
from pymoe.moe import MoEConfig, parameters
from pymoe.sharing.fuse import align as alignment
from pymoe.sharing.fuse import average, ties, zipit
from pymoe.sparsity import statistics as observed
from pymoe.sparsity.statistics import Statistics

HOW = ("uniform", "frequency", "fisher", "regmean", "ties", "zipit")
Expert = dict[str, np.ndarray]


def merge_groups(
    p: Mapping[str, Any],
    cfg: MoEConfig,
    group_of: np.ndarray,
    *,
    how: str = "frequency",
    statistics: Statistics | None = None,
    align: bool = True,
    fisher: Mapping[str, np.ndarray] | None = None,
    x: np.ndarray | None = None,
    density: float = 0.5,
) -> tuple[dict[str, Any], MoEConfig]:
    """(p', cfg') with one stored expert for each group; group_of (stored experts,) numbers them 0..G-1.

    frequency   needs ``statistics``; a group that nobody used gets the uniform mean
    fisher      needs ``fisher``: squared gradients under the experts' names, with the leading E
    regmean     needs ``statistics`` with hessians; biases, if any, are averaged by frequency
    ties        differences to the member that is used most, trimmed to ``density``, signs elected
    zipit       needs ``x`` (T, D), tokens that the layer was given; it aligns by itself

    An expert that is alone in its group stays bit for bit.
    """
    parameters.check(p, cfg)
    n = cfg.n_stored
    groups = np.asarray(group_of)
    if groups.shape != (n,) or set(groups.tolist()) != set(range(int(groups.max(initial=-1)) + 1)):
        raise ConfigError(f"group_of must give each of the {n} stored experts a group 0, 1, ..., got {groups.tolist()}")
    if how not in HOW:
        raise ConfigError(f"how must be one of {HOW}, got {how!r}")
    needs = {"frequency": statistics, "fisher": fisher, "zipit": x, "regmean": statistics}
    if how in needs and needs[how] is None or (how == "regmean" and statistics and statistics.x_gram is None):
        wanted = {"fisher": "fisher=", "zipit": "x="}.get(how, "statistics=")
        raise ConfigError(f"how={how!r} needs {wanted}{' with hessians' if how == 'regmean' else ''}")
    stacked = {name: to_numpy(a) for name, a in p["experts"].items()}
    count = np.ones(n) if statistics is None else statistics.count.astype(np.float64)
    hidden = None if how != "zipit" else to_numpy(observed.activations(x, p, cfg))
    rule = _rule(how, count, statistics, fisher, hidden, density)
    merged = []
    for g in range(int(groups.max()) + 1):
        members = np.flatnonzero(groups == g)
        leader = members[np.argmax(count[members])]
        order = [int(leader), *(int(e) for e in members if e != leader)]
        perms = {e: np.arange(cfg.d_ff) for e in order}
        if align and how != "zipit":
            perms |= {e: alignment.weights(_one(stacked, order[0]), _one(stacked, e)) for e in order[1:]}
        if len(order) == 1:
            merged.append(_one(stacked, order[0]))
        else:
            merged.append(rule(order, [alignment.apply(_one(stacked, e), perms[e]) for e in order], perms))
    experts = {name: np.stack([one[name] for one in merged]) for name in stacked}
    table = tuple(int(groups[e]) for e in (range(n) if cfg.tied is None else cfg.tied))
    return {**p, "experts": experts}, dataclasses.replace(cfg, tied=table)


def _one(stacked: Mapping[str, np.ndarray], e: int) -> Expert:
    return {name: a[e] for name, a in stacked.items()}


def _rule(
    how: str,
    count: np.ndarray,
    statistics: Statistics | None,
    fisher: Mapping[str, np.ndarray] | None,
    hidden: np.ndarray | None,
    density: float,
) -> Callable[[list[int], list[Expert], dict[int, np.ndarray]], Expert]:
    """rule(ids, aligned experts, their permutations) -> the merged expert; ids[0] is the one that is used most."""
    if how == "uniform":
        return lambda ids, experts, perms: average.uniform(experts)
    if how == "frequency":
        return lambda ids, experts, perms: average.weighted(experts, count[ids].tolist())
    if how == "fisher":
        assert fisher is not None
        squares = fisher
        return lambda ids, experts, perms: average.fisher(
            experts, [alignment.apply(_one(squares, e), perms[e]) for e in ids]
        )
    if how == "ties":
        return lambda ids, experts, perms: {
            name: ties.merge(a, [one[name] for one in experts[1:]], density=density) for name, a in experts[0].items()
        }
    if how == "zipit":
        assert hidden is not None
        return lambda ids, experts, perms: zipit.merge(experts, [hidden[e] for e in ids])
    assert statistics is not None

    def regmean(ids: list[int], experts: list[Expert], perms: dict[int, np.ndarray]) -> Expert:
        made = average.weighted(experts, count[ids].tolist())  # the biases
        assert statistics.x_gram is not None and statistics.h_gram is not None
        for name in made:
            if name in ("gate_up_proj", "up_proj"):
                grams = [statistics.x_gram[e] for e in ids]
            elif name == "down_proj":
                grams = [statistics.h_gram[e][np.ix_(perms[e], perms[e])] for e in ids]
            else:
                continue
            made[name] = average.regmean([one[name] for one in experts], grams)
        return made

    return regmean
