"""Mixture-of-Depths: a loop over sequences, who passes the block, both losses and the gradient that is stopped."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, GradientError, NonFiniteError
from pymoe.moe.rules import mixture_of_depths as mod
from pymoe.moe.rules.mixture_of_depths import Config

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import activation, dot, softplus
from ..frames import relative
from . import bench

BOTH = ("router", "predictor")
PLAIN = Config(3, 4, capacity=0.5, losses=("router",))
FULL = Config(3, 2, capacity=0.6, d_predictor=5, losses=BOTH, gated=False, activation="gelu", bias=True)
OPTIONS = [PLAIN, FULL, dataclasses.replace(FULL, select="router"), dataclasses.replace(FULL, select="predictor")]


def guess(x: list[float], p: dict) -> float:
    a = [
        dot(row, x) + b
        for row, b in zip(p["predictor.fc1_weight"].tolist(), p["predictor.fc1_bias"].tolist(), strict=True)
    ]
    return dot(p["predictor.fc2_weight"][0].tolist(), [activation("gelu", v) for v in a]) + float(
        p["predictor.fc2_bias"][0]
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_loop(cfg: Config, masked: bool) -> None:
    x, p = bench.tokens((3, 7), 3), tree.flatten(bench.parameters(mod, cfg))
    mask = np.random.default_rng(1).random((3, 7)) < 0.6 if masked else np.ones((3, 7), bool)
    mask[1] = not masked  # a sequence of padding only
    out, _ = mod.forward(x, tree.unflatten(p), cfg, mask if masked else None)
    losses: dict[str, list[float]] = {name: [] for name in cfg.losses}
    for b in range(3):
        real = [s for s in range(7) if mask[b, s]]
        r = {s: dot(p["router.weight"][0].tolist(), x[b, s].tolist()) for s in real}
        g = {s: guess(x[b, s].tolist(), p) for s in real} if cfg.d_predictor else {}
        if cfg.select == "topk":
            chosen = sorted(real, key=lambda s: (-r[s], s))[: math.floor(cfg.capacity * len(real))]
        else:
            chosen = [s for s in real if (r if cfg.select == "router" else g)[s] > 0]
        for s in range(7):
            y = np.array(x[b, s]) if s in real else np.zeros(3)
            if s in chosen:
                form = {"gated": cfg.gated, "activation": cfg.activation}
                y = y + r[s] * np.array(expert_forward(x[b, s].tolist(), expert_at(p, "experts", 0), form)[0])
            assert relative(out.y[b, s], y) <= 1e-13
            assert bool(out.routing.kept.reshape(3, 7)[b, s]) == (s in chosen)
            for name in cfg.losses if s in real else ():
                logit = (r if name == "router" else g)[s]
                losses[name].append(softplus(logit) - (s in chosen) * logit)
    for name, each in losses.items():
        assert relative(out.losses[name], math.fsum(each) / len(each)) <= 1e-14
    assert out.routing.load.tolist() == [int(out.routing.kept.sum())]


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_gradients(cfg: Config, mask: np.ndarray | None) -> None:
    bench.gradients(mod, cfg, mask=mask, losses=["router"])


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
def test_the_predictor_learns_and_nothing_else_does(mask: np.ndarray | None) -> None:
    x, p = bench.tokens(7, 3), bench.parameters(mod, FULL)

    def forward(own):
        dtype = own["fc1_bias"].dtype  # the check asks in single precision too
        others = tree.map(lambda a: a.astype(dtype), {n: a for n, a in p.items() if n != "predictor"})
        out, cache = mod.forward(x.astype(dtype), {**others, "predictor": own}, FULL, mask)
        return out.losses["predictor"], cache

    def backward(d, cache):
        dx, dp = mod.backward(np.zeros_like(x), cache, {"predictor": d})
        assert not dx.any() and not dp["router"]["weight"].any()
        return (dp["predictor"],)

    subject = SimpleNamespace(__name__="predictor", forward=forward, backward=backward)
    assert verify.gradcheck(subject, p["predictor"], controls=True).error <= 1e-13
    with pytest.raises(GradientError, match="'x'"):  # the function itself has a dx; the rule stops it
        verify.gradcheck(mod, x, p, FULL, mask=mask, losses=["predictor"])


def test_only_the_best_of_each_sequence_with_ties() -> None:
    cfg = Config(1, 2, capacity=0.5)
    p = {**bench.parameters(mod, cfg), "router": {"weight": np.ones((1, 1))}}
    x = np.array([[[1.0], [2.0], [2.0], [2.0]], [[9.0], [8.0], [7.0], [6.0]]])
    out, _ = mod.forward(x, p, cfg)
    assert out.routing.kept.reshape(2, 4).astype(int).tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
    for capacity, count in ((0.0, 0), (0.24, 0), (0.25, 1), (0.99, 3), (1.0, 4)):
        out, _ = mod.forward(x, p, dataclasses.replace(cfg, capacity=capacity))
        assert out.routing.kept.reshape(2, 4).sum(1).tolist() == [count, count]


def test_the_losses_of_one_token() -> None:
    p = bench.parameters(mod, FULL)
    x = bench.tokens(1, 3)
    out, _ = mod.forward(x, p, dataclasses.replace(FULL, capacity=1.0))
    r = dot(p["router"]["weight"][0].tolist(), x[0].tolist())
    logit = guess(x[0].tolist(), tree.flatten(p))
    assert relative(out.losses["router"], softplus(-r)) <= 1e-14
    assert relative(out.losses["predictor"], softplus(-logit)) <= 1e-14


def test_who_is_not_chosen_passes_by() -> None:
    x, p = bench.tokens(7, 3), bench.parameters(mod, PLAIN)
    none = dataclasses.replace(PLAIN, capacity=0.0)
    dy = np.random.default_rng(0).standard_normal((7, 3))
    out, dx, dp = bench.both(mod, none, x, p, dy)
    assert np.array_equal(out.y, x) and np.array_equal(dx, dy) and not any(g.any() for g in dp.values())


@pytest.mark.parametrize("select", ["router", "predictor"])
def test_padding_is_not_chosen_by_a_guess_that_takes_all(select: str) -> None:
    cfg, x = dataclasses.replace(FULL, select=select, losses=()), bench.tokens(7, 3)
    p = bench.parameters(mod, cfg)
    p = {**p, "predictor": {**p["predictor"], "fc2_bias": np.full(1, 99.0)}}
    out, _ = mod.forward(x, p, cfg, bench.MASK)
    kept = out.routing.kept[:, 0]
    assert not kept[~bench.MASK].any() and (kept[bench.MASK].all() or select == "router")
    assert out.routing.load.tolist() == [kept.sum()]


def test_padding_few_tokens_bad_input() -> None:
    for cfg in OPTIONS:
        bench.padding(mod, cfg, cfg.losses)
        bench.few_tokens(mod, cfg)
        bench.float32(mod, cfg)
    bench.bad_input(mod, FULL, "mixture_of_depths")


def test_refused() -> None:
    for settings, words in (
        ({"n_experts": 2}, "n_experts must be 1"),
        ({"capacity": 1.5}, "capacity must be a share"),
        ({"capacity": -0.1}, "capacity must be a finite number"),
        ({"d_predictor": -1}, "d_predictor must be"),
        ({"select": "best"}, "select must be one of"),
        ({"select": "predictor"}, "there is no predictor"),
        ({"losses": ("predictor",)}, "there is no predictor"),
        ({"losses": ("z",)}, "losses must be one of"),
    ):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 4, **settings})
    assert Config(3, 4).capacity == 0.125
    x = np.where(np.arange(7)[:, None] == 3, np.nan, bench.tokens(7, 3))
    with pytest.raises(NonFiniteError, match="mixture_of_depths: the logit is nan at .token 3, expert 0."):
        mod.forward(x, bench.parameters(mod, PLAIN), PLAIN)
    p = bench.parameters(mod, FULL)
    broken = {**p, "predictor": {**p["predictor"], "fc2_bias": np.array([np.inf])}}
    with pytest.raises(NonFiniteError, match="mixture_of_depths: the logit is inf"):
        mod.forward(bench.tokens(7, 3), broken, FULL)


def test_the_gradient_of_the_predictor_follows_its_cotangent() -> None:
    x, p = bench.tokens(7, 3), bench.parameters(mod, FULL)
    _, cache = mod.forward(x, p, FULL)
    one, half = (tree.flatten(mod.backward(np.zeros_like(x), cache, {"predictor": c})[1]) for c in (1.0, 0.5))
    for name in one:
        assert np.array_equal(half[name], one[name] / 2) and one[name].any() == name.startswith("predictor")
