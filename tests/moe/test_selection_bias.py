"""The loss-free bias update (arXiv:2408.15664, algorithm 1), against a loop and by its properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe import moe, presets
from pymoe.backend.errors import ShapeError
from pymoe.moe import selection_bias

from ..oracles.loops import bias_update as loop
from .frames import frozen, make

COUNTS = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=40)
quick = settings(derandomize=True, deadline=None, max_examples=200)


@quick
@given(COUNTS, st.sampled_from([2.0**-10, 0.001, 0.5]))
def test_agrees_with_the_loop_bitwise(counts: list[int], rate: float) -> None:
    rng = np.random.default_rng(len(counts))
    bias = frozen(rng.standard_normal(len(counts)))
    found = moe.bias_update(bias, frozen(np.array(counts)), rate)
    assert found.tolist() == loop(bias.tolist(), counts, rate)


@quick
@given(COUNTS)
def test_equal_loads_stay_and_the_sign_is_against_the_load(counts: list[int]) -> None:
    n = np.array(counts)
    step = moe.bias_update(np.zeros(len(n)), n, 1.0)
    assert set(step.tolist()) <= {-1.0, 0.0, 1.0}
    # the exact comparison, in integers: e is above the mean when E n_e > Σ n
    exact = [(sum(counts) > len(counts) * c) - (sum(counts) < len(counts) * c) for c in counts]
    assert step.tolist() == exact
    assert not moe.bias_update(np.zeros(5), np.full(5, counts[0]), 1.0).any()
    order = np.random.default_rng(0).permutation(len(n))
    assert np.array_equal(moe.bias_update(np.zeros(len(n)), n[order], 1.0), step[order])
    assert np.array_equal(moe.bias_update(np.zeros(len(n)), 8 * n, 1.0), step), "counts and rates of counts agree"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_keeps_the_dtype_and_the_old_bias(dtype: type) -> None:
    bias = frozen(np.array([0.5, 0.25, 0.0], dtype))
    new = moe.bias_update(bias, np.array([5, 0, 1]), 0.125)
    assert new.dtype == dtype and new.tolist() == [0.375, 0.375, 0.125]
    assert bias.tolist() == [0.5, 0.25, 0.0]


def test_refuses_a_load_of_another_layer() -> None:
    with pytest.raises(ShapeError, match=r"load must have shape \(3,\), got \(4,\)"):
        moe.bias_update(np.zeros(3), np.zeros(4, np.int64), 0.1)


def test_balances_a_router_that_collapsed() -> None:
    """Expert 0 wins every token; after the updates the load is even, the weights never saw the bias."""
    cfg = presets.deepseek_v3(d_model=6, d_ff=4, n_experts=5, k=1)
    f = make(cfg, 400, spread=0.5)
    bias = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    loads = []
    for _ in range(400):
        p = {**f.p, "router": {**f.p["router"], "selection_bias": bias}}
        out, _ = moe.forward(f.x, p, cfg)
        loads.append(out.routing.load)
        bias = moe.bias_update(bias, out.routing.load, 0.01)
    assert loads[0].max() > 300
    assert loads[-1].max() < 2 * 400 / 5


def test_padding_is_not_counted() -> None:
    """Megatron #1984: padding moved the bias.  The load is that of the real tokens alone."""
    f = make(presets.deepseek_v3(d_model=6, d_ff=4, n_experts=5, k=2), 30, mask=True)
    load = f.forward()[0].routing.load
    alone = f._replace(x=frozen(f.x[f.mask]), mask=None).forward()[0].routing.load
    assert load.sum() == 2 * f.mask.sum() and np.array_equal(load, alone)


# ---- what does not belong in the counts of a step ----


def test_centred_agrees_with_the_loop_and_keeps_the_mean() -> None:
    """torchtitan #1506: without centring the biases drift together; the choice is the same either way."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        bias, n = rng.standard_normal(7), rng.integers(0, 50, 7)
        found = moe.bias_update(bias, n, 0.125, centre=True)
        assert np.allclose(found, loop(bias.tolist(), n.tolist(), 0.125, centre=True), rtol=0, atol=1e-15)
        assert abs(found.mean() - bias.mean()) < 1e-15
        plain = moe.bias_update(bias, n, 0.125)
        assert np.ptp(found - plain) < 1e-15, "they differ by one number for all"


def counted(f, parts: list[np.ndarray]) -> selection_bias.Counts:
    counts = selection_bias.none(f.p["router"]["selection_bias"])
    for i, rows in enumerate(parts):
        mask = None if f.mask is None else f.mask[rows]
        load = f.forward(x=f.x[rows], mask=mask)[0].routing.load
        counts = selection_bias.add(counts, load, micro_batch=i)
        counts = selection_bias.add(counts, load, micro_batch=i)  # its activations are computed again
        counts = selection_bias.add(counts, load, training=False)  # torchtitan #4148: an evaluation in between
    return counts


def test_the_step_of_micro_batches_is_that_of_the_whole_batch() -> None:
    """One update a step, padding out, evaluation out, recomputation once, workers summed: five exclusions, one bias."""
    f = make(presets.deepseek_v3(d_model=6, d_ff=4, n_experts=5, k=2), 30, mask=True, seed=3)
    f = f._replace(p={**f.p, "router": {**f.p["router"], "selection_bias": frozen(np.zeros(5))}})
    bias, whole = f.p["router"]["selection_bias"], f.forward()[0].routing.load
    wanted = moe.bias_update(bias, whole, 0.25)
    parts = np.split(np.arange(30), [4, 11, 19])
    counts = counted(f, parts)
    assert np.array_equal(counts.n, whole) and counts.seen == {0, 1, 2, 3}
    assert np.array_equal(moe.bias_update(bias, counts, 0.25), wanted)
    mine, other = counted(f, parts[:2]), counted(f, parts[2:])  # two workers
    reduced = moe.bias_update(bias, mine, 0.25, reduce=lambda n: n + other.n)
    assert np.array_equal(reduced, wanted)
    assert not np.array_equal(moe.bias_update(bias, mine, 0.25), wanted), "control: one worker alone moves otherwise"
    each = bias
    for rows in parts:
        each = moe.bias_update(each, f.forward(x=f.x[rows], mask=f.mask[rows])[0].routing.load, 0.25)
    assert not np.array_equal(each, wanted), "control: an update for each micro-batch is another rule"
    frequency = moe.bias_update(bias, whole / whole.sum(), 0.25)
    assert np.array_equal(frequency, wanted), "counts and frequencies, each with its own mean"


def test_counts_are_integers_and_only_named_micro_batches_are_remembered() -> None:
    counts = selection_bias.none(np.zeros(2, np.float32))
    assert counts.n.dtype == np.int64 and counts.seen == frozenset()
    twice = selection_bias.add(selection_bias.add(counts, np.array([1, 2])), np.array([1, 2]))
    assert twice.n.tolist() == [2, 4] and twice.n.dtype == np.int64 and twice.seen == frozenset()


def test_add_refuses_the_load_of_another_layer() -> None:
    with pytest.raises(ShapeError, match=r"load must have shape \(3,\), got \(4,\)"):
        selection_bias.add(selection_bias.none(np.zeros(3)), np.zeros(4, np.int64))
