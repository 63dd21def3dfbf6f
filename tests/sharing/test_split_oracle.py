"""Splitting a dense feed-forward, and making experts of dense models, against loops over tokens and units."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe import moe
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.sharing import gates, low_rank
from pymoe.sharing.split import drop_upcycle, granular, partition, upcycle
from pymoe.sharing.split.partition import graph

from ..oracles.layer_loops import moe_loop
from ..sparsity.oracles.judge import agree, close, locked, same
from .oracles import split_loops

RNG = np.random.default_rng
GATED = pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
BIAS = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])


def dense(seed: int, gated: bool, bias: bool, d: int = 3, f: int = 8):
    rng = RNG(seed)
    cfg = FeedForwardConfig(d_model=d, d_ff=f, gated=gated, bias=bias)
    up = cfg.up_name
    p = {up: rng.standard_normal((2 * f if gated else f, d)), "down_proj": rng.standard_normal((d, f))}
    if bias:
        p |= {up + "_bias": rng.standard_normal(len(p[up])), "down_proj_bias": rng.standard_normal(d)}
    return {name: locked(a) for name, a in p.items()}, cfg


def inputs(seed: int, t: int = 7, d: int = 3) -> np.ndarray:
    return locked(RNG(500 + seed).standard_normal((t, d)))


def looped(x, p, cfg) -> np.ndarray:
    """The layer that pymoe made, computed by the oracles."""
    r = cfg.router
    score = {"softmax": "softmax", "sigmoid": "sigmoid"}[r.score]
    settings = {
        "score": score,
        "k": r.k,
        "renorm": r.norm == "l1",
        "renorm_eps": r.eps,
        "scale": r.scale,
        "gated": cfg.gated,
        "activation": cfg.activation,
    }
    return moe_loop(x, p, settings)["y"]


@GATED
@BIAS
@pytest.mark.parametrize("e, k", [(1, 1), (3, 1), (5, 2), (4, 4)])
def test_upcycled_copies_say_what_the_dense_layer_says(gated, bias, e, k):
    for seed in range(2):
        p, ff = dense(seed, gated, bias)
        x = inputs(seed)
        made, cfg = upcycle(p, ff, e, k, rng=RNG(seed))
        want = split_loops.said(p, x)
        agree(moe.forward(x, made, cfg)[0].y, want)
        agree(looped(x, made, cfg), want)
        for name, a in p.items():
            assert made["experts"][name].shape == (e, *a.shape)
            assert all(np.array_equal(one, a) for one in made["experts"][name])
        assert made["router"]["weight"].shape == (e, 3) and np.std(made["router"]["weight"]) < 0.1
        if e > k:  # control: without the renormalisation the layer is quieter than the dense one
            plain = {"score": "softmax", "k": k, "gated": gated, "activation": "silu"}
            assert not close(moe_loop(x, made, plain)["y"], want, 1e-2)


@GATED
@BIAS
@pytest.mark.parametrize("e", [1, 2, 4, 8])
def test_pieces_add_up_and_join_to_the_same_bits(gated, bias, e):
    for seed in range(2):
        p, ff = dense(seed, gated, bias)
        x, groups = inputs(seed), locked(partition.random(RNG(seed), 8, e))
        assert split_loops.is_grouping(groups, 8, e)
        experts = partition.split(p, groups, gated)
        parts = [split_loops.said(split_loops.expert_of(experts, i), x) for i in range(e)]
        agree(sum(parts), split_loops.said(p, x))
        for i in range(e):
            for place, unit in enumerate(groups[i].tolist()):
                own = split_loops.unit_of(split_loops.expert_of(experts, i), place)
                for got, want in zip(own, split_loops.unit_of(p, unit), strict=True):
                    assert np.array_equal(got, want)
        back = partition.join(experts, groups)
        assert sorted(back) == sorted(p) and all(np.array_equal(back[name], p[name]) for name in p)
        made, cfg = partition.layer(p, ff, groups, e)
        agree(moe.forward(x, made, cfg)[0].y, split_loops.said(p, x))
        agree(looped(x, made, cfg), split_loops.said(p, x))
        if e > 1:  # control: one piece less
            made, cfg = partition.layer(p, ff, groups, e - 1)
            assert not close(moe.forward(x, made, cfg)[0].y, split_loops.said(p, x), 1e-2)


@GATED
def test_a_layer_with_a_shared_piece_adds_up_too(gated):
    p, ff = dense(3, gated, True)
    score = locked(RNG(4).random((3, 8)))
    shared, groups = partition.residual(score, 3, 2)
    assert sorted([*shared.tolist(), *groups.ravel().tolist()]) == list(range(8)) and groups.shape == (3, 2)
    made, cfg = partition.layer(p, ff, groups, 3, shared=shared)
    x = inputs(3)
    agree(moe.forward(x, made, cfg)[0].y, split_loops.said(p, x))


def test_groups_by_gradient():
    for seed in range(6):
        for score in (RNG(seed).random(12), RNG(seed).integers(0, 3, 12) / 2, np.zeros(12)):
            for e in (1, 2, 3, 4, 12):
                same(partition.by_gradient(locked(score), e), np.array(split_loops.by_gradient(score, e)))
        for e in (1, 2, 3, 4):
            for score in (RNG(seed).random((e, 12)), RNG(seed).integers(0, 3, (e, 12)) / 2, np.ones((e, 12))):
                same(partition.by_gradient(locked(score), e), np.array(split_loops.by_gradient(score, e)))
                same(partition.overlapping(locked(score), e), np.array(split_loops.overlapping(score, e)))


def test_clusters_are_balanced_and_no_exchange_would_lower_the_squares():
    for seed, (f, d, e) in enumerate([(6, 2, 2), (8, 3, 4), (9, 4, 3), (1, 2, 1), (5, 3, 5)]):
        rows = locked(RNG(seed).standard_normal((f, d)))
        for start in range(3):
            groups = partition.clustered(rows, e, RNG(start))
            assert split_loops.is_grouping(groups, f, e)
            same(groups, partition.clustered(rows, e, RNG(start)))
            assert split_loops.assignment_gain(rows, groups) <= 1e-12
    shuffled = np.array([[0, 3, 6], [1, 4, 7], [2, 5, 8]])  # control: some exchange gains
    assert split_loops.assignment_gain(RNG(2).standard_normal((9, 4)), shuffled) > 1e-3


def test_well_parted_clusters_are_found():
    rng = RNG(0)
    axes = np.eye(3)[[0, 1, 2, 2, 1, 0, 0, 1, 2]]
    rows = locked((axes + 0.05 * rng.standard_normal((9, 3))) * (1 + rng.random((9, 1))))
    best = min(split_loops.groupings(9, 3), key=lambda g: split_loops.squares(rows, g))
    found = partition.clustered(rows, 3, RNG(1))
    assert sorted(map(sorted, found.tolist())) == sorted(map(list, best)) == [[0, 5, 6], [1, 4, 7], [2, 3, 8]]


def test_coactivation_counts_and_ends_where_no_exchange_gains():
    for seed, (t, f, e) in enumerate([(9, 6, 2), (15, 8, 4), (20, 9, 3), (1, 2, 1), (5, 4, 4)]):
        h = locked(RNG(seed).standard_normal((t, f)) * (RNG(seed + 9).random((t, f)) < 0.5))
        for threshold in (0.0, 0.5):
            active = np.abs(h) > threshold
            want = split_loops.edges(active)
            same(graph.edges(active), want.astype(np.float32))
            groups = partition.coactivation(h, e, threshold=threshold)
            assert split_loops.is_grouping(groups, f, e)
            assert split_loops.best_exchange(want, groups) <= 0 or e == 1
            assert graph.weight_within(want, groups) == split_loops.weight_within(want, groups)
    blocks = locked(np.kron(np.eye(3), np.ones((4, 3)))[:, [0, 3, 6, 1, 4, 7, 2, 5, 8]])
    found = partition.coactivation(blocks, 3)
    assert sorted(map(sorted, found.tolist())) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    chance = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    assert split_loops.best_exchange(split_loops.edges(blocks > 0), chance) > 0  # control


@GATED
@BIAS
@pytest.mark.parametrize("pieces, copies", [(1, 3), (2, 1), (2, 3), (4, 2), (8, 2)])
def test_granular_upcycling_is_the_dense_layer_at_the_start(gated, bias, pieces, copies):
    for seed in range(2):
        p, ff = dense(seed, gated, bias)
        x, want = inputs(seed), split_loops.said(p, inputs(seed))
        for chosen in range(1, copies + 1):
            made, cfg = granular(p, ff, pieces=pieces, copies=copies, k=pieces * chosen, rng=RNG(seed))
            assert (cfg.n_experts, cfg.d_ff) == (pieces * copies, 8 // pieces)
            agree(moe.forward(x, made, cfg)[0].y, want)
            agree(looped(x, made, cfg), want)
        down = made["experts"]["down_proj"]
        assert not close(
            looped(x, {**made, "experts": {**made["experts"], "down_proj": down * 1.001}}, cfg), want, 1e-5
        )


@GATED
@BIAS
def test_drop_upcycling_draws_whole_units_with_the_statistics_of_what_is_dropped(gated, bias):
    f, e, ratio = 400, 3, 0.29
    p, ff = dense(0, gated, bias, d=50, f=f)
    shifted = {name: locked(a * 0.5 + 0.25) for name, a in p.items()}  # a mean that is not 0
    made, cfg = drop_upcycle(shifted, ff, e, 2, ratio=ratio, rng=RNG(1))
    up, dropped = ff.up_name, []
    for i in range(e):
        new = [not np.array_equal(made["experts"]["down_proj"][i, :, j], shifted["down_proj"][:, j]) for j in range(f)]
        dropped.append([j for j in range(f) if new[j]])
        assert len(dropped[-1]) == 116  # floor(0.29 · 400)
        one = split_loops.expert_of(made["experts"], i)
        for j in range(f):
            for a, b in zip(split_loops.unit_of(one, j), split_loops.unit_of(shifted, j), strict=True):
                assert new[j] != np.array_equal(a, b)  # a unit is new as a whole, or old as a whole
        for name, lines in ((up, (0, f) if gated else (0,)), ("down_proj", (None,))):
            for line in lines:
                if line is None:
                    drawn, source = one[name][:, new].ravel(), shifted[name][:, new].ravel()
                else:
                    at = np.flatnonzero(new) + line
                    drawn, source = one[name][at].ravel(), shifted[name][at].ravel()
                error = source.std() / math.sqrt(drawn.size)
                assert abs(drawn.mean() - source.mean()) < 5 * error
                assert abs(drawn.std() - source.std()) < 5 * error
                assert abs(drawn.mean()) > 20 * error  # control: a mean of 0 would have been noticed
        if bias:
            assert np.array_equal(one["down_proj_bias"], shifted["down_proj_bias"])
    assert dropped[0] != dropped[1] != dropped[2]
    zero, _ = drop_upcycle(shifted, ff, e, 2, ratio=0.0, rng=RNG(1))
    plain, _ = upcycle(shifted, ff, e, 2, rng=RNG(1))
    for branch in plain:
        assert all(np.array_equal(zero[branch][name], plain[branch][name]) for name in plain[branch])
    whole, _ = drop_upcycle(shifted, ff, e, 2, ratio=1.0, rng=RNG(1))
    assert not np.any(whole["experts"]["down_proj"] == shifted["down_proj"])


def test_gate_rows_are_means_of_real_tokens():
    for seed in range(3):
        rng = RNG(seed)
        states, mask = locked(rng.standard_normal((2, 5, 4)) + 1, rng.random((2, 5)) < 0.6)
        others = locked(rng.standard_normal((3, 4)))
        agree(gates.hidden(states, mask), split_loops.gate_row(states, mask))
        agree(gates.hidden(states, mask, others), split_loops.gate_row(states, mask, (others, None)))
        agree(gates.hidden(states, mask, (states, ~mask)), split_loops.gate_row(states, mask, (states, ~mask)))
        padded = states.copy()
        padded[~mask] = 0  # control: padding in the mean (mergekit's) gives the same direction, its states do not
        assert not close(gates.hidden(states, mask), split_loops.gate_row(states), 1e-3)
        table, ids = locked(rng.standard_normal((9, 4)), rng.integers(0, 9, (2, 5)))
        agree(gates.cheap_embed(table, ids, mask), split_loops.gate_row(table[ids], mask))
    wide = gates.random(RNG(0), 30, 400, std=0.5)
    assert wide.shape == (30, 400) and abs(wide.std() - 0.5) < 0.01 and abs(wide.mean()) < 0.02
    flat = gates.uniform_random(RNG(0), 30, 400)
    assert abs(flat.std() - 0.05 / math.sqrt(3)) < 0.001 and 0.0499 < np.abs(flat).max() <= 0.05


def test_fitted_rows_are_ridge_regression():
    """The normal equations of centred data, in rationals; m_te = Σ |h_tf| over the units of expert e."""
    for seed, (t, d, f, e, ridge) in enumerate([(20, 3, 6, 2, 1e-3), (15, 2, 4, 4, 0.5)]):
        rng = RNG(seed)
        x, h = locked(rng.standard_normal((t, d)) + 1, np.maximum(rng.standard_normal((t, f)), 0))
        groups = locked(rng.permutation(f).reshape(e, f // e))
        want = split_loops.fitted(x, h, groups.tolist(), ridge)
        agree(gates.fitted(x, h, groups, ridge=ridge), want)
        assert not close(
            gates.fitted(x, h, groups, ridge=ridge), split_loops.fitted(x, h, groups.tolist(), 2 * ridge), 1e-6
        )


def test_low_rank_differences_are_as_near_as_eckart_and_young_allow():
    for seed, (e, f, d) in enumerate([(3, 5, 4), (2, 1, 3), (4, 3, 6), (1, 2, 2)]):
        experts = locked(RNG(seed).standard_normal((e, f, d)))
        mean = sum(experts[i] for i in range(e)) / e
        for rank in range(min(f, d) + 1):
            got = low_rank.delta(experts, rank)
            agree(got.dense() - (got.dense() - experts), experts)
            assert got.a.shape == (e, f, rank) and got.b.shape == (e, rank, d)
            agree(got.mean, mean)
            for i in range(e):
                error = np.linalg.norm(got.dense()[i] - experts[i])
                assert (
                    abs(error - split_loops.truncation_error(experts[i] - mean, rank)) <= 2e-7 * np.abs(experts).max()
                )
                if 0 < rank < min(f, d) and e > 1:  # control: any other matrix of that rank is farther
                    for trial in range(5):
                        a = got.a[i] + 0.05 * RNG(trial).standard_normal(got.a[i].shape)
                        assert np.linalg.norm(mean + a @ got.b[i] - experts[i]) > error
            table = low_rank.errors(experts)
            want = [np.linalg.norm(got.dense()[i] - experts[i]) for i in range(e)]
            assert np.max(np.abs(table[:, rank] - want)) <= 1e-13 * np.abs(experts).max() * 10
    one = locked(RNG(5).standard_normal((3, 4)))
    same_thrice = low_rank.delta(locked(np.stack([one] * 3)), 2)
    assert all(np.array_equal(w, one) for w in same_thrice.dense())
