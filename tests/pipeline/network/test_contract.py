"""``MoEClassifier`` and ``MoERegressor``: scikit-learn's contract, with no check excused."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from pymoe.pipeline import MoEClassifier, MoERegressor


@parametrize_with_checks([MoEClassifier(epochs=40), MoERegressor(epochs=40)])
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([MoEClassifier(), MoERegressor()])
def test_scikit_learns_contract_with_as_many_steps_as_by_default(estimator: Any, check: Any) -> None:
    """At least 400 steps a fit, ten times those of above."""
    check(estimator)
