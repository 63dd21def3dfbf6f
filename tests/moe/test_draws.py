"""Draws are values: made by the caller's generator, only where the settings ask, never inside the layer."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import moe
from pymoe.moe import Draws

from .frames import bits, config, frozen, make


def test_only_what_the_settings_draw() -> None:
    rng = np.random.default_rng(0)
    assert moe.draw(rng, config(), 7) == Draws()
    every = moe.draw(rng, config(noise="learned", jitter=0.25, second_threshold=0.2), 5, np.float32)
    drawn = [a for a in every if a is not None]
    assert [a.shape for a in drawn] == [(5, 6), (5, 3), (5,)] and {a.dtype for a in drawn} == {np.dtype(np.float32)}


def test_their_distributions() -> None:
    d = moe.draw(np.random.default_rng(0), config(noise="learned", jitter=0.25, second_threshold=0.2), 4000)
    assert abs(d.noise.mean()) < 0.03 and abs(d.noise.std() - 1) < 0.03
    assert 0.75 <= d.jitter.min() < 0.76 and 1.24 < d.jitter.max() < 1.25
    assert 0 <= d.second.min() and d.second.max() < 1 and abs(d.second.mean() - 0.5) < 0.03


def test_the_same_generator_draws_the_same() -> None:
    cfg = config(noise="learned", jitter=0.25)
    a, b, c = (moe.draw(np.random.default_rng(seed), cfg, 7) for seed in (3, 3, 4))
    assert bits(a.noise, a.jitter) == bits(b.noise, b.jitter) != bits(c.noise, c.jitter)


def test_the_second_choice_is_kept_with_the_stated_probability() -> None:
    """P = min(1, g₂ / threshold) over many draws; without draws every second choice is kept."""
    cfg = config(second_threshold=0.6, norm="l1", losses=())
    f = make(cfg, 1)
    x = frozen(np.repeat(f.x, 20000, axis=0))
    full, _ = moe.forward(x[:1], f.p, cfg)
    g2 = float(full.routing.weight[0, 1])
    out, _ = moe.forward(x, f.p, cfg, draws=moe.draw(np.random.default_rng(1), cfg, 20000))
    assert full.routing.kept is None and out.routing.kept[:, 0].all()
    wanted = min(1.0, g2 / 0.6)
    assert 0.2 < wanted < 0.95
    assert out.routing.kept[:, 1].mean() == pytest.approx(wanted, abs=4 * np.sqrt(0.25 / 20000))
    assert out.routing.load.sum() == 40000, "the load counts choices before any drop"
