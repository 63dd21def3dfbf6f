"""Inputs that mutation testing found to be missing: each kills mutants that every other test of the ops let live."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import ops
from pymoe.backend.errors import DtypeError


@pytest.mark.parametrize("name", ["log_softmax", "logsumexp"])
def test_a_row_of_wide_spread_is_shifted_by_its_maximum(name: str) -> None:
    """Shifted by the minimum, e^1600 overflows; shifted by one maximum for all rows, the lower row vanishes."""
    x = np.array([[-800.0, 800.0, 0.0], [-1600.0, -1600.0, -1600.0]])
    y, _ = getattr(ops, name).forward(x)
    wanted = x - np.array([[800.0], [-1600.0 + np.log(3)]]) if name == "log_softmax" else [800.0, -1600.0 + np.log(3)]
    assert np.allclose(y, wanted, rtol=1e-12, atol=0)


def test_an_ignored_target_needs_no_second_class() -> None:
    loss, cache = ops.cross_entropy.forward(np.array([[3.0], [2.0]]), np.array([-100, 0]))
    assert loss == 0.0 and not ops.cross_entropy.backward(np.array(1.0), cache)[0].any()


def test_a_long_masked_mean_does_not_stall_in_float32() -> None:
    x = np.full((1, 200_001, 2), 0.1, np.float32)  # two columns: NumPy adds row by row, not in pairs
    mask = np.ones((1, 200_001), bool)
    mask[0, 7] = False
    y, _ = ops.mean_pool.forward(x, mask)
    assert abs(float(y[0, 0]) / float(np.float32(0.1)) - 1) < 2.0**-23


def test_label_smoothing_of_many_classes_is_summed_in_double_precision() -> None:
    """Logits of 1e4 with a mean near 0: a float32 sum over them is off by more than the float64 loss may be."""
    rng = np.random.default_rng(0)
    z = (rng.standard_normal((3, 5000)) * 1e4).astype(np.float32)
    target = np.array([1, 2, 3])
    loss32, _ = ops.cross_entropy.forward(z, target, label_smoothing=1.0)
    loss64, _ = ops.cross_entropy.forward(z.astype(np.float64), target, label_smoothing=1.0)
    assert abs(loss32 / loss64 - 1) < 1e-13


def test_rope_of_no_width_is_nothing() -> None:
    y, cache = ops.rope.forward(np.ones((2, 3, 4, 0)), np.arange(4))
    assert y.shape == (2, 3, 4, 0) and ops.rope.backward(y, cache)[0].shape == y.shape


def test_an_ignored_target_of_a_mixture_needs_no_second_class() -> None:
    loss, cache = ops.mixture_nll.forward(np.zeros((2, 2, 1)), np.array([0.5, 0.5]), np.array([-100, 0]))
    assert loss == 0.0 and not ops.mixture_nll.backward(1.0, cache)[0].any()


def test_an_ignored_row_of_a_mixture_may_hold_nothing_but_minus_infinity() -> None:
    z = np.zeros((2, 3, 4))
    z[:, 1] = -np.inf
    loss, cache = ops.mixture_nll.forward(z, np.array([0.5, 0.5]), np.array([1, -100, 2]))
    assert abs(loss - np.log(4)) < 1e-15
    assert np.isfinite(ops.mixture_nll.backward(1.0, cache)[0]).all()


def test_what_only_a_model_without_weight_can_say_teaches_nothing() -> None:
    z = np.zeros((2, 1, 3))
    z[0, 0, 2] = -np.inf
    loss, cache = ops.mixture_nll.forward(z, np.array([1.0, 0.0]), np.array([2]))
    dz, rest = ops.mixture_nll.backward(1.0, cache)
    assert loss == np.inf and not dz.any() and not rest["weight"].any()


def test_a_mixture_refuses_an_array_whose_values_do_not_all_count() -> None:
    with pytest.raises(DtypeError, match="MaskedArray"):
        ops.mixture.forward(np.ma.masked_array(np.ones((2, 3))), np.ones(2))


def test_a_clamped_unit_at_its_limit_passes_the_gradient() -> None:
    x = np.array([[2.0, -2.0, 2.0, -2.0, 2.5, 3.0]])  # gates 2, -2, 2; ups -2, 2.5, 3 against a limit of 2
    _, cache = ops.gated.forward(x, act="silu", limit=2.0)
    dx, _ = ops.gated.backward(np.ones((1, 3)), cache)
    assert (dx[0, [0, 3]] != 0).all() and (dx[0, [4, 5]] == 0).all()


def test_the_default_epsilon_of_the_scaled_norm() -> None:
    x, w = np.full((1, 2), 1e-3), np.ones(2)
    assert np.array_equal(ops.scaled_rms_norm.forward(x, w)[0], ops.scaled_rms_norm.forward(x, w, eps=1e-6)[0])
    assert ops.scaled_rms_norm.forward(x, w)[0][0, 0] < 0.8


def test_the_root_of_softplus_far_from_zero() -> None:
    s, cache = ops.sqrt_softplus.forward(np.array([-1600.0, -1000.0, 1000.0]))
    slope, _ = ops.sqrt_softplus.backward(np.ones(3), cache)
    assert np.allclose(s, [0.0, np.exp(-500.0), 1000.0**0.5], rtol=1e-13, atol=0)
    assert np.allclose(slope, [0.0, np.exp(-500.0) / 2, 0.5 / 1000.0**0.5], rtol=1e-13, atol=0)


def test_the_root_of_softplus_keeps_its_real_part_under_a_complex_step() -> None:
    s, _ = ops.sqrt_softplus.forward(np.array([-50.0 + 1e-200j, 2.0 + 1e-200j]))
    wanted, cache = ops.sqrt_softplus.forward(np.array([-50.0, 2.0]))
    assert np.allclose(s.real, wanted, rtol=1e-15, atol=0)
    assert np.allclose(s.imag / 1e-200, ops.sqrt_softplus.backward(np.ones(2), cache)[0], rtol=1e-14, atol=0)
