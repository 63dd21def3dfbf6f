"""What is refused at the door, and that the message says where."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError, check_integer, check_share
from pymoe.sparsity import inputs


def test_nan_is_refused_with_its_place_and_infinities_are_not():
    x = np.zeros((2, 3, 4))
    x[1, 0, 2] = x[1, 2, 3] = np.nan
    with pytest.raises(NonFiniteError, match=r"the score is NaN at \(1, 0, 2\): what is no number has no rank"):
        inputs.ranked("the score", x)
    with pytest.raises(NonFiniteError, match=r"w is NaN at \(\)"):
        inputs.ranked("w", np.float64(np.nan))
    with pytest.raises(NonFiniteError, match=r"w is NaN at \(1,\)"):
        inputs.ranked("w", np.array([1.0, complex(np.nan, 1)]))
    given = np.array([np.inf, -np.inf, -0.0])
    assert inputs.ranked("w", given) is given
    assert inputs.ranked("w", np.array([1 + 2j])).tolist() == [1.0]
    for wrong in (np.ones(2, int), np.ones(2, bool)):
        with pytest.raises(DtypeError, match="w must be floating point"):
            inputs.ranked("w", wrong)


def test_matrices_need_two_axes():
    assert inputs.matrices("w", np.ones((4, 2, 3))) == (2, 3) and inputs.matrices("w", np.ones((2, 3))) == (2, 3)
    with pytest.raises(ShapeError, match=r"w must have shape \(\.\.\., F, D\).*got \(3,\)"):
        inputs.matrices("w", np.ones(3))


def test_shares_and_counts():
    assert check_share("s", 0) == 0.0 and check_share("s", np.float32(1)) == 1.0
    assert type(check_share("s", 1)) is float and type(check_integer("n", np.int64(3))) is int
    for s in (-1e-9, 1.0000001, float("nan"), True, "1", None):
        with pytest.raises(ConfigError, match=r"s must be a number in \[0, 1\]"):
            check_share("s", s)
    assert check_integer("n", 1) == 1
    for n in (0, -1, 1.0, True, None):
        with pytest.raises(ConfigError, match="n must be an integer of at least 1"):
            check_integer("n", n)
