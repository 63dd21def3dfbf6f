"""N:M masks: signed scores, ties, both paths, and what has no pattern."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from pymoe import kernels
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.sparsity import masks
from pymoe.sparsity.masks import patterns, pools

from ..given import frozen, normal


def looped(score, n, m):
    mask = np.zeros(score.shape, bool)
    for lead in np.ndindex(score.shape[:-1]):
        for a in range(0, score.shape[-1], m):
            for c in sorted(range(a, a + m), key=lambda c: (-score[lead][c], c))[:n]:
                mask[(*lead, c)] = True
    return mask


@pytest.mark.parametrize("n, m", [(1, 2), (2, 4), (1, 4), (4, 4), (5, 6), (1, 1)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_against_the_loop(n, m, dtype):
    for signed in (normal(2, 3, 12, dtype=dtype), frozen(np.round(normal(5, 12) * 2).astype(dtype))):
        for score in (signed, frozen(np.abs(signed))):
            for backend in ("auto", "reference"):
                with kernels.using(backend):
                    mask = masks.nm(score, n, m)
                assert mask.dtype == bool and np.array_equal(mask, looped(score, n, m))
            assert np.all(np.sum(mask.reshape(-1, m), axis=1) == n)


def test_which_path_is_taken():
    """The compiled kernel unless a score is negative."""
    with mock.patch.object(pools, "keep_highest", side_effect=AssertionError("sorted")):
        assert masks.nm(frozen([[0.0, 0.5, 3.0, 2.0]]), 2, 4).tolist() == [[False, False, True, True]]
        with pytest.raises(AssertionError, match="sorted"):
            masks.nm(frozen([[-1e-300, 1.0, 3.0, 2.0]]), 2, 4)


def test_a_score_has_a_sign():
    assert masks.nm(frozen([-3.0, 1.0, 0.0, 2.0]), 2, 4).tolist() == [False, True, False, True]
    assert masks.nm(frozen([3.0, 1.0, 0.0, 2.0]), 2, 4).tolist() == [True, False, False, True]
    assert masks.nm(frozen([-0.0, 0.0]), 1, 2).tolist() == [True, False]
    assert masks.nm(frozen([[-1.0 + 5j, -2.0]]), 1, 2).tolist() == [[True, False]]


def test_refusals():
    for n, m in ((0, 4), (5, 4), (-1, 2), (2.0, 4), (True, 4), (1, 0)):
        with pytest.raises(ConfigError, match="N:M needs integers 0 < n <= m, got"):
            masks.nm(np.ones((2, 4)), n, m)
    with pytest.raises(ConfigError, match="of 6 columns a tail of 2 is left with m = 4"):
        masks.nm(np.ones((2, 6)), 2, 4)
    with pytest.raises(NonFiniteError, match=r"score is NaN at \(0, 3\)"):
        masks.nm(np.array([[1.0, 2, 3, np.nan]]), 2, 4)
    with pytest.raises(ShapeError, match="at least one axis"):
        masks.nm(np.float64(3.0), 1, 1)
    assert patterns.group(np.int64(1), 2, 4) == (1, 2)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0,)])
def test_nothing(shape):
    mask = masks.nm(np.empty(shape), 2, 4)
    assert mask.shape == shape and mask.dtype == bool
