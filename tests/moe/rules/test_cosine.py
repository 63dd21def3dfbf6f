"""X-MoE: a loop for the three variants, the bounds of temperature and norms, gradients through all of them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.moe.rules import cosine
from pymoe.moe.rules.cosine import Config

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import dot, sigmoid, softmax
from ..frames import frozen, relative
from . import bench

OPTIONS = [
    Config(3, 2, 6, d_key=5, k=2, losses=("balance",)),
    Config(3, 2, 4, d_key=5, k=2, variant="tutel", norm="l1", bias=True),
    Config(3, 2, 5, d_key=4, k=3, variant="torchscale", score="sigmoid", gated=False, losses=("balance",)),
]


def parameters(cfg: Config, temperature: float = 0.7) -> dict:
    p = bench.parameters(cosine, cfg)
    return {**p, "router": {**p["router"], "temperature": frozen(np.array([temperature]))}}


def loop(x: list[float], w: dict, cfg: Config) -> list[float]:
    bias = w.get("projection_bias", np.zeros(cfg.d_key)).tolist()
    v = [dot(row, x) + b for row, b in zip(w["projection"].tolist(), bias, strict=True)]
    if cfg.variant != "torchscale":
        size = max(math.sqrt(dot(v, v)), cfg.eps)
        v = [a / size for a in v]
    tau = float(w["temperature"][0])
    beta = math.exp(min(tau, math.log(100))) if cfg.variant == "tutel" else 1 / max(tau, cfg.floor)
    z = [beta * dot(e, v) / max(math.sqrt(dot(e, e)), cfg.eps) for e in w["embedding"].tolist()]
    return [sigmoid(a) for a in z] if cfg.score == "sigmoid" else softmax(z)


@pytest.mark.parametrize("cfg", OPTIONS, ids=cosine.VARIANTS)
def test_loop(cfg: Config) -> None:
    x, p = bench.tokens(9, 3), parameters(cfg)
    out, _ = cosine.forward(x, p, cfg)
    scores = []
    for t in range(9):
        s = loop(x[t].tolist(), p["router"], cfg)
        scores.append(s)
        idx = sorted(range(len(s)), key=lambda e: -s[e])[: cfg.k]
        g = [s[e] for e in idx]
        g = [a / math.fsum(g) for a in g] if cfg.norm == "l1" else g
        assert out.routing.idx[t].tolist() == idx and relative(out.routing.weight[t], g) <= 1e-14
        form = {"gated": cfg.gated, "activation": cfg.activation}
        o = [expert_forward(x[t].tolist(), expert_at(tree.flatten(p), "experts", e), form)[0] for e in idx]
        assert relative(out.y[t], np.array(g) @ np.array(o)) <= 1e-13
    if cfg.losses:
        q = np.array(scores) / np.sum(scores, axis=1, keepdims=True)
        f = out.routing.load / (9 * cfg.k)
        assert relative(out.losses["balance"], cfg.n_experts * np.sum(f * q.mean(0))) <= 1e-14


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("cfg", OPTIONS, ids=cosine.VARIANTS)
def test_gradients(cfg: Config, mask: np.ndarray | None) -> None:
    bench.gradients(cosine, dataclasses.replace(cfg, floor=1e-9), mask=mask, p=parameters(cfg))


def test_a_temperature_at_its_bound() -> None:
    """Beyond the bound the bound counts and the gradient is 0; a temperature that just meets it still learns."""
    x = bench.tokens(7, 3)
    for cfg, low, at in ((OPTIONS[0], False, 1e-4), (OPTIONS[1], True, math.log(100)), (OPTIONS[2], False, 1e-4)):
        slow = dataclasses.replace(cfg, score="sigmoid", floor=0.25)
        at = at if low else 0.25
        beyond = at + 1 if low else at - 0.1
        out, _, dp = bench.both(cosine, slow, x, parameters(slow, at), np.ones((7, 3)))
        again, _, cut = bench.both(cosine, slow, x, parameters(slow, beyond), np.ones((7, 3)))
        assert relative(again.y, out.y) <= 1e-14
        assert dp["router.temperature"].any() and not cut["router.temperature"].any()


def test_rows_shorter_than_epsilon_are_divided_by_it() -> None:
    cfg = Config(3, 2, 4, d_key=2, eps=0.5)
    p = parameters(cfg)
    e = np.array(p["router"]["embedding"])
    e[1], e[2] = [0.0, 0.0], [0.1, 0.2]
    p = {**p, "router": {**p["router"], "embedding": frozen(e)}}
    x = np.array(bench.tokens(7, 3))
    x[2], x[3] = 0.0, 0.01 * x[3]
    bench.gradients(cosine, cfg, p=p, x=frozen(x))
    out, _ = cosine.forward(x, p, cfg)
    assert relative(out.routing.weight[2], [0.25]) <= 1e-15 and out.routing.idx[2].tolist() == [0]  # a tie
    s = softmax([a / 0.7 for a in [0.0] * 4])
    assert relative(cosine.forward(np.zeros((1, 3)), p, cfg)[0].routing.weight, [[s[0]]]) <= 1e-15


def test_the_rows_of_torchscale_get_norm_one_and_a_half() -> None:
    cfg = OPTIONS[2]
    p = parameters(cfg)
    q = cosine.rescale(p)
    assert relative(np.sqrt((q["router"]["embedding"] ** 2).sum(1)), np.full(5, 1.5)) <= 1e-15
    x, dy = bench.tokens(7, 3), np.ones((7, 3))
    out, _, dp = bench.both(cosine, cfg, x, p, dy)
    same, _, dq = bench.both(cosine, cfg, x, q, dy)
    assert relative(same.y, out.y) <= 1e-14
    size = np.sqrt((p["router"]["embedding"] ** 2).sum(1, keepdims=True))
    assert relative(dq["router.embedding"], dp["router.embedding"] * size / 1.5) <= 1e-13


def test_padding_few_tokens_bad_input() -> None:
    for cfg in OPTIONS:
        cfg = dataclasses.replace(cfg, floor=0.5)
        bench.padding(cosine, cfg, cfg.losses)
        bench.few_tokens(cosine, cfg)
        bench.float32(cosine, cfg)
    bench.bad_input(cosine, OPTIONS[1], "cosine")


def test_an_expert_without_tokens_has_no_gradient() -> None:
    cfg = Config(3, 2, 4, d_key=2)
    p = parameters(cfg)
    e = np.tile(p["router"]["embedding"][:1], (4, 1))
    _, _, dp = bench.both(
        cosine, cfg, bench.tokens(7, 3), {**p, "router": {**p["router"], "embedding": e}}, np.ones((7, 3))
    )
    assert dp["experts.down_proj"][0].any() and not dp["experts.down_proj"][1:].any()  # all equal: the lowest id


def test_names_and_the_first_temperature() -> None:
    names = ["projection", "embedding", "temperature"]
    assert [list(cosine.init(np.random.default_rng(0), cfg)["router"]) for cfg in OPTIONS] == [
        names,
        ["projection", "projection_bias", "embedding", "temperature"],
        names,
    ]
    plain = Config(3, 4, 4)
    assert (plain.k, plain.d_key, plain.eps, plain.floor) == (1, 256, 1e-12, 1e-4)
    for cfg, value in zip(OPTIONS, (0.07, math.log(2), 0.07), strict=True):
        assert cosine.init(np.random.default_rng(0), cfg)["router"]["temperature"].tolist() == [value]


def test_refused() -> None:
    for settings, words in (
        ({"k": 5}, "k must not exceed the 4"),
        ({"d_key": 0}, "d_key must be"),
        ({"variant": "Tutel"}, "variant must be one of"),
        ({"score": "relu"}, "score must be one of"),
        ({"norm": "l2"}, "norm must be one of"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"floor": 0}, "floor must be positive"),
        ({"floor": -1}, "floor must be a finite number"),
        ({"losses": ("z",)}, "losses must be one of"),
    ):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 4, "n_experts": 4, **settings})
    cfg = OPTIONS[0]
    with pytest.raises(NonFiniteError, match="cosine: the logit is nan at .token 0, expert 0."):
        cosine.forward(np.full((2, 3), np.nan), parameters(cfg), cfg)


def test_the_form_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="d_model"):
        Config(0, 4, 4)
