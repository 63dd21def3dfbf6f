"""Learning rates and clipping by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.train import clip, schedule


def test_warmup_and_cosine_meet_and_end_at_the_floor():
    rates = [schedule.warmup_cosine(s, lr=0.3, floor=0.02, warmup=10, steps=100) for s in range(130)]
    assert rates[0] == pytest.approx(0.03, rel=1e-15) and rates[9] == rates[10] == max(rates) == 0.3
    assert all(a > b for a, b in zip(rates[10:100], rates[11:101], strict=True))
    assert rates[55] == pytest.approx(0.02 + 0.28 * 0.5 * (1 + math.cos(math.pi * 45 / 90)), rel=1e-15)
    assert set(rates[100:]) == {0.02}


@pytest.mark.parametrize("bad", [{"warmup": 100}, {"warmup": -1}, {"floor": 0.4}, {"floor": -0.1}, {"steps": 0}])
def test_settings_without_meaning_are_refused(bad):
    with pytest.raises(ConfigError):
        schedule.warmup_cosine(3, **({"lr": 0.3, "floor": 0.02, "warmup": 10, "steps": 100} | bad))


def gradients(dtype) -> dict:
    rng = np.random.default_rng(0)
    dp = {"a": {"w": rng.standard_normal((7, 11)).astype(dtype)}, "b": rng.standard_normal(70_001).astype(dtype)}
    for leaf in tree.flatten(dp).values():
        leaf.setflags(write=False)
    return dp


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_norm_is_exact_in_double_precision(dtype):
    dp = gradients(dtype)
    exact = math.sqrt(math.fsum(float(x) ** 2 for leaf in tree.flatten(dp).values() for x in leaf.reshape(-1)))
    assert abs(clip.norm(dp) / exact - 1) < 1e-14


def test_the_norm_does_not_underflow_or_lose_small_entries_in_float32():
    tiny = {"a": np.full(9, 1e-30, np.float32)}
    assert clip.norm(tiny) == pytest.approx(3e-30, rel=1e-6)
    many = {"a": np.ones(2**25, np.float32)}  # a float32 sum of ones stops at 2**24
    assert clip.norm(many) == math.sqrt(2**25)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_scales_all_tensors_alike_and_keeps_the_dtype(dtype):
    dp = gradients(dtype)
    before = clip.norm(dp)
    clipped, reported = clip.by_global_norm(dp, before / 3)
    assert reported == before
    assert clip.norm(clipped) == pytest.approx(before / 3, rel=1e-6 if dtype == "float32" else 1e-13)
    for name, leaf in tree.flatten(clipped).items():
        assert leaf.dtype == np.dtype(dtype)
        np.testing.assert_allclose(leaf, tree.flatten(dp)[name] / 3, rtol=1e-6 if dtype == "float32" else 1e-14)


def test_below_the_limit_and_without_a_finite_norm_nothing_changes():
    dp = gradients("float64")
    same, _ = clip.by_global_norm(dp, 1e9)
    assert all(a is b for a, b in zip(tree.flatten(same).values(), tree.flatten(dp).values(), strict=True))
    _, norm = clip.by_global_norm({"a": np.array([1.0, np.nan])}, 1.0)
    assert math.isnan(norm)
    assert clip.by_global_norm({"a": np.zeros(3)}, 1.0)[1] == 0.0
