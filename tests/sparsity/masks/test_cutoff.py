"""A threshold on magnitudes, and the quantile that prunes a share."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError
from pymoe.sparsity import masks

from ..given import frozen, normal


def test_what_equals_the_threshold_stays():
    w = frozen([[0.5, -1.0], [1.0, -0.25]])
    assert masks.threshold(w, 1.0).tolist() == [[False, True], [True, False]]
    assert masks.threshold(w, 0.0).all() and masks.threshold(w, -3).all()
    assert not masks.threshold(w, math.inf).any()
    assert masks.threshold(frozen([math.inf, 1.0]), math.inf).tolist() == [True, False]


def test_the_threshold_is_read_in_the_precision_of_the_weight():
    assert masks.threshold(np.full(3, 0.1, "f4"), 0.1).all()
    assert masks.threshold(np.full(3, 0.1, "f4"), np.float32(0.1)).all()


def test_quantile_by_hand():
    w = frozen([[4.0, -1.0], [3.0, -2.0]])
    assert [masks.quantile(w, q) for q in (0.0, 0.25, 0.49, 0.5, 0.75)] == [1.0, 2.0, 2.0, 3.0, 4.0]
    assert masks.quantile(w, 1.0) == math.inf
    assert type(masks.quantile(w.astype("f4"), 0.5)) is float
    assert masks.quantile(np.empty((0, 2)), 0.5) == math.inf


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_quantile_and_magnitude_agree_without_ties(dtype):
    w = normal(5, 7, 3, dtype=dtype)
    for q in (0.0, 0.1, 0.29, 0.57, 1.0):
        assert np.array_equal(masks.threshold(w, masks.quantile(w, q)), masks.magnitude(w, q))


def test_ties_stay_together():
    w = frozen([1.0, 1.0, 1.0, 2.0])
    assert masks.threshold(w, masks.quantile(w, 0.5)).all()  # at most 2, so none of the three ones


def test_refusals():
    for t in (math.nan, None, "1", True):
        with pytest.raises(ConfigError, match="must be a number, got"):
            masks.threshold(np.ones(2), t)
    with pytest.raises(NonFiniteError, match=r"w is NaN at \(1,\)"):
        masks.threshold(np.array([1.0, math.nan]), 0.5)
    with pytest.raises(NonFiniteError, match=r"w is NaN at \(0,\)"):
        masks.quantile(np.array([math.nan]), 0.5)
    with pytest.raises(DtypeError):
        masks.quantile(np.array([1, 2]), 0.5)
    with pytest.raises(ConfigError, match="got 2"):
        masks.quantile(np.ones(2), 2)
