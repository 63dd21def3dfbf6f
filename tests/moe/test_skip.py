"""Dynamic skipping: choices far below the token's best are dropped and the others renormalised, by a token loop."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from pymoe import moe, presets, verify
from pymoe.backend.errors import ConfigError
from pymoe.moe import Capacity, MoEConfig

D, F, E, K, T = 5, 6, 7, 3, 11


def settings(skip, **router) -> MoEConfig:
    return presets.mixtral(d_model=D, d_ff=F, n_experts=E, k=K, skip=skip, **router)


def drawn(cfg):
    p = moe.init(np.random.default_rng(0), cfg)
    x = np.random.default_rng(3).standard_normal((T, D))
    x.setflags(write=False)
    return x, p


def looped(x, p, k, skip, renormalise=True):
    """(chosen, weights) of every token, from the logits on, in plain Python."""
    found = []
    for row in x:
        z = [math.fsum(a * b for a, b in zip(row, w, strict=True)) for w in p["router"]["weight"]]
        e = [math.exp(v - max(z)) for v in z]
        s = [v / math.fsum(e) for v in e]
        order = sorted(range(E), key=lambda i: (-s[i], i))[:k]
        kept = [s[i] >= skip * s[order[0]] for i in order]
        total = math.fsum(s[i] for i, stays in zip(order, kept, strict=True) if stays) if renormalise else 1.0
        found.append((order, [s[i] / total if stays else 0.0 for i, stays in zip(order, kept, strict=True)]))
    return found


@pytest.mark.parametrize("norm", ["l1", "none"])
@pytest.mark.parametrize("skip", [0.0, 0.2, 0.55, 1.0])
def test_the_weights_are_those_of_the_loop(skip, norm):
    cfg = settings(skip, norm=norm)
    x, p = drawn(cfg)
    routing = moe.forward(x, p, cfg)[0].routing
    wanted = looped(x, p, K, skip, norm == "l1")
    assert routing.idx.tolist() == [order for order, _ in wanted]
    want = np.array([w for _, w in wanted])
    np.testing.assert_allclose(routing.weight, want, rtol=0, atol=1e-14)
    assert np.abs(routing.weight * 1.001 - want).max() > 1e-5
    assert np.array_equal(routing.kept, want > 0)
    if skip in (0.2, 0.55):
        assert 0 < np.count_nonzero(want == 0) < want.size - T  # some go, some stay
    assert (want[:, 0] > 0).all() and (skip < 1 or (want[:, 1:] == 0).all())
    assert routing.load.sum() == T * K  # counts are of choices before any drop


def test_nothing_is_skipped_at_zero():
    x, p = drawn(settings(None))
    assert np.array_equal(moe.forward(x, p, settings(0.0))[0].y, moe.forward(x, p, settings(None))[0].y)


def test_a_weight_at_the_threshold_stays():
    cfg = presets.mixtral(d_model=1, d_ff=F, n_experts=3, k=2, skip=0.5)
    p = moe.init(np.random.default_rng(0), cfg)
    p["router"]["weight"] = np.zeros((3, 1))
    weight = moe.forward(np.ones((1, 1)), p, dataclasses.replace(cfg, router=dataclasses.replace(cfg.router, skip=1.0)))
    assert weight[0].routing.weight.tolist() == [[0.5, 0.5]]  # equal weights: w₁ < 1.0 w₀ is false


@pytest.mark.parametrize(
    "router", [{}, {"norm": "none"}, {"score": "sigmoid"}, {"capacity": Capacity(0.9, order="choice")}]
)
def test_gradients(router):
    cfg = settings(0.55, **router)
    x, p = drawn(cfg)
    assert verify.gradcheck(moe, x, p, cfg, controls=True).error <= 1e-13


def test_skipping_comes_before_capacity_and_frees_places():
    cfg = settings(0.55, capacity=Capacity(0.5))
    x, p = drawn(cfg)
    kept = moe.forward(x, p, cfg)[0].routing.kept
    alone = moe.forward(x, p, settings(0.55))[0].routing.kept
    without = moe.forward(x, p, settings(None, capacity=Capacity(0.5)))[0].routing.kept
    assert not (kept & ~alone).any() and (kept & ~without).any()


def test_padding_and_nan_stay_where_they_are():
    cfg = settings(0.55, nonfinite="propagate")
    x, p = drawn(cfg)
    bad = x.copy()
    bad[4] = np.nan
    y, want = moe.forward(bad, p, cfg)[0].y, moe.forward(x, p, cfg)[0].y
    assert np.isnan(y[4]).all() and np.array_equal(np.delete(y, 4, 0), np.delete(want, 4, 0))
    mask = np.arange(T) != 4
    out, _ = moe.forward(x, p, cfg, mask=mask)
    assert not out.y[4].any() and not out.routing.kept[4].any()


def test_refused():
    for skip in (-0.1, float("inf"), float("nan"), "half", True):
        with pytest.raises(ConfigError, match="skip"):
            settings(skip)
    with pytest.raises(ConfigError, match="skip=None"):
        presets.expert_choice(d_model=D, d_ff=F, n_experts=E, k=2, skip=0.5)
    cfg = settings(0.25)
    assert MoEConfig.from_dict(cfg.to_dict()) == cfg
