"""⌊s N⌋ of the decimal that s prints as."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError
from pymoe.sparsity.masks import count


def test_the_decimal_counts_not_the_double():
    assert [count(s, 100) for s in (0.29, 0.57, 0.58, 0.07, 0.28, 1.0, 0.0)] == [29, 57, 58, 7, 28, 100, 0]
    assert int(0.29 * 100) == 28  # what a product of doubles would make of it
    assert count(0.5, 7) == 3 and count(0.999, 3) == 2 and count(1, 5) == 5 and count(0, 5) == 0
    assert count(1e-5, 100_000) == 1 and count(1e-5, 99_999) == 0
    assert count(1 / 3, 3) == 0  # it prints as 0.3333333333333333
    assert count(0.1, 10**30) == 10**29


def test_numpy_numbers_are_what_they_are_in_double_precision():
    assert count(np.float64(0.29), 100) == 29 and count(np.float32(0.29), 100) == 28 and count(np.int64(1), 4) == 4
    assert type(count(0.5, np.int64(4))) is int


@pytest.mark.parametrize("s", [-0.1, 1.1, float("nan"), float("inf"), None, "0.5", True, 0.5j, -1e-300])
def test_what_is_no_share_is_refused(s):
    with pytest.raises(ConfigError, match=r"sparsity must be a number in \[0, 1\]"):
        count(s, 10)


def test_a_negative_size_is_refused():
    with pytest.raises(ConfigError, match="must not be negative, got -1"):
        count(0.5, -1)
