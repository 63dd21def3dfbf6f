"""Who is dropped: the queue written as loops, monotone in the places, and the published formulas for C."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe.moe import Capacity
from pymoe.moe.capacity import assign, keep, places
from pymoe.moe.router_config import READ_BY

from ..oracles import router_loops
from ..oracles.loops import keep_pairs
from .frames import config, frozen, make

RULES = (
    "plain", "switch", "gshard", "deepspeed", "megatron", "megablocks", "tutel", "vmoe", "maxtext", "nllb", "fraction"
)  # fmt: skip
quick = settings(derandomize=True, deadline=None, max_examples=80)
ORDERS = ["token", "choice", "score", "score_token", "probability"]


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
    assert kept["score_token"] == [[0, 0], [0, 1], [1, 1]]
    idx = np.array([[1, 0], [0, 2], [2, 1]])
    score = np.array([[0.9, 0.8], [0.5, 0.2], [0.4, 0.1]])  # only by "choice" is the second choice of token 0 late
    score_token, by_score = (keep(Capacity(order=o), idx, score, None, 3, 1)[0] for o in ("score_token", "score"))
    assert score_token.tolist() == [True, True] and by_score.tolist() == [True, False]


def test_interleaved_is_token_and_random_without_draws_too() -> None:
    rng = np.random.default_rng(0)
    idx = frozen(np.array([rng.permutation(5)[:3] for _ in range(40)]))
    score = frozen(rng.random((40, 3)))
    token = keep(Capacity(order="token"), idx, score, None, 5, 7)
    assert np.array_equal(keep(Capacity(order="interleaved"), idx, score, None, 5, 7), token)
    fixed = Capacity(0.0, 7, order="random")
    assert np.array_equal(assign(fixed, idx, score, None, 5), token)
    draws = frozen(rng.random((40, 3)))
    drawn = assign(fixed, idx, score, None, 5, draws=draws)
    assert np.array_equal(drawn, keep(Capacity(order="probability"), idx, draws, None, 5, 7))
    assert not np.array_equal(drawn, token)


def test_random_places_are_fair() -> None:
    """Every one of 8 tokens that want the 2 places of an expert gets one a quarter of the time, whoever comes first."""
    rng, n = np.random.default_rng(3), 4000
    idx, score = np.zeros((8, 1), np.int64), np.ones((8, 1))
    cfg = Capacity(0.0, 2, order="random")
    got = sum(assign(cfg, idx, score, None, 1, draws=rng.random((8, 1)))[:, 0].astype(int) for _ in range(n)) / n
    assert np.abs(got - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / n)


def test_each_sequence_has_its_own_queues_and_places() -> None:
    """By sequence is the batch of one sequence at a time, its padding too."""
    rng = np.random.default_rng(1)
    idx = frozen(np.array([rng.permutation(4)[:2] for _ in range(21)]))
    score, mask = frozen(rng.random((21, 2))), frozen(rng.random(21) < 0.7)
    alive = frozen(np.broadcast_to(mask[:, None], idx.shape).copy())
    for rule, order in itertools.product(RULES, ORDERS):
        cfg = Capacity(0.6, 1 if rule in READ_BY["minimum"] else 0, order=order, rule=rule, per="sequence")
        found = assign(cfg, idx, score, alive, 4, mask, sequences=3)
        alone = dataclasses.replace(cfg, per="batch")
        parts = [
            assign(alone, idx[a : a + 7], score[a : a + 7], alive[a : a + 7], 4, mask[a : a + 7]) for a in (0, 7, 14)
        ]
        assert np.array_equal(found, np.concatenate(parts))
        whole = assign(alone, idx, score, alive, 4, mask)
        places_ = places(alone, int(mask.sum()), 4, 2, fullest=42)
        assert np.array_equal(whole, keep(alone, idx, score, alive, 4, places_)), "C of the real tokens"
        assert np.array_equal(whole, assign(alone, idx, score, alive, 4, mask, sequences=3)), (
            "one batch, whatever it holds"
        )
        if rule not in ("megablocks", "nllb", "fraction"):
            assert not np.array_equal(found, assign(alone, idx, score, alive, 4, mask)) or order == "token"


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
def test_places_of_the_plain_rule(cfg: Capacity, tokens: int, experts: int, k: int, wanted: int) -> None:
    assert places(cfg, tokens, experts, k) == wanted


@pytest.mark.parametrize(
    ("cfg", "tokens", "experts", "k", "wanted"),
    [
        (Capacity(1.25, 4, rule="switch"), 100, 8, 1, 15),  # int(100 · 1.25 / 8)
        (Capacity(1.25, 4, rule="switch"), 100, 8, 2, 15),  # no factor k
        (Capacity(1.25, 4, rule="switch"), 8, 8, 1, 4),
        (Capacity(9.0, 0, rule="switch"), 5, 4, 1, 5),
        (Capacity(9.0, rule="gshard"), 19, 7, 2, 5),  # 2 T // E, no factor
        (Capacity(1.0, 4, rule="deepspeed"), 19, 7, 2, 6),  # ceil(5.43)
        (Capacity(1.5, 4, rule="deepspeed"), 19, 7, 2, 9),  # ceil(8.14)
        (Capacity(1.0, 4, rule="deepspeed"), 2, 7, 2, 4),  # may exceed T
        (Capacity(1.0, rule="megatron"), 19, 7, 2, 6),
        (Capacity(8.0, rule="megatron"), 5, 4, 2, 5),  # clamped to T
        (Capacity(1.5, rule="megablocks"), 19, 7, 2, 8),  # int(1.5 · 2 · 19 / 7)
        (Capacity(0.0, rule="megablocks"), 19, 7, 2, 11),  # 0: the fullest expert
        (Capacity(1.5, rule="tutel"), 19, 7, 2, 8),  # 2 int(1.5 · 3)
        (Capacity(1.5, rule="tutel", multiple=8), 20, 7, 3, 16),  # 3 int(4.5) = 12, up to 16
        (Capacity(0.0, rule="tutel"), 19, 7, 2, 11),
        (Capacity(-1.0, rule="tutel"), 19, 7, 2, 6),  # the fullest, but at most 2 · 3
        (Capacity(-3.0, rule="tutel"), 19, 7, 2, 11),
        (Capacity(1.05, rounding="ceil", rule="vmoe", multiple=4), 64, 8, 2, 20),  # ceil(16.8) = 17
        (Capacity(1.05, rounding="round", rule="vmoe", multiple=4), 60, 8, 2, 16),  # round(15.75) = 16
        (Capacity(1.5, rule="maxtext"), 13, 4, 2, 10),  # int(ceil(6.5) · 1.5), not ceil(9.75)
        (Capacity(1.5, rule="maxtext"), 0, 4, 2, 1),  # never 0
        (Capacity(rule="nllb"), 13, 4, 2, 8),  # 2 ceil(3.25)
        (Capacity(0.3, rule="fraction"), 13, 4, 2, 4),  # ceil(3.9)
    ],
)
def test_places_of_every_rule(cfg: Capacity, tokens: int, experts: int, k: int, wanted: int) -> None:
    assert places(cfg, tokens, experts, k, fullest=11) == wanted
    assert router_loops.places(dataclasses.asdict(cfg), tokens, experts, k, 11) == wanted


@quick
@given(
    st.sampled_from(RULES), st.sampled_from([0.0, 0.5, 1.0, 1.3, 2.0, 7.5]), st.integers(0, 9),
    st.sampled_from(["floor", "ceil", "round"]), st.integers(0, 200), st.integers(1, 17), st.integers(1, 4),
)  # fmt: skip
def test_the_rules_agree_with_the_loops(
    rule: str, cf: float, least: int, rounding: str, tokens: int, experts: int, k: int
) -> None:
    said = {"minimum": least, "rounding": rounding, "multiple": 3}
    cfg = Capacity(cf, rule=rule, **{n: v for n, v in said.items() if rule in READ_BY[n]})  # type: ignore[arg-type]
    wanted = router_loops.places(dataclasses.asdict(cfg), tokens, experts, k, 13)
    assert places(cfg, tokens, experts, k, 13) == wanted


def test_megablocks_of_factor_0_and_tutel_of_0_drop_nothing() -> None:
    rng = np.random.default_rng(2)
    idx = frozen(np.array([rng.permutation(5)[:2] for _ in range(30)]))
    for rule in ("megablocks", "tutel"):
        for per, sequences in (("batch", 1), ("sequence", 3)):
            assert assign(Capacity(0.0, rule=rule, per=per), idx, np.ones((30, 2)), None, 5, sequences=sequences).all()
    assert assign(Capacity(0.0, rule="megablocks"), np.zeros((5, 2), np.int64), np.ones((5, 2)), None, 3).all()
    alive = frozen(rng.random((30, 2)) < 0.5)
    assert np.array_equal(assign(Capacity(0.0, rule="tutel"), idx, np.ones((30, 2)), alive, 5), alive)
    assert not assign(Capacity(-0.2, rule="tutel"), idx, np.ones((30, 2)), None, 5).all()


def test_the_two_offset_rules_coincide_in_who_is_kept_and_not_in_the_positions() -> None:
    """mesh counts the kept first choices before the second ones, fairscale all of them: min(n, C) against n."""
    first, second, c = np.array([0, 0, 0, 1]), np.array([1, 1, 1, 0]), 2
    n = np.bincount(first, minlength=2)
    offsets = {"kept": np.minimum(n, c), "all": n}
    rank = np.array([np.sum(second[:t] == e) for t, e in enumerate(second)])
    position = {rule: offset[second] + rank for rule, offset in offsets.items()}
    assert position["kept"].tolist() == [1, 2, 3, 2] and position["all"].tolist() == [1, 2, 3, 3]
    assert all(np.array_equal(p < c, [True, False, False, False]) for p in position.values())
    idx = np.stack([first, second], axis=1)
    kept = keep(Capacity(order="choice"), idx, np.ones((4, 2)), None, 2, c)
    assert kept.tolist() == [[True, True], [True, False], [False, False], [True, False]]


def test_defaults_and_sequences_of_one_token() -> None:
    assert places(Capacity(0.0, rule="megablocks"), 5, 3, 1) == 0
    rng = np.random.default_rng(4)
    idx, score = frozen(rng.integers(0, 3, (9, 1))), frozen(rng.random((9, 1)))
    cfg = Capacity(0.5, per="sequence", order="probability")
    assert np.array_equal(
        assign(cfg, idx, score, None, 3), assign(dataclasses.replace(cfg, per="batch"), idx, score, None, 3)
    )
    one = Capacity(0.0, 1, per="sequence")
    assert assign(one, idx, score, None, 3, sequences=9).all(), "each token has queues of its own"


@pytest.mark.parametrize("order", ["probability", "score", "score_token"])
def test_equal_priorities_are_served_in_token_order(order: str) -> None:
    score = np.random.default_rng(0).integers(0, 3, (3000, 1)) / 2.0
    served = sorted(range(3000), key=lambda t: (-score[t, 0], t))
    for c in (700, 1500, 2500):
        kept = keep(Capacity(order=order), np.zeros((3000, 1), np.int64), score, None, 1, c)
        assert np.flatnonzero(kept).tolist() == sorted(served[:c])


def test_no_token_and_no_sequence() -> None:
    idx = np.zeros((0, 2), np.int64)
    for per in ("batch", "sequence"):
        assert assign(Capacity(per=per, rule="nllb"), idx, np.ones((0, 2)), None, 3).shape == (0, 2)
        over = {"balance_over": "sequence", "losses": ("balance",), "capacity": Capacity(per=per)}
        f = make(config(**over), (0, 4))
        out, dx, _ = f.both()
        assert out.y.shape == dx.shape == (0, 4, 3) and float(out.losses["balance"]) == 0
