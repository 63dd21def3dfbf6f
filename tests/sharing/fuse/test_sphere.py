"""Along the sphere: angles and lengths, limits that must not jump, the mean as the minimum that it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.sharing.fuse import multislerp, slerp
from tests.sharing.fuse.cases import PROPERTY, off

U = 2**-53


def pair(seed, shape=(3, 4)):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape), 2.5 * rng.standard_normal(shape)


def angle(a, b):
    a, b = a.ravel() / np.linalg.norm(a), b.ravel() / np.linalg.norm(b)
    return 2 * math.atan2(np.linalg.norm(a - b), np.linalg.norm(a + b))


@PROPERTY
@given(st.integers(0, 10_000), st.floats(0.01, 0.99))
def test_it_walks_the_arc_evenly(seed, t):
    a, b = pair(seed)
    b = b / np.linalg.norm(b) * np.linalg.norm(a)
    c = slerp(a, b, t)
    assert abs(np.linalg.norm(c) / np.linalg.norm(a) - 1) <= 16 * U
    assert abs(angle(a, c) - t * angle(a, b)) <= 32 * U and abs(angle(c, b) - (1 - t) * angle(a, b)) <= 32 * U
    linear = (1 - t) * a + t * b  # negative control
    assert abs(np.linalg.norm(linear) / np.linalg.norm(a) - 1) > 1e-6
    assert np.array_equal(slerp(a, b, 0), a) and np.array_equal(slerp(a, b, 1), b)
    assert np.array_equal(slerp(a, a, t), a)  # M1


def test_nearly_parallel_and_opposite_do_not_jump():
    a, b = np.array([3.0, 0.0]), np.array([0.0, 3.0])
    for tiny in (0.0, 1e-300, 1e-16, 1e-9, 0.99e-8, 1.01e-8, 1e-6, 1e-3):
        c = slerp(a, a + tiny * b, 0.25)
        want = a + 0.25 * tiny * b
        assert off(c, want) <= 2 * U + tiny**2
        assert abs(c[1] - want[1]) <= (8 * U + tiny**2) * abs(want[1])  # the small part too
    assert off(slerp(a, -a, 0.25), a / 2) <= 8 * U and off(slerp(a, 0 * a, 0.5), a / 2) <= 8 * U
    assert not slerp(0 * a, 0 * a, 0.5).any()
    huge = slerp(a * 1e200, b * 1e200, 0.5)
    assert off(huge / 1e200, np.full(2, 3 / math.sqrt(2))) <= 8 * U
    assert off(slerp(a * 1e-200, b * 1e-200, 0.5) * 1e200, huge / 1e200) <= 8 * U


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_mean_is_the_minimum(n):
    rng = np.random.default_rng(n)
    tensors = [rng.standard_normal((2, 3)) + 1 for _ in range(n)]
    w = rng.random(n) + 0.1
    m = multislerp(tensors, w)
    lengths = [np.linalg.norm(a) for a in tensors]
    assert abs(np.linalg.norm(m) - sum(w * lengths) / sum(w)) <= 16 * U * np.linalg.norm(m)

    def cost(c):
        return sum(wi * angle(c, a) ** 2 for wi, a in zip(w, tensors, strict=True))

    for _ in range(50):
        assert cost(m + 1e-4 * rng.standard_normal(m.shape)) > cost(m)
    start = multislerp(tensors, w, iterations=0)
    flat = sum(wi * a / length for wi, a, length in zip(w, tensors, lengths, strict=True))
    assert angle(start, flat) < 1e-14
    assert n == 2 or cost(start) > cost(m) + 1e-9  # the start (mergekit's answer) is not the mean on the sphere


@PROPERTY
@given(st.integers(0, 10_000), st.floats(0.02, 0.98))
def test_two_of_one_length_are_slerp(seed, t):
    a, b = pair(seed)
    b = b / np.linalg.norm(b) * np.linalg.norm(a)
    assert off(multislerp([a, b], [1 - t, t]), slerp(a, b, t)) < 1e-13
    assert off(multislerp([a, a, a], [1, t, 3]), a) <= 8 * U


def test_without_a_direction_the_straight_mean():
    a, b = pair(0)
    assert off(multislerp([a, -a], [1, 3]), -a / 2) <= 8 * U
    assert not multislerp([0 * a, 0 * a], [1, 1]).any()
    assert off(multislerp([a, 0 * a], [1, 1]), a / 2) <= 8 * U  # half the length, the direction of a
    one = multislerp([np.array([2.0]), np.array([-1.0])], [1, 1])
    assert one == 0.5  # a single number
    assert multislerp([a.astype(np.float32), b.astype(np.float32)], [1, 1]).dtype == np.float32


def test_bad_input():
    a, b = pair(0)
    for t in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="t must be"):
            slerp(a, b, t)
    with pytest.raises(ShapeError):
        slerp(a, b[1:], 0.5)
    with pytest.raises(NonFiniteError):
        slerp(a, b * np.nan, 0.5)
    for weights in ([1], [0, 0], [1, -1]):
        with pytest.raises(ConfigError, match="weights"):
            multislerp([a, b], weights)
    with pytest.raises(ConfigError):
        multislerp([], [])
