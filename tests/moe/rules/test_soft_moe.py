"""Soft MoE: a loop over sequences, slots and tokens; sums of D and C; the ε of both norms; gradients."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.moe.rules import soft_moe
from pymoe.moe.rules.soft_moe import Config

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import dot, softmax
from ..frames import frozen, relative
from . import bench

OPTIONS = [
    Config(3, 2, 4),
    Config(3, 2, 2, slots=3, eps=0.25, bias=True),
    Config(3, 4, 3, slots=2, gated=False, activation="gelu"),
]


def parameters(cfg: Config, scale: float = 1.7) -> dict:
    p = bench.parameters(soft_moe, cfg)
    return {**p, "router": {**p["router"], "scale": frozen(np.array([scale]))}}


def unit(a: list[float], eps: float) -> list[float]:
    size = math.sqrt(dot(a, a)) + eps
    return [v / size for v in a]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_loop(cfg: Config, masked: bool) -> None:
    x, p = bench.tokens((2, 5), 3), parameters(cfg)
    mask = np.ones((2, 5), bool)
    if masked:
        mask[0, [1, 4]] = False
    out, _ = soft_moe.forward(x, p, cfg, mask if masked else None)
    slots = p["router"]["slots"].reshape(-1, 3).tolist()
    for b in range(2):
        real = [s for s in range(5) if mask[b, s]]
        logits = {s: [1.7 * dot(unit(phi, cfg.eps), unit(x[b, s].tolist(), cfg.eps)) for phi in slots] for s in real}
        outputs = []
        for i in range(len(slots)):
            d = softmax([logits[s][i] for s in real])
            mixed = [math.fsum(w * float(x[b, s, c]) for w, s in zip(d, real, strict=True)) for c in range(3)]
            form = {"gated": cfg.gated, "activation": cfg.activation}
            outputs.append(expert_forward(mixed, expert_at(tree.flatten(p), "experts", i // cfg.slots), form)[0])
        for s in range(5):
            y = np.array(softmax(logits[s])) @ np.array(outputs) if s in real else np.zeros(3)
            assert relative(out.y[b, s], y) <= 1e-13
    assert relative(out.dispatch.sum(1), np.ones((2, len(slots)))) <= 1e-14
    assert relative(out.combine.sum(2), mask.astype(float)) <= 1e-14


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_gradients(cfg: Config, mask: np.ndarray | None) -> None:
    bench.gradients(soft_moe, cfg, mask=mask, p=parameters(cfg))


def test_two_sequences_do_not_meet() -> None:
    cfg = OPTIONS[1]
    x, p = bench.tokens((2, 4), 3), parameters(cfg)
    bench.gradients(soft_moe, cfg, (2, 4), p=p)
    both, _ = soft_moe.forward(x, p, cfg)
    alone, _ = soft_moe.forward(x[1], p, cfg)
    assert relative(both.y[1], alone.y) <= 1e-14


def test_a_token_of_zeros_has_a_norm() -> None:
    """ε is added to the norm: a zero row is a zero row, and what comes near it is not enlarged beyond 1 / ε."""
    cfg = dataclasses.replace(OPTIONS[0], eps=0.5)
    x, p = np.array(bench.tokens(7, 3)), parameters(cfg)
    x[3] = 0.0
    bench.gradients(soft_moe, cfg, p=p, x=frozen(x))
    nothing = dataclasses.replace(cfg, eps=0.0)
    out, cache = soft_moe.forward(x, p, nothing)
    assert relative(out.combine[0, 3], np.full(4, 0.25)) <= 1e-15
    dx, _ = soft_moe.backward(np.ones((7, 3)), cache)
    assert np.isfinite(dx).all()


def test_padding_few_tokens_bad_input() -> None:
    for cfg in OPTIONS:
        bench.padding(soft_moe, cfg)
        bench.few_tokens(soft_moe, cfg)
        bench.float32(soft_moe, cfg)
    bench.bad_input(soft_moe, OPTIONS[0], "soft_moe")
    assert soft_moe.init(np.random.default_rng(0), OPTIONS[0])["router"]["scale"].tolist() == [1.0]
    assert Config(3, 4, 5).eps == 1e-6


def test_refused() -> None:
    for settings, words in (({"slots": 0}, "slots must be"), ({"eps": -1.0}, "eps must be a finite number")):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 4, "n_experts": 4, **settings})
    with pytest.raises(NonFiniteError, match="soft_moe: the logit is nan at .token 0, expert 0."):
        soft_moe.forward(np.full((2, 3), np.nan), parameters(OPTIONS[0]), OPTIONS[0])
