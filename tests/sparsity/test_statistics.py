"""Statistics of calibration tokens against a loop over tokens and choices."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend.errors import NonFiniteError, ShapeError
from pymoe.moe import Capacity
from pymoe.sparsity import statistics
from tests.sparsity import layers

SETTINGS = [
    {},
    {"gated": False, "activation": "relu"},
    {"bias": True},
    {"norm": "none", "score": "sigmoid"},
    {"capacity": Capacity(0.6)},
    {"skip": 0.5},
    {"tied": (0, 1, 1, 2, 0, 2, 1)},
    {"d_shared": 4},
]


def close(got, want) -> bool:
    scale = np.abs(want).max()
    return bool(np.abs(np.asarray(got) - want).max() <= 1e-13 * scale)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sums_are_those_of_the_loop(settings):
    cfg, p, x = layers.layer(**settings)
    seen = statistics.observe(moe.forward(x, p, cfg)[1], cfg, hessians=True)
    want = layers.looped(cfg, p, x)
    for name, value in want.items():
        got = getattr(seen, name)
        assert got.shape == value.shape and got.dtype == (np.int64 if name == "count" else np.float64)
        assert close(got, value), name
        assert not close(got * 1.001, value), name  # negative control
    assert seen.count.sum() <= len(x) * cfg.k and seen.tokens <= len(x)


def test_counts_add_up_when_nothing_is_dropped():
    """P14: importance sums are counts."""
    cfg, p, x = layers.layer()
    seen = statistics.observe(moe.forward(x, p, cfg)[1], cfg)
    assert seen.count.sum() == len(x) * layers.K and seen.tokens == len(x)
    np.testing.assert_allclose(seen.weight.sum(), len(x), rtol=1e-14)  # renormalised: 1 a token
    assert seen.x_gram is None and seen.h_gram is None


def test_batches_add_up():
    cfg, p, x = layers.layer()
    parts = [statistics.observe(moe.forward(x[i:j], p, cfg)[1], cfg, hessians=True) for i, j in ((0, 10), (10, 29))]
    whole = statistics.observe(moe.forward(x, p, cfg)[1], cfg, hessians=True)
    for got, want in zip(statistics.add(*parts), whole, strict=True):
        assert close(got, want)
    other = layers.layer(d_ff=4)
    with pytest.raises(ShapeError, match="statistics of one layer"):
        statistics.add(whole, statistics.observe(moe.forward(other[2], other[1], other[0])[1], other[0]))


def test_padding_counts_nowhere():
    cfg, p, x = layers.layer()
    mask = np.arange(len(x)) % 3 != 0
    seen = statistics.observe(moe.forward(x, p, cfg, mask=mask)[1], cfg)
    want = layers.looped(cfg, p, x, mask)
    assert close(seen.x_sumsq, want["x_sumsq"]) and seen.tokens == mask.sum()


def test_an_expert_without_tokens_has_zeros():
    cfg, p, x = layers.layer(n_experts=20, k=1)
    seen = statistics.observe(moe.forward(x[:3], p, cfg)[1], cfg, hessians=True)
    idle = seen.count == 0
    assert idle.sum() >= 17
    for value in seen[1:6]:
        assert not value[idle].any()


def test_mean_outputs_and_logits_look_at_all_tokens():
    for settings in ({}, {"bias": True}, {"gated": False}):
        cfg, p, x = layers.layer(**settings)
        want = np.array([np.mean([layers.expert(t, p, cfg, e)[1] for t in x], 0) for e in range(layers.E)])
        assert close(statistics.mean_outputs(x, p, cfg), want)
        assert not close(statistics.mean_outputs(x, p, cfg) * 1.001, want)
        h = np.array([[layers.expert(t, p, cfg, e)[0] for t in x] for e in range(layers.E)])
        assert close(statistics.activations(x, p, cfg), h)
        z = np.array([[float(np.dot(w, t)) for w in p["router"]["weight"]] for t in x])
        assert close(statistics.logits(x, p, cfg), z)
    assert not statistics.mean_outputs(x[:0], p, cfg).any()


def test_nan_is_refused_and_named():
    cfg, p, x = layers.layer()
    down = p["experts"]["down_proj"].copy()
    routed = moe.forward(x, p, cfg)[0].routing.idx
    down[int(routed[4, 0]), 2, 1] = np.nan
    bad = p | {"experts": p["experts"] | {"down_proj": down}}
    with pytest.raises(NonFiniteError, match=f"expert {int(routed[4, 0])} puts out NaN"):
        statistics.observe(moe.forward(x, bad, cfg)[1], cfg)
