"""The one place where ties are broken, against a sort of (score, index)."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError
from pymoe.sparsity.masks import pools

from ..given import frozen


def sorted_first(score, n, among=None):
    gone = np.zeros(score.shape, bool)
    for row in range(score.shape[0]):
        allowed = [i for i in range(score.shape[1]) if among is None or among[row, i]]
        for i in sorted(allowed, key=lambda i: (float(score[row, i]), i))[:n]:
            gone[row, i] = True
    return gone


def test_shapes():
    assert pools.shape("w", (2, 3, 5), "tensor") == (1, 30)
    assert pools.shape("w", (7, 2, 3, 5), "matrix") == (14, 15)
    assert pools.shape("w", (7, 2, 3, 5), "row") == (42, 5)
    assert pools.shape("w", (4,), "row") == (1, 4) and pools.shape("w", (), "tensor") == (1, 1)
    assert pools.shape("w", (3, 4), "matrix") == (1, 12)


def test_unknown_and_impossible_pools_are_refused():
    with pytest.raises(ConfigError, match="by must be one of .*got 'layer'"):
        pools.shape("w", (2, 3), "layer")
    with pytest.raises(ConfigError, match=r"by='matrix' needs 2 axes, but w has shape \(3,\)"):
        pools.shape("w", (3,), "matrix")
    with pytest.raises(ConfigError, match="by='row' needs 1 axes"):
        pools.shape("w", (), "row")


@pytest.mark.parametrize("values", ["plain", "few"])
def test_lowest_against_a_sort(values):
    rng = np.random.default_rng(0)
    score = frozen(rng.standard_normal((4, 9)) if values == "plain" else rng.integers(-1, 2, (4, 9)) / 2)
    among = frozen(np.argsort(rng.random((4, 9)), axis=1) < 6)
    for n in range(10):
        assert np.array_equal(pools.lowest(score, n), sorted_first(score, n))
        if n <= 6:
            assert np.array_equal(pools.lowest(score, n, among), sorted_first(score, n, among))
        kept = pools.keep_highest(score, n)
        assert np.array_equal(kept, sorted_first(-score, n)) and kept.dtype == bool


def test_infinite_scores_and_zeros_of_both_signs():
    score = frozen([[0.0, -0.0, np.inf, -np.inf, np.inf, -0.0]])
    for n in range(7):
        assert np.array_equal(pools.lowest(score, n), sorted_first(score, n))
    among = frozen([[False, True, True, False, True, True]])
    for n in range(5):  # an active infinity is chosen before an inactive one is looked at
        assert np.array_equal(pools.lowest(score, n, among), sorted_first(score, n, among))


def test_nothing():
    for shape in ((0, 3), (2, 0), (0, 0)):
        assert pools.lowest(np.empty(shape), 0).shape == shape
    assert not pools.lowest(np.ones((2, 3)), 0).any()
    assert pools.lowest(np.empty((0, 3)), 2).shape == (0, 3)


def test_prune_gives_the_shape_back():
    score = frozen(np.arange(12.0).reshape(2, 2, 3)[::-1])
    for rule, values in ((pools.prune, score), (pools.prune, score - 20), (pools.smallest, -score)):
        assert rule(values, 1, "row").tolist() == [[[False, True, True]] * 2] * 2
        assert rule(values, 2, "matrix")[:, 0].tolist() == [[False, False, True]] * 2
        assert rule(values, 6, "tensor").all(axis=(1, 2)).tolist() == [True, False]
        assert rule(values, 6, "tensor").any(axis=(1, 2)).tolist() == [True, False]
        assert rule(values, 0, "matrix").all() and not rule(values, 12, "tensor").any()


def test_a_negative_score_is_lower_than_a_small_one():
    score = frozen([[-3.0, 0.5], [1.0, -0.25]])
    assert pools.prune(score, 1, "tensor").tolist() == [[False, True], [True, True]]
    assert pools.prune(score, 1, "matrix").tolist() == [[False, True], [True, True]]
    assert pools.prune(score, 1, "row").tolist() == [[False, True], [True, False]]
    assert pools.smallest(score, 1, "row").tolist() == [[True, False], [True, False]]
    assert pools.smallest(score, 1, "matrix").tolist() == [[True, True], [True, False]]
    assert pools.smallest(np.empty((2, 0)), 0, "row").shape == (2, 0)


def test_which_path_is_taken():
    """The compiled kernel for a tensor or a matrix of magnitudes, the sort for rows and for scores with a sign."""
    size = frozen([[0.0, 3.0], [1.0, 2.0]])
    with mock.patch.object(pools, "lowest", side_effect=AssertionError("sorted")):
        for by in ("tensor", "matrix"):
            for mask in (pools.prune(size, 2, by), pools.smallest(-size, 2, by)):
                assert mask.tolist() == [[False, True], [False, True]]
            with pytest.raises(AssertionError, match="sorted"):
                pools.prune(-size, 2, by)
        for rule in (pools.prune, pools.smallest):
            with pytest.raises(AssertionError, match="sorted"):
                rule(size, 1, "row")
