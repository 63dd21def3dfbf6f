"""Zaya: a loop over tokens, the state in both directions, the skip class, and the published model's own numbers."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.moe.rules import zaya
from pymoe.moe.rules.zaya import Config

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import activation, dot, softmax
from ..frames import relative
from . import bench

OPTIONS = {
    "published": Config(3, 4, 5, d_router=6),
    "first layer": Config(3, 4, 5, d_router=6, carried=False),
    "two classes, biases": Config(3, 2, 4, d_router=5, k=2, bias=True, eps=0.25),
    "all classes, no gate": Config(3, 2, 2, d_router=4, k=3, gated=False, activation="gelu"),
}


def state_of(cfg: Config, n: int = 7) -> np.ndarray | None:
    return np.random.default_rng(12).standard_normal((n, cfg.d_router)) if cfg.carried else None


def parameters(cfg: Config) -> dict[str, Any]:
    """A selection bias that moves some choices, not all."""
    p = bench.parameters(zaya, cfg)
    bias = 0.05 * p["router"]["selection_bias"] + np.where(np.arange(cfg.n_experts + 1) == cfg.n_experts, 0.2, 0.0)
    return {**p, "router": {**p["router"], "selection_bias": bias}}


def loop(x: list[float], previous: list[float] | None, p: dict, cfg: Config):
    w = {n.removeprefix("router."): a.tolist() for n, a in p.items() if n.startswith("router.")}
    r = [dot(row, x) + b for row, b in zip(w["down_weight"], w["down_bias"], strict=True)]
    if previous is not None:
        r = [a + s * b for a, s, b in zip(r, w["state_scale"], previous, strict=True)]
    size = math.sqrt(math.fsum(a * a for a in r) / len(r) + cfg.eps)
    h = [a / size * b for a, b in zip(r, w["norm_weight"], strict=True)]
    for layer in ("fc1", "fc2"):
        h = [
            activation("gelu", dot(row, h) + b) for row, b in zip(w[layer + "_weight"], w[layer + "_bias"], strict=True)
        ]
    s = softmax([dot(row, h) for row in w["out_weight"]])
    biased = [a + b for a, b in zip(s, w["selection_bias"], strict=True)]
    idx = sorted(range(len(s)), key=lambda e: (-biased[e], e))[: cfg.k]
    y = np.zeros(len(x))
    for e in idx:
        if e < cfg.n_experts:
            form = {"gated": cfg.gated, "activation": cfg.activation}
            y += s[e] * np.array(expert_forward(x, expert_at(p, "experts", e), form)[0])
    return idx, [s[e] if e < cfg.n_experts else 0.0 for e in idx], y, r


@pytest.mark.parametrize("name", OPTIONS)
def test_loop(name: str) -> None:
    cfg = OPTIONS[name]
    x, p, state = bench.tokens(31, 3), parameters(cfg), state_of(cfg, 31)
    out, _ = zaya.forward(x, p, cfg, state=state)
    skipped, count = 0, np.zeros(cfg.n_experts, int)
    for t in range(31):
        idx, weights, y, r = loop(x[t].tolist(), None if state is None else state[t].tolist(), tree.flatten(p), cfg)
        assert out.routing.idx[t].tolist() == idx
        assert relative(out.routing.weight[t], weights) <= 1e-13 and relative(out.y[t], y) <= 1e-13
        assert relative(out.state[t], r) <= 1e-14
        skipped += idx.count(cfg.n_experts)
        np.add.at(count, [e for e in idx if e < cfg.n_experts], 1)
    assert skipped and out.routing.load.tolist() == count.tolist()
    assert int(np.sum(~out.routing.kept)) == skipped


def subject(cfg: Config, mask: Any) -> Any:
    """y and the state as two outputs, x, p and the state that came in as three inputs."""

    def forward(x: Any, p: Any, state: Any) -> Any:
        out, cache = zaya.forward(x, p, cfg, mask, state=state)
        return (out.y, out.state), cache

    def backward(cotangents: Any, cache: Any) -> Any:
        return zaya.backward(cotangents[0], cache, None, cotangents[1])

    return SimpleNamespace(__name__="zaya", forward=forward, backward=backward)


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradients(name: str, mask: Any) -> None:
    cfg = OPTIONS[name]
    x, p, state = bench.tokens(7, 3), parameters(cfg), state_of(cfg)
    if mask is not None:
        state = None if state is None else np.where(mask[:, None], state, 0.0)
    report = verify.gradcheck(subject(cfg, mask), x, p, state, controls=mask is None)
    assert report.error <= 1e-13


def test_gradients_without_a_state() -> None:
    """A layer that could be given a state and is not: its scale gets exactly 0."""
    bench.gradients(zaya, OPTIONS["published"], controls=False)
    _, _, dp = bench.both(
        zaya, OPTIONS["published"], bench.tokens(7, 3), parameters(OPTIONS["published"]), np.ones((7, 3))
    )
    assert not dp["router.state_scale"].any()


def test_the_selection_bias_only_selects_and_skip_is_no_expert() -> None:
    cfg = OPTIONS["published"]
    x, p = bench.tokens(7, 3), bench.parameters(zaya, cfg)
    bias = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 9.0])
    out, dx, dp = bench.both(zaya, cfg, x, {**p, "router": {**p["router"], "selection_bias": bias}}, np.ones((7, 3)))
    assert (out.routing.idx == 5).all() and not out.routing.load.any() and not out.y.any() and not dx.any()
    assert not any(g.any() for g in dp.values())
    high = {**p, "router": {**p["router"], "selection_bias": bias[::-1].copy()}}
    out, _, dp = bench.both(zaya, cfg, x, high, np.ones((7, 3)))
    assert (out.routing.idx == 0).all() and not dp["router.selection_bias"].any()
    assert not dp["experts.down_proj"][1:].any() and dp["experts.down_proj"][0].any()
    flat = {**p, "router": {**high["router"], "selection_bias": np.zeros(6), "out_weight": np.zeros((6, 6))}}
    out, _ = zaya.forward(x, flat, cfg)
    assert (out.routing.idx == 0).all() and relative(out.routing.weight, np.full((7, 1), 1 / 6)) <= 1e-15


def test_padding_few_tokens_bad_input() -> None:
    for cfg in OPTIONS.values():
        bench.padding(zaya, cfg)
        bench.few_tokens(zaya, cfg)
        bench.float32(zaya, cfg)
    bench.bad_input(zaya, OPTIONS["published"], "zaya")


def test_padding_has_no_state() -> None:
    cfg = OPTIONS["published"]
    x, p, state = bench.tokens(7, 3), bench.parameters(zaya, cfg), state_of(cfg)
    dirty = np.where(bench.MASK[:, None], state, np.nan)
    out, cache = zaya.forward(x, p, cfg, bench.MASK, state=dirty)
    assert not out.state[~bench.MASK].any() and np.isfinite(out.y).all()
    dx, dp, dstate = zaya.backward(np.ones_like(x), cache, dstate=np.ones((7, 6)))
    assert not dstate[~bench.MASK].any() and not dx[~bench.MASK].any()
    alone, alone_cache = zaya.forward(x[bench.MASK], p, cfg, state=state[bench.MASK])
    wanted = zaya.backward(np.ones((5, 3)), alone_cache, dstate=np.ones((5, 6)))
    assert relative(dstate[bench.MASK], wanted[2]) <= 1e-13
    for name, g in tree.flatten(dp).items():
        assert relative(g, tree.flatten(wanted[1])[name]) <= 1e-13, name


def test_sequences_keep_their_shape() -> None:
    cfg = OPTIONS["published"]
    p = bench.parameters(zaya, cfg)
    x, state = bench.tokens((2, 3), 3), np.ones((2, 3, 6))
    out, cache = zaya.forward(x, p, cfg, state=state)
    dx, _, dstate = zaya.backward(np.ones_like(x), cache)
    assert out.y.shape == dx.shape == (2, 3, 3) and out.state.shape == dstate.shape == (2, 3, 6)
    assert zaya.init(np.random.default_rng(0), cfg)["router"]["state_scale"].tolist() == [1.0] * 6
    assert zaya.init(np.random.default_rng(0), cfg)["router"]["norm_weight"].tolist() == [1.0] * 6


def test_refused() -> None:
    for settings, words in (
        ({"k": 6}, "k must not exceed the 5"),
        ({"d_router": 0}, "d_router must be"),
        ({"eps": -1.0}, "eps must be a finite number and at least 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 4, "n_experts": 4, **settings})
    cfg, first = OPTIONS["published"], OPTIONS["first layer"]
    x, p = bench.tokens(7, 3), bench.parameters(zaya, cfg)
    with pytest.raises(ConfigError, match="without a state_scale"):
        zaya.forward(x, bench.parameters(zaya, first), first, state=np.ones((7, 6)))
    with pytest.raises(ShapeError, match="zaya: state must have shape"):
        zaya.forward(x, p, cfg, state=np.ones((7, 5)))
    _, cache = zaya.forward(x, p, cfg)
    with pytest.raises(ShapeError, match="zaya: dstate must have shape"):
        zaya.backward(x, cache, dstate=np.ones((6, 6)))
    with pytest.raises(NonFiniteError, match="zaya: the logit is nan at .token 1"):
        zaya.forward(np.where(np.arange(7)[:, None] == 1, np.nan, x), p, cfg)


def test_skip_starts_with_a_bias_of_its_own() -> None:
    bias = zaya.init(np.random.default_rng(0), Config(3, 4, 2, d_router=5))["router"]["selection_bias"]
    assert bias.tolist() == [0.0, 0.0, -1.0]
