"""Statistics of calibration tokens against a loop over tokens and choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe import moe, storage
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.moe import Capacity
from pymoe.sparsity import experts, statistics
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
    {"select": "expert_choice", "norm": "none", "losses": ()},
]


def close(got, want) -> bool:
    scale = np.abs(want).max()
    return bool(np.abs(np.asarray(got) - want).max() <= 1e-13 * scale)


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_sums_are_those_of_the_loop(changes):
    cfg, p, x = layers.layer(**changes)
    seen = statistics.observe(moe.forward(x, p, cfg)[1], cfg, hessians=True)
    want = layers.looped(cfg, p, x)
    for name, value in want.items():
        got = getattr(seen, name)
        assert got.shape == value.shape and got.dtype == (np.int64 if name == "count" else np.float64)
        assert close(got, value), name
        assert not close(got * 1.001, value), name  # negative control
    assert seen.tokens <= len(x)


@settings(derandomize=True, database=None, max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 29), st.integers(1, 7), st.booleans())
def test_importance_sums_are_counts(seed, tokens, k, skip):
    """P14: the counts are those of the kept choices, all if none is dropped, and weights sum to 1 a token."""
    cfg, p, x = layers.layer(seed, k=k, skip=0.5 if skip else None)
    out, cache = moe.forward(x[:tokens], p, cfg)
    seen = statistics.observe(cache, cfg)
    idx, kept = out.routing.idx, np.ones(out.routing.idx.shape, bool) if out.routing.kept is None else out.routing.kept
    assert np.array_equal(seen.count, np.bincount(idx[kept], minlength=layers.E))
    assert seen.tokens == tokens and (skip or seen.count.sum() == tokens * k)
    np.testing.assert_allclose(seen.weight.sum(), tokens, rtol=1e-14)
    assert seen.x_gram is None and seen.h_gram is None
    assert np.isfinite(np.concatenate([experts.reap(seen), experts.ean_mean(seen)])).all()


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
    for changes in ({}, {"bias": True}, {"gated": False}):
        cfg, p, x = layers.layer(**changes)
        want = np.array([np.mean([layers.expert(t, p, cfg, e)[1] for t in x], 0) for e in range(layers.E)])
        assert close(statistics.mean_outputs(x, p, cfg), want)
        assert not close(statistics.mean_outputs(x, p, cfg) * 1.001, want)
        h = np.array([[layers.expert(t, p, cfg, e)[0] for t in x] for e in range(layers.E)])
        assert close(statistics.activations(x, p, cfg), h)
        z = np.array([[float(np.dot(w, t)) for w in p["router"]["weight"]] for t in x])
        assert close(statistics.logits(x, p, cfg), z)
    assert not statistics.mean_outputs(x[:0], p, cfg).any()


def test_weights_may_be_stored_sparse():
    for name in ("gate_up_proj", "down_proj"):
        cfg, p, x = layers.layer(bias=True)
        pruned = p["experts"][name] * (p["experts"][name] > -0.1)
        dense = p | {"experts": p["experts"] | {name: pruned}}
        thin = p | {"experts": p["experts"] | {name: storage.csr.from_dense(pruned)}}
        both = [statistics.observe(moe.forward(x, q, cfg)[1], cfg, hessians=True) for q in (dense, thin)]
        for want, got in zip(*both, strict=True):
            assert close(got, want)
        assert close(statistics.mean_outputs(x, thin, cfg), statistics.mean_outputs(x, dense, cfg))
        assert close(statistics.activations(x, thin, cfg), statistics.activations(x, dense, cfg))


def test_a_cache_of_other_settings_is_refused():
    cfg, p, x = layers.layer()
    cache = moe.forward(x, p, cfg)[1]
    for other in ({"gated": False}, {"n_experts": 6}, {"d_ff": 4}):
        with pytest.raises(ShapeError, match="not of these settings"):
            statistics.observe(cache, layers.layer(**other)[0])
    with pytest.raises(ShapeError, match="x must have shape"):
        statistics.mean_outputs(x[None], p, cfg)


def test_nan_is_refused_and_named():
    cfg, p, x = layers.layer()
    down = p["experts"]["down_proj"].copy()
    routed = moe.forward(x, p, cfg)[0].routing.idx
    down[int(routed[4, 0]), 2, 1] = np.nan
    bad = p | {"experts": p["experts"] | {"down_proj": down}}
    with pytest.raises(NonFiniteError, match=f"expert {int(routed[4, 0])} puts out NaN"):
        statistics.observe(moe.forward(x, bad, cfg)[1], cfg)
    cfg, p, x = layers.layer(nonfinite="propagate")
    weight = p["router"]["weight"].copy()
    weight[3] = np.nan
    with pytest.raises(NonFiniteError, match="is weighted with NaN"):
        statistics.observe(moe.forward(x, p | {"router": {"weight": weight}}, cfg)[1], cfg)


@pytest.mark.parametrize("settings", [{"weight_at": "input"}, {"d_latent": 5}, {"post_expert_norm": moe.Norm()}])
def test_experts_that_are_no_function_of_x_alone_are_refused(settings: dict[str, Any]) -> None:
    cfg = moe.MoEConfig(3, 4, moe.RouterConfig(4, 2), **settings)
    p = moe.init(np.random.default_rng(0), cfg)
    _, cache = moe.forward(np.ones((2, 3)), p, cfg)
    with pytest.raises(ConfigError, match="experts that read x and are weighted afterwards"):
        statistics.observe(cache, cfg)
    with pytest.raises(ConfigError, match="experts that read x and are weighted afterwards"):
        statistics.mean_outputs(np.ones((2, 3)), p, cfg)
