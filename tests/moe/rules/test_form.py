"""What all rules share: shapes, first values, counting of real tokens."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.moe import MoEConfig, RouterConfig, parameters
from pymoe.moe.rules import form
from pymoe.moe.rules.form import Form


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_experts_are_those_of_the_layer(gated: bool, bias: bool) -> None:
    settings = {"gated": gated, "bias": bias}
    layer = parameters.shapes(MoEConfig(5, 6, RouterConfig(4, 2), **settings))
    found = form.expert_shapes(Form(5, 6, 4, **settings))
    assert found == {n: s for n, s in layer.items() if n.startswith("experts.")}
    assert {s[0] for s in form.expert_shapes(Form(5, 6, 4, **settings), 9).values()} == {9}


def test_first_values() -> None:
    shapes = {"a.weight": (400, 100), "a.bias": (3,), "a.scale": (2,), "b_bias": (2,), "c": (30, 5, 400)}
    p = form.init(np.random.default_rng(0), shapes, np.float32, scale=3.0)
    assert abs(float(p["a"]["weight"].std()) * 10 - 1) < 0.02 and p["a"]["weight"].dtype == np.float32
    assert abs(float(p["c"].std()) * 20 - 1) < 0.02
    assert not p["a"]["bias"].any() and not p["b_bias"].any() and p["a"]["scale"].tolist() == [3, 3]
    again = form.init(np.random.default_rng(0), shapes, np.float32, scale=3.0)
    assert np.array_equal(p["a"]["weight"], again["a"]["weight"])


def test_numbers_and_choices() -> None:
    assert form.number_of(None, 5) == 5 and form.number_of(np.array([True, False, True]), 3) == 2
    form.choices("k", 2, 2)
    for k in (0, 3, 1.5):
        with pytest.raises(ConfigError, match="k must"):
            form.choices("k", k, 2)
    idx = np.zeros((2, 3), int)
    assert form.of_tokens(None, idx) is None
    assert form.of_tokens(np.array([True, False]), idx).tolist() == [[True] * 3, [False] * 3]


def test_a_cotangent_takes_the_precision_of_y_and_stays_complex() -> None:
    frame = form.Frame("rule", (2, 3, 4), np.dtype(np.float32), ("a",))
    dy, given = form.upstream(np.ones((2, 3, 4)), frame, {"a": 2.0})
    assert dy.shape == (6, 4) and dy.dtype == np.float32 and float(given["a"]) == 2.0
    assert form.upstream(np.full((2, 3, 4), 1j), frame, None)[0].dtype == np.complex128


def test_fractions_of_the_choices() -> None:
    assert form.fractions(np.array([1, 0, 4])).tolist() == [0.2, 0.0, 0.8]
    assert form.fractions(np.zeros(3, int)).tolist() == [0.0, 0.0, 0.0]
    assert form.fractions(np.array([1])).tolist() == [1.0]


def test_names_are_checked() -> None:
    form.losses((), ("a",))
    form.losses(("a",), ("a", "b"))
    with pytest.raises(ConfigError, match="losses must be one of .'a', 'b'., got 'c'"):
        form.losses(("a", "c"), ("a", "b"))
    with pytest.raises(ConfigError, match="activation must be one of"):
        Form(3, 4, 2, activation="gleu")
    assert Form(3, 4, 2).gated and not Form(3, 4, 2).bias


def test_the_place_of_what_is_not_finite() -> None:
    z = np.zeros((3, 4))
    form.finite("rule", z)
    form.finite("rule", z + 1e-200j)
    for value, said in ((np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")):
        bad = z.copy()
        bad[1, 2] = bad[2, 0] = value
        with pytest.raises(NonFiniteError, match=rf"rule: the logit is {said} at \(token 1, expert 2\)"):
            form.finite("rule", bad)


def test_the_place_of_a_bad_logit_far_in() -> None:
    z = np.zeros((4, 5))
    z[2, 3] = np.inf
    with pytest.raises(NonFiniteError, match="the logit is inf at .token 2, expert 3."):
        form.finite("rule", z)
