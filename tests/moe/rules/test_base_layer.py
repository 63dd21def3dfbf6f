"""BASE: the assignment against all assignments, α, the residual, gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.moe.rules import base_layer
from pymoe.moe.rules.base_layer import Config

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import dot, sigmoid
from ..frames import relative
from . import bench

OPTIONS = [Config(3, 4, 3), Config(3, 4, 3, select="topk", bias=True), Config(3, 2, 2, gated=False, activation="gelu")]


@pytest.mark.parametrize("tokens", [6, 7])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_loop(cfg: Config, tokens: int) -> None:
    x, p = bench.tokens(tokens, 3, 3), bench.parameters(base_layer, cfg, 3)
    out, _ = base_layer.forward(x, p, cfg)
    z = [[dot(row, x[t].tolist()) for row in p["router"]["weight"].tolist()] for t in range(tokens)]
    places = -(-tokens // cfg.n_experts)
    if cfg.select == "topk":
        best = [max(range(cfg.n_experts), key=lambda e: row[e]) for row in z]
    else:
        fair = (
            a
            for a in itertools.product(range(cfg.n_experts), repeat=tokens)
            if all(a.count(e) <= places for e in range(cfg.n_experts))
        )
        best = list(max(fair, key=lambda a: sum(z[t][e] for t, e in enumerate(a))))
    assert out.routing.idx.ravel().tolist() == best
    for t, e in enumerate(best):
        form = {"gated": cfg.gated, "activation": cfg.activation}
        o = expert_forward(x[t].tolist(), expert_at(tree.flatten(p), "experts", e), form)[0]
        alpha = sigmoid(z[t][e])
        assert relative(out.y[t], alpha * np.array(o) + (1 - alpha) * x[t]) <= 1e-13


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_gradients(cfg: Config, mask: np.ndarray | None) -> None:
    bench.gradients(base_layer, cfg, mask=mask)


def test_padding_few_tokens_bad_input() -> None:
    for cfg in OPTIONS:
        bench.padding(base_layer, cfg)
        bench.few_tokens(base_layer, cfg)
        bench.float32(base_layer, cfg)
    bench.bad_input(base_layer, OPTIONS[0], "base_layer")


def test_an_expert_without_tokens_and_ties() -> None:
    cfg = OPTIONS[1]
    p = bench.parameters(base_layer, cfg)
    p = {**p, "router": {"weight": np.zeros((3, 3))}}
    out, _, dp = bench.both(base_layer, cfg, bench.tokens(7, 3), p, np.ones((7, 3)))
    assert not out.routing.idx.any() and relative(out.routing.weight, np.full((7, 1), 0.5)) == 0
    for name in ("router.weight", "experts.gate_up_proj", "experts.down_proj_bias"):
        assert not dp[name][1:].any() and dp[name][0].any()


def test_refused() -> None:
    with pytest.raises(ConfigError, match="select must be one of"):
        Config(3, 4, 3, select="greedy")
    x = np.where(np.arange(7)[:, None] == 3, np.nan, bench.tokens(7, 3))
    with pytest.raises(NonFiniteError, match="base_layer: the logit is nan at .token 3, expert 0."):
        base_layer.forward(x, bench.parameters(base_layer, OPTIONS[0]), OPTIONS[0])


def test_the_assignment_is_balanced_over_real_tokens() -> None:
    """Padding takes no place of an expert: two experts get three of the six real tokens each."""
    cfg = Config(3, 4, 2)
    mask = np.array([1, 0, 1, 1, 0, 1, 0, 1, 1, 0], bool)
    for seed in range(5):
        x, p = bench.tokens(10, 3, seed), bench.parameters(base_layer, cfg, seed)
        out, _ = base_layer.forward(x, p, cfg, mask)
        assert out.routing.load.tolist() == [3, 3]
