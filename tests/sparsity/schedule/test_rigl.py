"""RigL: the exchange against a sort, constant counts, the cosine, and the shares of Erdős-Rényi."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from pymoe.sparsity import masks
from pymoe.sparsity.schedule import rigl

from ..given import PROPERTY, SHARES, frozen, normal


def looped(mask, w, g, n):
    flat, size, pull = mask.reshape(-1).copy(), np.abs(w).reshape(-1), np.abs(g).reshape(-1)
    flat[sorted(np.flatnonzero(flat), key=lambda i: (size[i], i))[:n]] = False
    flat[sorted(np.flatnonzero(~flat), key=lambda i: (-pull[i], i))[:n]] = True
    return flat.reshape(mask.shape)


def test_by_hand():
    mask = frozen([[True, True, True], [False, False, True]])
    w = frozen([[5.0, -1.0, 1.0], [0.0, 0.0, 3.0]])
    g = frozen([[0.0, 2.0, 0.5], [-2.0, 1.0, 9.0]])
    # one of four: of -1 and 1 the first goes; of its |g| = 2 and -2 the first comes: itself
    assert np.array_equal(rigl.update(mask, w, g, 0.25), mask)
    # two of four: -1 and 1 go; of 2, 0.5, -2, 1 the two largest come
    assert rigl.update(mask, w, g, 0.5).tolist() == [[True, True, False], [True, False, True]]
    assert np.array_equal(rigl.update(mask, w, g, 0.24), mask)
    assert rigl.update(mask, w, g, 1.0).tolist() == [[False, True, False], [True, True, True]]


@given(seed=st.integers(0, 2**32), f=SHARES, s=SHARES, few=st.booleans())
@PROPERTY
def test_against_a_sort(seed, f, s, few):
    rng = np.random.default_rng(seed)
    w, g = (rng.integers(-2, 3, (3, 4, 2)) / 2 if few else rng.standard_normal((3, 4, 2)) for _ in range(2))
    mask = masks.random(rng, (3, 4, 2), s)
    w = np.where(mask, w, 0.0)
    found = rigl.update(frozen(mask), frozen(w), frozen(g), f)
    active = int(mask.sum())
    assert found.dtype == bool and int(found.sum()) == active
    assert np.array_equal(found, looped(mask, w, g, masks.count(f, active)))


def test_an_active_infinity_is_not_taken_for_an_inactive_weight():
    mask, w = frozen([False, True, True]), frozen([0.0, np.inf, 1.0])
    assert rigl.update(mask, w, frozen([5.0, 0.0, 0.0]), 0.5).tolist() == [True, True, False]
    assert rigl.update(mask, w, frozen([5.0, 0.0, 4.0]), 1.0).tolist() == [True, False, True]


def test_fraction():
    assert rigl.fraction(0, alpha=0.3, end=8) == 0.3 and rigl.fraction(8, alpha=0.3, end=8) == 0.0
    assert rigl.fraction(9, alpha=0.3, end=8) == rigl.fraction(16, alpha=0.3, end=8) == 0.0
    for t in range(9):
        assert math.isclose(
            rigl.fraction(t, alpha=0.3, end=8), 0.15 * (1 + math.cos(t * math.pi / 8)), rel_tol=1e-15, abs_tol=1e-17
        )
    assert rigl.fraction(4, alpha=0.5, end=8) == pytest.approx(0.25, rel=1e-15)
    for wrong in ({"alpha": 1.5, "end": 8}, {"alpha": 0.3, "end": 0}):
        with pytest.raises(ConfigError):
            rigl.fraction(0, **wrong)
    with pytest.raises(ConfigError, match="step must not be negative, got -1"):
        rigl.fraction(-1, alpha=0.3, end=8)


SHAPES = {"small": (4, 6), "wide": (5, 40), "stack": (3, 8, 10), "large": (50, 70)}


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("s", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_erdos_renyi(s, kernel):
    found = rigl.erdos_renyi(SHAPES, s, kernel=kernel)
    assert list(found) == list(SHAPES) and all(0 <= v <= 1 for v in found.values())
    sizes = {n: math.prod(v) for n, v in SHAPES.items()}
    kept = sum((1 - found[n]) * sizes[n] for n in sizes)
    assert math.isclose(kept, (1 - s) * sum(sizes.values()), rel_tol=1e-12, abs_tol=1e-9)
    axes = {n: v if kernel else v[-2:] for n, v in SHAPES.items()}
    epsilon = [(1 - found[n]) * math.prod(v) / sum(v) for n, v in axes.items() if found[n] > 0]
    assert np.allclose(epsilon, epsilon[0] if epsilon else 0, rtol=1e-12, atol=0)  # one ε for all that are not full
    full = [n for n in SHAPES if found[n] == 0]
    if epsilon:
        assert all(epsilon[0] * sum(axes[n]) / math.prod(axes[n]) >= 1 - 1e-12 for n in full)
    exact = sum(masks.count(found[n], sizes[n]) for n in sizes)
    assert 0 <= s * sum(sizes.values()) - exact + 1e-9 and s * sum(sizes.values()) - exact < len(sizes)


def test_experts_are_matrices_of_their_own():
    one = rigl.erdos_renyi({"a": (8, 10), "b": (40, 50)}, 0.8)
    many = rigl.erdos_renyi({"a": (3, 8, 10), "b": (3, 40, 50)}, 0.8)
    assert many == pytest.approx(one, rel=1e-12)
    assert rigl.erdos_renyi({"a": (3, 8, 10), "b": (40, 50)}, 0.8, kernel=True)["a"] > one["a"]
    assert rigl.erdos_renyi({}, 0.5) == {}


def test_refusals():
    mask, w = np.ones((2, 3), bool), np.ones((2, 3))
    with pytest.raises(ShapeError, match=r"mask must have shape \(2, 3\)"):
        rigl.update(mask[0], w, w, 0.5)
    with pytest.raises(DtypeError):
        rigl.update(w, w, w, 0.5)
    with pytest.raises(ShapeError, match=r"g must have shape \(2, 3\)"):
        rigl.update(mask, w, w[0], 0.5)
    with pytest.raises(NonFiniteError, match=r"g is NaN at \(0, 0\)"):
        rigl.update(mask, w, w * np.nan, 0.5)
    with pytest.raises(NonFiniteError, match=r"w is NaN at \(0, 0\)"):
        rigl.update(mask, w * np.nan, w, 0.5)
    with pytest.raises(ConfigError, match="fraction must be a number"):
        rigl.update(mask, w, w, 1.5)
    for shape in ((3,), (0, 4), ()):
        with pytest.raises(ShapeError, match="Erdős-Rényi needs matrices"):
            rigl.erdos_renyi({"a": shape}, 0.5)
    with pytest.raises(ConfigError, match="s must be a number"):
        rigl.erdos_renyi({"a": (2, 3)}, 2)


def test_a_run_keeps_its_count_and_moves():
    rng = np.random.default_rng(0)
    mask, w = masks.random(rng, (6, 7), 0.8), normal(6, 7)
    first = mask
    for step in range(20):
        mask = rigl.update(mask, w, normal(6, 7, seed=step), rigl.fraction(step, alpha=0.5, end=15))
        assert mask.sum() == first.sum()
    assert not np.array_equal(mask, first)
