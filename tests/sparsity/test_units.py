"""Hidden units: norms by a loop, which are kept, and the narrower layer equal to the masked one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe import moe, presets
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DtypeError, IndexRangeError, NonFiniteError, ShapeError
from pymoe.sparsity import masked, units

from .given import frozen, normal

D, F, E, K, T = 4, 6, 3, 2, 9
KINDS = [
    {"gated": True},
    {"gated": True, "bias": True, "d_shared": 5},
    {"gated": False, "activation": "gelu"},
    {"gated": False, "activation": "sigmoid", "bias": True},  # sigmoid(0) = 1/2: only the down column switches it off
]
EVERY = pytest.mark.parametrize("settings", KINDS, ids=["gated", "gated bias", "plain", "plain bias"])


def layer(settings):
    cfg = presets.mixtral(d_model=D, d_ff=F, n_experts=E, k=K, **settings)
    p = moe.init(np.random.default_rng(0), cfg)
    return cfg, tree.map(lambda a: normal(*a.shape), p)


def numbers_of(p, cfg, e, f):
    """Everything that belongs to hidden unit f of expert e."""
    x = p["experts"]
    up = "gate_up_proj" if cfg.gated else "up_proj"
    rows = [f, F + f] if cfg.gated else [f]
    found = [v for r in rows for v in x[up][e, r]] + list(x["down_proj"][e, :, f])
    return found + ([x[up + "_bias"][e, r] for r in rows] if cfg.bias else [])


@EVERY
def test_scores_are_norms_of_all_that_belongs_to_a_unit(settings):
    cfg, p = layer(settings)
    norms = {
        1: lambda v: math.fsum(map(abs, v)),
        2: lambda v: math.sqrt(math.fsum(a * a for a in v)),
        math.inf: lambda v: max(map(abs, v)),
    }
    assert np.array_equal(units.scores(p["experts"], cfg), units.scores(p["experts"], cfg, 2))
    for order, norm in norms.items():
        want = np.array([[norm(numbers_of(p, cfg, e, f)) for f in range(F)] for e in range(E)])
        got = units.scores(p["experts"], cfg, ord=order)
        assert got.shape == (E, F) and np.allclose(got, want, rtol=1e-14, atol=0)
    narrow = {n: a.astype("f4") for n, a in p["experts"].items()}
    assert units.scores(narrow, cfg).dtype == np.float64


def test_keep():
    score = frozen([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0], [4.0, 1.0, 2.0, 3.0]])
    assert units.keep(score, 1).tolist() == [[1], [0], [0]]
    assert units.keep(score, 2).tolist() == [[1, 3], [0, 1], [0, 3]]
    assert units.keep(score, 4).tolist() == [[0, 1, 2, 3]] * 3 and units.keep(score, 3).dtype == np.int64


@EVERY
def test_the_cut_layer_is_the_masked_layer(settings):
    cfg, p = layer(settings)
    x, dy = normal(T, D), normal(T, D, seed=1)
    for width in (1, 4, 6):
        kept = units.keep(units.scores(p["experts"], cfg), width)
        narrow, smaller = units.cut(p, cfg, kept)
        assert smaller.d_ff == width and narrow["router"] is p["router"]
        assert "shared" not in p or narrow["shared"] is p["shared"]
        out, cache = moe.forward(x, narrow, smaller)
        masked_out, masked_cache = masked.forward(x, p, cfg, units.as_masks(kept, cfg))
        top = np.max(np.abs(masked_out.y))
        assert np.max(np.abs(out.y - masked_out.y)) <= 1e-14 * top
        dx, dp = moe.backward(dy, cache)
        dx_masked, dp_masked = masked.backward(dy, masked_cache)
        assert np.max(np.abs(dx - dx_masked)) <= 1e-13 * np.max(np.abs(dx))
        shrunk, _ = units.cut(dp_masked, cfg, kept)
        for name, g in dp["experts"].items():
            assert np.max(np.abs(g - shrunk["experts"][name])) <= 1e-13 * np.max(np.abs(g), initial=1e-300)
    dense, _ = moe.forward(x, p, cfg)
    assert np.array_equal(out.y, dense.y)  # all six kept: the very layer


@EVERY
def test_the_order_of_the_units_is_the_given_one(settings):
    """F16: hidden units permuted leave the function unchanged."""
    cfg, p = layer(settings)
    kept = frozen(np.array([[5, 0, 3], [1, 2, 4], [4, 2, 0]]))
    narrow, smaller = units.cut(p, cfg, kept)
    for e in range(E):
        for i, f in enumerate(kept[e]):
            own = {"experts": narrow["experts"]}
            up = own["experts"]["gate_up_proj" if cfg.gated else "up_proj"]
            assert np.array_equal(own["experts"]["down_proj"][e, :, i], p["experts"]["down_proj"][e, :, f])
            name = "gate_up_proj" if cfg.gated else "up_proj"
            assert np.array_equal(up[e, i], p["experts"][name][e, f])
            if cfg.gated:
                assert np.array_equal(up[e, 3 + i], p["experts"][name][e, F + f])
            if cfg.bias:
                assert own["experts"][name + "_bias"][e, i] == p["experts"][name + "_bias"][e, f]
    sorted_, _ = units.cut(p, cfg, np.sort(kept, axis=1))
    x = normal(T, D)
    a, b = moe.forward(x, narrow, smaller)[0].y, moe.forward(x, sorted_, smaller)[0].y
    assert np.max(np.abs(a - b)) <= 1e-14 * np.max(np.abs(b))


def test_as_masks_by_hand():
    cfg, _ = layer({"gated": True, "bias": True})
    found = units.as_masks(frozen(np.array([[0, 2], [5, 1], [3, 4]])), cfg)
    assert sorted(found) == ["experts.down_proj", "experts.gate_up_proj", "experts.gate_up_proj_bias"]
    down, up, bias = (found[n] for n in sorted(found))
    assert down.shape == (E, D, F) and up.shape == (E, 2 * F, D) and bias.shape == (E, 2 * F)
    assert np.flatnonzero(down[1, 2]).tolist() == [1, 5] and np.array_equal(down[1, 0], down[1, 3])
    assert np.flatnonzero(up[0, :, 1]).tolist() == [0, 2, 6, 8] and np.array_equal(up[0, :, 0], up[0, :, 3])
    assert np.flatnonzero(bias[2]).tolist() == [3, 4, 9, 10]
    cfg, _ = layer({"gated": False})
    found = units.as_masks(frozen(np.array([[0], [5], [3]])), cfg)
    assert found["experts.up_proj"].shape == (E, F, D) and list(found) == ["experts.up_proj", "experts.down_proj"]


def test_tied_experts():
    cfg = presets.mixtral(d_model=D, d_ff=F, n_experts=4, k=2)
    cfg = type(cfg)(**{**{f: getattr(cfg, f) for f in cfg.__dataclass_fields__}, "tied": (0, 1, 0, 1)})
    p = moe.init(np.random.default_rng(0), cfg)
    kept = units.keep(units.scores(p["experts"], cfg), 2)
    assert kept.shape == (2, 2)
    narrow, smaller = units.cut(p, cfg, kept)
    x = normal(T, D)
    got, want = moe.forward(x, narrow, smaller)[0].y, masked.forward(x, p, cfg, units.as_masks(kept, cfg))[0].y
    assert np.max(np.abs(got - want)) <= 1e-14 * np.max(np.abs(want))


def test_refusals():
    cfg, p = layer({"gated": True})
    score = np.ones((E, F))
    with pytest.raises(ConfigError, match="ord must be one of"):
        units.scores(p["experts"], cfg, 3)
    broken = {**p["experts"], "down_proj": np.full((E, D, F), np.nan)}
    with pytest.raises(NonFiniteError, match=r"down_proj is NaN at \(0, 0, 0\)"):
        units.scores(broken, cfg)
    biased, p_biased = layer({"gated": False, "bias": True})
    broken = {**p_biased["experts"], "up_proj_bias": np.full((E, F), np.nan)}
    with pytest.raises(NonFiniteError, match=r"up_proj_bias is NaN at \(0, 0\)"):
        units.scores(broken, biased)
    with pytest.raises(ConfigError, match="n_keep must not exceed the 6 hidden units there are, got 7"):
        units.keep(score, 7)
    with pytest.raises(ConfigError, match="n_keep must be an integer of at least 1"):
        units.keep(score, 0)
    for rule in (lambda kept: units.cut(p, cfg, kept), lambda kept: units.as_masks(kept, cfg)):
        with pytest.raises(ShapeError, match=r"kept must have shape \(3, F'\).*got \(2, 1\)"):
            rule(np.zeros((2, 1), int))
        with pytest.raises(ShapeError, match=r"got \(3, 0\)"):
            rule(np.zeros((3, 0), int))
        with pytest.raises(ShapeError, match=r"got \(3,\)"):
            rule(np.zeros(3, int))
        with pytest.raises(IndexRangeError, match=r"kept must lie in \[0, 6\)"):
            rule(np.full((3, 1), 6))
        with pytest.raises(DtypeError, match="kept must be integers"):
            rule(np.zeros((3, 1)))
        with pytest.raises(ConfigError, match="kept must name each unit once; expert 1 does not"):
            rule(np.array([[0, 1, 2, 3], [3, 1, 4, 4], [2, 2, 1, 0]]))
