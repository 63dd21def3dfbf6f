"""The experts of a layer merged in groups: each group one expert, put together with the loops of this folder.

An aligned expert has its units in the order of the group's most used one, and so have its Fisher information and the
Gram matrix of its hidden units: they are of the same units.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from ...sparsity.oracles.mask_loops import count
from .average_loops import fisher, regmean, weighted
from .group_loops import best_permutation, permuted, unit_agreement


def member(stack: dict, e: int) -> dict:
    return {name: a[e] for name, a in stack.items()}


def order_to(reference: dict, other: dict) -> list[int]:
    f = reference["down_proj"].shape[1]
    return list(best_permutation([[unit_agreement(reference, other, i, j) for j in range(f)] for i in range(f)])[0])


def ties_about_the_mean(arrays: list, density: float) -> np.ndarray:
    """TIES whose base is the mean of the members, in rationals: the differences at one place add up to exactly 0, and
    where none of them was trimmed nobody is elected, which a rounded sum would not know."""
    flat = [[Fraction(v) for v in a.ravel().tolist()] for a in arrays]
    size = range(len(flat[0]))
    base = [sum(a[i] for a in flat) / len(flat) for i in size]
    kept = []
    for a in flat:
        order = sorted(size, key=lambda i: (abs(a[i] - base[i]), i))
        kept.append(set(order[len(order) - count(density, len(order)) :]))
    out = []
    for i in size:
        v = [a[i] - base[i] if i in k else Fraction(0) for a, k in zip(flat, kept, strict=True)]
        sign = (sum(v) > 0) - (sum(v) < 0)
        same = [d for d in v if sign and (d > 0) - (d < 0) == sign]
        out.append(float(base[i] + (sum(same) / len(same) if same else 0)))
    return np.array(out).reshape(arrays[0].shape)


def merged(
    stack: dict, group_of: list[int], how: str, *, used_by=None, fishers=None, grams=None, align=True, **s
) -> dict:
    """(G, ...) arrays; used_by (E,) counts, fishers like the stack, grams {"x": (E, D, D), "h": (E, F, F)}."""
    out: dict = {name: [] for name in stack}
    for g in range(max(group_of) + 1):
        ids = [e for e, own in enumerate(group_of) if own == g]
        used = [0.0 if used_by is None else float(used_by[e]) for e in ids]
        lead = ids[max(range(len(ids)), key=lambda i: (used[i], -i))]
        f = stack["down_proj"].shape[-1]
        orders = [list(range(f)) if not align else order_to(member(stack, lead), member(stack, e)) for e in ids]
        experts = [permuted(member(stack, e), order) for e, order in zip(ids, orders, strict=True)]
        for name in stack:
            arrays = [one[name] for one in experts]
            if how == "uniform" or not any(used) and how == "frequency":
                value = weighted(arrays, [1] * len(ids))
            elif how == "frequency":
                value = weighted(arrays, used)
            elif how == "fisher":
                own = [permuted(member(fishers, e), order)[name] for e, order in zip(ids, orders, strict=True)]
                value = fisher(arrays, own, s["eps"])
            elif how == "regmean":
                if name.endswith("bias"):
                    value = weighted(arrays, [1] * len(ids))
                else:
                    own = [grams["x"][e] for e in ids]
                    if name == "down_proj":
                        own = [grams["h"][e][np.ix_(o, o)] for e, o in zip(ids, orders, strict=True)]
                    value = regmean(arrays, own, s["alpha"])
            else:
                value = ties_about_the_mean(arrays, s["density"])
            out[name].append(value)
    return {name: np.stack(values) for name, values in out.items()}


def expanded(stack: dict, group_of) -> dict:
    """One expert for each id again: what the tied layer computes."""
    return {name: np.stack([a[g] for g in group_of]) for name, a in stack.items()}
