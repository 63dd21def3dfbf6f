r"""ZipIt: merge the hidden units of several experts by their activations, within an expert as well as across.

The n F units of n experts are matched greedily: the pair (or pair of groups) of the highest correlation is joined,
until F groups are left; the correlation of a joined group is that of its mean activation.  With M (F, n F) the mean
over each group and U (n F, F) its unmerging (1 where a unit is in a group)::

    W_up  = M [W_up of all experts]                                  rows: the mean of a group's rows
    W_down = 1/n [W_down of all experts] U                           columns: the sum of a group's columns, over n

so that where all units of a group are alike, W_down h is the mean of the experts' outputs.  Merging an expert with its
permuted copy gives the expert back.  Source: Stoica et al., arXiv:2305.03053, section 4 (their α = 1: any number of
units of one model may meet).  Cost: O((n F)² (T + F)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import ShapeError
from pymoe.sharing.fuse import average
from pymoe.sharing.fuse.align import correlation

Expert = Mapping[str, Any]


def match(activations: Sequence[np.ndarray]) -> np.ndarray:
    """group_of (n F,): the group 0..F-1 of every unit, experts one after the other; activations n times (T, F).

    Groups are numbered by their lowest unit; of equal correlations the pair of the lowest units is joined first.
    """
    shapes = {a.shape for a in activations}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ShapeError(f"activations must be (T, F) of the same tokens for every expert, got {sorted(shapes)}")
    f = activations[0].shape[1]
    h = np.concatenate([a.astype(np.float64) for a in activations], axis=1)
    groups = {i: [i] for i in range(h.shape[1])}
    near = correlation(h, h)
    np.fill_diagonal(near, -np.inf)
    near = np.where(np.tri(len(near), k=0, dtype=bool), -np.inf, near)  # i < j only
    for _ in range(h.shape[1] - f):
        a, b = divmod(int(np.argmax(near)), len(near))
        groups[a] = sorted(groups[a] + groups.pop(b))
        near[b, :], near[:, b] = -np.inf, -np.inf
        mean = h[:, groups[a]].mean(1, keepdims=True)
        others = np.array(sorted(i for i in groups if i != a), dtype=int)
        if len(others):
            means = np.stack([h[:, groups[i]].mean(1) for i in others], axis=1)
            fresh = correlation(mean, means)[0]
            near[a, others[others > a]] = fresh[others > a]
            near[others[others < a], a] = fresh[others < a]
    group_of = np.empty(h.shape[1], dtype=np.int64)
    for g, members in enumerate(sorted(groups.values(), key=min)):
        group_of[members] = g
    return group_of


def merge(experts: Sequence[Expert], activations: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """One expert of n, from their hidden activations (T, F) on the same tokens."""
    average.check(experts)
    n, f = len(experts), experts[0]["down_proj"].shape[1]
    if len(activations) != n or any(a.shape[1:] != (f,) for a in activations):
        raise ShapeError(f"{n} experts of {f} hidden units need as many activations (T, {f})")
    group_of = match(activations)
    unmerge = np.zeros((n * f, f))
    unmerge[np.arange(n * f), group_of] = 1.0
    to_mean = (unmerge / unmerge.sum(0)).T
    made: dict[str, np.ndarray] = {}
    for name, a in experts[0].items():
        each = [np.asarray(e[name], dtype=np.float64) for e in experts]
        if name == "down_proj":
            merged = np.concatenate(each, axis=1) @ unmerge / n
        elif name.startswith("gate_up_proj"):
            gate, up = (to_mean @ np.concatenate([e[half] for e in each]) for half in (slice(0, f), slice(f, 2 * f)))
            merged = np.concatenate([gate, up])
        elif name.startswith("up_proj"):
            merged = to_mean @ np.concatenate(each)
        else:  # the bias of the way down is added once, whoever is merged
            merged = sum(each) / n
        made[name] = merged.astype(a.dtype)
    return made
