"""What the estimators take from scikit-learn, in one place: MissingExtraError names the extra where it lacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.errors import DataError, MissingExtraError, install

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
    from sklearn.utils.extmath import randomized_svd
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
    "SparseRows",
    "TransformerMixin",
    "check_classification_targets",
    "check_is_fitted",
    "check_sample_weight",
    "clone",
    "column_or_1d",
    "compute_sample_weight",
    "randomized_svd",
    "row_weights",
    "seed",
    "two_classes",
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


class SparseRows:
    """Mixin: an estimator of rows that are dense or CSR."""

    def _valid(self, *given: Any, reset: bool = False, **more: Any) -> Any:
        """X, or (X, y), as scikit-learn wants them checked; float32 stays, else float64."""
        kind = {"accept_sparse": "csr", "dtype": [np.float64, np.float32], "accept_large_sparse": False}
        return validate_data(self, *given, reset=reset, **kind, **more)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.sparse = True
        return tags


def row_weights(sample_weight: Any, x: Any) -> np.ndarray:
    """(N,) float64, all >= 0 and one above, of None: 1 each."""
    if sample_weight is not None and not np.any(np.asarray(sample_weight)):
        raise DataError("sample_weight is zero for every row: nothing is left to train on")
    weight: np.ndarray = check_sample_weight(sample_weight, x, dtype=np.float64)
    if (weight < 0).any():
        raise DataError(f"sample_weight must not be negative, got {weight.min()} in row {int(weight.argmin())}")
    return weight


def two_classes(y: np.ndarray) -> np.ndarray:
    """The classes of y, sorted; DataError where there is only one.

    >>> two_classes(np.array(["b", "a", "b"])).tolist()
    ['a', 'b']
    """
    classes = np.unique(y)
    if len(classes) < 2:
        raise DataError(
            f"a classifier needs rows of at least 2 classes, got only one class, {y[0]!r}, in "
            f"n_samples = {len(y)}: give rows of another class"
        )
    return np.asarray(classes)
