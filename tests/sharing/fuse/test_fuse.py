"""Merging experts and models against slow loops written from the papers, and the invariants M1 to M4."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe import moe, verify
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.nn import feed_forward
from pymoe.sharing import fuse
from pymoe.sparsity import statistics
from tests.sparsity import layers

D, F = 5, 6
PROPERTY = settings(derandomize=True, database=None, max_examples=25, deadline=None)


def expert(seed, gated=True, bias=False, integer=False, f=F):
    rng = np.random.default_rng(seed)
    draw = (lambda *s: rng.integers(-4, 5, s).astype(float)) if integer else (lambda *s: rng.standard_normal(s))
    up = "gate_up_proj" if gated else "up_proj"
    made = {up: draw((2 if gated else 1) * f, D), "down_proj": draw(D, f)}
    if bias:
        made |= {f"{up}_bias": draw((2 if gated else 1) * f), "down_proj_bias": draw(D)}
    for a in made.values():
        a.setflags(write=False)
    return made


def output(e, x, gated=True, act="silu"):
    cfg = feed_forward.FeedForwardConfig(D, e["down_proj"].shape[1], gated, act, any(n.endswith("bias") for n in e))
    return feed_forward.forward(x, e, cfg)[0]


def close(got, want, tolerance=1e-13):
    return np.abs(got - want).max() <= tolerance * np.abs(want).max()


X = np.random.default_rng(9).standard_normal((17, D))


# --- averages --------------------------------------------------------------------------------------------------------


def test_weighted_fisher_and_uniform_entry_by_entry():
    experts = [expert(i, bias=True) for i in range(3)]
    fishers = [{n: np.square(a) for n, a in expert(10 + i, bias=True).items()} for i in range(3)]
    c = [2.0, 0.0, 5.0]
    got = fuse.average.weighted(experts, c), fuse.average.fisher(experts, fishers), fuse.average.uniform(experts)
    for name, a in experts[0].items():
        for place in np.ndindex(a.shape):
            v = [float(e[name][place]) for e in experts]
            f = [float(g[name][place]) for g in fishers]
            want = (
                math.fsum(ci * vi for ci, vi in zip(c, v, strict=True)) / 7,
                math.fsum(fi * vi for fi, vi in zip(f, v, strict=True)) / math.fsum(f),
                math.fsum(v) / 3,
            )
            for g, w in zip(got, want, strict=True):
                assert abs(g[name][place] - w) <= 1e-9 * max(map(abs, v))  # ε of Fisher's mean is 1e-12 of its largest
                assert abs(g[name][place] * 1.001 - w) > 1e-9 * abs(w)


@pytest.mark.parametrize("alpha", [1.0, 0.9, 0.0])
def test_regmean_is_the_least_squares_answer(alpha):
    rng = np.random.default_rng(0)
    w = [rng.standard_normal((F, D)) for _ in range(3)]
    x = [rng.standard_normal((n, D)) for n in (11, 13, 17)]
    grams = [a.T @ a for a in x]
    shrunk = [alpha * g + (1 - alpha) * np.diag(np.diag(g)) for g in grams]
    got = fuse.average.regmean(w, grams, alpha)
    right = sum(wi @ g for wi, g in zip(w, shrunk, strict=True))
    want = np.array([np.linalg.solve(sum(shrunk).T, row) for row in right])
    assert close(got, want, 1e-12) and not close(got * 1.001, want, 1e-12)
    if alpha == 1:
        rows = np.concatenate(x)
        targets = np.concatenate([a @ wi.T for a, wi in zip(x, w, strict=True)])
        assert close(got, np.linalg.lstsq(rows, targets, rcond=None)[0].T, 1e-11)


def test_regmean_of_inputs_that_leave_directions_open():
    w = [np.eye(3)[:2], 3 * np.eye(3)[:2]]
    gram = np.diag([1.0, 0.0, 0.0])
    assert np.allclose(fuse.average.regmean(w, [gram, gram], 1.0), [[2, 0, 0], [0, 0, 0]])
    none = np.zeros((3, 3))
    assert np.array_equal(fuse.average.regmean(w, [none, none]), 2 * np.eye(3)[:2])


@PROPERTY
@given(st.integers(0, 1000), st.integers(2, 5))
def test_equal_experts_come_back(seed, n):
    """M1, M2."""
    e = expert(seed)
    two = fuse.average.uniform([e, e])
    many = fuse.average.weighted([e] * n, np.random.default_rng(seed).random(n).tolist())
    same = fuse.average.fisher([e] * n, [{k: np.square(a) for k, a in e.items()}] * n)
    for name, a in e.items():
        assert np.array_equal(two[name], a)
        assert close(many[name], a, 4e-16 * n) and close(same[name], a, 4e-16 * n)


def test_nobody_used_any_of_them():
    a, b = expert(0), expert(1)
    got, want = fuse.average.weighted([a, b], [0, 0]), fuse.average.uniform([a, b])
    assert all(np.array_equal(got[n], want[n]) for n in a)


def test_averages_refuse():
    a, b = expert(0), expert(1)
    for bad in ([], [a, {"down_proj": a["down_proj"]}], [a, expert(1, f=4)]):
        with pytest.raises((ConfigError, ShapeError)):
            fuse.average.uniform(bad)
    nan = a | {"down_proj": a["down_proj"] * np.nan}
    with pytest.raises(NonFiniteError, match="expert 1"):
        fuse.average.uniform([a, nan])
    for weights in ([1.0], [1.0, -1.0], [1.0, np.inf]):
        with pytest.raises(ConfigError):
            fuse.average.weighted([a, b], weights)
    with pytest.raises(ConfigError):
        fuse.average.fisher([a, b], [a])
    with pytest.raises(ShapeError):
        fuse.average.fisher([a, b], [a, b])  # negative "squares"
    with pytest.raises(ShapeError):
        fuse.average.regmean([np.ones((2, 3))], [np.ones((2, 2))])
    with pytest.raises(ConfigError):
        fuse.average.regmean([np.ones((2, 3))], [np.ones((3, 3))], 1.5)


# --- alignment -------------------------------------------------------------------------------------------------------


def gain(a, b, perm, gated):
    """Σ_f of the inner products of all that unit f and unit perm[f] are made of, in plain Python."""
    total = []
    for f, g in enumerate(perm):
        halves = [(0, 0), (F, F)] if gated else [(0, 0)]
        up = "gate_up_proj" if gated else "up_proj"
        for i, j in halves:
            total += [float(u) * float(v) for u, v in zip(a[up][i + f], b[up][j + g], strict=True)]
            if f"{up}_bias" in a:
                total.append(float(a[f"{up}_bias"][i + f]) * float(b[f"{up}_bias"][j + g]))
        total += [float(u) * float(v) for u, v in zip(a["down_proj"][:, f], b["down_proj"][:, g], strict=True)]
    return math.fsum(total)


@pytest.mark.parametrize(("gated", "bias"), [(True, False), (False, False), (True, True)])
def test_the_permutation_is_the_best_of_all(gated, bias):
    for seed in range(3):
        a, b = expert(seed, gated, bias), expert(seed + 50, gated, bias)
        best = max(itertools.permutations(range(F)), key=lambda perm: gain(a, b, perm, gated))
        assert tuple(fuse.align.weights(a, b)) == best


@pytest.mark.parametrize(("gated", "bias"), [(True, False), (False, True)])
def test_a_permutation_leaves_the_function_and_is_found_again(gated, bias):
    """F16 and M4."""
    for seed in range(5):
        a = expert(seed, gated, bias)
        perm = np.random.default_rng(seed).permutation(F)
        b = fuse.align.apply(a, perm)
        assert close(output(b, X, gated), output(a, X, gated), 4e-16 * F)
        found = fuse.align.apply(b, fuse.align.weights(a, b))
        assert all(np.array_equal(found[n], a[n]) for n in a)
        merged = fuse.average.uniform([a, found])
        assert all(np.array_equal(merged[n], a[n]) for n in a)
        h = [np.maximum(X @ e["gate_up_proj" if gated else "up_proj"][:F].T, 0) for e in (a, b)]
        assert np.array_equal(fuse.align.apply(b, fuse.align.activations(*h))["down_proj"], a["down_proj"])
        wrong = fuse.align.apply(a, np.roll(np.arange(F), 1))
        half = wrong | {"down_proj": a["down_proj"]}  # negative control: rows moved, columns not
        assert not close(output(half, X, gated), output(a, X, gated), 1e-3)


def test_a_permutation_of_integers_is_exact():
    a = expert(3, integer=True)
    b = fuse.align.apply(a, np.random.default_rng(0).permutation(F))
    x = np.random.default_rng(1).integers(-3, 4, (7, D)).astype(float)
    assert np.array_equal(output(a, x, act="relu"), output(b, x, act="relu"))


def test_alignment_refuses():
    a = expert(0)
    for perm in ([0, 1], [0] * F, list(range(1, F + 1))):
        with pytest.raises(ConfigError, match="permutation"):
            fuse.align.apply(a, np.array(perm))
    with pytest.raises(ShapeError):
        fuse.align.activations(np.ones((3, 2)), np.ones((4, 2)))
    assert not fuse.align.correlation(np.ones((3, 2)), np.eye(3)).any()  # constant units correlate with nothing


# --- models from one base --------------------------------------------------------------------------------------------


def ties_by_hand(base, tuned, density, scale, weights):
    n = base.size
    keep = int(density * 1000 * n + 1e-9) // 1000
    deltas = []
    for w in tuned:
        d = [float(a) - float(b) for a, b in zip(w.reshape(-1), base.reshape(-1), strict=True)]
        order = sorted(range(n), key=lambda i: (abs(d[i]), i), reverse=True)[:keep]
        deltas.append([v if i in order else 0.0 for i, v in enumerate(d)])
    made = []
    for i in range(n):
        total = math.fsum(c * d[i] for c, d in zip(weights, deltas, strict=True))
        sign = (total > 0) - (total < 0)
        agree = [
            (c, d[i]) for c, d in zip(weights, deltas, strict=True) if d[i] != 0 and (d[i] > 0) - (d[i] < 0) == sign
        ]
        mean = math.fsum(c * v for c, v in agree) / math.fsum(c for c, _ in agree) if agree else 0.0
        made.append(float(base.reshape(-1)[i]) + scale * mean)
    return np.array(made).reshape(base.shape)


@pytest.mark.parametrize("density", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.5]])
def test_ties(density, weights):
    rng = np.random.default_rng(0)
    base = rng.standard_normal((F, D))
    tuned = [base + rng.integers(-3, 4, base.shape) / 2 for _ in range(3)]  # ties and cancelling signs occur
    got = fuse.ties.merge(base, tuned, density=density, weights=weights, scale=0.7)
    want = ties_by_hand(base, tuned, density, 0.7, weights or [1.0] * 3)
    assert close(got, want)
    if density:
        assert not close(base + (got - base) * 1.001, want, 1e-6)
    else:
        assert np.array_equal(got, base)


def test_arithmetic_and_dare():
    rng = np.random.default_rng(0)
    base, tuned = rng.standard_normal((F, D)), [rng.standard_normal((F, D)) for _ in range(2)]
    got = fuse.ties.arithmetic(base, tuned, weights=[2.0, 1.0], scale=0.3)
    assert close(got, base + 0.3 * (2 * (tuned[0] - base) + tuned[1] - base))
    delta = tuned[0] - base
    made, mask = fuse.dare.drop(rng, delta, 0.4)
    for place in np.ndindex(delta.shape):
        assert made[place] == (delta[place] / 0.6 if mask[place] else 0.0)
    again, _ = fuse.dare.drop(None, delta, 0.4, mask=mask)
    assert np.array_equal(made, again)
    many = np.mean([fuse.dare.drop(np.random.default_rng(s), delta, 0.4)[0] for s in range(4000)], axis=0)
    assert np.abs(many - delta).max() < 0.1 * np.abs(delta).max()  # unbiased: 4 σ is 0.05
    assert np.array_equal(fuse.dare.drop(rng, delta, 0.0)[0], delta)
    for call in (
        lambda: fuse.dare.drop(rng, delta, 1.0),
        lambda: fuse.dare.drop(None, delta, 0.5),
        lambda: fuse.dare.drop(None, delta, 0.5, mask=mask[1:]),
        lambda: fuse.ties.trim(delta, 1.5),
        lambda: fuse.ties.merge(base, tuned, density=0.5, weights=[1.0]),
    ):
        with pytest.raises(ConfigError):
            call()


def test_slerp_walks_the_circle():
    a, b = np.array([3.0, 0.0, 0.0]), np.array([0.0, 3.0, 0.0])
    for t in (0.0, 0.25, 0.5, 1.0):
        want = 3 * np.array([math.cos(t * math.pi / 2), math.sin(t * math.pi / 2), 0])
        got = fuse.slerp(a, b, t)
        assert np.abs(got - want).max() < 1e-15 and abs(np.linalg.norm(got) - 3) < 1e-15
        many = fuse.multislerp([a, b], [1 - t, t])
        assert t not in (0.0, 0.5, 1.0) or np.abs(many - want).max() < 1e-14
    assert np.array_equal(fuse.slerp(a, a, 0.3), a)
    assert np.allclose(fuse.slerp(a, a * (1 + 1e-12), 0.5), a)
    assert np.allclose(fuse.slerp(a, -a, 0.25), a / 2)
    assert np.allclose(fuse.slerp(a, 0 * a, 0.5), a / 2)
    assert np.allclose(fuse.multislerp([a, a, a], [1, 2, 3]), a)
    third = np.array([0.0, 0.0, 3.0])
    assert np.allclose(fuse.multislerp([a, b, third], [1, 1, 1]), 3 / math.sqrt(3) * np.ones(3))
    for call in (
        lambda: fuse.slerp(a, b, 1.5),
        lambda: fuse.multislerp([a, -a], [1, 1]),
        lambda: fuse.multislerp([a, b], [0, 0]),
    ):
        with pytest.raises(ConfigError):
            call()


def test_the_greedy_soup_takes_what_does_not_hurt():
    trees = [{"a": {"w": np.array([v])}} for v in (0.0, 4.0, 2.4, 1.4)]
    tried = []

    def score(p):
        tried.append(float(p["a"]["w"][0]))
        return -abs(tried[-1] - 2.0)

    soup = fuse.soup.greedy(trees, score)
    assert soup.members == [2, 3] and soup.score == pytest.approx(-0.1) and len(tried) == 7
    assert soup.p["a"]["w"][0] == pytest.approx(1.9)
    with pytest.raises(NonFiniteError, match="candidate 1"):
        fuse.soup.greedy(trees[:2], lambda p: float("nan") if p["a"]["w"][0] else 0.0)
    with pytest.raises(ConfigError):
        fuse.soup.greedy([], score)


# --- ZipIt -----------------------------------------------------------------------------------------------------------


def hidden(e, gated):
    return statistics_hidden(X @ e["gate_up_proj" if gated else "up_proj"].T, gated)


def statistics_hidden(a, gated):
    silu = lambda v: v / (1 + np.exp(-v))  # noqa: E731
    return silu(a[:, :F]) * a[:, F:] if gated else silu(a)


@pytest.mark.parametrize("gated", [True, False])
def test_zipit_merges_a_permuted_copy_into_the_expert(gated):
    for seed in range(4):
        a = expert(seed, gated)
        b = fuse.align.apply(a, np.random.default_rng(seed).permutation(F))
        merged = fuse.zipit.merge([a, b], [hidden(a, gated), hidden(b, gated)])
        assert close(output(merged, X, gated), output(a, X, gated), 1e-13)
        other = expert(seed + 30, gated)
        far = fuse.zipit.merge([a, other], [hidden(a, gated), hidden(other, gated)])
        assert far["down_proj"].shape == (D, F) and not close(output(far, X, gated), output(a, X, gated), 0.1)


def test_zipit_joins_the_most_correlated_pairs_first():
    rng = np.random.default_rng(0)
    base = rng.standard_normal((200, 4))
    one = base[:, :3]
    two = np.stack([base[:, 1] + 1e-3 * base[:, 3], base[:, 3], base[:, 3] + 1e-2 * base[:, 0]], axis=1)
    # units: 0, 1, 2 | 3 like 1, 4 and 5 alike: six to three needs one more join, of the best of what is left
    group_of = fuse.zipit.match([one, two])
    assert group_of[1] == group_of[3] and group_of[4] == group_of[5] and len(set(group_of.tolist())) == 3
    with pytest.raises(ShapeError):
        fuse.zipit.match([one, two[1:]])


# --- groups ----------------------------------------------------------------------------------------------------------


def test_msmoe_groups_by_the_loop():
    rng = np.random.default_rng(2)
    z, count = rng.standard_normal((31, 9)), np.array([5, 9, 1, 9, 0, 7, 2, 2, 3])
    got = fuse.msmoe.groups(z, count, 3)
    dominant = sorted(sorted(range(9), key=lambda e: (-count[e], e))[:3])
    for e in range(9):
        cosine = [
            math.fsum(float(a) * float(b) for a, b in zip(z[:, e], z[:, d], strict=True))
            / math.sqrt(math.fsum(float(a) ** 2 for a in z[:, e]) * math.fsum(float(b) ** 2 for b in z[:, d]))
            for d in dominant
        ]
        want = dominant.index(e) if e in dominant else max(range(3), key=lambda g: (cosine[g], -g))
        assert got[e] == want
    assert fuse.msmoe.groups(z, count, 9).tolist() == list(range(9))
    assert not fuse.msmoe.groups(z, count, 1).any()
    for n in (0, 10):
        with pytest.raises(ConfigError):
            fuse.msmoe.groups(z, count, n)


def linked_by_hand(o, n):
    clusters = [[e] for e in range(len(o))]
    while len(clusters) > n:

        def far(a, b):
            return np.mean([np.linalg.norm(o[i] - o[j]) for i in a for j in b])

        i, j = min(
            itertools.combinations(range(len(clusters)), 2), key=lambda ij: far(clusters[ij[0]], clusters[ij[1]])
        )
        clusters[i] = clusters[i] + clusters.pop(j)
    group_of = np.empty(len(o), int)
    for g, members in enumerate(sorted(clusters, key=min)):
        group_of[members] = g
    return group_of


def test_hcsmoe_groups_by_the_loop():
    for seed in range(4):
        o = np.random.default_rng(seed).standard_normal((8, D))
        for n in (1, 3, 5, 8):
            assert fuse.hcsmoe.groups(o, n).tolist() == linked_by_hand(o, n).tolist()
    assert len(set(fuse.hcsmoe.groups(np.zeros((6, 2)), 4).tolist())) == 4  # all alike: still as many as asked
    for call in (lambda: fuse.hcsmoe.groups(o, 0), lambda: fuse.hcsmoe.groups(o, 2, "ward")):
        with pytest.raises(ConfigError):
            call()
    with pytest.raises(NonFiniteError):
        fuse.hcsmoe.groups(np.full((3, 2), np.nan), 2)


# --- one layer -------------------------------------------------------------------------------------------------------

GROUPS = np.array([0, 1, 0, 2, 1, 0, 2])


def merged(how, align=True, **changes):
    cfg, p, x = layers.layer(**changes)
    seen = statistics.observe(moe.forward(x, p, cfg)[1], cfg, hessians=True)
    extra = {}
    if how == "fisher":
        extra["fisher"] = {n: np.square(a) + 0.1 for n, a in p["experts"].items()}
    if how == "zipit":
        extra["x"] = x
    q, smaller = fuse.merge_groups(p, cfg, GROUPS, how=how, statistics=seen, align=align, **extra)
    return cfg, p, x, seen, q, smaller


@pytest.mark.parametrize("changes", [{}, {"gated": False}, {"bias": True}])
@pytest.mark.parametrize("how", ["uniform", "frequency", "fisher", "regmean", "ties", "zipit"])
def test_a_merged_layer_is_tied_and_its_gradient_verified(how, changes):
    cfg, p, x, _, q, smaller = merged(how, **changes)
    assert smaller.tied == tuple(GROUPS.tolist()) and smaller.n_stored == 3
    assert q["router"] is p["router"] or all(np.array_equal(a, p["router"][n]) for n, a in q["router"].items())
    assert verify.gradcheck(moe, x[:5], q, smaller).error <= 1e-13


@pytest.mark.parametrize("align", [True, False])
def test_frequency_by_hand(align):
    cfg, p, x, seen, q, _ = merged("frequency", align)
    for g in range(3):
        members = [e for e in range(7) if GROUPS[e] == g]
        leader = max(members, key=lambda e: (seen.count[e], -e))
        parts = []
        for e in members:
            one = {n: a[e] for n, a in p["experts"].items()}
            if align and e != leader:
                ref = {n: a[leader] for n, a in p["experts"].items()}
                perm = max(itertools.permutations(range(F)), key=lambda s: gain(ref, one, s, True))
                order = list(perm) + [F + i for i in perm]
                one = {"gate_up_proj": one["gate_up_proj"][order], "down_proj": one["down_proj"][:, list(perm)]}
            parts.append((float(seen.count[e]), one))
        for name in ("gate_up_proj", "down_proj"):
            want = sum(c * one[name] for c, one in parts) / sum(c for c, _ in parts)
            assert close(q["experts"][name][g], want) and not close(q["experts"][name][g] * 1.001, want)


def test_an_expert_alone_in_its_group_stays_and_equal_experts_merge_into_themselves():
    cfg, p, x = layers.layer()
    q, smaller = fuse.merge_groups(p, cfg, np.arange(7), how="uniform")
    assert all(np.array_equal(q["experts"][n], a) for n, a in p["experts"].items())
    same = p | {"experts": {n: np.stack([a[0]] * 7) for n, a in p["experts"].items()}}
    perms = [np.random.default_rng(e).permutation(F) for e in range(7)]
    shuffled = [fuse.align.apply({n: a[0] for n, a in p["experts"].items()}, perm) for perm in perms]
    mixed = p | {"experts": {n: np.stack([one[n] for one in shuffled]) for n in p["experts"]}}
    for tree_ in (same, mixed):
        q, smaller = fuse.merge_groups(tree_, cfg, GROUPS, how="uniform")
        assert close(moe.forward(x, q, smaller)[0].y, moe.forward(x, tree_, cfg)[0].y, 1e-14)


def test_the_output_does_not_depend_on_who_of_a_group_is_chosen():
    """M3."""
    _, _, x, _, q, smaller = merged("uniform")
    one = fuse.merge_groups(q, smaller, np.zeros(3, int), how="uniform")
    router = {"weight": np.random.default_rng(8).standard_normal((7, 5))}
    ys = [moe.forward(x, one[0] | {"router": r}, one[1])[0].y for r in (one[0]["router"], router)]
    assert close(*ys, 1e-14)
    assert one[1].tied == (0,) * 7  # merging merged experts composes


def test_merging_refuses():
    cfg, p, x = layers.layer()
    for call in (
        lambda: fuse.merge_groups(p, cfg, np.array([0, 1])),
        lambda: fuse.merge_groups(p, cfg, np.array([0, 1, 1, 1, 1, 1, 3]), how="uniform"),
        lambda: fuse.merge_groups(p, cfg, GROUPS, how="magic"),
        lambda: fuse.merge_groups(p, cfg, GROUPS, how="frequency"),
        lambda: fuse.merge_groups(p, cfg, GROUPS, how="fisher"),
        lambda: fuse.merge_groups(p, cfg, GROUPS, how="zipit"),
        lambda: fuse.merge_groups(
            p, cfg, GROUPS, how="regmean", statistics=statistics.observe(moe.forward(x, p, cfg)[1], cfg)
        ),
    ):
        with pytest.raises(ConfigError):
            call()


@pytest.mark.parametrize(
    "changes", [{}, {"gated": False, "bias": True}, {"d_shared": 4}, {"d_shared": 4, "bias": True}]
)
def test_to_dense(changes):
    cfg, p, x = layers.layer(**changes)
    gates = np.array([0.5, 0.0, 2.0, 1.0, 0.25, 1.0, 3.0])
    dense, ff = fuse.to_dense(p, cfg, gates, how="concatenate")
    want = sum(g * np.array([layers.expert(t, p, cfg, e)[1] for t in x]) for e, g in enumerate(gates))
    if cfg.d_shared:
        shared = {n: a[None] for n, a in p["shared"].items()}
        want = want + np.array([layers.expert(t, {"experts": shared}, cfg, 0)[1] for t in x])
    got = feed_forward.forward(x, dense, ff)[0]
    assert ff.d_ff == 7 * 6 + cfg.d_shared and close(got, want) and not close(got * 1.001, want)
    averaged, ff = fuse.to_dense(p, cfg, gates)
    assert ff.d_ff == 6 + cfg.d_shared and feed_forward.forward(x, averaged, ff)[0].shape == x.shape
    same = p | {"experts": {n: np.stack([a[0]] * 7) for n, a in p["experts"].items()}}
    if not cfg.d_shared:
        one, ff = fuse.to_dense(same, cfg)
        assert close(feed_forward.forward(x, one, ff)[0], np.array([layers.expert(t, same, cfg, 0)[1] for t in x]))
    for bad in (lambda: fuse.to_dense(p, cfg, [1.0]), lambda: fuse.to_dense(p, cfg, how="magic")):
        with pytest.raises(ConfigError):
            bad()
