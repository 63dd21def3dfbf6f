"""Reduce: what ``sharing.reduce`` finds, under scikit-learn's contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.utils.estimator_checks import parametrize_with_checks

from pymoe.backend.errors import ConfigError
from pymoe.pipeline.reduce import METHODS, Reduce


@parametrize_with_checks([Reduce(method, 2, random_state=3) for method in METHODS])
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def rows(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((13, 9)) * (rng.random((13, 9)) < 0.5)
    x.setflags(write=False)
    return x


def test_the_svd_spans_what_scikit_learns_spans() -> None:
    x = rows()
    ours, theirs = Reduce("svd", 3).fit(x), TruncatedSVD(3, algorithm="arpack", random_state=0).fit(x)
    mine, other = ours.reduction_.components, theirs.components_
    assert np.abs(mine.T @ mine - other.T @ other).max() <= 1e-12
    assert np.abs(1.001 * mine.T @ mine - other.T @ other).max() > 1e-5  # control
    back = ours.inverse_transform(ours.transform(x))
    assert abs(np.linalg.norm(x - back) / np.linalg.norm(x) - ours.relative_error_) <= 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_sparse_is_dense_and_a_state_brings_back_the_same_bits(method: str) -> None:
    x = rows()
    found = Reduce(method, 4, random_state=5).fit(x)
    stored = Reduce(method, 4, random_state=5).fit(scipy.sparse.csr_matrix(x))
    z = found.transform(x)
    assert z.shape == (13, 4) and np.abs(stored.transform(scipy.sparse.csc_array(x)) - z).max() <= 1e-12
    again = Reduce.from_state(*found.state())
    assert (again.transform(x) == z).all() and (again.inverse_transform(z) == found.inverse_transform(z)).all()
    assert np.abs(found.transform(found.inverse_transform(z)) - z).max() <= 1e-12
    assert found.get_feature_names_out().tolist() == [f"reduce{i}" for i in range(4)]
    assert Reduce(method, 4, random_state=5).fit_transform(x.astype(np.float32)).dtype == np.float32


def test_bad_settings_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="method must be one of"):
        Reduce("pca").fit(rows())
    with pytest.raises(ConfigError, match="at most 9 components of dense data with n_samples = 13"):
        Reduce("svd", 10).fit(rows())
    with pytest.raises(ConfigError, match="at most 8 components of sparse"):
        Reduce("svd", 9).fit(scipy.sparse.csr_array(rows()))
    with pytest.raises(ConfigError, match="n_components must be an integer"):
        Reduce("gaussian", 0).fit(rows())
