"""exp, tanh and σ of the leaf loops against long double and mpmath, over every magnitude."""

from __future__ import annotations

import numpy as np
import pytest
from mpmath import mp, mpf

from pymoe.kernels import cython


def ulps(got, exact):
    """|got - exact| in units in the last place of got; exact is in a wider type."""
    spacing = np.maximum(np.spacing(np.abs(got)), np.finfo(got.dtype).smallest_subnormal).astype(exact.dtype)
    return float(np.max(np.abs(got.astype(exact.dtype) - exact) / spacing))


def exp_of(x):
    """σ(x) is e^x to the last bit where 1 + e^x is 1."""
    return cython.act_forward(x, "sigmoid")


def test_exp_float_every_reduction():
    x = np.linspace(-104, -17.4, 1_000_003).astype("f4")
    normal = x > -87
    exact = np.exp(x.astype("f8"))
    assert ulps(exp_of(x[normal]), exact[normal]) <= 1.5
    assert ulps(exp_of(x[~normal]), exact[~normal]) <= 1.5  # below the smallest normal number: rounded once


def test_exp_double_every_reduction():
    x = np.linspace(-746, -37.5, 300_007)
    if np.finfo("g").eps > 2e-19:
        pytest.skip("long double is no wider than double here")
    assert ulps(exp_of(x), np.exp(x.astype("g"))) <= 2


def test_a_wrong_coefficient_would_be_seen():
    x = np.linspace(-80, -20, 1001).astype("f4")
    exact = np.exp(x.astype("f8"))
    assert ulps(exp_of(x), exact * (1 + 4e-7)) > 1.5


@pytest.mark.parametrize("dtype", ["f4", "f8", "g", "c16"])
def test_ends(dtype):
    x = np.array([-np.inf, -1e30, -2e4, 0, 2e4, 1e30, np.inf]).astype(dtype)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(cython.act_forward(x[1:-1], "sigmoid"), np.array([0, 0, 0.5, 1, 1]).astype(dtype))
        if dtype != "c16":
            np.testing.assert_array_equal(cython.act_forward(x[[0, -1]], "sigmoid"), [0, 1])
            assert np.isnan(cython.act_forward(np.array([np.nan], dtype=dtype), "sigmoid"))[0]
    if dtype == "f8":
        assert cython.act_forward(np.array([-744.5]), "sigmoid")[0] == 5e-324 == np.exp(-744.5)


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh", "sigmoid"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_values_and_slopes_against_mpmath(act, dtype):
    """Within 8 u of the largest |f| (and |f'|) on [-12, 12], and a difference of 0.1 % at one point is seen."""
    x = np.concatenate([np.linspace(-12, 12, 97), [1e-8, -1e-8, 1e-3, 0.0]]).astype(dtype)
    with mp.workdps(50):
        c, a = mp.sqrt(2 / mp.pi), mpf("0.044715")
        f = {
            "silu": lambda t: t / (1 + mp.exp(-t)),
            "sigmoid": lambda t: 1 / (1 + mp.exp(-t)),
            "gelu": lambda t: t * (1 + mp.erf(t / mp.sqrt(2))) / 2,
            "gelu_tanh": lambda t: t * (1 + mp.tanh(c * (t + a * t**3))) / 2,
        }[act]
        points = [mpf(v) for v in x.astype(float).tolist()]
        value = np.array([mp.nstr(f(t), 25) for t in points]).astype("g")
        slope = np.array([mp.nstr(mp.diff(f, t), 25) for t in points]).astype("g")
    u = np.finfo(dtype).eps / 2
    one = np.ones_like(x)
    # f' at 12 needs f near it: 16 u of the largest slope
    for got, want, most in ((cython.act_forward(x, act), value, 8), (cython.act_backward(one, x, act), slope, 16)):
        scale = np.max(np.abs(want))
        assert np.max(np.abs(got - want)) <= most * u * scale
        spoilt = want.copy()
        spoilt[np.argmax(np.abs(want))] *= 1.001
        assert np.max(np.abs(got - spoilt)) > most * u * scale


def test_small_values_keep_relative_accuracy():
    """σ and silu far to the left, where subtracting from 1 would leave nothing."""
    x = np.array([-30.0, -60.0, -87.0], dtype="f4")
    want = x.astype("f8") * np.exp(x.astype("f8"))
    np.testing.assert_allclose(cython.act_forward(x, "silu"), want, rtol=4e-7)
