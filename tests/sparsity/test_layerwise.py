"""SparseGPT on a whole layer: routed tokens only, the pruned way up before the way down, experts nobody reached."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import moe, presets, storage
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DataError, DtypeError
from pymoe.sparsity import layerwise, masked, masks, sparsegpt

from .given import frozen, inputs, normal

D, F, E, K, T = 5, 8, 4, 2, 60


def layer(**settings):
    cfg = presets.mixtral(**({"d_model": D, "d_ff": F, "n_experts": E, "k": K} | settings))
    return cfg, tree.map(lambda a: normal(*a.shape), moe.init(np.random.default_rng(0), cfg))


def silu(a):
    return a / (1 + np.exp(-a))


def one(p, x, bias=None, amount=0.5):
    """An expert by hand: gate first."""
    up = sparsegpt.prune(p["gate_up_proj"], sparsegpt.hessian(x), amount)
    a = x @ up.w.T + (0 if bias is None else bias)
    h = silu(a[:, : a.shape[1] // 2]) * a[:, a.shape[1] // 2 :]
    return up, sparsegpt.prune(p["down_proj"], sparsegpt.hessian(h), amount)


def test_every_expert_by_its_routed_tokens():
    cfg, p = layer(bias=True, d_shared=3)
    x = inputs(T, D)
    mask = frozen(np.arange(T) % 5 != 0)
    idx = moe.forward(x, p, cfg, mask)[0].routing.idx
    done = layerwise.prune(x, p, cfg, 0.5, mask=mask)
    assert (
        list(done.masks)
        == list(done.errors)
        == [
            "experts.gate_up_proj",
            "experts.down_proj",
            "shared.gate_up_proj",
            "shared.down_proj",
        ]
    )
    for e in range(E):
        routed = x[[t for t in range(T) if mask[t] and e in idx[t]]]
        w = {n: p["experts"][n][e] for n in ("gate_up_proj", "down_proj")}
        for name, want in zip(w, one(w, routed, p["experts"]["gate_up_proj_bias"][e]), strict=True):
            assert np.array_equal(done.masks[f"experts.{name}"][e], want.mask)
            assert np.allclose(done.p["experts"][name][e], want.w, rtol=1e-9, atol=1e-12)
            assert np.isclose(done.errors[f"experts.{name}"][e], want.error, rtol=1e-13, atol=0)
    for name, want in zip(
        ("gate_up_proj", "down_proj"), one(p["shared"], x[mask], p["shared"]["gate_up_proj_bias"]), strict=True
    ):
        assert np.array_equal(done.masks[f"shared.{name}"], want.mask)
        assert np.allclose(done.p["shared"][name], want.w, rtol=1e-9, atol=1e-12)
        assert np.isclose(done.errors[f"shared.{name}"], want.error, rtol=1e-13, atol=0)
    for branch in ("experts", "shared"):
        for name in ("gate_up_proj_bias", "down_proj_bias"):
            assert np.array_equal(done.p[branch][name], p[branch][name])
    assert done.p["router"] is p["router"]
    moe.forward(x, done.p, cfg)  # it is a layer of these settings


def test_without_a_gate_and_with_a_pattern():
    cfg, p = layer(gated=False, activation="relu", d_model=8)
    x = inputs(T, 8)
    done = layerwise.prune(x, p, cfg, nm=(2, 4))
    for name, mask in done.masks.items():
        assert np.all(mask.reshape(*mask.shape[:-1], -1, 4).sum(-1) == 2), name
    assert list(done.masks) == ["experts.up_proj", "experts.down_proj"] and done.masks["experts.up_proj"].shape == (
        E,
        F,
        8,
    )
    idx = moe.forward(x, p, cfg)[0].routing.idx
    routed = x[np.any(idx == 1, axis=1)]
    up = sparsegpt.prune(p["experts"]["up_proj"][1], sparsegpt.hessian(routed), nm=(2, 4))
    down = sparsegpt.prune(p["experts"]["down_proj"][1], sparsegpt.hessian(np.maximum(routed @ up.w.T, 0)), nm=(2, 4))
    assert np.array_equal(done.masks["experts.down_proj"][1], down.mask)
    assert np.allclose(done.p["experts"]["down_proj"][1], down.w, rtol=1e-9, atol=1e-12)


def test_block_and_damp_are_passed_on():
    cfg, p = layer()
    x = inputs(T, D)
    plain, other = layerwise.prune(x, p, cfg, 0.5), layerwise.prune(x, p, cfg, 0.5, block=2, damp=0.2)
    idx = moe.forward(x, p, cfg)[0].routing.idx
    want = sparsegpt.prune(
        p["experts"]["gate_up_proj"][0], sparsegpt.hessian(x[np.any(idx == 0, axis=1)]), 0.5, block=2, damp=0.2
    )
    assert np.allclose(other.p["experts"]["gate_up_proj"][0], want.w, rtol=1e-9, atol=1e-12)
    assert not np.allclose(plain.p["experts"]["gate_up_proj"], other.p["experts"]["gate_up_proj"])


def test_an_expert_that_no_token_reached_is_pruned_by_magnitude():
    cfg, p = layer(bias=True)
    weight = p["router"]["weight"].copy()
    weight[2] = -10 * np.abs(weight).max()  # with positive inputs expert 2 is last for every token
    p = {**p, "router": {"weight": frozen(weight)}}
    x = frozen(np.abs(inputs(T, D)))
    assert not np.any(moe.forward(x, p, cfg)[0].routing.idx == 2)
    done = layerwise.prune(x, p, cfg, 0.5)
    for name in ("gate_up_proj", "down_proj"):
        w = p["experts"][name][2]
        mask = masks.magnitude(w, 0.5)
        assert np.array_equal(done.masks[f"experts.{name}"][2], mask)
        assert np.array_equal(done.p["experts"][name][2], np.where(mask, w, 0.0))
        assert np.isclose(done.errors[f"experts.{name}"][2], np.sum(w[~mask] ** 2), rtol=1e-13, atol=0)


def test_dropped_choices_do_not_calibrate():
    cfg, p = layer(capacity=moe.Capacity(factor=0.5))
    x = inputs(T, D)
    routing = moe.forward(x, p, cfg)[0].routing
    assert not routing.kept.all()
    done = layerwise.prune(x, p, cfg, 0.5)
    for e in range(E):
        routed = x[np.any((routing.idx == e) & routing.kept, axis=1)]
        want = sparsegpt.prune(p["experts"]["gate_up_proj"][e], sparsegpt.hessian(routed), 0.5)
        assert np.array_equal(done.masks["experts.gate_up_proj"][e], want.mask)


def test_it_does_better_than_its_masks_alone_and_batches_are_tokens():
    cfg, p = layer(d_model=12, d_ff=16)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 12)) + rng.standard_normal((400, 3)) @ rng.standard_normal((3, 12))
    y = moe.forward(x, p, cfg)[0].y
    done = layerwise.prune(x, p, cfg, 0.5)
    got = moe.forward(x, done.p, cfg)[0].y
    alone = masked.forward(x, p, cfg, done.masks)[0].y
    assert np.linalg.norm(got - y) < 0.95 * np.linalg.norm(alone - y)
    again = masked.forward(x, done.p, cfg, done.masks)[0].y
    assert np.array_equal(again, got)  # exactly 0 where pruned
    batch = layerwise.prune(x.reshape(4, 100, 12), p, cfg, 0.5)
    assert np.array_equal(batch.p["experts"]["down_proj"], done.p["experts"]["down_proj"])


def test_refusals():
    cfg, p = layer()
    with pytest.raises(DataError, match="calibration needs at least one real token"):
        layerwise.prune(normal(3, D), p, cfg, 0.5, mask=np.zeros(3, bool))
    with pytest.raises(DataError):
        layerwise.prune(np.empty((0, D)), p, cfg, 0.5)
    stored = {**p, "experts": {**p["experts"], "down_proj": storage.csr.from_dense(p["experts"]["down_proj"])}}
    with pytest.raises(DtypeError, match="expected an array"):
        layerwise.prune(normal(3, D), stored, cfg, 0.5)
    with pytest.raises(ConfigError, match="give either s"):
        layerwise.prune(normal(3, D), p, cfg)


def test_draws_are_passed_on():
    cfg, p = layer(noise="learned")
    draws = moe.draw(np.random.default_rng(0), cfg, T)
    x = inputs(T, D)
    idx = moe.forward(x, p, cfg, draws=draws)[0].routing.idx
    assert not np.array_equal(idx, moe.forward(x, p, cfg)[0].routing.idx)
    done = layerwise.prune(x, p, cfg, 0.5, draws=draws)
    want = sparsegpt.prune(p["experts"]["gate_up_proj"][0], sparsegpt.hessian(x[np.any(idx == 0, axis=1)]), 0.5)
    assert np.allclose(done.p["experts"]["gate_up_proj"][0], want.w, rtol=1e-9, atol=1e-12)
