"""``MoEClassifier`` and ``MoERegressor``: scikit-learn's contract, with no check excused."""

from __future__ import annotations

from typing import Any

from sklearn.utils.estimator_checks import parametrize_with_checks

from pymoe.pipeline import MoEClassifier, MoERegressor


@parametrize_with_checks([MoEClassifier(), MoERegressor()])
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)
