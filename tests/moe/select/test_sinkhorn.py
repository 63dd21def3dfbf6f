"""Sinkhorn: the plan's margins, large logits, the scores it comes from, padding, and what it decides."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe import moe
from pymoe.moe import MoEConfig, RouterConfig
from pymoe.moe.select import sinkhorn

from ..frames import frozen, relative


def loop(z: list[list[float]], rounds: int) -> list[float]:
    """log v after so many rounds on exp(z) itself."""
    tokens, experts = len(z), len(z[0])
    v = [1.0] * experts
    for _ in range(rounds):
        u = [1 / tokens / math.fsum(b * math.exp(a) for a, b in zip(row, v, strict=True)) for row in z]
        v = [1 / experts / math.fsum(u[t] * math.exp(z[t][e]) for t in range(tokens)) for e in range(experts)]
    return [math.log(a) for a in v]


def test_the_margins_of_the_plan() -> None:
    z = np.random.default_rng(0).standard_normal((9, 4)) * 2
    v = sinkhorn.prices(frozen(z), tolerance=1e-14)
    assert relative(v, loop(z.tolist(), 400)) <= 1e-11
    u = -np.log(9) - np.log(np.exp(z + v).sum(1))
    plan = np.exp(z + v + u[:, None])
    assert relative(plan.sum(1), np.full(9, 1 / 9)) <= 1e-12 and relative(plan.sum(0), np.full(4, 1 / 4)) <= 1e-12


def test_it_stops_by_the_tolerance() -> None:
    z = np.random.default_rng(0).standard_normal((9, 4)) * 2
    exact = sinkhorn.prices(z, tolerance=1e-14)
    loose = sinkhorn.prices(z, tolerance=0.05)
    assert 1e-4 < np.abs(loose - exact).max() < 0.5
    assert np.abs(sinkhorn.prices(z) - exact).max() < 1e-3
    rounds = [loop(z.tolist(), n) for n in range(1, 40)]
    changes = [np.mean(np.abs(np.subtract(a, b))) for a, b in zip(rounds, [[0.0] * 4, *rounds], strict=False)]
    stop = next(i for i, change in enumerate(changes) if change <= 0.05)
    assert relative(loose, rounds[stop]) <= 1e-12


def test_large_logits_do_not_overflow() -> None:
    z = np.random.default_rng(1).standard_normal((8, 3))
    for shift in (2.0**10, -(2.0**10)):
        assert np.abs(sinkhorn.prices(z + shift) - sinkhorn.prices(z)).max() < 1e-9  # u takes it
    apart = np.linspace(-3000, 3000, 8)[:, None]  # each token has a scale of its own
    assert np.abs(sinkhorn.prices(z + apart) - sinkhorn.prices(z)).max() < 1e-9
    assert np.isfinite(sinkhorn.prices(z * 1e4)).all()
    assert np.isfinite(sinkhorn.prices((z * 400).astype(np.float32))).all()


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_scores_lead_back_to_the_logits(score: str) -> None:
    z = np.random.default_rng(2).standard_normal((12, 4)) * 3
    s = np.exp(z) / np.exp(z).sum(1, keepdims=True) if score == "softmax" else 1 / (1 + np.exp(-z))
    found = sinkhorn.logits(frozen(s), RouterConfig(4, 1, score=score))
    assert (
        relative(found - found[:, :1] if score == "softmax" else found, z - z[:, :1] if score == "softmax" else z)
        < 1e-13
    )
    idx, kept = sinkhorn.select(s, RouterConfig(4, 2, score=score, select="sinkhorn"))
    wanted = np.argsort(-(z + sinkhorn.prices(z)), axis=1, kind="stable")[:, :2]
    assert kept is None and np.array_equal(idx, wanted)


def test_scores_that_rounded_to_their_ends() -> None:
    sigmoid = sinkhorn.logits(np.array([[1.0, 0.0, 0.5, 1 - 2.0**-53]]), RouterConfig(4, 1, score="sigmoid"))
    assert relative(sigmoid[0, [0, 2, 3]], [53 * math.log(2), 0.0, 53 * math.log(2)]) < 1e-14 and sigmoid[0, 1] < -700
    softmax = sinkhorn.logits(np.array([[1.0, 0.0]]), RouterConfig(2, 1))
    assert softmax.tolist() == [[0.0, -np.inf]]
    v = sinkhorn.prices(np.array([[0.0, -np.inf], [0.0, -np.inf]]))
    assert np.isfinite(v).all()
    assert sinkhorn.logits(softmax, RouterConfig(2, 1, select_on="logits")) is softmax
    own = RouterConfig(2, 1, score=type("own", (), {"forward": print, "backward": print}))
    assert sinkhorn.logits(np.array([[2.0, 3.0]]), own).tolist() == [[2.0, 3.0]]


def test_padding_and_nothing() -> None:
    z = np.random.default_rng(3).standard_normal((9, 4))
    real = np.arange(9) % 3 > 0
    dirty = np.where(real[:, None], z, 77.0)
    assert np.array_equal(sinkhorn.prices(dirty, real), sinkhorn.prices(z, real))
    assert relative(sinkhorn.prices(z, real), sinkhorn.prices(z[real])) <= 1e-14
    assert not sinkhorn.prices(z, np.zeros(9, bool)).any() and not sinkhorn.prices(z[:0]).any()
    assert sinkhorn.select(z[:0], RouterConfig(4, 2, select="sinkhorn"))[0].shape == (0, 2)


def test_one_token_and_one_expert() -> None:
    v = sinkhorn.prices(np.array([[1.0, 3.0, 2.0]]), tolerance=1e-14)
    assert relative(v - v[0], [0.0, -2.0, -1.0]) <= 1e-14  # the only plan: every expert a third of the token
    assert sinkhorn.prices(np.array([[1.0], [2.0]])).shape == (1,)


def test_ties_and_balance() -> None:
    s = np.full((6, 3), 1 / 3)
    assert sinkhorn.select(s, RouterConfig(3, 2, select="sinkhorn"))[0].tolist() == [[0, 1]] * 6
    z = np.random.default_rng(4).standard_normal((400, 4)) + np.array([3.0, 0.0, 0.0, -3.0])
    s = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    load = np.bincount(sinkhorn.select(s, RouterConfig(4, 1, select="sinkhorn"))[0][:, 0], minlength=4)
    assert load.min() > 70 and load.max() < 130  # top-1 gives one expert nearly all


def test_in_the_layer() -> None:
    cfg = MoEConfig(3, 4, RouterConfig(4, 1, score="sigmoid", select="sinkhorn"))
    p = moe.init(np.random.default_rng(1), cfg)
    x = np.random.default_rng(0).standard_normal((12, 3))
    out, cache = moe.forward(x, p, cfg)
    s = 1 / (1 + np.exp(-(x @ p["router"]["weight"].T)))
    assert relative(out.routing.weight, np.take_along_axis(s, out.routing.idx, 1)) <= 1e-14
    assert moe.backward(np.ones((12, 3)), cache)[1]["router"]["weight"].any()
