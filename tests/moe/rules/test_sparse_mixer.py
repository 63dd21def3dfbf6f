"""SparseMixer-v2: a loop over tokens, the exact backward without draws, and what the estimator promises with them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, GradientError, NonFiniteError, ShapeError
from pymoe.moe.rules import sparse_mixer
from pymoe.moe.rules.sparse_mixer import Config, Draws

from ...oracles.expert_loops import expert_at, expert_forward
from ..frames import relative
from . import bench

OPTIONS = [
    Config(3, 4, 6),
    Config(3, 4, 6, k=1, jitter=0.5, gated=False, activation="gelu", losses=("balance",)),
    Config(3, 4, 6, k=3, jitter=0.3, bias=True, losses=("balance",)),
    Config(3, 4, 2, k=2, jitter=2.0),
]


def loop(z: list[float], cfg: Config, gumbel: list[list[float]] | None, uniform: list[float] | None):
    """(experts, weights, π of each slot) of one token, written from the rule."""
    taken: list[int] = []
    weights, shares = [], []
    for j in range(cfg.k):
        left = [e for e in range(len(z)) if e not in taken]
        top = max(z[e] for e in left)
        near = [e for e in left if top - z[e] <= 2 * cfg.jitter * max(math.fabs(z[e]), top)]
        total = math.fsum(math.exp(z[e] - top) for e in near)
        pi = {e: math.exp(z[e] - top) / total for e in near}
        best = next(e for e in near if z[e] == top)
        i, m = best, 1.0
        if gumbel is not None and uniform is not None:
            i = max(near, key=lambda e: z[e] + gumbel[j][e])
            m = 1.0 if i == best or uniform[j] > 0.75 else cfg.midpoint
        taken.append(i)
        weights.append(m * pi[i])
        shares.append(pi)
    return taken, weights, shares


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_loop(cfg: Config, train: bool) -> None:
    x, p = bench.tokens(23, 3), bench.parameters(sparse_mixer, cfg)
    draws = sparse_mixer.draw(np.random.default_rng(4), cfg, 23) if train else None
    out, cache = sparse_mixer.forward(x, p, cfg, draws=draws)
    flat, thirds = tree.flatten(p), 0
    dy = np.random.default_rng(5).standard_normal(x.shape)
    dz = np.zeros((23, cfg.n_experts))
    count = np.zeros(cfg.n_experts)
    for t in range(23):
        z = [
            math.fsum(w * v for w, v in zip(row, x[t].tolist(), strict=True)) for row in p["router"]["weight"].tolist()
        ]
        given = (None, None) if draws is None else (draws.gumbel[t].tolist(), draws.uniform[t].tolist())
        idx, weights, shares = loop(z, cfg, *given)
        assert out.routing.idx[t].tolist() == idx
        assert relative(out.routing.weight[t], weights) <= 1e-14
        y = np.zeros(3)
        for e, g, pi in zip(idx, weights, shares, strict=True):
            o, _, _ = expert_forward(
                x[t].tolist(), expert_at(flat, "experts", e), {"gated": cfg.gated, "activation": cfg.activation}
            )
            y += g * np.array(o)
            dg = float(dy[t] @ np.array(o))
            thirds += g < pi[e]
            for c, share in pi.items():
                dz[t, c] += dg * pi[e] * ((c == e) - share)
            count[e] += 1
        assert relative(out.y[t], y) <= 1e-13
    assert out.routing.load.tolist() == count.tolist()
    _, dp = sparse_mixer.backward(dy, cache)
    assert relative(dp["router"]["weight"], dz.T @ x) <= 1e-13
    assert bool(thirds) == (train and cfg.jitter >= 0.3)


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_without_draws_the_backward_is_exact(cfg: Config, mask: np.ndarray | None) -> None:
    bench.gradients(sparse_mixer, cfg, mask=mask)


def test_experts_that_are_sampled_for_certain_have_an_exact_backward_too() -> None:
    """U above 3/4 everywhere: m = 1, and with the decisions held the estimator is the derivative."""
    cfg = Config(3, 4, 6, jitter=0.5)
    draws = sparse_mixer.draw(np.random.default_rng(4), cfg, 7)._replace(uniform=np.full((7, 2), 0.8))
    bench.gradients(sparse_mixer, cfg, draws=draws)


def test_with_draws_no_difference_agrees_and_must_not() -> None:
    cfg = Config(3, 4, 6, jitter=0.5)
    draws = sparse_mixer.draw(np.random.default_rng(4), cfg, 7)._replace(uniform=np.full((7, 2), 0.75))
    x, p = bench.tokens(7, 3), bench.parameters(sparse_mixer, cfg)
    out, _ = sparse_mixer.forward(x, p, cfg, draws=draws)
    best, _ = sparse_mixer.forward(x, p, cfg)
    assert (out.routing.idx != best.routing.idx).any()
    with pytest.raises(GradientError, match="router.weight|'x'"):
        verify.gradcheck(sparse_mixer, x, p, cfg, draws=draws)
    with pytest.raises(GradientError, match="router.weight|'x'"):
        verify.differences(sparse_mixer, x, p, cfg, draws=draws)


def test_the_expectation_of_the_estimator() -> None:
    """Over i and m, exactly: Σ_{i not best} (L_i(1) - L_i(0)) dπ_i, plus the first-order term of the best.

    The loss is of degree three in y, so Radau's rule is exact; one slot, every sample enumerated through forward and
    backward themselves.
    """
    cfg = Config(3, 4, 5, k=1, jitter=0.6)
    x, p = bench.tokens(1, 3, 6), bench.parameters(sparse_mixer, cfg, 6)
    a, b = np.random.default_rng(8).standard_normal((2, 3))

    def loss(y: np.ndarray) -> float:
        return float(a @ y + (b @ y) ** 2 + 2 * (a @ y) ** 3)

    def slope(y: np.ndarray) -> np.ndarray:
        return a + 2 * (b @ y) * b + 6 * (a @ y) ** 2 * a

    z = (x @ p["router"]["weight"].T)[0]
    near = np.max(z) - z <= 1.2 * np.maximum(np.abs(z), np.max(z))
    pi = np.where(near, np.exp(z - np.max(z)), 0)
    pi /= pi.sum()
    assert 3 <= near.sum() < 5
    found, wanted = np.zeros(5), np.zeros(5)
    for i, u in itertools.product(np.flatnonzero(near), (0.5, 0.9)):
        gumbel = np.full((1, 1, 5), -100.0)
        gumbel[0, 0, i] = 100.0
        out, cache = sparse_mixer.forward(x, p, cfg, draws=Draws(gumbel, np.array([[u]])))
        assert out.routing.idx.tolist() == [[i]]
        _, dp = sparse_mixer.backward(slope(out.y[0])[None], cache)
        dz = dp["router"]["weight"] @ x[0] / (x[0] @ x[0])
        found += pi[i] * (0.25 if u > 0.75 else 0.75) * dz
    for i in np.flatnonzero(near):
        whole, _ = sparse_mixer.forward(
            x, p, cfg, draws=Draws(np.where(np.arange(5) == i, 99.0, 0.0)[None, None], np.array([[0.9]]))
        )
        y = whole.y[0]
        change = slope(y) @ y if i == np.argmax(z) else loss(y) - loss(np.zeros(3))
        wanted += change * pi[i] * ((np.arange(5) == i) - pi)
    assert relative(found, wanted) <= 1e-13


def test_samples_have_the_probabilities() -> None:
    cfg = Config(1, 1, 4, k=1, jitter=10.0)
    p = {
        "router": {"weight": np.log([[4.0], [3.0], [2.0], [1.0]]) + 3},
        "experts": {"gate_up_proj": np.zeros((4, 2, 1)), "down_proj": np.zeros((4, 1, 1))},
    }
    draws = sparse_mixer.draw(np.random.default_rng(0), cfg, 20000)
    out, _ = sparse_mixer.forward(np.ones((20000, 1)), p, cfg, draws=draws)
    assert np.max(np.abs(out.routing.load / 20000 - np.array([0.4, 0.3, 0.2, 0.1]))) < 0.012  # 3.5 standard deviations


def test_the_range_of_sampling() -> None:
    """(top - z) / max(|z|, top) > 2 ε is out; equality is in; top = 0 leaves those at 0 without 0 / 0."""
    cfg = Config(1, 1, 4, k=1, jitter=0.125)
    experts = {"gate_up_proj": np.zeros((4, 2, 1)), "down_proj": np.zeros((4, 1, 1))}
    for z, near in (
        ([4.0, 3.0, 2.9, -4.0], [1, 1, 0, 0]),  # 1 / 4 is 2 ε exactly
        ([0.0, 0.0, -1e-9, -1.0], [1, 1, 0, 0]),
        ([-3.0, -4.0, -4.1, -9.0], [1, 1, 0, 0]),  # |z| is the larger: 1 / 4
    ):
        p = {"router": {"weight": np.array(z)[:, None]}, "experts": experts}
        _, cache = sparse_mixer.forward(np.ones((1, 1)), p, cfg)
        assert (cache.pi[0] > 0).astype(int).tolist() == [near]


def test_ties_go_to_the_lowest_id() -> None:
    cfg = Config(2, 3, 6, k=3)
    p = bench.parameters(sparse_mixer, cfg)
    p = {**p, "router": {"weight": np.zeros((6, 2))}}
    out, _ = sparse_mixer.forward(np.ones((2, 2)), p, cfg)
    assert out.routing.idx.tolist() == [[0, 1, 2]] * 2
    assert relative(out.routing.weight, [[1 / 6, 1 / 5, 1 / 4]] * 2) <= 4 * bench.U64
    draws = Draws(np.zeros((2, 3, 6)), np.zeros((2, 3)))
    assert sparse_mixer.forward(np.ones((2, 2)), p, cfg, draws=draws)[0].routing.idx.tolist() == [[0, 1, 2]] * 2


def test_an_expert_without_tokens_has_exactly_no_gradient() -> None:
    cfg = Config(3, 4, 6, k=1)
    x, p = np.abs(bench.tokens(7, 3)), bench.parameters(sparse_mixer, cfg)
    p = {**p, "router": {"weight": np.where(np.arange(6)[:, None] == 4, 3.0, -3.0) * np.ones((6, 3))}}
    _, _, dp = bench.both(sparse_mixer, cfg, x, p, np.ones((7, 3)))
    for name in ("experts.gate_up_proj", "experts.down_proj"):
        assert not dp[name][[0, 1, 2, 3, 5]].any() and dp[name][4].any()
    assert not dp["router.weight"].any()  # one expert in range: its weight is 1


def test_padding_few_tokens_bad_input_single_precision() -> None:
    cfg = Config(3, 4, 6, k=3, jitter=0.4, bias=True, losses=("balance",))
    drawn = sparse_mixer.draw(np.random.default_rng(1), cfg, 7)
    bench.padding(sparse_mixer, cfg, ("balance",))
    bench.padding(sparse_mixer, cfg, ("balance",), lambda m: Draws(drawn.gumbel[m], drawn.uniform[m]))
    bench.few_tokens(sparse_mixer, cfg)
    bench.few_tokens(sparse_mixer, cfg, lambda n: sparse_mixer.draw(np.random.default_rng(1), cfg, n))
    bench.bad_input(sparse_mixer, cfg, "sparse_mixer")
    bench.float32(sparse_mixer, cfg)
    assert sparse_mixer.draw(np.random.default_rng(0), cfg, 2, np.float32).gumbel.dtype == np.float32


def test_the_balance_loss_counts_the_samples() -> None:
    cfg = Config(3, 4, 6, jitter=0.5, losses=("balance",))
    x, p = bench.tokens(7, 3), bench.parameters(sparse_mixer, cfg)
    out, _ = sparse_mixer.forward(x, p, cfg, draws=sparse_mixer.draw(np.random.default_rng(4), cfg, 7))
    z = x @ p["router"]["weight"].T
    s = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert relative(out.losses["balance"], 6 * np.sum(out.routing.load / 14 * s.mean(0))) <= 1e-14


def test_refused() -> None:
    for settings, words in (
        ({"k": 7}, "k must not exceed the 6"),
        ({"k": 0}, "k must be"),
        ({"jitter": -0.1}, "jitter must be a finite number and at least 0"),
        ({"midpoint": math.nan}, "midpoint must be"),
        ({"losses": "balance"}, "losses must be a tuple"),
        ({"losses": ("z",)}, "losses must be one of"),
        ({"activation": "gleu"}, "activation must be one of"),
        ({"d_ff": 0}, "d_ff must be"),
    ):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 4, "n_experts": 6, **settings})
    cfg = Config(3, 4, 6)
    assert (cfg.k, cfg.jitter, cfg.midpoint, cfg.losses) == (2, 0.01, 1 / 3, ())
    x, p = bench.tokens(7, 3), bench.parameters(sparse_mixer, cfg)
    with pytest.raises(ShapeError, match="draws.gumbel must have shape"):
        sparse_mixer.forward(x, p, cfg, draws=sparse_mixer.draw(np.random.default_rng(0), cfg, 6))
    with pytest.raises(ShapeError, match="draws.uniform must have shape"):
        sparse_mixer.forward(x, p, cfg, draws=Draws(np.zeros((7, 2, 6)), np.zeros(7)))
    for value in (np.nan, np.inf):
        place = r"sparse_mixer: the logit is (nan|-?inf) at \(token 2, expert 0\)"
        with pytest.raises(NonFiniteError, match=place), np.errstate(invalid="ignore"):
            sparse_mixer.forward(np.where(np.arange(7)[:, None] == 2, value, x), p, cfg)
