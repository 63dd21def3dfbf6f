"""Score, select and weigh one token at a time.

Sources: Shazeer 2017 (1701.06538) for the noise, Fedus 2021 (2101.03961) and Lepikhin 2020 (2006.16668) for top-1 and
top-2, DeepSeek-V2 (2405.04434) and V3 (2412.19437) for groups and the selection bias, Wang 2024 (2408.15664) for its
update, Zhou 2022 (2202.09368) for expert choice, Lu 2024 (2402.14800) for skipping.
"""

from __future__ import annotations

import math

from .scalar_math import dot, sigmoid, softmax, softmax_backward, softplus

MINUS_INFINITY = -math.inf


def top_ids(values, count: int) -> list[int]:
    """The ids of the `count` greatest values, greatest first, the lowest id first among equals: repeated search."""
    chosen: list[int] = []
    for _ in range(count):
        best = None
        for i, v in enumerate(values):
            if i not in chosen and (best is None or v > values[best]):
                best = i
        chosen.append(best)
    return chosen


def logits_of(x, weight, bias) -> list[float]:
    """z_e = ⟨x, W_e⟩ + b_e."""
    return [dot(x, row) + (0.0 if bias is None else bias[e]) for e, row in enumerate(weight)]


def noise_deviations(x, noise_weight) -> list[float]:
    """σ_e = softplus(⟨x, W_n,e⟩) + 1e-2 (R1)."""
    return [softplus(dot(x, row)) + 1e-2 for row in noise_weight]


def scores_of(kind: str, h) -> list[float]:
    """s over all experts; for "softmax_topk" the score that orders the experts is the logit itself."""
    if kind == "softmax":
        return softmax(h)
    if kind == "sigmoid":
        return [sigmoid(v) for v in h]
    return list(h)


def normalised_scores(kind: str, h) -> list[float]:
    """What the balance loss averages: softmax(h), or σ(h) / Σ σ(h) for sigmoid scores."""
    if kind != "sigmoid":
        return softmax(h)
    s = [sigmoid(v) for v in h]
    total = math.fsum(s)
    return [v / total for v in s]


def normalised_scores_backward(kind: str, h, dn) -> list[float]:
    n = normalised_scores(kind, h)
    if kind != "sigmoid":
        return softmax_backward(n, dn)
    s = [sigmoid(v) for v in h]
    total, mean = math.fsum(s), dot(n, dn)
    return [s_e * (1.0 - s_e) * (d - mean) / total for s_e, d in zip(s, dn, strict=True)]


def select_experts(s, bias, settings: dict) -> list[int]:
    """The k experts of a token: greatest s + bias, inside the best groups only."""
    c = [v + (0.0 if bias is None else bias[e]) for e, v in enumerate(s)]
    groups = settings["n_groups"]
    if groups > 1:
        size = len(c) // groups
        assert size * groups == len(c)
        value = []
        for g in range(groups):
            inside = sorted(c[g * size : (g + 1) * size], reverse=True)
            value.append(inside[0] if settings["group_score"] == "max" or size == 1 else inside[0] + inside[1])
        open_groups = top_ids(value, settings["topk_groups"])
        c = [v if e // size in open_groups else MINUS_INFINITY for e, v in enumerate(c)]
    chosen = top_ids(c, settings["k"])
    assert all(c[e] != MINUS_INFINITY for e in chosen), "the open groups hold fewer than k experts"
    return chosen


def slot_values(kind: str, s, chosen) -> list[float]:
    """v_j: the unbiased score of each chosen expert, or the softmax over the chosen logits."""
    values = [s[e] for e in chosen]
    return softmax(values) if kind == "softmax_topk" else values


def slot_values_backward(kind: str, s, chosen, v, dv) -> list[float]:
    """dv on the slots -> dh over all experts."""
    dh = [0.0] * len(s)
    if kind == "softmax_topk":
        for e, d in zip(chosen, softmax_backward(v, dv), strict=True):
            dh[e] += d
        return dh
    ds = [0.0] * len(s)
    for e, d in zip(chosen, dv, strict=True):
        ds[e] += d
    if kind == "softmax":
        return softmax_backward(s, ds)
    return [s_e * (1.0 - s_e) * d for s_e, d in zip(s, ds, strict=True)]


def worth_keeping(v, skip) -> list[bool]:
    """Which choices dynamic skipping leaves: the first, and each later one of v_j >= skip v_0 (Lu 2024, 2402.14800)."""
    return [j == 0 or skip is None or not a < skip * v[0] for j, a in enumerate(v)]


def renormalise(v, form: str, eps: float, kept=None) -> list[float]:
    """w = v / (Σ v + eps) or v / max(Σ v, eps), over the kept slots (None: all of them); nothing kept: 0."""
    live = [a if kept is None or kept[j] else 0.0 for j, a in enumerate(v)]
    total = math.fsum(live)
    bottom = total + eps if form == "add" else max(total, eps)
    return [a / bottom if a != 0.0 else 0.0 for a in live]


def renormalise_backward(v, dw, form: str, eps: float, kept=None) -> list[float]:
    """dv = (dw − ⟨dw, w⟩) / (Σ v + eps); a clamped denominator is a constant, so dv = dw / eps there."""
    w = renormalise(v, form, eps, kept)
    live = [a if kept is None or kept[j] else 0.0 for j, a in enumerate(v)]
    total = math.fsum(live)
    bottom = total + eps if form == "add" else max(total, eps)
    if bottom == 0.0:
        return [0.0] * len(v)
    mixing = 0.0 if form == "clamp" and total < eps else dot(dw, w)
    return [(d - mixing) / bottom if kept is None or kept[j] else 0.0 for j, d in enumerate(dw)]


def bias_update(bias, counts, rate: float, centre: bool = False) -> list[float]:
    """The loss-free update b_e += rate · sign(mean(n) − n_e), sign(0) = 0; `centre` takes the mean step away."""
    target = math.fsum(counts) / len(counts)
    steps = [rate * ((target > n) - (target < n)) for n in counts]
    middle = math.fsum(steps) / len(steps) if centre else 0.0
    return [b + d - middle for b, d in zip(bias, steps, strict=True)]


def expert_choice(columns, capacity: int, real) -> list[list[int]]:
    """For each expert its `capacity` best real tokens, lowest token first among equals; columns[e][t] are scores."""
    candidates = [t for t, is_real in enumerate(real) if is_real]
    take = min(capacity, len(candidates))
    return [[candidates[i] for i in top_ids([column[t] for t in candidates], take)] for column in columns]
