"""Inputs that mutation testing found to be missing in the tests of masks, compensation, experts and stored weights."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from pymoe import moe, storage
from pymoe.backend import namespace, tree
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.sparsity import experts, layerwise, statistics
from pymoe.storage import _make

from ..sparsity import layers


def test_two_groups_must_lose_the_same_number_too() -> None:
    cfg, p, _ = layers.layer(n_experts=8, k=2, select="group_limited", n_group=2, topk_group=1)
    with pytest.raises(ConfigError, match=r"leave \[3, 1\] in them"):
        experts.cut(p, cfg, [0, 1, 3, 4])


@pytest.mark.parametrize("n, threshold", [(1, None), (2, 0.2), (4, 0.2)])
def test_the_draw_of_a_second_choice_stays_while_there_is_one(n: int, threshold: float | None) -> None:
    cfg, p, _ = layers.layer(k=2, norm="l1", second_threshold=0.2)
    assert experts.cut(p, cfg, range(n))[1].router.second_threshold == threshold


def test_a_layer_is_pruned_in_blocks_of_128_columns() -> None:
    """Each block is a pool of its own, so the default decides what goes."""
    cfg, p, _ = layers.layer(d_model=130, d_ff=3, n_experts=1, k=1)
    x = np.random.default_rng(1).standard_normal((150, 130))
    found = {n: layerwise.prune(x, p, cfg, 0.5, **({"block": n} if n else {})).masks for n in (None, 128, 129)}
    name = "experts.gate_up_proj"
    assert np.array_equal(found[None][name], found[128][name]) and not np.array_equal(
        found[None][name], found[129][name]
    )


# --- whole experts ---------------------------------------------------------------------------------------------------


def test_scores_of_whole_numbers_have_a_sign() -> None:
    """The minus of an unsigned integer is no minus."""
    assert experts.keep(np.array([0, 1, 2], np.uint8), 1).tolist() == [2]
    assert experts.keep([1.0, 3.0, 2.0], 2).tolist() == [1, 2]  # type: ignore[arg-type]


def test_the_threshold_of_skipping_counts_every_token_with_a_first_choice() -> None:
    w = np.array([[0.75, 0.0], [0.5, 0.5], [0.8, 0.2], [0.0, 0.3], [0.0, 0.2]])
    assert experts.skip_threshold(w) == 0.25
    thirds = (np.arange(1, 12).reshape(11, 1) / np.array([3.0, 7.0])).astype(np.float32)
    assert experts.skip_threshold(thirds) == experts.skip_threshold(thirds.astype(np.float64))
    w[2, 1] = np.nan
    with pytest.raises(NonFiniteError, match="token 2"):
        experts.skip_threshold(w)


def test_every_set_that_naee_tries_is_watched() -> None:
    cfg, p, x = layers.layer(n_experts=5, k=2)
    calls: list[int] = []
    experts.naee.exhaustive(x, p, cfg, 3, watch=lambda: calls.append(0))
    assert len(calls) == 10
    experts.naee.greedy(x, p, cfg, 3, watch=lambda: calls.append(0))
    assert len(calls) == 10 + 5 + 4


def test_naee_tries_stored_experts_where_ids_are_tied_and_leaves_a_stored_shared_one_alone() -> None:
    cfg, p, x = layers.layer(tied=(0, 1, 1, 2, 0, 3, 2), d_shared=4)
    whole = moe.forward(x, p, cfg)[0].y
    sets = list(itertools.combinations(range(4), 2))
    errors = [np.linalg.norm(moe.forward(x, *experts.cut(p, cfg, s))[0].y - whole) for s in sets]
    best = sets[int(np.argmin(errors))]
    assert tuple(experts.naee.exhaustive(x, p, cfg, 2)) == best
    assert len(experts.naee.exhaustive(x, p, cfg, 3)) == 3  # no groups, so any number
    shared = {name: storage.csr.from_dense(w) for name, w in p["shared"].items()}
    assert tuple(experts.naee.exhaustive(x, {**p, "shared": shared}, cfg, 2)) == best


def test_a_set_whose_output_is_no_number_is_infinitely_far() -> None:
    cfg, p, x = layers.layer()
    whole = moe.forward(x, p, cfg)[0].y
    broken = {**p, "experts": {name: w * np.nan for name, w in p["experts"].items()}}
    assert experts.naee.error(x, whole, broken, cfg, [0, 1, 2]) == math.inf


def test_naee_names_the_token_whose_output_overflows() -> None:
    cfg, p, x = layers.layer()
    x = x.copy()
    x[[2, 5]] *= 1e160  # gate times up
    for given in (x, x[None]):
        with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match="token 2"):
            experts.naee.exhaustive(given, p, cfg, 5)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_of_a_float32_layer_are_summed_in_double_precision() -> None:
    cfg, p, x = layers.layer()
    p32 = tree.map(lambda a: a.astype(np.float32), p)
    _, cache = moe.forward(x.astype(np.float32), p32, cfg)
    seen = statistics.observe(cache, cfg, hessians=True)
    assert {v.dtype for v in seen if isinstance(v, np.ndarray)} == {np.dtype(np.int64), np.dtype(np.float64)}
    h = statistics.hidden(cache.experts.a, cfg).astype(np.float64)
    start = cache.experts.plan.start
    want = np.stack([(h[a:b] ** 2).sum(0) for a, b in itertools.pairwise(start)])
    assert np.allclose(seen.h_sumsq, want, rtol=1e-14, atol=0)


def test_the_one_output_that_is_no_number_is_named() -> None:
    cfg, p, x = layers.layer()
    _, cache = moe.forward(x, p, cfg)
    plan = cache.experts.plan
    row = int(plan.start[3])
    a = np.array(cache.experts.a)
    a[row] = np.nan
    broken = cache._replace(experts=cache.experts._replace(a=a))
    with pytest.raises(NonFiniteError, match=rf"expert 3 puts out NaN or infinity for token {int(plan.token[row])}:"):
        statistics.observe(broken, cfg)


def test_statistics_without_hessians_add_up() -> None:
    cfg, p, x = layers.layer()
    _, cache = moe.forward(x, p, cfg)
    plain, full = statistics.observe(cache, cfg), statistics.observe(cache, cfg, hessians=True)
    for a, b in ((plain, plain), (plain, full), (full, plain)):
        both = statistics.add(a, b)
        assert both.x_gram is None and both.h_gram is None and np.array_equal(both.norm, 2 * plain.norm)


def test_the_mean_output_for_one_token_is_its_output_and_logits_have_their_bias() -> None:
    cfg, p, x = layers.layer()
    cfg = dataclasses.replace(cfg, router=dataclasses.replace(cfg.router, bias=True))
    bias = np.random.default_rng(2).standard_normal(cfg.n_experts)
    p = {**p, "router": {**p["router"], "bias": bias}}
    want = np.array([layers.expert(x[4], p, cfg, e)[1] for e in range(cfg.n_experts)])
    assert np.allclose(statistics.mean_outputs(x[4:5], p, cfg), want, rtol=1e-12, atol=1e-14)
    assert np.allclose(statistics.logits(x, p, cfg), x @ p["router"]["weight"].T + bias, rtol=1e-13, atol=1e-14)


# --- stored weights --------------------------------------------------------------------------------------------------

W = np.array([[1.0, 2.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]])  # the last two columns hold nothing


def test_indices_are_as_short_as_they_can_be() -> None:
    assert _make.integer(W, 2**31 - 1) is namespace(W).int32 and _make.integer(W, 2**31) is namespace(W).int64
    for w in (storage.csr.from_dense(W), storage.bsr.from_dense(W, (2, 2))):
        assert w.indices.dtype == w.indptr.dtype == np.int32


def test_a_single_column_is_column_0() -> None:
    assert storage.csr.from_dense(np.ones((3, 1))).indices.tolist() == [0, 0, 0]


def test_empty_columns_at_the_end_keep_their_place_in_scipy() -> None:
    for w in (storage.csr.from_dense(W), storage.bsr.from_dense(W, (2, 2)), storage.nm.from_dense(W, 2, 2)):
        out = w.to_scipy()
        assert out.shape == (2, 4) and all(0 <= out.indices) and all(out.indices < 4)  # SciPy writes where they say
        assert np.array_equal(out.toarray(), W)
    given = storage.bsr.from_dense(W, (2, 2)).to_scipy()
    assert np.array_equal(storage.bsr.from_scipy(given).dense(), W)
    one = storage.nm.from_dense(np.ones((3, 1)), 1, 1)
    assert not one.to_scipy().indices.any() and np.array_equal(one.to_scipy().toarray(), np.ones((3, 1)))


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ShapeError):
        storage.bsr.from_dense(np.ones(3), (1, 1))
    with pytest.raises(ShapeError, match="take w.expert"):
        storage.bsr.from_dense(np.ones((2, 2, 2)), (1, 1)).to_scipy()


def test_parts_of_two_libraries_are_refused() -> None:
    strict = pytest.importorskip("array_api_strict")
    for w in (storage.csr.from_dense(W), storage.bsr.from_dense(W, (2, 2))):
        for name in ("data", "indptr"):
            with pytest.raises(TypeError, match="namespaces"):
                dataclasses.replace(w, **{name: strict.asarray(getattr(w, name).copy())})
    with pytest.raises(TypeError, match="namespaces"):
        storage.Delta(W, np.zeros((2, 1)), strict.asarray(np.zeros((1, 4))))


def test_the_mask_of_differences_is_bool() -> None:
    mask = storage.Delta(W, np.zeros((3, 2, 1)), np.zeros((3, 1, 4))).mask()
    assert mask.dtype == bool and mask.all() and mask.shape == (3, 2, 4)


def test_long_groups_are_filled_up_with_their_lowest_free_columns() -> None:
    """Of more than 16 entries an unstable sort mixes the ties."""
    for seed in range(5):
        stored = np.sort(np.random.default_rng(seed).choice(64, 3, replace=False))
        w = np.zeros((1, 64))
        w[0, stored] = 1.0
        free = [c for c in range(64) if c not in stored][:17]
        assert storage.nm.from_dense(w, 20, 64).position[0].tolist() == sorted([*stored.tolist(), *free])
