"""Mean and low-rank differences: Eckart and Young's error, the ends of the scale, signs, a layer that runs on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from pymoe import moe, presets
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.sharing import low_rank
from pymoe.storage import Delta

from .layers import U64, frozen, off

quick = run(derandomize=True, database=None, deadline=None, max_examples=30)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))


def normal(seed: int, shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
    return frozen(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


@quick
@given(st.integers(0, 1 << 20), SHAPES)
def test_the_error_of_every_rank_is_the_tail_of_the_singular_values(seed: int, shape: tuple[int, int, int]) -> None:
    w = normal(seed, shape)
    size = np.linalg.norm(w)
    apart = w - w.mean(0)
    s = np.linalg.svd(apart, compute_uv=False)
    predicted = low_rank.errors(w)
    for rank in range(min(shape[1:]) + 1):
        gap = np.linalg.norm(low_rank.delta(w, rank).dense() - w, axis=(1, 2))
        assert np.abs(gap - np.sqrt((s[:, rank:] ** 2).sum(1))).max() <= 1e-13 * size
        assert np.abs(gap - predicted[:, rank]).max() <= 1e-13 * size


@quick
@given(st.integers(0, 1 << 20), SHAPES, st.integers(0, 3))
def test_nothing_of_that_rank_is_nearer(seed: int, shape: tuple[int, int, int], step: int) -> None:
    """Moving a and b off the optimum in a random direction never helps."""
    w = normal(seed, shape)
    mean, a, b = low_rank.factors(w, 1)
    rng = np.random.default_rng(seed)
    best = np.linalg.norm(w - mean - a @ b)
    scale = 10.0**-step
    moved = (a + scale * rng.standard_normal(a.shape)) @ (b + scale * rng.standard_normal(b.shape))
    assert np.linalg.norm(w - mean - moved) >= best - 1e-14 * np.linalg.norm(w)


def test_the_ends_rank_zero_is_the_mean_and_full_rank_the_experts() -> None:
    w = normal(0, (3, 5, 4))
    none = low_rank.delta(w, 0)
    assert none.a.shape == (3, 5, 0) and (none.dense() == none.mean).all()
    assert off(none.mean, w.mean(0)) <= 4
    assert off(low_rank.delta(w, 4).dense(), w) <= 32
    same = frozen(np.stack([w[0]] * 3))
    for rank in (0, 2, 4):
        assert (low_rank.delta(same, rank).dense() == same).all()


def test_signs_are_fixed_and_equal_experts_turned_round_give_equal_factors() -> None:
    w = normal(0, (2, 6, 4))
    _, a, b = low_rank.factors(w, 4)
    for one in a:
        for column in one.T:
            if np.abs(column).max() > 1e-10:
                assert column[np.argmax(np.abs(column))] > 0
    again = low_rank.factors(w.copy(order="F"), 4)
    assert (again[1] == a).all() and (again[2] == b).all()
    assert np.allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=2), rtol=1e-13, atol=0)  # √S on both sides


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_runs_on_it_and_full_rank_is_the_layer(dtype: Any) -> None:
    cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    p = moe.init(np.random.default_rng(0), cfg, dtype)
    x = normal(1, (7, 5), dtype)
    y = moe.forward(x, p, cfg)[0].y
    gaps = []
    for rank in (0, 2, 5):
        experts = {n: low_rank.delta(a, min(rank, min(a.shape[1:]))) for n, a in p["experts"].items()}
        assert all(isinstance(w, Delta) and w.dtype == dtype for w in experts.values())
        out, cache = moe.forward(x, p | {"experts": experts}, cfg)
        gaps.append(float(np.abs(out.y - y).max()))
        _, dp = moe.backward(np.ones_like(out.y), cache)
        assert dp["experts"]["down_proj"].a.shape == experts["down_proj"].a.shape
    assert gaps[0] > gaps[2] and gaps[2] <= 64 * float(np.finfo(dtype).eps) * np.abs(y).max()
    assert gaps[1] > 1e6 * U64  # control: rank 2 is not enough


def test_what_is_refused() -> None:
    w = normal(0, (2, 3, 4))
    for rank in (4, -1, 1.0):
        with pytest.raises(ConfigError, match="rank must be"):
            low_rank.delta(w, rank)
    with pytest.raises(ShapeError, match="experts must have shape"):
        low_rank.delta(w[0], 1)
    with pytest.raises(NonFiniteError, match=r"experts is nan at \(1, 2, 0\)"):
        bad = w.copy()
        bad[1, 2, 0] = np.nan
        low_rank.delta(bad, 1)
    with pytest.raises(ConfigError, match="number of experts"):
        low_rank.delta(np.ones((0, 3, 4)), 1)
