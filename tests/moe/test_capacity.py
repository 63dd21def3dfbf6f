"""Who is dropped: the queue written as loops, monotone in the places, and the published formulas for C."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe.moe import Capacity
from pymoe.moe.capacity import keep, places

from ..oracles.loops import keep_pairs
from .frames import frozen

quick = settings(derandomize=True, deadline=None, max_examples=80)
ORDERS = ["token", "choice", "score", "probability"]


@st.composite
def queues(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, int]:
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    experts = draw(st.integers(1, 9))
    tokens, k = draw(st.integers(0, 40)), draw(st.integers(1, min(experts, 3)))
    idx = np.array([rng.permutation(experts)[:k] for _ in range(tokens)], np.int64).reshape(tokens, k)
    levels = draw(st.sampled_from([3, 1 << 20]))  # many ties, or none
    score = -np.sort(-rng.integers(0, levels, (tokens, k)) / levels, axis=1)
    alive = draw(st.sampled_from([None, rng.random((tokens, k)) < 0.7]))
    return frozen(idx), frozen(score), None if alive is None else frozen(alive), experts


@quick
@given(queues(), st.sampled_from(ORDERS), st.integers(0, 12), st.sampled_from(["kept", "all"]))
def test_agrees_with_the_loops(queue: Any, order: str, c: int, offset: str) -> None:
    """Later choices queue behind the kept or behind all earlier ones (mesh, fairscale): who is kept is the same."""
    idx, score, alive, experts = queue
    offered = np.ones(idx.shape, bool) if alive is None else alive
    rule = {"drop_order": order, "drop_offset": offset, "k": idx.shape[1]}
    wanted = keep_pairs(idx.tolist(), offered.tolist(), score.tolist(), rule, experts, c)
    found = keep(Capacity(order=order), idx, score, alive, experts, c)
    assert found.dtype == bool and found.tolist() == wanted


@quick
@given(queues(), st.sampled_from(ORDERS))
def test_d8_more_places_keep_more(queue: Any, order: str) -> None:
    """kept(C) ⊂ kept(C+1), each expert at most C, and exactly min(C, who wants)."""
    idx, score, alive, experts = queue
    offered = np.ones(idx.shape, bool) if alive is None else alive
    want = np.bincount(idx[offered], minlength=experts)
    previous = np.zeros(idx.shape, bool)
    for c in range(8):
        kept = keep(Capacity(order=order), idx, score, alive, experts, c)
        assert (kept >= previous).all() and not (kept & ~offered).any()
        assert np.array_equal(np.bincount(idx[kept], minlength=experts), np.minimum(want, c))
        previous = kept


def test_the_orders_differ() -> None:
    """Control: one place, two tokens that want it, four orders of serving: who gets it tells the orders apart."""
    idx = np.array([[1, 0], [0, 1], [0, 2]])
    score = np.array([[0.4, 0.3], [0.5, 0.2], [0.9, 0.1]])
    kept = {o: keep(Capacity(order=o), idx, score, None, 3, 1).astype(int).tolist() for o in ORDERS}
    assert kept["token"] == [[1, 1], [0, 0], [0, 1]]
    assert kept["choice"] == [[1, 0], [1, 0], [0, 1]]
    assert kept["score"] == [[1, 0], [0, 0], [1, 1]]
    assert kept["probability"] == [[1, 0], [0, 0], [1, 1]]
    score[0, 0], score[1, 1] = 0.1, 0.45  # the second choice of token 1 is surer than the first of token 0
    assert keep(Capacity(order="probability"), idx, score, None, 3, 1).astype(int).tolist() == [[0, 0], [0, 1], [1, 1]]
    assert keep(Capacity(order="score"), idx, score, None, 3, 1).astype(int).tolist() == [[1, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("cfg", "tokens", "experts", "k", "wanted"),
    [
        (Capacity(1.25, 4), 64, 8, 1, 10),  # Switch: int(64 · 1.25 / 8)
        (Capacity(1.25, 4), 8, 8, 1, 4),  # its minimum
        (Capacity(1.0), 19, 7, 2, 5),  # GShard: 2T // E
        (Capacity(1.0, rounding="ceil"), 19, 7, 2, 6),  # DeepSpeed
        (Capacity(8.0), 5, 4, 2, 5),  # never more than T (Megatron ecb948e583)
        (Capacity(0.0), 5, 4, 2, 0),
        (Capacity(), 0, 4, 2, 0),
    ],
)
def test_places(cfg: Capacity, tokens: int, experts: int, k: int, wanted: int) -> None:
    assert places(cfg, tokens, experts, k) == wanted
