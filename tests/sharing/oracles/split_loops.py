"""A dense feed-forward taken apart: one token, one hidden unit, one copy at a time.

Upcycling 2212.05055; granular upcycling 2410.07524; drop-upcycling 2502.19261; MoEfication 2110.01786; LLaMA-MoE
2406.16554; BTX 2403.07816; the gate rows of mergekit-moe.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np

from ...oracles.expert_loops import expert_forward
from ...sparsity.oracles.rational import exact, solve


def ways_up(dense: dict) -> str:
    return "gate_up_proj" if "gate_up_proj" in dense else "up_proj"


def said(dense: dict, x, activation: str = "silu") -> np.ndarray:
    """The dense feed-forward of every row of x."""
    lists = {name: a.astype(np.float64).tolist() for name, a in dense.items()}
    settings = {"gated": "gate_up_proj" in dense, "activation": activation}
    return np.array([expert_forward(row, lists, settings)[0] for row in np.asarray(x, dtype=np.float64).tolist()])


def hidden(dense: dict, x, activation: str = "silu") -> np.ndarray:
    lists = {name: a.astype(np.float64).tolist() for name, a in dense.items()}
    settings = {"gated": "gate_up_proj" in dense, "activation": activation}
    return np.array([expert_forward(row, lists, settings)[2] for row in np.asarray(x, dtype=np.float64).tolist()])


def unit_of(dense: dict, f: int) -> list[np.ndarray]:
    """All that belongs to hidden unit f: its line(s) on the way up, their biases, its column on the way down."""
    width, up = dense["down_proj"].shape[1], ways_up(dense)
    lines = (f, width + f) if up == "gate_up_proj" else (f,)
    found = [dense[up][line] for line in lines] + [dense["down_proj"][:, f]]
    if up + "_bias" in dense:
        found += [dense[up + "_bias"][line] for line in lines]
    return found


def expert_of(experts: dict, e: int) -> dict:
    return {name: a[e] for name, a in experts.items()}


def is_grouping(groups, f: int, e: int) -> bool:
    """(E, F/E) in which every unit stands once."""
    groups = np.asarray(groups)
    return groups.shape == (e, f // e) and sorted(groups.ravel().tolist()) == list(range(f))


def by_gradient(score, e: int) -> list[list[int]]:
    """One score: descending runs.  One for each cluster: the greatest first, unless its unit or expert is gone."""
    f = score.shape[-1]
    if score.ndim == 1:
        order = sorted(range(f), key=lambda i: (-score[i].item(), i))
        return [sorted(order[k * (f // e) : (k + 1) * (f // e)]) for k in range(e)]
    groups: list[list[int]] = [[] for _ in range(e)]
    pairs = sorted((-score[k, i].item(), i, k) for k in range(e) for i in range(f))
    placed: set[int] = set()
    for _, i, k in pairs:
        if i not in placed and len(groups[k]) < f // e:
            groups[k].append(i)
            placed.add(i)
    return [sorted(g) for g in groups]


def overlapping(score, e: int) -> list[list[int]]:
    f = score.shape[-1]
    return [sorted(sorted(range(f), key=lambda i: (-score[k, i].item(), i))[: f // e]) for k in range(e)]


def edges(active) -> np.ndarray:
    """On how many tokens both units are active."""
    t, f = active.shape
    out = np.zeros((f, f))
    for i, j in itertools.permutations(range(f), 2):
        out[i, j] = sum(1 for r in range(t) if active[r, i] and active[r, j])
    return out


def weight_within(graph, groups) -> float:
    return math.fsum(graph[i, j].item() for g in groups for i, j in itertools.combinations(list(g), 2))


def best_exchange(graph, groups) -> float:
    """The most that exchanging two units of two groups could gain."""
    groups = [list(map(int, g)) for g in groups]
    now, best = weight_within(graph, groups), -math.inf
    for a, b in itertools.combinations(range(len(groups)), 2):
        for i, j in itertools.product(range(len(groups[a])), range(len(groups[b]))):
            other = [list(g) for g in groups]
            other[a][i], other[b][j] = other[b][j], other[a][i]
            best = max(best, weight_within(graph, other) - now)
    return best


def groupings(f: int, e: int):
    """Every way of dealing f units to e equal groups, without regard to the order of the groups."""

    def deal(rest):
        if not rest:
            yield []
            return
        for others in itertools.combinations(rest[1:], f // e - 1):
            group = (rest[0], *others)
            for more in deal([i for i in rest if i not in group]):
                yield [group, *more]

    yield from deal(list(range(f)))


def squares(rows, groups) -> float:
    """Σ ‖v_f - centre of its group‖², v_f the unit vector along row f."""
    unit = []
    for row in np.asarray(rows).tolist():
        n = math.hypot(*row)
        unit.append([v / n for v in row] if n else row)
    total = []
    for g in groups:
        centre = [math.fsum(unit[i][d] for i in g) / len(g) for d in range(len(unit[0]))]
        total += [(unit[i][d] - centre[d]) ** 2 for i in g for d in range(len(centre))]
    return math.fsum(total)


def assignment_gain(rows, groups) -> float:
    """How much any exchange of two units would lower Σ ‖v - c‖² with the centres held: 0 at the end of k-means."""
    unit = [[v / math.hypot(*row) for v in row] for row in np.asarray(rows).tolist()]
    groups = [list(map(int, g)) for g in groups]
    centres = [[math.fsum(unit[i][d] for i in g) / len(g) for d in range(len(unit[0]))] for g in groups]

    def far(i, k):
        return math.fsum((a - b) ** 2 for a, b in zip(unit[i], centres[k], strict=True))

    best = 0.0
    for a, b in itertools.combinations(range(len(groups)), 2):
        for i, j in itertools.product(groups[a], groups[b]):
            best = max(best, far(i, a) + far(j, b) - far(i, b) - far(j, a))
    return best


def gate_row(states, mask=None, negative=None) -> np.ndarray:
    """v / ‖v‖ of the mean over real tokens, less the mean over the text against it."""

    def mean(rows, real):
        rows = np.asarray(rows)
        flat = rows.reshape(-1, rows.shape[-1]).tolist()
        keep = [True] * len(flat) if real is None else np.asarray(real).ravel().tolist()
        own = [r for r, k in zip(flat, keep, strict=True) if k]
        return [math.fsum(column) / len(own) for column in zip(*own, strict=True)]

    v = mean(states, mask)
    if negative is not None:
        v = [a - b for a, b in zip(v, mean(*negative), strict=True)]
    n = math.hypot(*v)
    return np.array([a / n for a in v])


def fitted(x, h, groups, ridge: float) -> np.ndarray:
    """Rows (E, D): (XᵀX + λ I) w_e = Xᵀ m_e of centred X and m, λ = ridge · trace / D, over the widest spread of m."""
    t, d = x.shape
    rows = exact(x)
    m = [[sum(abs(Fraction(h[s, i].item())) for i in g) for g in groups] for s in range(t)]

    def centred(table):
        means = [sum(column) / t for column in zip(*table, strict=True)]
        return [[v - a for v, a in zip(row, means, strict=True)] for row in table]

    rows, m = centred(rows), centred(m)
    gram = [[sum(r[i] * r[j] for r in rows) for j in range(d)] for i in range(d)]
    extra = Fraction(ridge) * sum(gram[i][i] for i in range(d)) / d
    gram = [[v + (extra if i == j else 0) for j, v in enumerate(row)] for i, row in enumerate(gram)]
    right = [[sum(r[i] * n[e] for r, n in zip(rows, m, strict=True)) for e in range(len(groups))] for i in range(d)]
    widest = max(math.sqrt(sum(n[e] ** 2 for n in m) / t) for e in range(len(groups)))
    return np.array([[float(v) / widest for v in column] for column in zip(*solve(gram, right), strict=True)])


def truncation_error(w, rank: int) -> float:
    """Eckart-Young without a singular value decomposition: √ of the sum of the smallest eigenvalues of w wᵀ."""
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    values = sorted(np.linalg.eigvalsh(gram).tolist(), reverse=True)
    return math.sqrt(max(0.0, math.fsum(values[rank:])))
