"""Beam search: greedy at width 1, the exhaustive search where the beam is wide, every number by teacher forcing."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.models import Seq2SeqConfig, beam, generate, seq2seq

from .cases import MIXTRAL, SIZES, Case, frozen, parameters

START, STOP = 0, 1
DENSE = Seq2SeqConfig(**SIZES, n_layers=2)
SPARSE = Seq2SeqConfig(**SIZES, n_layers=2, moe=MIXTRAL, share_embeddings=True)
TINY = Seq2SeqConfig(vocab=4, context=6, d_model=6, n_layers=1, n_heads=3, d_ff=5, std=0.9)
CONFIGS = {"dense": DENSE, "sparse": SPARSE}
by_config = pytest.mark.parametrize("name", CONFIGS)


def sources(n: int, length: int, vocab: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Ids and a mask with rows of every length from 2 on."""
    rng = np.random.default_rng(3)
    mask = np.arange(length) < (2 + np.arange(n) % (length - 1))[:, None]
    return frozen(rng.integers(2, vocab, (n, length))), frozen(mask)


def by_teacher(ids: np.ndarray, mask: np.ndarray, p: dict, cfg: Seq2SeqConfig, target: np.ndarray) -> float:
    """log P(target | one source): a forward over the whole target, and a sum written out."""
    decoder = np.array([[START, *target[:-1]]])
    logits = seq2seq.forward(ids[None], p, cfg, decoder, mask=mask[None])[0].logits[0]
    total = 0.0
    for row, token in zip(logits.tolist(), target.tolist(), strict=True):
        total += row[token] - math.log(math.fsum(math.exp(v) for v in row))
    return total


@by_config
@pytest.mark.parametrize("new", [1, 5, 12])
def test_width_one_is_the_greedy_choice(name, new):
    cfg = CONFIGS[name]
    p = parameters(cfg)
    ids, mask = sources(6, 5)
    stop = int(generate.translate(ids, p, cfg, 12, start=START, mask=mask)[0, 2])  # a token that does come
    greedy = generate.translate(ids, p, cfg, new, start=START, stop=stop, mask=mask)
    found = beam.search(ids, p, cfg, new, start=START, stop=stop, mask=mask, width=1, alpha=0.6)
    for row, (best, *others) in zip(greedy, found, strict=True):
        ended = np.flatnonzero(row == stop)
        assert not others and best.finished == bool(len(ended))
        assert np.array_equal(best.ids, row[: ended[0] + 1] if len(ended) else row)
    assert new < 5 or any(h[0].finished for h in found)


def exhaustive(ids: np.ndarray, mask: np.ndarray, p: dict, new: int, alpha: float) -> list[tuple[float, list[int]]]:
    """Every target of at most ``new`` tokens, by descending score, from whole forwards."""
    found = []
    for length in range(1, new + 1):
        for body in itertools.product([t for t in range(TINY.vocab) if t != STOP], repeat=length - 1):
            for last in range(TINY.vocab) if length == new else [STOP]:
                target = np.array([*body, last])
                score = by_teacher(ids, mask, p, TINY, target) / ((5 + length) / (5 + 1)) ** alpha
                found.append((score, target.tolist()))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_what_the_exhaustive_search_finds(alpha):
    new, missed, moved = 4, 0, 0
    ids, mask = sources(3, 4, TINY.vocab)
    for seed in range(4):
        p = seq2seq.init(np.random.default_rng(seed), TINY, np.float64)
        wide = beam.search(ids, p, TINY, new, start=START, stop=STOP, mask=mask, width=200, alpha=alpha)
        narrow = beam.search(ids, p, TINY, new, start=START, stop=STOP, mask=mask, width=1, alpha=alpha)
        for row in range(len(ids)):
            expected = exhaustive(ids[row], mask[row], p, new, alpha)
            assert len(wide[row]) == len(expected) == 1 + 3 + 9 + 27 * 4
            for hypothesis, (score, target) in zip(wide[row], expected, strict=True):
                assert hypothesis.score == pytest.approx(score, rel=1e-12)
                assert hypothesis.ids.tolist() == target
            missed += narrow[row][0].ids.tolist() != expected[0][1]
            other = exhaustive(ids[row], mask[row], p, new, alpha + 1.0)
            moved += other[0][1] != expected[0][1]
    assert missed  # the control: a beam of one does not find it everywhere,
    assert moved  # and another length normalisation prefers another target


@by_config
def test_every_hypothesis_has_the_probability_that_teacher_forcing_gives_it(name):
    cfg = CONFIGS[name]
    p = parameters(cfg)
    ids, mask = sources(5, 6)
    found = beam.search(ids, p, cfg, 7, start=START, stop=STOP, mask=mask, width=3)
    for row, hypotheses in enumerate(found):
        assert 1 <= len(hypotheses) <= 3 and len({tuple(h.ids) for h in hypotheses}) == len(hypotheses)
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for h in hypotheses:
            expected = by_teacher(ids[row], mask[row], p, cfg, h.ids)
            assert h.log_p == pytest.approx(expected, rel=1e-11)
            assert h.log_p != pytest.approx(expected * 1.001, rel=1e-11)  # the control
            assert h.score == pytest.approx(h.log_p / ((5 + len(h.ids)) / 6) ** 0.6, rel=1e-13)
            assert h.finished == (h.ids[-1] == STOP) and STOP not in h.ids[:-1]
            assert h.finished or len(h.ids) == 7


@by_config
def test_sources_of_a_batch_share_no_decision(name):
    cfg = CONFIGS[name]
    p = parameters(cfg)
    ids, mask = sources(5, 6)
    limits = [3, 7, 1, 9, 5]
    together = beam.search(ids, p, cfg, limits, start=START, stop=STOP, mask=mask, width=4)
    for row, limit in enumerate(limits):
        real = int(mask[row].sum())
        alone = beam.search(ids[row : row + 1, :real], p, cfg, limit, start=START, stop=STOP, width=4)[0]
        assert [h.ids.tolist() for h in alone] == [h.ids.tolist() for h in together[row]]
        assert max(len(h.ids) for h in together[row]) <= limit


def looked_at(ids: np.ndarray, mask: np.ndarray, p: dict, cfg: Seq2SeqConfig, target: list[int]) -> list[float]:
    """Σ_j a_ij of each real source token i, from one forward over the whole target: a loop over j, heads and i."""
    decoder = np.array([[START, *target[:-1]]])
    cache = seq2seq.forward(ids[None], p, cfg, decoder, mask=mask[None])[1]
    cross = cache.c_decoder.c_blocks[-1].c_cross.c_attention
    heads, queries = cross.q.shape[1], len(target)
    total = [0.0] * int(mask.sum())
    for h in range(heads):
        k = cross.k[0, h * cross.k.shape[1] // heads]
        for j in range(queries):
            z = [float(cross.q[0, h, j] @ k[i]) / math.sqrt(k.shape[1]) for i in range(len(total))]
            norm = math.fsum(math.exp(v) for v in z)
            for i, v in enumerate(z):
                total[i] += math.exp(v) / norm / heads
    return total


@by_config
def test_a_step_says_what_its_last_token_attends_to(name):
    cfg = CONFIGS[name]
    p = parameters(cfg)
    ids, mask = sources(3, 5)
    prefix = np.array([[START, 4, 7], [START, 3, 3], [START, 9, 2]])
    one = seq2seq.encode(ids, p, cfg, mask=mask)
    for j in range(3):
        _, one = seq2seq.step(prefix[:, j : j + 1], p, cfg, one)
    _, whole = seq2seq.step(prefix, p, cfg, seq2seq.encode(ids, p, cfg, mask=mask))
    np.testing.assert_allclose(whole.attention, one.attention, rtol=1e-12, atol=1e-15)
    assert not whole.attention[~mask].any() and whole.attention.sum(axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize("config", [TINY, replace(TINY, n_heads=6, n_kv_heads=2, d_model=12)], ids=["heads", "groups"])
def test_the_coverage_penalty_is_that_of_the_exhaustive_search(config):
    """Every target of at most 4 tokens, each with s(y, x) of eq. 14 written out, in the order of the search."""
    new, alpha, beta, changed, broken = 4, 0.6, 1.5, 0, 0
    ids, mask = sources(3, 4, TINY.vocab)
    for seed in range(3):
        p = seq2seq.init(np.random.default_rng(seed), config, np.float64)
        wide = beam.search(ids, p, config, new, start=START, stop=STOP, mask=mask, width=200, alpha=alpha, beta=beta)
        plain = beam.search(ids, p, config, new, start=START, stop=STOP, mask=mask, width=200, alpha=alpha)
        for row in range(len(ids)):
            scores = []
            for h in wide[row]:
                attended = looked_at(ids[row], mask[row], p, config, h.ids.tolist())
                covered = math.fsum(math.log(min(a, 1.0)) for a in attended)
                expected = by_teacher(ids[row], mask[row], p, config, h.ids) / ((5 + len(h.ids)) / 6) ** alpha
                assert h.score == pytest.approx(expected + beta * covered, rel=1e-12)
                broken += h.score != pytest.approx(expected + 1.001 * beta * covered, rel=1e-12)
                scores.append(expected + beta * covered)
            assert len(scores) == 1 + 3 + 9 + 27 * 4 and scores == sorted(scores, reverse=True)
            assert {tuple(h.ids) for h in wide[row]} == {tuple(h.ids) for h in plain[row]}
            changed += wide[row][0].ids.tolist() != plain[row][0].ids.tolist()
    assert changed and broken  # the controls: the penalty chooses another target, and 0.1 % more of it would be seen


def test_ties_go_to_the_lower_id_and_the_earlier_hypothesis():
    p = parameters(TINY)
    flat = {**p, "decoder": {**p["decoder"], "norm": {"weight": np.zeros(TINY.d_model)}}}  # all logits are equal
    found = beam.search(np.array([[2, 3]]), flat, TINY, 3, start=START, stop=STOP, width=3, alpha=0.0)[0]
    assert [h.ids.tolist() for h in found] == [[1], [0, 1], [0, 0, 0]]


def test_a_model_that_has_diverged_and_arguments_that_mean_nothing_are_refused():
    p = parameters(TINY)
    ids = np.array([[2, 3]])
    broken = {**p, "decoder": {**p["decoder"], "norm": {"weight": np.full(TINY.d_model, np.nan)}}}
    with pytest.raises(NonFiniteError, match="diverged"):
        beam.search(ids, broken, TINY, 3, start=START, stop=STOP)
    with pytest.raises(ConfigError, match="width must be an integer of at least 1, got 0"):
        beam.search(ids, p, TINY, 3, start=START, stop=STOP, width=0)
    with pytest.raises(ConfigError, match="alpha must be a finite number of at least 0, got -1"):
        beam.search(ids, p, TINY, 3, start=START, stop=STOP, alpha=-1)
    with pytest.raises(ConfigError, match="beta must be a finite number of at least 0, got nan"):
        beam.search(ids, p, TINY, 3, start=START, stop=STOP, beta=float("nan"))
    for new in (0, 7, [3, 3]):
        with pytest.raises(ShapeError, match="new must"):
            beam.search(ids, p, TINY, new, start=START, stop=STOP)
    assert beam.search(np.zeros((0, 2), np.int64), p, TINY, 3, start=START, stop=STOP) == []


def test_a_case_of_the_models_in_float32_gives_the_same_targets():
    ids, p, _, decoder, *_ = Case("", DENSE).args()
    wide = beam.search(ids, p, DENSE, 6, start=START, stop=STOP)
    from pymoe.backend import tree

    narrow = beam.search(ids, tree.map(lambda a: a.astype(np.float32), p), DENSE, 6, start=START, stop=STOP)
    assert [[h.ids.tolist() for h in row] for row in wide] == [[h.ids.tolist() for h in row] for row in narrow]
