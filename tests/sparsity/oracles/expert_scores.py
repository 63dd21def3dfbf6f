"""Statistics and importance of whole experts from the loop layer: one token, one expert, one unit at a time.

frequency: how often chosen.  EAN: Σ or mean of ‖f_e(x)‖₂ over the routed tokens.  REAP (2510.13999 eq. 9): mean over
the routed tokens of g_e(x) ‖f_e(x)‖₂.  NAEE (2402.14800 eq. 3): the kept set whose layer output is nearest to the full
one, by trying all of them with the logits of the dropped at minus infinity.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.layer_loops import moe_loop
from ...oracles.settings import complete, flatten

NAMES = ("count", "weight", "norm", "weighted_norm")


def observe(x, params: dict, settings: dict, mask=None) -> dict:
    """Everything that the scores are made of, over the (token, expert) pairs that are computed."""
    out = moe_loop(x, params, settings, mask)
    settings, flat = complete(settings), flatten(params)
    e, d = flat["router.weight"].shape
    f = flat["experts.down_proj"].shape[-1]
    s = {name: [0.0] * e for name in NAMES}
    s["x_sumsq"], s["h_sumsq"] = np.zeros((e, d)), np.zeros((e, f))
    s["x_gram"], s["h_gram"] = np.zeros((e, d, d)), np.zeros((e, f, f))
    rows = x.reshape(-1, d)
    for t in range(len(rows)):
        for j in range(out["idx"].shape[1]):
            one, g = int(out["idx"][t, j]), float(out["weight"][t, j])
            if one < 0 or not out["kept"][t, j]:
                continue
            o, _, h = expert_forward(rows[t].tolist(), expert_at(flat, "experts", one), settings)
            size = math.sqrt(math.fsum(v * v for v in o))
            s["count"][one] += 1
            s["weight"][one] += g
            s["norm"][one] += size
            s["weighted_norm"][one] += g * size
            for i in range(d):
                s["x_sumsq"][one, i] += rows[t, i].item() ** 2
                for k in range(d):
                    s["x_gram"][one, i, k] += rows[t, i].item() * rows[t, k].item()
            for i in range(f):
                s["h_sumsq"][one, i] += h[i] ** 2
                for k in range(f):
                    s["h_gram"][one, i, k] += h[i] * h[k]
    return s


def scores(s: dict) -> dict:
    mean = [a / n if n else 0.0 for a, n in zip(s["norm"], s["count"], strict=True)]
    reap = [a / n if n else 0.0 for a, n in zip(s["weighted_norm"], s["count"], strict=True)]
    return {
        "frequency": s["count"],
        "weighted_frequency": s["weight"],
        "ean_sum": s["norm"],
        "ean_mean": mean,
        "reap": reap,
    }


def keep(score, n_keep: int) -> list[int]:
    return sorted(sorted(range(len(score)), key=lambda e: (-score[e], e))[:n_keep])


def without(params: dict, kept) -> dict:
    """The layer that has only these experts: the kept rows of whatever has an expert axis.  For a softmax that is what
    logits of minus infinity do."""
    return {
        name: np.stack([a[e] for e in kept]) if name.split(".")[0] in ("router", "experts") else a
        for name, a in flatten(params).items()
    }


def change(x, params, settings, kept) -> float:
    """‖y - y'‖_F."""
    y, less = moe_loop(x, params, settings)["y"], moe_loop(x, without(params, kept), settings)["y"]
    return math.sqrt(math.fsum(v * v for v in (y - less).ravel().tolist()))


def naee(x, params, settings, n_keep: int):
    """(best kept set, its distance, all distances in the order of the sets)."""
    sets = list(itertools.combinations(range(len(flatten(params)["router.weight"])), n_keep))
    found = [change(x, params, settings, kept) for kept in sets]
    best = min(range(len(sets)), key=lambda i: found[i])
    return sets[best], found[best], found


def naee_greedy(x, params, settings, n_keep: int) -> list[int]:
    """Drop one at a time, whichever changes the output least; the lowest id first among equals."""
    left = list(range(len(flatten(params)["router.weight"])))
    while len(left) > n_keep:
        trial = [(change(x, params, settings, [k for k in left if k != e]), e) for e in left]
        left.remove(min(trial)[1])
    return left


def median(values: list) -> float:
    ordered = sorted(values)
    n = len(ordered)
    return ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2


def unit_norms(up, down, up_bias=None, order=2, gated=True) -> np.ndarray:
    """(E, F): the norm over all numbers of hidden unit f: its rows on the way up, its column on the way down."""
    n_experts, d, f = down.shape
    out = np.zeros((n_experts, f))
    for e in range(n_experts):
        for unit in range(f):
            lines = (unit, f + unit) if gated else (unit,)
            own = [v for line in lines for v in up[e, line].tolist()] + [down[e, i, unit].item() for i in range(d)]
            if up_bias is not None:
                own += [up_bias[e, line].item() for line in lines]
            size = [abs(v) for v in own]
            out[e, unit] = (
                math.fsum(size)
                if order == 1
                else math.sqrt(math.fsum(v * v for v in size))
                if order == 2
                else max(size)
            )
    return out
