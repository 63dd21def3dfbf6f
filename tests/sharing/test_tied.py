"""Weights that several places read: the gradient is the sum, verified; what is no tie is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import moe, presets, verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.models import lm
from pymoe.sharing import tied

MOE = presets.mixtral(d_model=6, d_ff=4, n_experts=3, k=2)
CFG = lm.LMConfig(vocab=7, d_model=6, n_layers=3, n_heads=3, context=5, d_ff=5, moe=MOE, moe_layers=(0, 2), std=0.5)
IDS = np.random.default_rng(1).integers(0, 7, (1, 6))
ARRAYS = {f"layers.2.mlp.experts.{name}": f"layers.0.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")}
BRANCH = {"layers.2.mlp.experts": "layers.0.mlp.experts"}
LAYER = {"layers.2": "layers.0"}  # ALBERT: all of it


def model(ties):
    return tied.drop(lm.init(np.random.default_rng(0), CFG, np.float64), ties)


@pytest.mark.parametrize(
    "ties",
    [
        pytest.param(ARRAYS, id="arrays", marks=pytest.mark.slow),
        pytest.param(BRANCH, id="branch"),
        pytest.param(LAYER, id="layer"),
        pytest.param({}, id="none", marks=pytest.mark.slow),
    ],
)
def test_two_layers_share_and_the_gradient_is_verified(ties):
    p = model(ties)
    report = verify.gradcheck(
        tied, IDS[:, :-1], p, lm, CFG, ties, targets=IDS[:, 1:], controls=ties is BRANCH, mode="gradient"
    )
    assert report.error <= 1e-13


def test_experts_of_a_tied_layer_shared_with_another_layer():
    """Both at once: ids of one layer that share an expert (MoEConfig.tied), and a layer that reads another's."""
    both = presets.mixtral(d_model=6, d_ff=4, n_experts=4, k=2, tied=(0, 1, 0, 1))
    cfg = lm.LMConfig(vocab=7, d_model=6, n_layers=2, n_heads=3, context=5, d_ff=5, moe=both, std=0.5)
    ties = {"layers.1.mlp.experts": "layers.0.mlp.experts"}
    p = tied.drop(lm.init(np.random.default_rng(0), cfg, np.float64), ties)
    assert tree.flatten(p)["layers.0.mlp.experts.down_proj"].shape == (2, 6, 4)
    report = verify.gradcheck(tied, IDS[:, :-1], p, lm, cfg, ties, targets=IDS[:, 1:], controls=True, mode="gradient")
    assert report.error <= 1e-13


def test_any_two_arrays_of_one_layer():
    """A layer, not a model: the noise of the router reads its weight."""
    cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=5, k=2, noise="learned", losses=("importance",))
    ties = {"router.noise_weight": "router.weight"}
    p = tied.drop(moe.init(np.random.default_rng(0), cfg), ties)
    x = np.random.default_rng(2).standard_normal((7, 5))
    assert verify.gradcheck(tied, x, p, moe, cfg, ties, controls=True).error <= 1e-13


def test_the_gradient_is_the_sum_over_the_readers_and_nothing_is_copied():
    p = model(BRANCH)
    assert not any(name in tree.flatten(p) for name in ARRAYS)
    full = tied.expand(p, BRANCH)
    assert full["layers"]["2"]["mlp"]["experts"]["down_proj"] is p["layers"]["0"]["mlp"]["experts"]["down_proj"]
    assert "experts" not in p["layers"]["2"]["mlp"]  # p stays what it was
    _, cache = lm.forward(IDS[:, :-1], full, CFG, targets=IDS[:, 1:])
    dq = tree.flatten(lm.backward(None, cache, {"lm": 1.0})[1])
    _, own = tied.forward(IDS[:, :-1], p, lm, CFG, BRANCH, targets=IDS[:, 1:])
    got = tree.flatten(tied.backward(None, own, {"lm": 1.0})[1])
    assert got.keys() == tree.flatten(p).keys()
    for name in ARRAYS.values():
        other = name.replace("layers.0", "layers.2")
        assert dq[other].any() and np.array_equal(got[name], dq[name] + dq[other])
    assert np.array_equal(got["norm.weight"], dq["norm.weight"])
    assert tied.drop(full, BRANCH).keys() == p.keys()


def test_three_readers_of_one():
    ties = {"b.w": "a.w", "c": "a"}
    one, ten, five, hundred = (np.array([v]) for v in (1.0, 10.0, 5.0, 100.0))
    grads = {"a": {"w": one}, "b": {"w": ten, "v": five}, "c": {"w": hundred}}
    assert tied.collect(grads, ties) == {"a": {"w": np.array([111.0])}, "b": {"v": five}}
    assert grads["a"]["w"] == 1.0


W = {"a": {"w": np.ones(2)}, "d": np.ones(2), "e": np.ones(3)}


@pytest.mark.parametrize(
    ("ties", "message"),
    [
        ({"b": "z"}, "which the tree does not store"),
        ({"b": "d", "c": "b"}, "tie both to the one that is stored"),
        ({"b": "c", "c": "b"}, "tie both to the one that is stored"),
        ({"d": "d"}, "cannot hold itself"),
        ({"a.x": "a"}, "cannot hold itself or a part of itself"),
        ({"d": "e"}, "the tree stores it too"),
        ({"b": "d", "b.x": "e"}, "one is a part of the other"),
        ({"b": "c.w", "c": "d"}, "tie both to the one that is stored"),
        ({"": "d"}, "dotted names"),
        ({"b": 3}, "dotted names"),
        ({"d.x": "e"}, "on the way to it is an array"),
    ],
)
def test_what_is_no_tie_is_refused(ties, message):
    with pytest.raises(ConfigError, match=message):
        tied.expand(W, ties)


def test_what_cannot_be_collected_or_dropped_is_refused():
    with pytest.raises(ConfigError, match="there is no 'b'"):
        tied.collect({"a": np.ones(2)}, {"b": "a"})
    with pytest.raises(ShapeError, match="cannot be tied"):
        tied.collect({"a": np.ones(2), "b": np.ones(3)}, {"b": "a"})
    with pytest.raises(ShapeError, match="cannot be tied"):
        tied.drop({"a": {"w": np.ones(2)}, "b": {"v": np.ones(2)}}, {"b": "a"})
    with pytest.raises(ConfigError, match="there is no 'b'"):
        tied.drop({"a": np.ones(2)}, {"b": "a"})
