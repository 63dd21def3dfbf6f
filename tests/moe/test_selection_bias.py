"""The loss-free bias update (arXiv:2408.15664, algorithm 1), against a loop and by its properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe import moe, presets
from pymoe.backend.errors import ShapeError

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
