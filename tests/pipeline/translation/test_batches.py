"""Batches: a function of (seed, step), every pair once an epoch, no more tokens than said, padding nobody sees."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline.translation.batches import Batches, Encoded, each_once, fitting, pad
from pymoe.pipeline.translation.bpe import PAD, START, STOP


def encoded(n: int = 83, seed: int = 0) -> Encoded:
    rng = np.random.default_rng(seed)

    def side() -> list[np.ndarray]:
        return [rng.integers(3, 50, int(length)) for length in rng.integers(1, 12, n)]

    return Encoded(side(), side())


def test_every_pair_once_an_epoch_and_never_too_many_tokens():
    batches = Batches(encoded(), tokens=60, seed=4)
    n = len(batches)
    for epoch in range(3):
        rows = [batches.rows(epoch * n + i) for i in range(n)]
        assert sorted(np.concatenate(rows).tolist()) == list(range(83))
    for step in range(n):
        b = batches.at(step)
        assert b.ids.size + b.targets.size <= 60 or len(b.ids) == 1
    orders = [[batches.rows(e * n + i).tolist() for i in range(n)] for e in range(2)]
    assert sorted(map(sorted, orders[0])) != sorted(map(sorted, orders[1]))  # other pairs together,
    assert orders[0] != orders[1]  # in another order


def test_a_batch_depends_on_seed_and_step_alone():
    one, two = (Batches(encoded(), tokens=60, seed=4) for _ in range(2))
    steps = [70, 3, 0, 71, 3, 140]
    forward = {s: one.rows(s).tolist() for s in sorted(steps)}
    assert all(two.rows(s).tolist() == forward[s] for s in steps)
    other = Batches(encoded(), tokens=60, seed=5)
    assert any(other.rows(s).tolist() != forward[s] for s in steps)


def test_what_the_model_gets():
    pairs = Encoded([np.array([5, 6, 7]), np.array([8])], [np.array([9]), np.array([10, 11])])
    b = pad(pairs, [1, 0])
    assert b.ids.tolist() == [[8, STOP, PAD, PAD], [5, 6, 7, STOP]]
    assert b.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert b.decoder_ids.tolist() == [[START, 10, 11], [START, 9, STOP]]
    assert b.targets.tolist() == [[10, 11, STOP], [9, STOP, -100]]
    assert b.decoder_mask.tolist() == [[True] * 3, [True, True, False]]
    assert b.tokens == 6 + 5


def test_lengths():
    pairs = Encoded([np.arange(5), np.arange(2), np.arange(3)], [np.arange(1), np.arange(6), np.arange(2)])
    assert fitting(pairs, 7).tolist() == [0, 1, 2] and fitting(pairs, 6).tolist() == [0, 2]
    assert fitting(pairs, 4).tolist() == [2] and fitting(pairs, 3).tolist() == []
    batches = Batches(pairs, tokens=1, seed=0)  # room for no pair: one at a time
    assert len(batches) == 3 and batches.tokens == pytest.approx((10 + 9 + 6) / 3)
    assert sum(b.tokens for b in each_once(pairs, 30)) == 25


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(DataError, match="no pair is short enough"):
        Batches(Encoded([], []), tokens=9, seed=0)
    with pytest.raises(ConfigError, match="tokens must be an integer of at least 1"):
        Batches(encoded(), tokens=0, seed=0)
