"""Averages, alignment, groups and merges against rationals, enumeration and 50 digits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pymoe.sharing.fuse import align, arithmetic, average, dare, hcsmoe, msmoe, soup, ties, zipit
from pymoe.sharing.fuse.sphere import multislerp, slerp

from ..oracles.expert_loops import expert_forward
from ..sparsity.oracles.judge import agree, close, locked, same
from .oracles import average_loops, group_loops, sphere_mpmath

RNG = np.random.default_rng
GATED = pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])


def expert(seed: int, gated: bool, d: int = 3, f: int = 4, bias: bool = True, dtype: str = "f8") -> dict:
    rng = RNG(seed)
    up = "gate_up_proj" if gated else "up_proj"
    shapes = {up: (2 * f if gated else f, d), "down_proj": (d, f)}
    if bias:
        shapes |= {up + "_bias": (shapes[up][0],), "down_proj_bias": (d,)}
    return {name: locked(rng.standard_normal(shape).astype(dtype)) for name, shape in shapes.items()}


def said(one: dict, x: np.ndarray, gated: bool) -> np.ndarray:
    lists = {name: a.astype(np.float64).tolist() for name, a in one.items()}
    return np.array([expert_forward(row, lists, {"gated": gated, "activation": "silu"})[0] for row in x.tolist()])


def hidden(one: dict, x: np.ndarray, gated: bool) -> np.ndarray:
    lists = {name: a.tolist() for name, a in one.items()}
    return np.array([expert_forward(row, lists, {"gated": gated, "activation": "silu"})[2] for row in x.tolist()])


@GATED
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_means(gated, n):
    experts = [expert(seed, gated) for seed in range(n)]
    weights = RNG(n).integers(1, 7, n).tolist()
    fishers = [{name: locked(a**2) for name, a in expert(100 + seed, gated).items()} for seed in range(n)]
    for name in experts[0]:
        arrays = [one[name] for one in experts]
        agree(average.uniform(experts)[name], average_loops.weighted(arrays, [1] * n))
        agree(average.weighted(experts, weights)[name], average_loops.weighted(arrays, weights))
        got = average.fisher(experts, fishers, 1e-3)[name]
        agree(got, average_loops.fisher(arrays, [one[name] for one in fishers], 1e-3))
        by_use = average.fisher(experts, fishers, 0.3, weights)[name]  # a floor that many entries lie below
        agree(by_use, average_loops.fisher(arrays, [one[name] for one in fishers], 0.3, weights))
        if n > 1:  # control: the Fisher information of the wrong expert
            assert not close(got, average_loops.fisher(arrays, [one[name] for one in fishers[::-1]], 1e-3), 1e-6)
    zero = [{name: locked(np.zeros_like(a)) for name, a in one.items()} for one in fishers]
    for name in experts[0]:
        agree(average.fisher(experts, zero, 1e-3)[name], average_loops.weighted([o[name] for o in experts], [1] * n))


@GATED
def test_equal_experts_are_their_mean(gated):
    one = expert(0, gated)
    for got in (average.uniform([one, one]), average.weighted([one, one], [0.5, 0.5])):
        assert all(np.array_equal(got[name], one[name]) for name in one)
    for got in (average.uniform([one] * 3), average.weighted([one] * 3, [1, 5, 2])):
        for name in one:
            agree(got[name], one[name])


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_regmean_solves_the_normal_equations(alpha, n):
    for seed, (f, d) in enumerate([(4, 3), (1, 1), (2, 5)]):
        rng = RNG(seed)
        weights = [locked(rng.standard_normal((f, d))) for _ in range(n)]
        xs = [rng.standard_normal((4 * d + i, d)) for i in range(n)]
        grams = [locked(x.T @ x) for x in xs]
        got = average.regmean(weights, grams, alpha)
        agree(got, average_loops.regmean(weights, grams, alpha))
        if alpha == 1.0 and n > 1:  # the same as stacked least squares: Σ ‖X_i Wᵀ - X_i W_iᵀ‖² is what it minimises
            y = np.concatenate([x @ w.T for x, w in zip(xs, weights, strict=True)])
            least, *_ = np.linalg.lstsq(np.concatenate(xs), y, rcond=None)
            assert close(got, least.T, 1e-13)
        if n > 1 and d > 1:
            assert not close(got, average_loops.regmean(weights, grams, alpha + 0.05), 1e-6)  # control


@GATED
@pytest.mark.parametrize("f", [1, 2, 5])
def test_alignment_is_the_best_of_all_permutations(gated, f):
    for seed in range(3):
        one, two = expert(seed, gated, f=f), expert(50 + seed, gated, f=f)
        scores = [[group_loops.unit_agreement(one, two, i, j) for j in range(f)] for i in range(f)]
        perm, total = group_loops.best_permutation(scores)
        got = align.permutation(one, two)
        same(got, np.array(perm))
        moved = align.apply(two, got)
        for name, a in group_loops.permuted(two, perm).items():
            assert np.array_equal(moved[name], a)
        x = RNG(seed).standard_normal((5, 3))
        agree(said(moved, x, gated), said(two, x, gated))  # the function is another description of itself
        if f == 5:  # control: without the way down another permutation can win; without P on it the function is lost
            broken = {**moved, "down_proj": two["down_proj"]}
            assert list(perm) == sorted(perm) or not close(said(broken, x, gated), said(two, x, gated), 1e-6)


@GATED
def test_a_permuted_copy_is_found_and_the_mean_of_both_is_the_original(gated):
    for seed in range(5):
        one = expert(seed, gated, f=6)
        perm = RNG(seed).permutation(6).tolist()
        copy = group_loops.permuted(one, perm)
        found = align.permutation(one, copy)
        assert [perm[j] for j in found.tolist()] == list(range(6))
        mean = average.uniform([one, align.apply(copy, found)])
        assert all(np.array_equal(mean[name], one[name]) for name in one)
        assert not np.array_equal(average.uniform([one, copy])["down_proj"], one["down_proj"])  # control


@GATED
def test_activation_matching_is_the_best_of_all_permutations(gated):
    for seed in range(3):
        x = RNG(seed).standard_normal((23, 3))
        a, b = (locked(hidden(expert(s, gated, f=4), x, gated)) for s in (seed, 70 + seed))
        scores = [[group_loops.correlation(a[:, i].tolist(), b[:, j].tolist()) for j in range(4)] for i in range(4)]
        same(align.by_activations(a, b), np.array(group_loops.best_permutation(scores)[0]))
        products = [[math.fsum((a[:, i] * b[:, j]).tolist()) for j in range(4)] for i in range(4)]
        same(align.by_activations(a, b, correlate=False), np.array(group_loops.best_permutation(products)[0]))


@pytest.mark.parametrize("density", [0.0, 0.2, 0.34, 0.57, 1.0])
@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0)])
def test_ties(density, weights):
    for seed, kind in itertools.product(range(3), ("plain", "ties")):
        rng = RNG(seed)
        drawn = rng.standard_normal((4, 4, 5)) if kind == "plain" else rng.integers(-2, 3, (4, 4, 5)) / 2
        base, *tuned = locked(drawn)
        for d in (t - base for t in tuned):
            assert np.array_equal(ties.trim(locked(d), density), average_loops.trim(d, density))
        got = ties.merge(base, tuned, density=density, weights=weights, scale=0.75)
        agree(got, average_loops.ties(base, tuned, density, weights, 0.75))
        agree(
            arithmetic.merge(base, tuned, weights=weights, scale=0.75),
            average_loops.arithmetic(base, tuned, weights, 0.75),
        )
        if density == 0.57 and kind == "plain":  # control: task arithmetic's mean instead of the disjoint one
            mean = average_loops.arithmetic(
                base, [base + average_loops.trim(t - base, density) for t in tuned], None, 0.25
            )
            assert not close(got, mean, 1e-3)
    if density == 0.0:
        assert np.array_equal(got, base)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dare(rate):
    delta = locked(RNG(0).standard_normal((40, 50)))
    got, mask = dare.drop(RNG(1), delta, rate)
    agree(got, average_loops.dare(delta, mask, rate))
    assert abs(mask.mean() - (1 - rate)) < 5 * math.sqrt(max(rate * (1 - rate), 1e-30) / delta.size)
    assert np.array_equal(dare.apply(delta, locked(mask.copy()), rate), got)
    masks = [locked(dare.draw(RNG(s), (4, 5), rate)) for s in range(3)]
    base, *tuned = locked(RNG(2).standard_normal((4, 4, 5)))
    thinned = [base + average_loops.dare(t - base, m, rate) for t, m in zip(tuned, masks, strict=True)]
    linear = dare.merge(base, tuned, masks, rate=rate, weights=(0.5, 2, 1), scale=0.75)
    agree(linear, average_loops.arithmetic(base, thinned, (0.5, 2, 1), 0.75))
    voted = dare.merge(base, tuned, masks, rate=rate, weights=(0.5, 2, 1), scale=0.75, elect=True)
    want = average_loops.elected(base, [t - base for t in thinned], (0.5, 2, 1), 0.75)
    assert close(voted, want, 1e-13)  # the differences are rounded twice on their way here
    if rate:
        mean = np.mean([dare.drop(RNG(s), delta[:2], rate)[0] for s in range(2000)], axis=0)
        spread = np.abs(delta[:2]) * math.sqrt(rate / (1 - rate) / 2000)
        assert np.all(np.abs(mean - delta[:2]) <= 5 * spread + 1e-13)
        assert not close(got, delta * mask, 1e-3)  # control: not rescaled


def test_slerp_rotates():
    for seed, shape in enumerate([(2,), (7,), (3, 4)]):
        rng = RNG(seed)
        a, b = locked(rng.standard_normal(shape), 2.5 * rng.standard_normal(shape))
        for t in (0.0, 0.1, 0.5, 0.9, 1.0):
            agree(slerp(a, b, t), sphere_mpmath.slerp(a, b, t))
        near = locked(a + 1e-5 * b)
        agree(slerp(a, near, 0.3), sphere_mpmath.slerp(a, near, 0.3))
        assert not close(slerp(a, b, 0.3), 0.7 * a + 0.3 * b, 1e-3)  # control: a straight line


def test_multislerp_is_the_mean_on_the_sphere():
    for seed, n in enumerate((1, 2, 3, 5)):
        rng = RNG(seed)
        tensors = [locked(rng.standard_normal((3, 4)) + 0.5) for _ in range(n)]
        weights = (rng.random(n) + 0.1).tolist()
        got = multislerp(tensors, weights)
        agree(got, sphere_mpmath.multislerp(tensors, weights))
        agree(multislerp(tensors, weights, iterations=0), sphere_mpmath.multislerp(tensors, weights, 0))
        if n > 1:
            assert not close(got, average_loops.weighted(tensors, weights), 1e-4)  # control: the Euclidean mean
    a, b = locked(RNG(9).standard_normal(6), RNG(10).standard_normal(6))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    agree(multislerp([a, b], [0.5, 0.5]), sphere_mpmath.slerp(a, b, 0.5))  # half way is half way


@pytest.mark.parametrize("n_groups", [1, 2, 3, 6])
def test_msmoe_groups(n_groups):
    for seed in range(8):
        rng = RNG(seed)
        logits = locked(rng.standard_normal((13, 6)))
        for count in (rng.integers(0, 50, 6), rng.integers(0, 2, 6), np.zeros(6, dtype=int)):
            got = msmoe.groups(logits, locked(count), n_groups)
            same(got, np.array(group_loops.msmoe(logits, count, n_groups)))
    if n_groups in (2, 3):  # control: the least used as centres
        assert any(
            group_loops.msmoe(RNG(s).standard_normal((13, 6)), np.arange(6), n_groups)
            != group_loops.msmoe(RNG(s).standard_normal((13, 6)), -np.arange(6), n_groups)
            for s in range(3)
        )


@pytest.mark.parametrize("n_groups", [1, 2, 3, 5, 7])
def test_hcsmoe_groups(n_groups):
    for seed in range(8):
        points = locked(RNG(seed).standard_normal((7, 3)))
        same(hcsmoe.groups(points, n_groups), np.array(group_loops.average_linkage(points, n_groups)))
    equal = locked(np.ones((7, 3)))  # all distances tie: still exactly n_groups
    assert len(set(hcsmoe.groups(equal, n_groups).tolist())) == n_groups
    single = [group_loops.average_linkage(RNG(s).standard_normal((7, 3)) ** 3, 3) for s in range(8)]
    assert any(got != group_loops.average_linkage(RNG(s).standard_normal((7, 3)), 3) for s, got in enumerate(single))


@GATED
@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_zipit(gated, within, n):
    for seed in range(3):
        x = RNG(seed).standard_normal((29, 3))
        experts = [expert(10 * seed + i, gated) for i in range(n)]
        acts = [locked(hidden(one, x, gated)) for one in experts]
        weights = [1.0, 3.0, 0.5][:n]
        if n > 1:
            pairs = group_loops.zipit_pairs(acts[0], acts[1], within)
            label = [next(g for g, pair in enumerate(pairs) if i in pair) for i in range(8)]
            same(zipit.match(acts[0], acts[1], within=within), np.array(group_loops.numbered(label)))
        got = zipit.merge(experts, acts, weights, within=within)
        want = group_loops.zipit(experts, acts, weights, within)
        for name in want:
            agree(got[name], want[name])
        if n == 1:
            assert all(np.array_equal(got[name], experts[0][name]) for name in want)
        else:  # control: the other experts' weights
            other = group_loops.zipit(experts, acts, weights[::-1], within)
            assert not close(got["down_proj"], other["down_proj"], 1e-3)
    perm = [2, 0, 3, 1]
    copy = group_loops.permuted(experts[0], perm)
    got = zipit.merge([experts[0], copy], [acts[0], locked(acts[0][:, perm])], within=within)
    for name, a in experts[0].items():
        agree(got[name], a)


def test_greedy_soup():
    for seed in range(10):
        rng = RNG(seed)
        target, candidates = rng.standard_normal(4), [rng.standard_normal(4) for _ in range(6)]
        if seed == 0:
            candidates[3] = candidates[1].copy()  # equal scores

        def score(v, target=target):
            return -float(((np.asarray(v) - target) ** 2).sum())

        members, mean = average_loops.soup(candidates, score)
        got = soup.greedy([{"a": {"w": locked(c)}} for c in candidates], lambda p: score(p["a"]["w"]))
        assert list(got.kept) == members
        agree(got.p["a"]["w"], mean)
        assert not close(got.p["a"]["w"], np.mean(candidates, axis=0), 1e-6)  # control: the uniform soup


@GATED
def test_single_precision_is_rounded_once(gated):
    """Every mean of float32 is the float64 answer, rounded: half a unit in the last place of each entry."""
    experts = [expert(seed, gated, dtype="f4") for seed in range(3)]
    arrays = [one["down_proj"] for one in experts]
    tuned = [locked(a + np.float32(0.5) * b) for a, b in zip(arrays, arrays[::-1], strict=True)]
    fishers = [{name: locked(np.square(a)) for name, a in one.items()} for one in experts]
    cases = {
        "weighted": (
            average.weighted(experts, [1, 2, 4])["down_proj"],
            average_loops.weighted(arrays, [1, 2, 4]),
        ),
        "fisher": (
            average.fisher(experts, fishers, 1e-3)["down_proj"],
            average_loops.fisher(arrays, [one["down_proj"] for one in fishers], 1e-3),
        ),
        "ties": (ties.merge(arrays[0], tuned, density=0.57), average_loops.ties(arrays[0], tuned, 0.57)),
        "slerp": (slerp(arrays[0], arrays[1], 0.3), sphere_mpmath.slerp(arrays[0], arrays[1], 0.3)),
        "multislerp": (multislerp(arrays, [1, 2, 4]), sphere_mpmath.multislerp(arrays, [1, 2, 4])),
    }
    for name, (got, want) in cases.items():
        assert got.dtype == np.float32, name
        assert np.all(np.abs(got.astype(np.float64) - want) <= 2.0**-24 * 1.001 * np.abs(want) + 1e-14), name
        assert not np.array_equal(got, (want * 1.001).astype(np.float32))  # control
