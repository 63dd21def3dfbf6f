"""What the estimators take from scikit-learn, in one place: MissingExtraError names the extra where it lacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.errors import MissingExtraError, install

try:
    from sklearn.base import (
        BaseEstimator,
        ClassifierMixin,
        ClassNamePrefixFeaturesOutMixin,
        OneToOneFeatureMixin,
        RegressorMixin,
        TransformerMixin,
        clone,
    )
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        _check_sample_weight,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )
except ImportError as error:
    raise MissingExtraError(f"the estimators are scikit-learn's ({error}): {install('text')}") from None

check_sample_weight = _check_sample_weight

__all__ = [
    "BaseEstimator",
    "ClassNamePrefixFeaturesOutMixin",
    "ClassifierMixin",
    "OneToOneFeatureMixin",
    "RegressorMixin",
    "TransformerMixin",
    "check_classification_targets",
    "check_is_fitted",
    "check_sample_weight",
    "clone",
    "column_or_1d",
    "compute_sample_weight",
    "seed",
    "validate_data",
]


def seed(random_state: Any) -> int:
    """One number for ``backend.rng.generator``: an integer >= 0 is taken as it is, all else is drawn from.

    >>> seed(3)
    3
    """
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool) and random_state >= 0:
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
