"""Partitions: M5 (all pieces are the dense layer), M6 (split and join give the bits), groups, routers, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from pymoe import moe
from pymoe.backend.errors import ConfigError, DataError, IndexRangeError, NonFiniteError, ShapeError
from pymoe.nn import feed_forward
from pymoe.sharing.split import partition
from pymoe.sharing.split.partition import graph, kmeans
from pymoe.verify import gradcheck

from ..layers import D, F, dense, frozen, off, settings, tokens, whole, whole_tokens

quick = run(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 1 << 20)
PARTS = st.sampled_from([1, 2, 3, 4, 6, 12])


def groups_of(seed: int, e: int) -> np.ndarray:
    return frozen(partition.random(np.random.default_rng(seed), F, e))


@quick
@given(SEEDS, PARTS, st.booleans())
def test_m5_all_pieces_add_up_to_the_dense_layer(seed: int, e: int, gated: bool) -> None:
    ff = settings(gated)
    p = dense(ff, seed)
    experts = partition.split(p, groups_of(seed, e), gated)
    piece = settings(gated, f=F // e)
    x = tokens(seed)
    y = sum(feed_forward.forward(x, {n: a[i] for n, a in experts.items()}, piece)[0] for i in range(e))
    assert off(y, feed_forward.forward(x, p, ff)[0]) <= 64


@quick
@given(SEEDS, PARTS, st.booleans())
def test_m5_of_whole_numbers_bit_for_bit_as_pieces_and_as_a_layer_with_all_gates_one(
    seed: int, e: int, gated: bool
) -> None:
    ff = settings(gated, bias=e in (1, 2, 4), activation="relu")  # b / E is exact for powers of two
    p, x = whole(ff, seed), whole_tokens(seed)
    y = feed_forward.forward(x, p, ff)[0]
    experts = partition.split(p, groups_of(seed, e), gated)
    piece = settings(gated, ff.bias, "relu", F // e)
    assert (sum(feed_forward.forward(x, {n: a[i] for n, a in experts.items()}, piece)[0] for i in range(e)) == y).all()
    layer, cfg = partition.layer(p, ff, groups_of(seed, e), e)
    out, _ = moe.forward(x, layer, cfg)
    assert (out.routing.weight == 1).all() and (out.y == y).all()


@quick
@given(SEEDS, PARTS, st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_m6_split_and_join_give_the_bits(seed: int, e: int, gated: bool, dtype: type) -> None:
    ff = settings(gated)
    p = dense(ff, seed, dtype)
    p["down_proj_bias"] = frozen(np.where(p["down_proj_bias"] < 0, -0.0, p["down_proj_bias"]).astype(dtype))
    back = partition.join(partition.split(p, groups_of(seed, e), gated), groups_of(seed, e))
    assert {n: a.tobytes() for n, a in back.items()} == {n: a.tobytes() for n, a in p.items()}
    assert all(back[n].dtype == dtype for n in p)


def test_gates_of_a_sigmoid_are_one_where_those_of_a_softmax_only_round_to_it() -> None:
    """Why ``layer`` has 2 σ(z): k times a renormalised softmax of equal scores is not 1 for every E."""
    from pymoe.moe import router

    x = np.ones((1, 3))
    inexact = []
    for e in range(1, 65):
        p = {"weight": np.zeros((e, 3))}
        softmax = moe.RouterConfig(e, e, norm="l1", scale=float(e), losses=())
        sigmoid = moe.RouterConfig(e, e, score="sigmoid", scale=2.0, losses=())
        assert (router.forward(x, p, sigmoid)[0][0].weight == 1).all()
        if not (router.forward(x, p, softmax)[0][0].weight == 1).all():
            inexact.append(e)
    assert inexact and not {1, 2, 4, 8, 16, 32, 64} & set(inexact)


def test_with_fewer_experts_the_layer_is_what_the_chosen_pieces_say() -> None:
    ff = settings()
    p, x, groups = dense(ff, 0), tokens(0), groups_of(0, 4)
    layer, cfg = partition.layer(p, ff, groups, 2)
    out, _ = moe.forward(x, layer, cfg)
    piece = settings(f=3)
    bare = p | {"down_proj_bias": np.zeros(D)}
    for t in range(len(x)):
        y = p["down_proj_bias"] * out.routing.weight[t].mean()  # each of k says b / k
        for g, e in zip(out.routing.weight[t], out.routing.idx[t], strict=True):
            part = partition.take(bare, groups[e], True) | {"down_proj_bias": np.zeros(D)}
            y = y + g * feed_forward.forward(x[t : t + 1], part, piece)[0][0]
        assert np.abs(out.y[t] - y).max() <= 1e-13 * np.abs(out.y).max()
    whole_y = feed_forward.forward(x, p, ff)[0]
    assert off(out.y, whole_y) > 1e10


def test_the_centre_router_chooses_by_the_angle_to_the_mean_unit_gate_row() -> None:
    ff = settings(bias=False)
    p, x, groups = dense(ff, 1), tokens(1, t=50), groups_of(1, 4)
    layer, cfg = partition.layer(p, ff, groups, 2)
    rows = p["gate_up_proj"][:F]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centre = np.stack([unit[g].mean(0) for g in groups])
    cosine = x @ (centre / np.linalg.norm(centre, axis=1, keepdims=True)).T
    assert (moe.forward(x, layer, cfg)[0].routing.idx == np.argsort(-cosine, axis=1, kind="stable")[:, :2]).all()
    assert np.allclose(np.linalg.norm(layer["router"]["weight"], axis=1), 0.02 / np.sqrt(D), rtol=1e-13, atol=0)
    of_mean_square_one = frozen(x / np.sqrt((x * x).mean(1, keepdims=True)))
    assert np.abs(moe.forward(of_mean_square_one, layer, cfg)[0].routing.weight - 1).max() <= 0.01


def test_the_gradient_of_a_partitioned_layer_is_verified() -> None:
    ff = settings(f=6)
    layer, cfg = partition.layer(dense(ff, 0), ff, partition.random(np.random.default_rng(0), 6, 3), 2, std=1.0)
    gradcheck(moe, tokens(0), layer, cfg, losses=[], controls=True)


@quick
@given(SEEDS, st.sampled_from([(2, 2), (3, 3), (4, 4), (2, 6), (4, 0)]), st.booleans())
def test_a_shared_expert_and_all_pieces_are_the_dense_layer(seed: int, sizes: tuple[int, int], gated: bool) -> None:
    e, n_shared = sizes
    ff = settings(gated)
    p, x = dense(ff, seed), tokens(seed)
    shared, groups = partition.residual(np.random.default_rng(seed).random((e, F)), e, n_shared)
    layer, cfg = partition.layer(p, ff, groups, e, shared=shared)
    assert cfg.d_shared == n_shared and ("shared" in layer) == bool(n_shared)
    assert off(moe.forward(x, layer, cfg)[0].y, feed_forward.forward(x, p, ff)[0]) <= 64


# --- which units go together -----------------------------------------------------------------------------------------


@quick
@given(SEEDS, PARTS)
def test_every_rule_makes_groups_of_each_unit_once_and_the_same_ones_again(seed: int, e: int) -> None:
    rng = np.random.default_rng(seed)
    rows, h, score = frozen(rng.standard_normal((F, D))), frozen(rng.standard_normal((9, F))), frozen(rng.random(F))
    for rule in (
        lambda: partition.random(np.random.default_rng(seed), F, e),
        lambda: partition.clustered(rows, e, np.random.default_rng(seed)),
        lambda: partition.coactivation(h, e),
        lambda: partition.by_gradient(score, e),
        lambda: partition.by_gradient(frozen(np.stack([score] * e)), e),
    ):
        groups = rule()
        assert groups.shape == (e, F // e) and groups.dtype == np.int64
        assert sorted(groups.ravel().tolist()) == list(range(F)) and (np.diff(groups, axis=1) > 0).all()
        assert (groups == rule()).all()


@quick
@given(SEEDS)
def test_clusters_do_not_see_the_length_of_a_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((F, D))
    longer = rows * 2.0 ** rng.integers(-300, 300, (F, 1))
    args = 3, np.random.default_rng(1)
    assert (partition.clustered(rows, *args) == partition.clustered(longer, 3, np.random.default_rng(1))).all()


def test_equal_rows_and_rows_of_zero_are_clustered_too() -> None:
    for rows in (np.zeros((F, D)), np.ones((F, D)), np.eye(F)):
        groups = partition.clustered(rows, 4, np.random.default_rng(0))
        assert sorted(groups.ravel().tolist()) == list(range(F))
    assert kmeans.unit_rows(np.zeros((2, 3))).tolist() == [[0.0] * 3] * 2


def test_the_threshold_of_a_smooth_activation_is_the_median_and_of_relu_zero() -> None:
    rng = np.random.default_rng(0)
    h = np.maximum(rng.standard_normal((40, F)) - 0.3, 0)
    assert np.median(h) == 0 and (partition.coactivation(h, 3) == partition.coactivation(h, 3, threshold=0.0)).all()
    smooth = rng.standard_normal((40, F))
    assert len(np.unique(graph.edges(np.abs(smooth) > 0))) == 2  # 0 on the diagonal, T: says nothing
    assert len(np.unique(graph.edges(np.abs(smooth) > np.median(np.abs(smooth))))) > 5


@quick
@given(SEEDS)
def test_exchanges_never_lose_weight(seed: int) -> None:
    g = graph.edges(np.random.default_rng(seed).random((20, F)) < 0.4)
    start = partition.random(np.random.default_rng(seed), F, 3)
    for groups in (start, graph.grown(g, 3, 4)):
        assert graph.weight_within(g, graph.refined(groups, g, 50)) >= graph.weight_within(g, groups)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: partition.random(np.random.default_rng(0), 12, 5), ConfigError, "take a divisor, e.g. 4 or 6"),
        (lambda: partition.clustered(np.ones((12, 2)), 5, np.random.default_rng(0)), ConfigError, "take a divisor"),
        (
            lambda: partition.clustered(np.full((4, 2), np.nan), 2, np.random.default_rng(0)),
            NonFiniteError,
            "rows is nan",
        ),
        (lambda: partition.clustered(np.ones(4), 2, np.random.default_rng(0)), ShapeError, "rows"),
        (lambda: partition.coactivation(np.ones((0, 4)), 2), DataError, "needs tokens, got none"),
        (lambda: partition.coactivation(np.ones((3, 4)), 3), ConfigError, "take a divisor"),
        (lambda: partition.coactivation(np.ones((3, 4)), 2, threshold=float("nan")), ConfigError, "threshold"),
        (lambda: partition.by_gradient(np.ones(12), 5), ConfigError, "take a divisor"),
        (lambda: partition.by_gradient(np.array([1.0, np.nan]), 2), NonFiniteError, "score is nan at (1,)"),
        (lambda: partition.by_gradient(np.ones((3, 4)), 2), ShapeError, "score must have shape (F,) or (2, F)"),
        (lambda: partition.overlapping(np.ones(4), 2), ShapeError, "a score for each of them"),
        (lambda: partition.residual(np.ones(4), 2, 2), ShapeError, "a score for each expert"),
        (lambda: partition.residual(np.ones((2, 4)), 2, 4), ConfigError, "must leave units"),
        (lambda: partition.residual(np.ones((2, 4)), 2, 1), ConfigError, "take a divisor"),
    ],
)
def test_bad_groups_are_refused(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "change, error, says",
    [
        ({"groups": np.arange(10).reshape(2, 5)}, ConfigError, "each of the 12 hidden units once"),
        ({"groups": np.zeros((2, 6), int)}, ConfigError, "unit 0 stands there 12 times"),
        ({"groups": np.arange(12) + 1}, ShapeError, "groups must have shape"),
        ({"groups": np.arange(1, 13).reshape(2, 6)}, IndexRangeError, "groups must lie in [0, 12)"),
        ({"shared": np.array([0])}, ConfigError, "unit 0 stands there 2 times"),
        ({"k": 3}, ConfigError, "k must not exceed"),
        ({"router": "mean"}, ConfigError, "router must be one of ('zero', 'centre', 'random')"),
        ({"router": "random", "rng": None}, ConfigError, "needs rng"),
        ({"router": np.ones((2, 4))}, ShapeError, "router must have shape (2, 5)"),
        ({"router": np.full((2, 5), np.inf)}, NonFiniteError, "router is inf"),
    ],
)
def test_bad_layers_are_refused(change: dict[str, Any], error: type[Exception], says: str) -> None:
    ff = settings()
    given_ = {"groups": np.arange(12).reshape(2, 6), "k": 1, "rng": np.random.default_rng(0)} | change
    with pytest.raises(error) as caught:
        partition.layer(dense(ff, 0), ff, **given_)
    assert says in str(caught.value)


def test_split_and_join_refuse_other_trees() -> None:
    ff = settings(bias=False)
    p, groups = dense(ff, 0), groups_of(0, 3)
    with pytest.raises(ShapeError, match="a plain feed-forward needs 'up_proj'"):
        partition.split(p, groups, gated=False)
    with pytest.raises(ShapeError, match="gate_up_proj must have shape"):
        partition.split(p | {"gate_up_proj": p["gate_up_proj"][1:]}, groups, gated=True)
    experts = partition.split(p, groups, True)
    with pytest.raises(ShapeError, match="experts need"):
        partition.join({"down_proj": experts["down_proj"]}, groups)
    with pytest.raises(ShapeError, match="groups must have shape"):
        partition.join(experts, groups.reshape(4, 3))
    with pytest.raises(ShapeError, match="gate_up_proj must have shape"):
        partition.join(experts | {"gate_up_proj": experts["gate_up_proj"][:, 1:]}, groups)
