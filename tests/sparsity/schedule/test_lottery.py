"""Rounds that each take the same part of what is left, and the way back to earlier values."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError, ShapeError
from pymoe.sparsity import masks, schedule

from ..given import frozen


def test_each_round_takes_the_same_part_of_what_is_left():
    for s in (0.2, 0.5, 0.9, 0.99):
        for n in (1, 2, 5):
            found = schedule.lottery.rounds(s, n)
            left = [1 - v for v in (0.0, *found)]
            parts = [b / a for a, b in zip(left, left[1:], strict=False)]
            assert len(found) == n and np.allclose(parts, (1 - s) ** (1 / n), rtol=1e-12, atol=0)
            assert found == sorted(found)


def test_the_last_round_is_exactly_the_share_that_was_asked_for():
    for s in [i / 100 for i in range(101)]:
        assert schedule.lottery.rounds(s, 3)[-1] == s
        assert masks.count(schedule.lottery.rounds(s, 3)[-1], 100) == masks.count(s, 100)
    assert any(1 - (1 - s) != s for s in [i / 100 for i in range(101)])  # what the formula would give
    assert schedule.lottery.rounds(0.0, 3) == [0.0, 0.0, 0.0] and schedule.lottery.rounds(1.0, 2) == [1.0, 1.0]


def test_rewind():
    p0 = {"a": {"w": frozen([[1.0, np.nan], [3.0, 4.0]])}, "b": frozen([5.0, 6.0])}
    found = schedule.lottery.rewind(p0, {"a.w": frozen([[True, False], [False, True]])})
    assert found["a"]["w"].tolist() == [[1.0, 0.0], [0.0, 4.0]] and found["b"] is p0["b"]


def test_refusals():
    with pytest.raises(ConfigError, match="s must be a number"):
        schedule.lottery.rounds(1.5, 3)
    with pytest.raises(ConfigError, match="n must be an integer of at least 1"):
        schedule.lottery.rounds(0.5, 0)
    p0 = {"w": np.ones(2)}
    with pytest.raises(ShapeError, match="the mask of w"):
        schedule.lottery.rewind(p0, {"w": np.ones(3, bool)})
    with pytest.raises(DtypeError):
        schedule.lottery.rewind(p0, {"w": np.ones(2)})
    with pytest.raises(ShapeError, match="not there"):
        schedule.lottery.rewind(p0, {"v": np.ones(2, bool)})
