"""One shot and the cubic: values by hand, ends exactly, nested masks along the way."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError
from pymoe.sparsity import masks, schedule

from ..given import normal


def test_one_shot():
    assert [schedule.one_shot(t, at=2, final=0.7) for t in (0, 1, 2, 3)] == [0.0, 0.0, 0.7, 0.7]
    assert schedule.one_shot(0, at=2, final=0.7, start=0.1) == 0.1
    assert type(schedule.one_shot(5, at=2, final=1)) is float


def test_cubic_by_hand():
    found = [schedule.cubic(t, begin=2, end=6, start=0.25, final=0.75) for t in range(9)]
    want = [Fraction(3, 4) - Fraction(1, 2) * (1 - Fraction(t - 2, 4)) ** 3 for t in range(2, 7)]
    assert found == [0.25, 0.25, *map(float, want), 0.75, 0.75]
    assert schedule.cubic(4, begin=2, end=6, final=0.8) == pytest.approx(0.8 - 0.8 / 8, rel=1e-15)


def test_both_ends_are_exact():
    for start, final in ((0.01, 0.03), (0.07, 0.29), (0.0, 1.0), (1 / 3, 2 / 3)):  # 0.03 + (0.01 - 0.03) is not 0.01
        assert schedule.cubic(10, begin=10, end=17, start=start, final=final) == start
        assert schedule.cubic(17, begin=10, end=17, start=start, final=final) == final
        values = [schedule.cubic(t, begin=10, end=17, start=start, final=final) for t in range(10, 18)]
        assert values == sorted(values) and len(set(values)) == 8
        assert np.all(np.diff(np.diff(values)) < 0)  # slower and slower
    assert [schedule.cubic(t, begin=5, end=5, final=0.5) for t in (4, 5, 6)] == [0.0, 0.5, 0.5]


def test_its_masks_are_nested():
    w = normal(9, 11)
    found = [masks.magnitude(w, schedule.cubic(t, begin=0, end=10, final=0.9)) for t in range(11)]
    assert all(np.all(a >= b) for a, b in zip(found, found[1:], strict=False))
    assert np.count_nonzero(~found[-1]) == masks.count(0.9, 99)


def test_refusals():
    for rule in (
        lambda **k: schedule.one_shot(0, at=1, **k),
        lambda **k: schedule.cubic(0, begin=0, end=1, **k),
    ):
        with pytest.raises(ConfigError, match="start must not exceed final"):
            rule(start=0.6, final=0.5)
        with pytest.raises(ConfigError, match=r"final must be a number in \[0, 1\]"):
            rule(final=1.1)
        with pytest.raises(ConfigError, match="start must be a number"):
            rule(start=-0.1, final=0.5)
    with pytest.raises(ConfigError, match="must not end before it begins: got begin=3, end=2"):
        schedule.cubic(0, begin=3, end=2, final=0.5)
    assert schedule.one_shot(0, at=0, start=0.5, final=0.5) == 0.5
