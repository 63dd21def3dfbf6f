"""st-moe: a loop over sequences, choices, places; exact without the straight-through path, and that path by itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, GradientError, NonFiniteError, ShapeError
from pymoe.moe.rules import st_moe
from pymoe.moe.rules.st_moe import Config, Draws

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import dot, softmax
from ..frames import relative
from . import bench

PLAIN = Config(3, 4, 5, minimum=1, factor=1.0)
THREE = Config(3, 2, 4, k=3, threshold=(0.9, 0.5), minimum=2, factor=0.5, gated=False, activation="gelu", bias=True)
OPTIONS = [PLAIN, THREE, Config(3, 4, 5, k=1, losses=("z",)), Config(3, 2, 4, minimum=0, factor=2.0, losses=())]


def loop(z: dict[int, list[float]], u: dict[int, list[float]] | None, cfg: Config):
    """{token: [(expert, share, kept), ...]} of one sequence of real tokens, in order."""
    chosen = {}
    for t, row in z.items():
        s = softmax(row)
        idx = sorted(range(cfg.n_experts), key=lambda e: (-s[e], e))[: cfg.k]
        total = max(math.fsum(s[e] for e in idx), cfg.eps)
        chosen[t] = [[e, s[e] / total, True] for e in idx]
    capacity = max(cfg.minimum, min(len(z), math.floor(cfg.factor * len(z) / cfg.n_experts)))
    filled = [0] * cfg.n_experts  # kept so far, of the choices before
    for j in range(cfg.k):
        asked, kept = [0] * cfg.n_experts, [0] * cfg.n_experts
        for t, choices in chosen.items():
            e, share, _ = choices[j]
            if u is not None and j and not u[t][j] < share / max(cfg.threshold[j - 1], cfg.eps):
                choices[j][2] = False
                continue
            choices[j][2] = asked[e] + filled[e] < capacity
            asked[e] += 1
            kept[e] += choices[j][2]
        filled = [a + b for a, b in zip(filled, kept, strict=True)]
    return chosen


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_loop(cfg: Config, train: bool, masked: bool) -> None:
    x, p = bench.tokens((3, 9), 3), bench.parameters(st_moe, cfg)
    mask = np.random.default_rng(2).random((3, 9)) < 0.7 if masked else np.ones((3, 9), bool)
    mask[2] = not masked
    draws = st_moe.draw(np.random.default_rng(3), cfg, 27) if train else None
    out, _ = st_moe.forward(x, p, cfg, mask if masked else None, draws)
    dropped, balance, lse = 0, [], []
    for b in range(3):
        real = [s for s in range(9) if mask[b, s]]
        z = {s: [dot(row, x[b, s].tolist()) for row in p["router"]["weight"].tolist()] for s in real}
        u = None if draws is None else {s: draws.uniform[b * 9 + s].tolist() for s in real}
        chosen = loop(z, u, cfg)
        for s in range(9):
            y = np.zeros(3)
            for j, (e, share, kept) in enumerate(chosen.get(s, [])):
                assert out.routing.idx[b * 9 + s, j] == e and out.routing.kept[b * 9 + s, j] == kept
                if kept:
                    form = {"gated": cfg.gated, "activation": cfg.activation}
                    o = expert_forward(x[b, s].tolist(), expert_at(tree.flatten(p), "experts", e), form)[0]
                    y += share * np.array(o)
                    assert relative(out.routing.weight[b * 9 + s, j], share) <= 1e-14
                dropped += not kept
            assert relative(out.y[b, s], y) <= 1e-13
        if real:
            mean = np.mean([softmax(row) for row in z.values()], axis=0)
            first = np.bincount([c[0][0] for c in chosen.values()], minlength=cfg.n_experts) / len(real)
            balance.append(cfg.n_experts * float(first @ mean))
            lse += [math.log(math.fsum(math.exp(v) for v in row)) ** 2 for row in z.values()]
    wanted = {"balance": np.mean(balance), "z": np.mean(lse)}
    assert tuple(out.losses) == cfg.losses
    for name, value in out.losses.items():
        assert relative(value, wanted[name]) <= 1e-13
    assert dropped or cfg.k == 1 or cfg.factor == 2.0
    assert out.routing.load.sum() == out.routing.kept.sum()


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_without_straight_through_the_backward_is_exact(cfg: Config, mask: np.ndarray | None) -> None:
    draws = st_moe.draw(np.random.default_rng(3), cfg, 7)
    bench.gradients(st_moe, dataclasses.replace(cfg, straight_through=False), mask=mask, draws=draws)


def test_of_two_sequences() -> None:
    bench.gradients(st_moe, dataclasses.replace(PLAIN, straight_through=False), (2, 4), controls=False)


def test_the_sum_below_epsilon_is_cut_off() -> None:
    cfg = dataclasses.replace(PLAIN, eps=0.7, straight_through=False, minimum=9)
    x, p = bench.tokens(7, 3), bench.parameters(st_moe, cfg)
    out, _ = st_moe.forward(x, p, cfg)
    sums = out.routing.weight.sum(1)
    assert (sums < 0.999).any() and (sums > 0.999).any()
    bench.gradients(st_moe, cfg)


@pytest.mark.parametrize("cfg", [PLAIN, THREE], ids=["two", "three"])
def test_the_straight_through_path(cfg: Config) -> None:
    """It adds ⟨dx̃, x⟩ to the gradient of every kept gate, dx̃ the gradient at the input of that row; nothing else.

    dx̃ by a central difference in a factor on the input of one expert: y with f(x (1 + h)) is what sg hides.
    """
    x, p = bench.tokens(7, 3), bench.parameters(st_moe, cfg)
    exact = dataclasses.replace(cfg, straight_through=False)
    dy = np.random.default_rng(4).standard_normal((7, 3))
    out, dx, dp = bench.both(st_moe, cfg, x, p, dy)
    same, dx0, dp0 = bench.both(st_moe, exact, x, p, dy)
    assert np.array_equal(out.y, same.y)
    for name in dp:
        if name.startswith("experts"):
            assert np.array_equal(dp[name], dp0[name])
    flat, form = tree.flatten(p), {"gated": cfg.gated, "activation": cfg.activation}
    dz = np.zeros((7, cfg.n_experts))
    for t in range(7):
        s = np.array(softmax((p["router"]["weight"] @ x[t]).tolist()))
        idx, v = out.routing.idx[t], s[out.routing.idx[t]]
        extra = np.zeros(cfg.k)
        for j in np.flatnonzero(out.routing.kept[t]):
            h = 2.0**-17
            ends = [
                np.array(expert_forward((x[t] * (1 + sign * h)).tolist(), expert_at(flat, "experts", idx[j]), form)[0])
                for sign in (1, -1)
            ]
            extra[j] = out.routing.weight[t, j] * float(dy[t] @ (ends[0] - ends[1])) / (2 * h)
        dv = (extra - extra @ v / v.sum()) / v.sum()
        ds = np.zeros(cfg.n_experts)
        ds[idx] = dv
        dz[t] = s * (ds - s @ ds)
    assert np.abs(dz).max() > 1e-3
    assert relative(dp["router.weight"] - dp0["router.weight"], dz.T @ x) <= 1e-8
    assert relative(dx - dx0, dz @ p["router"]["weight"]) <= 1e-8
    with pytest.raises(GradientError, match="router.weight|'x'"):
        verify.gradcheck(st_moe, x, p, cfg)


def test_places_and_ties() -> None:
    """All want 0 and then 1: the first C of them get both."""
    for n, cfg, places in ((6, Config(1, 2, 3, losses=()), 4), (20, Config(1, 2, 3, losses=()), 8), (3, PLAIN, 1)):
        cfg = dataclasses.replace(cfg, d_model=1, losses=())
        p = {**bench.parameters(st_moe, cfg), "router": {"weight": np.zeros((cfg.n_experts, 1))}}
        out, _, dp = bench.both(st_moe, cfg, np.ones((n, 1)), p, np.ones((n, 1)))
        assert out.routing.idx.tolist() == [[0, 1]] * n
        assert out.routing.kept.tolist() == [[t < places] * 2 for t in range(n)]
        assert not dp["experts.down_proj"][2:].any() and dp["experts.down_proj"][:2].any()


def test_chance() -> None:
    cfg = dataclasses.replace(PLAIN, minimum=99, threshold=0.25)
    x, p = bench.tokens(7, 3), bench.parameters(st_moe, cfg)
    v = st_moe.forward(x, p, cfg)[0].routing.weight[:, 1]
    at = np.stack([np.full(7, 0.999), v / 0.25], axis=1)
    out, _ = st_moe.forward(x, p, cfg, draws=Draws(at))
    assert out.routing.kept[:, 0].all() and not out.routing.kept[:, 1].any()  # U < v / threshold, strictly
    out, _ = st_moe.forward(x, p, cfg, draws=Draws(np.nextafter(at, 0)))
    assert out.routing.kept.all()
    zero = dataclasses.replace(cfg, threshold=0.0)
    assert st_moe.forward(x, p, zero, draws=Draws(np.full((7, 2), 0.999)))[0].routing.kept.all()


def test_padding_few_tokens_bad_input() -> None:
    drawn = st_moe.draw(np.random.default_rng(1), THREE, 7)
    for cfg in OPTIONS:
        bench.padding(st_moe, cfg, cfg.losses)
        bench.few_tokens(st_moe, cfg)
        bench.float32(st_moe, cfg)
    bench.padding(st_moe, THREE, THREE.losses, lambda m: Draws(drawn.uniform[m]))
    bench.few_tokens(st_moe, THREE, lambda n: st_moe.draw(np.random.default_rng(1), THREE, n))
    bench.bad_input(st_moe, PLAIN, "st_moe")


def test_refused() -> None:
    for settings, words in (
        ({"k": 5}, "k must not exceed the 4"),
        ({"threshold": -0.1}, "threshold must be"),
        ({"threshold": (0.1, 0.2)}, "threshold must have one number for each of the 1 later choices"),
        ({"factor": -1.0}, "factor must be"),
        ({"minimum": -1}, "minimum must be"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"eps": -1.0}, "eps must be a finite number"),
        ({"losses": ("load",)}, "losses must be one of"),
    ):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 4, "n_experts": 4, **settings})
    assert Config(3, 4, 4, k=3).threshold == (0.2, 0.2)
    plain = Config(3, 4, 4)
    assert (plain.k, plain.factor, plain.minimum, plain.eps, plain.straight_through) == (2, 1.25, 4, 1e-9, True)
    x, p = bench.tokens(7, 3), bench.parameters(st_moe, PLAIN)
    with pytest.raises(ShapeError, match="st_moe: draws.uniform must have shape"):
        st_moe.forward(x, p, PLAIN, draws=Draws(np.zeros((7, 1))))
    with pytest.raises(NonFiniteError, match="st_moe: the logit is nan at .token 3, expert 0."):
        st_moe.forward(np.where(np.arange(7)[:, None] == 3, np.nan, x), p, PLAIN)


@pytest.mark.parametrize("real", [1, 3])
def test_the_balance_loss_of_one_sequence_with_few_real_tokens(real: int) -> None:
    """E Σ_e f_e P_e over the real tokens of the only sequence that has any."""
    cfg = Config(3, 4, 5, losses=("balance",))
    x, p = bench.tokens((2, 6), 3), bench.parameters(st_moe, cfg)
    mask = np.zeros((2, 6), bool)
    mask[0, :real] = True
    out, _ = st_moe.forward(x, p, cfg, mask)
    z = x[0, :real] @ p["router"]["weight"].T
    s = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    f = np.bincount(z.argmax(1), minlength=5) / real
    assert relative(out.losses["balance"], 5 * np.sum(f * s.mean(0))) <= 1e-14
