"""Bad input is refused before any kernel runs: class, rule, what came and where; what is allowed gives numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from pymoe.moe import Capacity, Draws

from .frames import ALL, bits, config, everything, frozen, make


def router(f: Any, **leaves: np.ndarray) -> dict[str, Any]:
    return {**f.p, "router": {**f.p["router"], **{n: frozen(a) for n, a in leaves.items()}}}


BASE = make(config(norm="l1"))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((7, 4)), ShapeError, r"x must have shape \(T, 3\) or \(B, S, 3\), got \(7, 4\)"),
        (np.zeros(3), ShapeError, r"got \(3,\)"),
        (np.zeros((2, 7, 1)), ShapeError, r"got \(2, 7, 1\)"),
        (np.zeros((7, 3), np.int64), DtypeError, "x must be floating point, got int64: cast it"),
        (np.zeros((7, 3), bool), DtypeError, "got bool"),
        (np.zeros((7, 3), object), DtypeError, "got object"),
        ([[0.0] * 3] * 7, DtypeError, "got list: convert it first"),
        (np.ma.MaskedArray(np.zeros((7, 3)), mask=False), DtypeError, "without a mask, got a numpy.ma.MaskedArray"),
    ],
)
def test_x(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        moe.forward(x, BASE.p, BASE.cfg)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones(6, bool), ShapeError, r"mask must have shape \(7,\), got \(6,\)"),
        (np.ones((7, 1), bool), ShapeError, r"got \(7, 1\)"),
        (np.ones(7, np.int64), DtypeError, "mask must be bool, True for real tokens, got int64: write mask != 0"),
        (np.ones(7), DtypeError, "got float64"),
    ],
)
def test_mask(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        moe.forward(BASE.x, BASE.p, BASE.cfg, mask=mask)


def test_parameters_of_other_settings_are_named() -> None:
    """Which are missing, which are too many, and what shape was wanted."""
    mlp = make(config(gated=False)).p
    with pytest.raises(ShapeError, match=r"missing \['experts.gate_up_proj'\], unexpected \['experts.up_proj'\]"):
        moe.forward(BASE.x, mlp, BASE.cfg)
    with pytest.raises(ShapeError, match=r"unexpected \['router.bias'\]"):
        moe.forward(BASE.x, router(BASE, bias=np.zeros(6)), BASE.cfg)
    for name, shape in (("router", (6, 3)), ("experts", (6, 8, 3))):
        leaf = {"router": "weight", "experts": "gate_up_proj"}[name]
        wrong = {**BASE.p, name: {**BASE.p[name], leaf: np.zeros((*shape[:-1], 2))}}
        with pytest.raises(ShapeError) as refused:
            moe.forward(BASE.x, wrong, BASE.cfg)
        assert str(refused.value) == f"{name}.{leaf} must have shape {shape}, got {(*shape[:-1], 2)}"


@pytest.mark.parametrize(
    ("settings", "draws", "error", "message"),
    [
        ({}, {"noise": np.zeros((7, 6))}, ConfigError, r"draws.noise was given, but these settings draw none"),
        (
            {"noise": "learned"},
            {"noise": np.zeros((7, 5))},
            ShapeError,
            r"draws.noise must have shape \(7, 6\), got \(7, 5\)",
        ),
        ({"noise": "learned"}, {"noise": np.zeros((1, 6))}, ShapeError, r"got \(1, 6\)"),
        (
            {"jitter": 0.1},
            {"jitter": np.ones((7, 1))},
            ShapeError,
            r"draws.jitter must have shape \(7, 3\), got \(7, 1\)",
        ),
        (
            {"second_threshold": 0.2},
            {"second": np.zeros(1)},
            ShapeError,
            r"draws.second must have shape \(7,\), got \(1,\)",
        ),
    ],
)
def test_draws(settings: dict, draws: dict, error: type[Exception], message: str) -> None:
    """A draw of another batch would be broadcast and shared between tokens in silence."""
    f = make(config(**settings))
    with pytest.raises(error, match=message):
        f.forward(draws=Draws(**draws))


def test_backward_refuses_what_is_not_the_forward() -> None:
    _, cache = BASE.forward()
    with pytest.raises(ShapeError, match=r"dy must have shape \(7, 3\), got \(3, 7\)"):
        moe.backward(BASE.dy.T, cache)
    with pytest.raises(DtypeError, match="dy must be floating point, got int64"):
        moe.backward(np.ones((7, 3), np.int64), cache)
    for name in ("importance", "load", "Balance"):
        with pytest.raises(ShapeError, match=rf"no such loss in this layer: \['{name}'\]; it has \['balance', 'z'\]"):
            moe.backward(BASE.dy, cache, {name: 1.0})
    assert moe.backward(BASE.dy, cache, {})[0].any()


# ---- values that have no rank ----


def test_nan_logits_raise_with_the_place() -> None:
    x = BASE.x.copy()
    x[4, 1] = np.nan
    with pytest.raises(NonFiniteError, match=r"logit is NaN at \(token 4, expert 0\)"):
        moe.forward(x, BASE.p, BASE.cfg)
    weight = BASE.p["router"]["weight"].copy()
    weight[5, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"\(token 0, expert 5\)"):
        BASE.forward(p=router(BASE, weight=weight))


@pytest.mark.parametrize("select", ["topk", "group_limited", "expert_choice"])
def test_infinite_logits_raise_with_the_place(select: str) -> None:
    f = make(config(router_bias=True, select=select))
    bias = f.p["router"]["bias"].copy()
    bias[3] = np.inf
    with pytest.raises(NonFiniteError, match=r"logit is \+inf at \(token 0, expert 3\): no softmax exists"):
        f.forward(p=router(f, bias=bias))


def test_minus_infinity_masks_an_expert() -> None:
    """With k others left a logit of -inf is a mask: the rest is as without that expert, gradients and losses too."""
    f = make(config(router_bias=True, norm="l1", losses=ALL, d_shared=5))
    bias = f.p["router"]["bias"].copy()
    bias[5] = -np.inf  # the last one, so that ids stay
    out, dx, dp = f.both(p=router(f, bias=bias))
    assert out.routing.load[5] == 0 and not dp["router.weight"][5].any() and not dp["experts.down_proj"][5].any()
    fewer = config(router_bias=True, norm="l1", losses=("z",), d_shared=5, n_experts=5)
    p = {**f.p, "experts": {n: a[:5] for n, a in f.p["experts"].items()}}
    p["router"] = {"weight": f.p["router"]["weight"][:5], "bias": bias[:5]}
    small, small_dx, small_dp = f._replace(cfg=fewer, p=p, dlosses={"z": f.dlosses["z"]}).both()
    assert np.array_equal(out.routing.idx, small.routing.idx)
    assert np.allclose(out.y, small.y, rtol=0, atol=1e-15) and np.isclose(
        out.losses["z"], small.losses["z"], rtol=1e-15
    )
    _, dx, dp = f._replace(p=router(f, bias=bias), dlosses={"z": f.dlosses["z"]}).both()
    assert np.allclose(dx, small_dx, rtol=0, atol=1e-14)
    assert np.allclose(dp["router.weight"][:5], small_dp["router.weight"], rtol=0, atol=1e-14)


def test_too_many_masked_experts_are_refused() -> None:
    f = make(config(router_bias=True, k=2))
    bias = np.full(6, -np.inf)
    bias[2] = 0.0
    with pytest.raises(NonFiniteError, match=r"token 0 has 1 experts that no logit of -inf masks, fewer than k=2"):
        f.forward(p=router(f, bias=bias))


def test_a_nan_selection_bias_is_refused() -> None:
    f = make(config(selection_bias=True))
    with pytest.raises(NonFiniteError, match="selection_bias holds NaN"):
        f.forward(p=router(f, selection_bias=np.array([0, 0, np.nan, 0, 0, 0])))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_propagate_keeps_the_other_rows_to_the_bit(value: float) -> None:
    """A NaN in token t reaches row t of y and dx alone.  NaN scores choose experts 0 and 1: so does t before."""
    f = make(config(norm="l1", nonfinite="propagate", losses=("z",), d_shared=5, bias=True))
    x, rng = f.x.copy(), np.random.default_rng(0)
    while sorted(f.forward(x=x)[0].routing.idx[4].tolist()) != [0, 1]:
        x[4] = rng.standard_normal(3)
    out, cache = f.forward(x=x)
    dx, _ = moe.backward(f.dy, cache)
    sick = x.copy()
    sick[4, 1] = value
    with np.errstate(invalid="ignore"):
        bad, bad_cache = f.forward(x=sick)
        bad_dx, _ = moe.backward(f.dy, bad_cache)
    others = np.arange(7) != 4
    assert bad.routing.idx[4].tolist() == [0, 1]
    assert not np.isfinite(bad.y[4]).any()
    assert bits(bad.y[others], bad_dx[others]) == bits(out.y[others], dx[others])


def test_what_stands_in_the_padding_is_never_seen() -> None:
    """NaN, infinity and huge numbers in padding tokens change no bit of anything, gradients of the padding are 0."""
    f = make(config(norm="l1", noise="learned", jitter=0.25, losses=ALL, d_shared=5, bias=True), mask=True)
    want = everything(f)
    x, dy = f.x.copy(), f.dy.copy()
    x[~f.mask], dy[~f.mask] = np.nan, np.inf
    found = everything(f, x=x, dy=dy)
    for n, a in want.items():
        assert bits(a) == bits(found[n]), n
    assert not found["y"][~f.mask].any() and not found["dx"][~f.mask].any()


@pytest.mark.parametrize("settings", [{}, {"noise": "learned"}, {"select": "expert_choice"}, {"capacity": Capacity()}])
@pytest.mark.parametrize("tokens", [0, 4])
def test_nothing_but_padding_is_zero(settings: dict, tokens: int) -> None:
    """Empty batch and all-padding batch: y = 0, losses exactly 0, gradients exactly 0, no warning."""
    f = make(config(losses=ALL, bias=True, d_shared=5, **settings), tokens, mask=np.zeros(tokens, bool))
    out, dx, dp = f.both()
    assert out.y.shape == (tokens, 3) and not out.y.any() and not dx.any()
    assert {n: float(v) for n, v in out.losses.items()} == dict.fromkeys(ALL, 0.0)
    assert not out.routing.load.any() and not any(g.any() for g in dp.values())
    assert all(np.isfinite(g).all() for g in dp.values())


@pytest.mark.parametrize("dlosses", [0.01, ("balance", 0.01), np.ones(2), "balance"])
def test_cotangents_of_losses_that_are_not_named(dlosses: Any) -> None:
    out, cache = moe.forward(BASE.x, BASE.p, BASE.cfg)
    with pytest.raises(ConfigError, match="dlosses must be a mapping .*, got "):
        moe.backward(np.ones_like(out.y), cache, dlosses)


def test_control_named_cotangents_are_taken() -> None:
    out, cache = moe.forward(BASE.x, BASE.p, BASE.cfg)
    plain, named = (moe.backward(np.ones_like(out.y), cache, d)[0] for d in (None, {"balance": 0.01}))
    assert not np.array_equal(plain, named)
