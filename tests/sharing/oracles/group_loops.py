"""Which experts, and which hidden units, belong together: by enumeration and by plain greedy loops.

Git Re-Basin 2209.04836 eq. 2 for one layer (all F! permutations); M-SMoE 2310.01334 section 3.2; HC-SMoE 2410.08589
section 3.2 (average linkage); ZipIt 2305.03053 section 4.
"""

from __future__ import annotations

import itertools
import math

import numpy as np


def unit_agreement(reference: dict, other: dict, i: int, j: int) -> float:
    """⟨unit i of one, unit j of the other⟩ over all matrices: rows of the ways up, columns of the way down."""
    f = reference["down_proj"].shape[1]
    up = "gate_up_proj" if "gate_up_proj" in reference else "up_proj"
    parts = []
    for line in (0, f) if up == "gate_up_proj" else (0,):
        parts += [a * b for a, b in zip(reference[up][line + i].tolist(), other[up][line + j].tolist(), strict=True)]
        if up + "_bias" in reference:
            parts.append(reference[up + "_bias"][line + i].item() * other[up + "_bias"][line + j].item())
    down = zip(reference["down_proj"][:, i].tolist(), other["down_proj"][:, j].tolist(), strict=True)
    parts += [a * b for a, b in down]
    return math.fsum(parts)


def best_permutation(agreement: list[list[float]]) -> tuple[tuple[int, ...], float]:
    """Of all F! the one of greatest total."""
    best = None
    for perm in itertools.permutations(range(len(agreement))):
        total = math.fsum(agreement[i][j] for i, j in enumerate(perm))
        if best is None or total > best[1]:
            best = (perm, total)
    return best


def permuted(expert: dict, perm) -> dict:
    f = expert["down_proj"].shape[1]
    out = {}
    for name, a in expert.items():
        if name == "down_proj":
            out[name] = np.stack([a[:, j] for j in perm], axis=1)
        elif name == "down_proj_bias":
            out[name] = a.copy()
        else:
            lines = [j for j in perm] + ([f + j for j in perm] if name.startswith("gate_up") else [])
            out[name] = np.stack([a[j] for j in lines])
    return out


def correlation(a: list, b: list) -> float:
    n = len(a)
    ma, mb = math.fsum(a) / n, math.fsum(b) / n
    ca, cb = [v - ma for v in a], [v - mb for v in b]
    va, vb = math.fsum(v * v for v in ca), math.fsum(v * v for v in cb)
    if va == 0 or vb == 0:
        return 0.0
    return math.fsum(x * y for x, y in zip(ca, cb, strict=True)) / math.sqrt(va * vb)


def numbered(group_of: list) -> list[int]:
    """Groups renumbered by their first member."""
    seen: list = []
    for g in group_of:
        if g not in seen:
            seen.append(g)
    return [seen.index(g) for g in group_of]


def msmoe(logits, count, n_groups: int) -> list[int]:
    """The most used are dominant; everyone else joins the dominant expert of greatest cosine of logit columns."""
    e = logits.shape[1]
    dominant = sorted(range(e), key=lambda i: (-count[i].item(), i))[:n_groups]

    def cosine(i, j):
        a, b = logits[:, i].tolist(), logits[:, j].tolist()
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    return numbered([i if i in dominant else max(dominant, key=lambda d: (cosine(i, d), -d)) for i in range(e)])


def average_linkage(points, n_groups: int) -> list[int]:
    """Join the two clusters of least mean distance between members, until n_groups are left."""
    clusters = [[i] for i in range(len(points))]

    def apart(a, b):
        return math.fsum(math.dist(points[i].tolist(), points[j].tolist()) for i in a for j in b) / (len(a) * len(b))

    while len(clusters) > n_groups:
        pairs = itertools.combinations(range(len(clusters)), 2)
        i, j = min(pairs, key=lambda ij: (apart(clusters[ij[0]], clusters[ij[1]]), ij))
        clusters[i] = clusters[i] + clusters[j]
        del clusters[j]
    owner = {i: n for n, cluster in enumerate(clusters) for i in cluster}
    return numbered([owner[i] for i in range(len(points))])


def zipit_pairs(h_1, h_2, within: bool) -> list[tuple[int, int]]:
    """The most correlated pair first, both out of the game, until all 2F units are paired; the first among equals."""
    f = h_1.shape[1]
    columns = [a[:, j].tolist() for a in (h_1, h_2) for j in range(f)]
    offers = [
        (-correlation(columns[i], columns[j]), i, j)
        for i, j in itertools.combinations(range(2 * f), 2)
        if within or (i < f) != (j < f)
    ]
    taken: set[int] = set()
    pairs = []
    for _, i, j in sorted(offers):
        if i not in taken and j not in taken:
            pairs.append((i, j))
            taken |= {i, j}
    return sorted(pairs)


def zipit(experts: list, activations: list, weights: list, within: bool) -> dict:
    """Merge the first with the second, the result with the third, ...; a merged unit's activation is its mean."""
    now, h, weight = {k: a.astype(np.float64) for k, a in experts[0].items()}, activations[0], weights[0]
    for expert, h_next, w in zip(experts[1:], activations[1:], weights[1:], strict=True):
        f, share = h.shape[1], (weight / (weight + w), w / (weight + w))
        pairs = zipit_pairs(h, h_next, within)
        both = (now, expert)

        def mean(of, pairs=pairs, share=share, f=f):
            """of(which expert, which unit) averaged over each pair by the shares of the experts."""
            out = []
            for pair in pairs:
                c = [share[i // f] for i in pair]
                out.append(sum(a * of(i // f, i % f) for a, i in zip(c, pair, strict=True)) / sum(c))
            return out

        merged = {}
        for name, a in now.items():
            if name == "down_proj":
                columns = [sum(share[i // f] * both[i // f][name][:, i % f] for i in pair) for pair in pairs]
                merged[name] = np.stack(columns, axis=1)
            elif name == "down_proj_bias":
                merged[name] = share[0] * a + share[1] * expert[name]
            else:
                halves = (0, f) if name.startswith("gate_up") else (0,)
                rows = [r for half in halves for r in mean(lambda e, j, n=name, s=half, b=both: b[e][n][s + j])]
                merged[name] = np.stack(rows)
        h = np.stack(mean(lambda e, j, both=(h, h_next): both[e][:, j]), axis=1)
        now, weight = merged, weight + w
    return now
