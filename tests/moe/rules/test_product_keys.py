"""Product keys: a loop over tokens, heads and all n² sums; the three forms; a token depends on itself only."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.moe.rules import product_keys
from pymoe.moe.rules.product_keys import Config, doge, peer, pkm

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import dot, sigmoid
from ..frames import relative
from . import bench

OPTIONS = {
    "pkm": pkm(3, 4, k=2, heads=2, d_key=5),
    "pkm sigmoid, shared": pkm(3, 3, k=3, heads=1, d_key=2, score="sigmoid", d_shared=6, shared_bias=True),
    "peer": peer(3, 4, k=3, heads=2, d_key=2),
    "peer wide": Config(3, 4, 9, k=2, heads=3, d_key=5, gated=True, bias=True),
    "doge": doge(3, 4, k=2, d_shared=5),
    "doge, all keys": doge(4, 3, k=3, d_shared=5, shared_gated=False),
}


def loop(x: list[float], p: dict, cfg: Config) -> tuple[list[int], list[float], np.ndarray]:
    n, idx, weights, y = cfg.n, [], [], np.zeros(len(x))
    for h in range(cfg.heads):
        halves = []
        for half in (0, 1):
            at = (h * 2 + half) * (cfg.d_key or n)
            if cfg.d_key:
                q = [dot(p["router.query"][at + i].tolist(), x) for i in range(cfg.d_key)]
                halves.append([dot(key, q) for key in p["router.keys"][h, half].tolist()])
            else:
                halves.append([dot(p["router.weight"][at + i].tolist(), x) for i in range(n)])
        sums = {i * n + j: halves[0][i] + halves[1][j] for i in range(n) for j in range(n)}
        best = sorted(sums, key=lambda e: -sums[e])[: cfg.k]
        top = sums[best[0]]
        total = math.fsum(math.exp(sums[e] - top) for e in best)
        for e in best:
            g = sigmoid(sums[e]) if cfg.score == "sigmoid" else math.exp(sums[e] - top) / total
            idx.append(e)
            weights.append(g)
            if cfg.memory:
                y += g * p["values"][e]
            else:
                form = {"gated": cfg.gated, "activation": cfg.activation}
                y += g * np.array(expert_forward(x, expert_at(p, "experts", e), form)[0])
    if cfg.d_shared:
        form = {"gated": cfg.shared_gated, "activation": cfg.activation}
        y += np.array(expert_forward(x, expert_at(p, "shared", 0), form)[0])
    return idx, weights, y


@pytest.mark.parametrize("name", OPTIONS)
def test_loop(name: str) -> None:
    cfg = OPTIONS[name]
    x, p = bench.tokens(9, cfg.d_model), bench.parameters(product_keys, cfg)
    out, _ = product_keys.forward(x, p, cfg)
    count = np.zeros(cfg.n_experts, int)
    for t in range(9):
        idx, weights, y = loop(x[t].tolist(), tree.flatten(p), cfg)
        assert out.routing.idx[t].tolist() == idx
        assert relative(out.routing.weight[t], weights) <= 1e-14 and relative(out.y[t], y) <= 1e-13
        np.add.at(count, idx, 1)
    assert out.routing.load.tolist() == count.tolist() and out.losses == {}


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradients(name: str, mask: np.ndarray | None) -> None:
    bench.gradients(product_keys, OPTIONS[name], mask=mask)


@pytest.mark.parametrize("name", OPTIONS)
def test_padding_few_tokens_bad_input(name: str) -> None:
    cfg = OPTIONS[name]
    bench.padding(product_keys, cfg)
    bench.few_tokens(product_keys, cfg)
    bench.bad_input(product_keys, cfg, "product_keys")
    bench.float32(product_keys, cfg)


def test_a_token_depends_on_itself_only() -> None:
    """The published Doge reshapes (B, S, 2n) with view(2, BS, n): there token 7 moves token 6."""
    cfg = doge(3, 4, k=2)
    x, p = bench.tokens(8, 3), bench.parameters(product_keys, cfg)
    out, _ = product_keys.forward(x, p, cfg)
    changed = np.array(x)
    changed[7] = -changed[7]
    again, _ = product_keys.forward(changed, p, cfg)
    assert np.array_equal(again.routing.idx[:7], out.routing.idx[:7])
    assert relative(again.y[:7], out.y[:7]) <= 1e-14 and relative(again.y[7], out.y[7]) > 0.1


def test_two_heads_on_one_expert_give_it_both_weights() -> None:
    cfg = pkm(2, 2, k=1, heads=2, d_key=2, score="sigmoid")
    p = bench.parameters(product_keys, cfg)
    keys = p["router"]["keys"]
    same = {"query": np.concatenate([p["router"]["query"][:4]] * 2), "keys": np.stack([keys[0]] * 2)}
    out, cache = product_keys.forward(np.ones((1, 2)), {**p, "router": same}, cfg)
    e, g = int(out.routing.idx[0, 0]), out.routing.weight[0, 0]
    assert out.routing.idx.tolist() == [[e, e]]
    assert relative(out.y[0], 2 * g * p["values"][e]) <= 1e-15
    _, dp = product_keys.backward(np.array([[1.0, 0.0]]), cache)
    assert relative(dp["values"][e], [2 * g, 0.0]) <= 1e-15
    assert not dp["values"][np.arange(4) != e].any()


def test_ties_go_to_the_lowest_id_and_an_expert_without_tokens_has_no_gradient() -> None:
    cfg = peer(3, 3, k=2, d_key=2, heads=1)
    p = bench.parameters(product_keys, cfg)
    p = {**p, "router": {**p["router"], "keys": np.zeros((1, 2, 3, 2))}}
    out, _, dp = bench.both(product_keys, cfg, bench.tokens(7, 3), p, np.ones((7, 3)))
    assert out.routing.idx.tolist() == [[0, 1]] * 7 and out.routing.load.tolist() == [7, 7] + 7 * [0]
    assert not dp["experts.up_proj"][2:].any() and dp["experts.up_proj"][:2].all()


def test_the_published_sizes() -> None:
    assert (pkm(8).n, pkm(8).k, pkm(8).heads, pkm(8).d_key, pkm(8).memory) == (512, 32, 4, 256, True)
    assert (peer(8).n_experts, peer(8).k, peer(8).heads, peer(8).gated, peer(8).activation) == (
        1 << 20,
        16,
        8,
        False,
        "gelu",
    )
    assert (doge(8).n_experts, doge(8).k, doge(8).heads, doge(8).gated, doge(8).activation) == (
        16384,
        64,
        1,
        False,
        "silu",
    )


def test_refused() -> None:
    assert (Config(3, 1, 64).k, Config(3, 1, 64).heads, Config(3, 1, 64).d_key) == (8, 1, 0)
    for settings, words in (
        ({"n_experts": 8}, "n_experts must be a square.*got 8; the nearest below is 4"),
        ({"k": 4}, "k must not exceed the 3"),
        ({"heads": 0}, "heads must be"),
        ({"d_key": -1}, "d_key must be"),
        ({"d_shared": -1}, "d_shared must be"),
        ({"score": "relu"}, "score must be one of"),
    ):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 1, "n_experts": 9, "k": 2, **settings})
    cfg = pkm(3, 3, k=2, d_key=4, heads=2)
    p = bench.parameters(product_keys, cfg)
    x = np.where(np.arange(7)[:, None] == 3, np.nan, bench.tokens(7, 3))
    with pytest.raises(NonFiniteError, match="product_keys: the logit is nan at .token 3, expert 0."):
        product_keys.forward(x, p, cfg)
