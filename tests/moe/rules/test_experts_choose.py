"""Expert choice: a loop over experts for both axes of the softmax, the edges of capacity, the division, gradients."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from pymoe import moe, presets
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.moe.rules import experts_choose
from pymoe.moe.rules.experts_choose import Config, mesh, places

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import dot, softmax
from ..frames import relative
from . import bench

OPTIONS = [
    Config(3, 4, 5),
    Config(3, 2, 4, over="tokens", factor=1.5, rounding="ceil", bias=True),
    Config(3, 2, 4, divide=True, factor=3.0),
    mesh(3, 4, 5, factor=1.0, activation="gelu"),
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_loop(cfg: Config, masked: bool) -> None:
    x, p = bench.tokens(11, 3), bench.parameters(experts_choose, cfg)
    mask = np.ones(11, bool)
    mask[[2, 7, 8]] = not masked
    out, _ = experts_choose.forward(x, p, cfg, mask if masked else None)
    real = [t for t in range(11) if mask[t]]
    z = {t: [dot(row, x[t].tolist()) for row in p["router"]["weight"].tolist()] for t in real}
    experts = range(cfg.n_experts)
    if cfg.over == "experts":
        s = {t: softmax(z[t]) for t in real}
    else:
        columns = [softmax([z[t][e] for t in real]) for e in experts]
        s = {t: [columns[e][i] for e in experts] for i, t in enumerate(real)}
    share = cfg.factor * len(real) / cfg.n_experts
    count = max(1, min(len(real), math.floor(share) if cfg.rounding == "floor" else math.ceil(share)))
    taken = {e: sorted(real, key=lambda t: (-s[t][e], t))[:count] for e in experts}
    for t in range(11):
        mine = [e for e in experts if t in taken[e]]
        y = np.zeros(3)
        for e in mine:
            g = s[t][e] / (len(mine) if cfg.divide else 1)
            form = {"gated": cfg.gated, "activation": cfg.activation}
            y += g * np.array(expert_forward(x[t].tolist(), expert_at(tree.flatten(p), "experts", e), form)[0])
            assert relative(out.routing.weight[t, e], g) <= 1e-14
        assert out.routing.kept[t].tolist() == [e in mine for e in experts] and relative(out.y[t], y) <= 1e-13
    assert out.routing.load.tolist() == [count] * cfg.n_experts
    if cfg.losses:
        wanted = len(real) * math.fsum((math.fsum(s[t]) / cfg.n_experts) ** 2 for t in real)
        assert relative(out.losses["tokens"], wanted) <= 1e-14


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_gradients(cfg: Config, mask: np.ndarray | None) -> None:
    bench.gradients(experts_choose, cfg, mask=mask)


def test_is_the_preset_of_the_layer() -> None:
    """Softmax over experts, ⌊k T / E⌋ places: the same as ``presets.expert_choice``."""
    layer = presets.expert_choice(d_model=3, d_ff=4, n_experts=5, k=2, gated=True, activation="silu")
    x, p = bench.tokens(11, 3), bench.parameters(experts_choose, OPTIONS[0])
    out, cache = experts_choose.forward(x, p, OPTIONS[0])
    wanted, other = moe.forward(x, p, layer)
    assert relative(out.y, wanted.y) <= 1e-14 and np.array_equal(out.routing.kept, wanted.routing.kept)
    dy = np.random.default_rng(0).standard_normal((11, 3))
    assert relative(experts_choose.backward(dy, cache)[0], moe.backward(dy, other)[0]) <= 1e-13


def test_the_loss_is_one_where_all_tokens_are_wanted_alike_and_t_where_one_is() -> None:
    cfg = mesh(1, 2, 3)
    p = bench.parameters(experts_choose, cfg)
    x = np.array([[0.0], [0.0], [0.0], [900.0]])
    for slope, wanted in ((0.0, 1.0), (1.0, 4.0)):
        out, _ = experts_choose.forward(x, {**p, "router": {"weight": np.full((3, 1), slope)}}, cfg)
        assert relative(out.losses["tokens"], wanted) <= 1e-15


def test_places() -> None:
    cfg = Config(3, 4, 4, factor=1.0)
    assert [places(cfg, n) for n in (0, 1, 3, 4, 7, 8)] == [0, 1, 1, 1, 1, 2]
    assert [places(dataclasses.replace(cfg, rounding="ceil"), n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert places(dataclasses.replace(cfg, factor=9.0), 3) == 3


def test_ties_go_to_the_first_token_and_nobody_left_out_divides_by_zero() -> None:
    cfg = mesh(3, 4, 4, factor=1.0)
    p = bench.parameters(experts_choose, cfg)
    p = {**p, "router": {"weight": np.zeros((4, 3))}}
    out, dx, dp = bench.both(experts_choose, cfg, bench.tokens(7, 3), p, np.ones((7, 3)))
    assert out.routing.kept.tolist() == [[t == 0] * 4 for t in range(7)]
    assert relative(out.routing.weight[0], np.full(4, 1 / 28)) <= 1e-15
    assert not out.y[1:].any() and np.isfinite(dx).all() and all(g.any() for n, g in dp.items() if n != "router.weight")


def test_an_expert_takes_no_padding_even_where_its_scores_are_all_zero() -> None:
    cfg = Config(1, 2, 2, factor=1.0)
    p = {**bench.parameters(experts_choose, cfg), "router": {"weight": np.array([[1000.0], [-1000.0]])}}
    mask = np.array([False, True, False, True])
    out, _ = experts_choose.forward(np.ones((4, 1)), p, cfg, mask)
    assert out.routing.kept.tolist() == [[False, False], [True, True], [False, False], [False, False]]


def test_padding_few_tokens_bad_input() -> None:
    for cfg in OPTIONS:
        bench.padding(experts_choose, cfg, cfg.losses)
        bench.few_tokens(experts_choose, cfg)
        bench.float32(experts_choose, cfg)
    bench.bad_input(experts_choose, OPTIONS[0], "experts_choose")


def test_refused() -> None:
    for settings, words in (
        ({"factor": -1.0}, "factor must be"),
        ({"rounding": "round"}, "rounding must be one of"),
        ({"over": "token"}, "over must be one of"),
        ({"over": "tokens", "losses": ("balance",)}, "losses must be one of"),
        ({"losses": ("tokens",)}, "is a constant where the softmax is over experts"),
    ):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 4, "n_experts": 4, **settings})
    assert (mesh(3, 4, 5).over, mesh(3, 4, 5).gated, mesh(3, 4, 5).activation) == ("tokens", False, "relu")
    x = np.where(np.arange(7)[:, None] == 3, np.nan, bench.tokens(7, 3))
    with pytest.raises(NonFiniteError, match="experts_choose: the logit is nan at .token 3, expert 0."):
        experts_choose.forward(x, bench.parameters(experts_choose, OPTIONS[0]), OPTIONS[0])


def test_the_defaults_are_those_of_the_paper_and_small_factors_stand() -> None:
    assert (Config(3, 4, 5).factor, Config(3, 4, 5).divide, Config(3, 4, 5).losses) == (2.0, False, ())
    assert places(Config(3, 4, 4, factor=0.5), 16) == 2
    with pytest.raises(ConfigError, match="d_ff"):
        Config(3, 0, 5)
