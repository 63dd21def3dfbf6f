"""Schedules, the lottery and RigL against sorted lists, bisection and repeated rounds."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from pymoe.sparsity import masks
from pymoe.sparsity.schedule import cubic, lottery, rigl

from .oracles import mask_loops, schedule_loops
from .oracles.judge import agree, close, locked, same

RNG = np.random.default_rng


def test_the_cubic():
    for begin, end, start, final in [(0, 4, 0.0, 0.5), (3, 100, 0.1, 0.9), (7, 8, 0.0, 1.0), (5, 5, 0.2, 0.3)]:
        got = [cubic(t, begin=begin, end=end, start=start, final=final) for t in range(end + 4)]
        if end == begin:
            assert got[-1] == final and got[0] == start
            continue
        agree(np.array(got), np.array([schedule_loops.cubic(t, begin, end, start, final) for t in range(end + 4)]))
        assert got[begin] == start and got[end] == got[-1] == final
        middle = (begin + end) // 2
        if begin < middle < end:  # control: a straight line
            assert abs(got[middle] - start - (final - start) * (middle - begin) / (end - begin)) > 1e-3


def test_lottery_rounds_prune_the_same_part_of_what_is_left():
    for s, n in [(0.75, 2), (0.9, 7), (0.0, 3), (1.0, 1), (0.29, 1), (0.5, 5)]:
        got = lottery.rounds(s, n)
        agree(np.array(got), np.array(schedule_loops.lottery(s, n)))
        assert got[-1] == s and len(got) == n
    assert not close(np.array(lottery.rounds(0.75, 3)), np.array([0.25, 0.5, 0.75]), 1e-3)  # control: equal amounts


def test_lottery_tickets_are_nested_and_rewound():
    w, p0 = locked(RNG(0).standard_normal((5, 7)), RNG(1).standard_normal((5, 7)))
    last = np.ones(w.shape, dtype=bool)
    for s in lottery.rounds(0.9, 4):
        mask = masks.magnitude(w, s)
        assert not np.any(mask & ~last)
        back = lottery.rewind({"a": {"w": p0}, "b": p0}, {"a.w": locked(mask)})
        for i in mask_loops.places(w.shape):
            assert back["a"]["w"][i] == (p0[i] if mask[i] else 0.0)
        assert np.array_equal(back["b"], p0)
        last = mask


@pytest.mark.parametrize("kind", ["plain", "ties", "equal"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.29, 0.5, 1.0])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rigl_exchanges(kind, fraction, dtype):
    for seed, shape in enumerate([(1,), (10,), (5, 7), (2, 3, 4)]):
        rng = RNG(seed)
        drawn = {
            "plain": rng.standard_normal((2, *shape)),
            "ties": rng.integers(-2, 3, (2, *shape)) / 4,
            "equal": np.ones((2, *shape)),
        }[kind].astype(dtype)
        for s in (0.0, 0.3, 0.8, 1.0):
            mask = locked(mask_loops.by_score(rng.random(shape), s))
            w, g = locked(drawn[0] * mask, drawn[1].copy())
            n = math.floor(Fraction(repr(fraction)) * int(mask.sum()))
            got = rigl.update(mask, w, g, fraction)
            same(got, schedule_loops.rigl_update(mask, w, g, n))
            assert got.sum() == mask.sum()


def test_controls_of_rigl():
    rng = RNG(5)
    mask = locked(mask_loops.by_score(rng.random((6, 7)), 0.5))
    w, g = locked(rng.standard_normal((6, 7)) * mask, rng.standard_normal((6, 7)))
    got = rigl.update(mask, w, g, 0.5)
    assert not np.array_equal(got, schedule_loops.rigl_update(mask, g, w, 10))  # the two roles exchanged
    assert not np.array_equal(got, schedule_loops.rigl_update(mask, w, g, 7))  # fewer exchanges
    assert not np.array_equal(got, schedule_loops.rigl_update(mask, w, g * ~mask, 10))  # no way back for the dropped


def test_rigl_fraction():
    want = [schedule_loops.rigl_fraction(t, 0.3, 50) for t in range(51)]
    assert max(abs(rigl.fraction(t, alpha=0.3, end=50) - a) for t, a in enumerate(want)) <= 1e-15
    assert rigl.fraction(0, alpha=0.3, end=50) == 0.3
    assert abs(rigl.fraction(12, alpha=0.3, end=50) - 0.3 * (1 - 12 / 50)) > 1e-3  # control: a straight line


SHAPES = {
    "matrices": {"a": (4, 8), "b": (8, 16), "c": (30, 2)},
    "experts": {"up": (3, 8, 5), "down": (3, 5, 4), "router": (3, 5)},
    "one": {"w": (6, 7)},
    "tiny": {"w": (1, 1), "v": (40, 50)},
    "kernels": {"conv": (3, 3, 8, 16), "head": (16, 10)},
}


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("s", [0.0, 0.1, 0.5, 0.83, 0.99, 1.0])
def test_erdos_renyi_shares(name, kernel, s):
    got = rigl.erdos_renyi(SHAPES[name], s, kernel=kernel)
    want = schedule_loops.erdos_renyi(SHAPES[name], s, kernel)
    assert list(got) == list(want)
    assert max(abs(got[k] - want[k]) for k in want) <= 1e-14
    total = sum(math.prod(v) for v in SHAPES[name].values())
    assert abs(sum(got[k] * math.prod(v) for k, v in SHAPES[name].items()) - s * total) <= 1e-12 * total
    if len(SHAPES[name]) > 1 and 0 < s < 1:  # control: one share for all
        assert max(abs(got[k] - s) for k in got) > 1e-3
    if name in ("experts", "kernels") and s == 0.83:
        other = schedule_loops.erdos_renyi(SHAPES[name], s, not kernel)
        assert max(abs(got[k] - other[k]) for k in got) > 1e-3
