"""Tensors that several places of a model read: the gradient is the sum, verified; what is no tie is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import presets, verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.models import lm
from pymoe.sharing import tied

MOE = presets.mixtral(d_model=12, d_ff=5, n_experts=4, k=2)
CFG = lm.LMConfig(vocab=11, d_model=12, n_layers=3, n_heads=3, context=8, d_ff=7, moe=MOE, moe_layers=(0, 2), std=0.3)
NAMES = [f"mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")]
TIES = {f"layers.2.{name}": f"layers.0.{name}" for name in NAMES}
IDS = np.random.default_rng(1).integers(0, 11, (2, 9))


def stored():
    return tied.untie(lm.init(np.random.default_rng(0), CFG, np.float64), TIES)


def test_two_layers_share_their_experts_and_the_gradient_is_verified():
    p = stored()
    assert not any(name in tree.flatten(p) for name in TIES)
    report = verify.gradcheck(tied, IDS[:, :-1], p, CFG, lm, TIES, targets=IDS[:, 1:], controls=True)
    assert report.error <= 1e-13


def test_the_gradient_is_the_sum_over_the_readers():
    p = stored()
    full = tied.expand(p, TIES)
    assert full["layers"]["2"]["mlp"]["experts"]["down_proj"] is p["layers"]["0"]["mlp"]["experts"]["down_proj"]
    _, cache = lm.forward(IDS[:, :-1], full, CFG, targets=IDS[:, 1:])
    dp = tree.flatten(lm.backward(None, cache, {"lm": 1.0})[1])
    _, own = tied.forward(IDS[:, :-1], p, CFG, lm, TIES, targets=IDS[:, 1:])
    got = tree.flatten(tied.backward(None, own, {"lm": 1.0})[1])
    assert list(got) == list(tree.flatten(p))
    for name in NAMES:
        want = dp[f"layers.0.{name}"] + dp[f"layers.2.{name}"]
        assert np.array_equal(got[f"layers.0.{name}"], want) and want.any()
    assert np.array_equal(got["norm.weight"], dp["norm.weight"])


@pytest.mark.parametrize(
    ("ties", "message"),
    [
        ({"b": "c"}, "which the parameters do not have"),
        ({"b": "a", "c": "b"}, "is tied itself"),
        ({"x": "x"}, "is tied itself"),
        ({"a": "d"}, "has a tensor of its own"),
    ],
)
def test_what_is_no_tie_is_refused(ties, message):
    with pytest.raises(ConfigError, match=message):
        tied.expand({"a": np.ones(2), "d": np.ones(2)}, ties)


def test_gradients_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="no 'b'"):
        tied.collect({"a": np.ones(2)}, {"b": "a"})
    with pytest.raises(ShapeError, match="shapes differ"):
        tied.collect({"a": np.ones(2), "b": np.ones(3)}, {"b": "a"})
