"""DSelect-k: a loop over selectors and bits, the smooth step and its ends, both losses, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.moe.rules import dselect_k
from pymoe.moe.rules.dselect_k import Config

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import dot, softmax
from ..frames import frozen, relative
from . import bench

BOTH = ("entropy", "reachable")
OPTIONS = [
    Config(3, 2, 4, k=2, gamma=1.5),
    Config(3, 2, 5, k=3, gamma=3.0, losses=BOTH),
    Config(3, 2, 6, k=1, gamma=2.0, losses=("reachable",), gated=False, bias=True),
    Config(3, 2, 5, k=2, gamma=1.0, static=True, losses=BOTH),
    Config(3, 2, 2, k=2, gamma=2.0, losses=()),
]


def step(u: float, gamma: float) -> float:
    if u <= -gamma / 2:
        return 0.0
    return 1.0 if u >= gamma / 2 else -2 * u**3 / gamma**3 + 3 * u / (2 * gamma) + 0.5


def loop(x: list[float], w: dict, cfg: Config):
    m = math.ceil(math.log2(cfg.n_experts))
    if cfg.static:
        u, alpha = w["selector"].tolist(), w["mix"].tolist()
    else:
        u = [dot(row, x) + b for row, b in zip(w["selector_weight"].tolist(), w["selector_bias"].tolist(), strict=True)]
        alpha = [dot(row, x) + b for row, b in zip(w["mix_weight"].tolist(), w["mix_bias"].tolist(), strict=True)]
    r = []
    for i in range(cfg.k):
        bits = [step(v, cfg.gamma) for v in u[i * m : (i + 1) * m]]
        codes = [f"{e:0{m}b}" for e in range(cfg.n_experts)]
        r.append([math.prod(s if c == "1" else 1 - s for s, c in zip(bits, code, strict=True)) for code in codes])
    a = softmax(alpha)
    return [math.fsum(a[i] * r[i][e] for i in range(cfg.k)) for e in range(cfg.n_experts)], r


@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_loop(cfg: Config) -> None:
    x, p = bench.tokens(13, 3), bench.parameters(dselect_k, cfg)
    out, _ = dselect_k.forward(x, p, cfg)
    losses = {"entropy": [], "reachable": []}
    for t in range(13):
        g, r = loop(x[t].tolist(), p["router"], cfg)
        assert relative(out.routing.weight[t], g) <= 1e-14
        assert out.routing.kept[t].tolist() == [a > 0 for a in g]
        form = {"gated": cfg.gated, "activation": cfg.activation}
        o = [
            expert_forward(x[t].tolist(), expert_at(tree.flatten(p), "experts", e), form)[0]
            for e in range(cfg.n_experts)
        ]
        assert relative(out.y[t], np.array(g) @ np.array(o)) <= 1e-13
        losses["entropy"] += [-a * math.log(a + 1e-6) for row in r for a in row]
        losses["reachable"] += [1 / math.fsum(row) for row in r]
    for name, value in out.losses.items():
        assert relative(value, math.fsum(losses[name])) <= 1e-13
    assert tuple(out.losses) == cfg.losses


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_gradients(cfg: Config, mask: np.ndarray | None) -> None:
    bench.gradients(dselect_k, cfg, mask=mask, controls=mask is None)


def test_bits_that_have_decided_have_no_gradient_and_ends_are_flat() -> None:
    """One selector at code 10, bit by bit at the ends of the step and beyond: one expert, weight 1, no slope."""
    for low, high in ((-0.5, 0.5), (-9.0, 9.0)):
        cfg = Config(3, 2, 4, k=1, static=True)
        p = bench.parameters(dselect_k, cfg)
        p = {**p, "router": {"selector": frozen(np.array([high, low])), "mix": np.zeros(1)}}
        out, _, dp = bench.both(dselect_k, cfg, bench.tokens(7, 3), p, np.ones((7, 3)), {"entropy": 1.0})
        assert out.routing.weight.tolist() == [[0.0, 0.0, 1.0, 0.0]] * 7 and out.routing.load.tolist() == [0, 0, 7, 0]
        assert not dp["router.selector"].any() and not dp["router.mix"].any()
        assert not dp["experts.down_proj"][[0, 1, 3]].any() and dp["experts.down_proj"][2].any()
        assert abs(float(out.losses["entropy"])) < 1e-4


def test_two_selectors_may_choose_one_expert() -> None:
    cfg = Config(3, 2, 4, k=2, static=True)
    p = bench.parameters(dselect_k, cfg)
    p = {**p, "router": {"selector": np.array([9.0, 9.0, 9.0, 9.0]), "mix": np.array([0.3, -2.0])}}
    out, _ = dselect_k.forward(bench.tokens(2, 3), p, cfg)
    assert relative(out.routing.weight, [[0.0, 0.0, 0.0, 1.0]] * 2) <= 1e-15


def test_padding_few_tokens_bad_input() -> None:
    for cfg in OPTIONS:
        bench.padding(dselect_k, cfg, cfg.losses)
        bench.few_tokens(dselect_k, cfg)
        bench.float32(dselect_k, cfg, seed=3)
    bench.bad_input(dselect_k, OPTIONS[0], "dselect_k")
    bench.bad_input(dselect_k, OPTIONS[3], "dselect_k")


def test_first_values_are_near_the_middle_of_the_step() -> None:
    cfg = Config(30, 2, 16, k=4, gamma=2.0)
    w = dselect_k.init(np.random.default_rng(0), cfg)["router"]
    assert 0.015 < np.abs(w["selector_weight"]).max() <= 0.02 and 0 < np.abs(w["selector_bias"]).max() <= 0.02
    assert w["selector_weight"].min() < -0.01 and w["selector_weight"].max() > 0.01
    assert np.abs(w["mix_weight"]).max() > 0.1 and not w["mix_bias"].any()
    assert [Config(3, 2, e).bits for e in (2, 3, 4, 5, 8, 9)] == [1, 2, 2, 3, 3, 4]


def test_refused() -> None:
    for settings, words in (
        ({"k": 5}, "k must not exceed the 4"),
        ({"gamma": 0.0}, "gamma must be positive"),
        ({"gamma": -1.0}, "gamma must be a finite number"),
        ({"n_experts": 1, "k": 1}, "n_experts must be at least 2"),
        ({"losses": ("z",)}, "losses must be one of"),
        ({"losses": BOTH}, "all codes of 4 experts are reachable"),
    ):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 4, "n_experts": 4, **settings})
    cfg = OPTIONS[0]
    p = bench.parameters(dselect_k, cfg)
    for leaf in ("selector_bias", "mix_bias"):
        broken = {**p, "router": {**p["router"], leaf: np.array(p["router"][leaf]) * np.nan}}
        with pytest.raises(NonFiniteError, match="dselect_k: the logit is nan at .token 0, expert 0."):
            dselect_k.forward(bench.tokens(7, 3), broken, cfg)
