"""Merged experts: a loop over segments that mixes the weights, the shift, the stop-gradient of the first segment."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, GradientError, NonFiniteError
from pymoe.moe.rules import merged
from pymoe.moe.rules.merged import Config, lory

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import dot, softmax
from ..frames import relative
from . import bench

OPTIONS = {
    "smear": Config(3, 2, 4),
    "segments": Config(3, 2, 4, segment=3, gated=False, activation="gelu", bias=True),
    "segments of one": Config(3, 4, 2, segment=1),
    "lory": lory(3, 2, 4, segment=3, bias=True),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_loop(name: str, masked: bool) -> None:
    cfg = OPTIONS[name]
    x, p = bench.tokens((2, 7), 3), bench.parameters(merged, cfg)
    mask = np.ones((2, 7), bool)
    if masked:
        mask[0, :4], mask[1, 6] = False, False
    out, _ = merged.forward(x, p, cfg, mask if masked else None)
    size = cfg.segment or 7
    assert out.gates.shape == (2, -(-7 // size), cfg.n_experts)
    flat = tree.flatten(p)
    for b in range(2):
        gates = []
        for start in range(0, 7, size):
            real = [x[b, s] for s in range(start, min(start + size, 7)) if mask[b, s]]
            mean = (np.sum(real, axis=0) / len(real) if real else np.zeros(3)).tolist()
            gates.append(softmax([dot(row, mean) for row in p["router"]["weight"].tolist()]))
        for s in range(7):
            gate = gates[max(s // size - 1, 0)]
            assert relative(out.gates[b, s // size], gate) <= 1e-14
            mixed = {
                n: sum(g * a[e] for e, g in enumerate(gate))[None] for n, a in flat.items() if n.startswith("experts")
            }
            form = {"gated": cfg.gated, "activation": cfg.activation}
            y = expert_forward(x[b, s].tolist(), expert_at(mixed, "experts", 0), form)[0] if mask[b, s] else np.zeros(3)
            assert relative(out.y[b, s], y) <= 1e-13


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("name", ["smear", "segments", "segments of one"])
def test_gradients(name: str, mask: np.ndarray | None) -> None:
    bench.gradients(merged, OPTIONS[name], mask=mask)


def test_gradients_of_two_sequences() -> None:
    bench.gradients(merged, OPTIONS["segments"], (2, 4), controls=False)


def test_the_first_segment_is_stopped_and_only_it() -> None:
    """Of a cotangent on later segments everything is exact; of one on the first the router gets exactly nothing."""
    stopped = OPTIONS["lory"]
    own = dataclasses.replace(stopped, first="own")
    x, p = bench.tokens(7, 3), bench.parameters(merged, stopped)
    dy = np.random.default_rng(1).standard_normal((7, 3))
    later, first = np.where(np.arange(7)[:, None] < 3, 0.0, dy), np.where(np.arange(7)[:, None] < 3, dy, 0.0)
    a, b = bench.both(merged, stopped, x, p, later), bench.both(merged, own, x, p, later)
    assert np.array_equal(a[1], b[1]) and all(np.array_equal(a[2][n], b[2][n]) for n in a[2])
    a, b = bench.both(merged, stopped, x, p, first), bench.both(merged, own, x, p, first)
    assert not a[2]["router.weight"].any() and b[2]["router.weight"].any() and not a[1][3:].any()
    assert all(np.array_equal(a[2][n], b[2][n]) for n in a[2] if n.startswith("experts"))
    with pytest.raises(GradientError, match="router.weight|'x'"):
        verify.gradcheck(merged, x, p, stopped)


def test_equal_experts_are_one_expert() -> None:
    cfg = OPTIONS["segments"]
    x, p = bench.tokens(7, 3), bench.parameters(merged, cfg)
    same = {n: np.repeat(a[:1], 4, axis=0) for n, a in p["experts"].items()}
    out, _, dp = bench.both(merged, cfg, x, {**p, "experts": same}, np.ones((7, 3)))
    form = {"gated": cfg.gated, "activation": cfg.activation}
    flat = {f"experts.{n}": a for n, a in same.items()}
    for t in range(7):
        assert relative(out.y[t], expert_forward(x[t].tolist(), expert_at(flat, "experts", 0), form)[0]) <= 1e-13
    assert np.max(np.abs(dp["router.weight"])) <= 1e-13


def test_padding_few_tokens_bad_input() -> None:
    for cfg in (OPTIONS["smear"], Config(3, 2, 4, bias=True)):
        bench.padding(merged, cfg)
    for cfg in OPTIONS.values():
        bench.few_tokens(merged, cfg)
        bench.float32(merged, cfg)
    bench.bad_input(merged, OPTIONS["lory"], "merged")


def test_a_sequence_shorter_than_a_segment_is_one_segment() -> None:
    """Its gates are of the mean of its own tokens, not of places that nobody fills."""
    x, p = bench.tokens((2, 2), 3), bench.parameters(merged, OPTIONS["smear"])
    whole, _ = merged.forward(x, p, OPTIONS["smear"])
    short, _ = merged.forward(x, p, dataclasses.replace(OPTIONS["smear"], segment=5))
    assert relative(short.gates, whole.gates) <= 1e-14 and relative(short.y, whole.y) <= 1e-14


def test_padding_in_segments() -> None:
    """Padding behind a sequence, even NaN, changes nothing; a segment of padding only mixes evenly what follows."""
    cfg = OPTIONS["lory"]
    x, p = np.array(bench.tokens(8, 3)), bench.parameters(merged, cfg)
    mask = np.arange(8) < 5
    x[~mask] = np.nan
    out, cache = merged.forward(x, p, cfg, mask)
    alone, _ = merged.forward(x[:5], p, cfg)
    assert relative(out.y[:5], alone.y) <= 1e-14 and not out.y[5:].any()
    dx, _ = merged.backward(np.ones((8, 3)), cache)
    assert not dx[5:].any() and np.isfinite(dx).all()
    out, _ = merged.forward(np.nan_to_num(x), p, cfg, np.arange(8) >= 3)
    assert relative(out.gates[0, 1], np.full(4, 0.25)) <= 1e-15


def test_refused() -> None:
    for settings, words in (({"segment": -1}, "segment must be"), ({"first": "last"}, "first must be one of")):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 4, "n_experts": 4, **settings})
    assert lory(3, 4, 5).segment == 256
    with pytest.raises(NonFiniteError, match="merged: the logit is nan at .token 0, expert 0."):
        merged.forward(np.full((2, 3), np.nan), bench.parameters(merged, OPTIONS["smear"]), OPTIONS["smear"])
