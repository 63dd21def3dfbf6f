"""One pool over tensors of different shapes and precisions."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError
from pymoe.sparsity import masks

from ..given import frozen, normal


def test_it_is_the_mask_of_all_scores_in_a_row():
    scores = {"b": normal(3, 4), "a": frozen(np.round(normal(2, 2, 3))), "c": normal(5)}
    flat = np.concatenate([a.reshape(-1) for a in scores.values()])
    for s in (0.0, 0.29, 0.6, 1.0):
        found = masks.over_model(scores, s)
        assert list(found) == list(scores) and all(found[n].shape == scores[n].shape for n in scores)
        together = np.concatenate([m.reshape(-1) for m in found.values()])
        assert np.array_equal(together, masks.by_score(flat, s))
        assert np.count_nonzero(~together) == masks.count(s, 29)


def test_ties_go_by_the_order_of_the_mapping():
    scores = {"z": np.ones(2), "a": np.ones(2)}
    assert {n: m.tolist() for n, m in masks.over_model(scores, 0.5).items()} == {"z": [False] * 2, "a": [True] * 2}


def test_precisions_are_compared_in_the_wider_one():
    scores = {"a": np.array([0.1], "f4"), "b": np.array([0.1])}  # float32(0.1) > 0.1
    assert {n: bool(m[0]) for n, m in masks.over_model(scores, 0.5).items()} == {"a": True, "b": False}


def test_nothing():
    assert masks.over_model({}, 0.5) == {}
    found = masks.over_model({"a": np.empty((0, 3)), "b": np.array([1.0, 2.0])}, 0.5)
    assert found["a"].shape == (0, 3) and found["b"].tolist() == [False, True]


def test_refusals_name_the_tensor():
    with pytest.raises(NonFiniteError, match=r"the score of bad is NaN at \(0, 1\)"):
        masks.over_model({"a": np.ones(2), "bad": np.array([[1.0, np.nan]])}, 0.5)
    with pytest.raises(DtypeError, match="the score of bad must be floating"):
        masks.over_model({"bad": np.ones(2, int)}, 0.5)
    for scores in ({}, {"a": np.ones(2)}):
        with pytest.raises(ConfigError):
            masks.over_model(scores, -1)
