"""Truncated SVD against numpy.linalg.svd, dense and sparse; random projections against their distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from pymoe.sharing import reduce

from .layers import frozen

quick = run(derandomize=True, database=None, deadline=None, max_examples=30)


def data(seed: int, shape: tuple[int, int], density: float = 1.0, dtype: Any = np.float64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return frozen((rng.standard_normal(shape) * (rng.random(shape) < density)).astype(dtype))


@quick
@given(st.integers(0, 1 << 20), st.integers(1, 12), st.integers(1, 9), st.data())
def test_dense_is_numpys_decomposition(seed: int, n: int, m: int, draw: st.DataObject) -> None:
    x = data(seed, (n, m))
    r = draw.draw(st.integers(1, min(n, m)))
    found = reduce.truncated_svd(x, r)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    assert np.abs(found.singular_values - s[:r]).max() <= 1e-13 * s[0]
    best = (u[:, :r] * s[:r]) @ vt[:r]
    assert np.abs(found.inverse(found.transform(x)) - best).max() <= 1e-13 * s[0]
    error = np.sqrt((s[r:] ** 2).sum()) / np.linalg.norm(x)
    assert abs(found.relative_error - error) <= 1e-14
    assert abs(reduce.relative_error(x, found) - error) <= 1e-13
    assert np.abs(found.components @ found.components.T - np.eye(r)).max() <= 1e-13


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize("make", [scipy.sparse.csr_array, scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_is_the_dense_answer_and_is_never_made_dense(
    make: Any, dtype: Any, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = data(3, (40, 25), 0.2, dtype)
    dense = reduce.truncated_svd(x.astype(np.float64), 4)
    sparse = make(x)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("made dense")

    with monkeypatch.context() as patch:
        for kind in (scipy.sparse.csr_array, scipy.sparse.csr_matrix, scipy.sparse.coo_array):
            patch.setattr(kind, "toarray", refuse)
            patch.setattr(kind, "todense", refuse)
        found = reduce.truncated_svd(sparse, 4)
        z = found.transform(sparse)
    assert z.dtype == dtype and isinstance(z, np.ndarray)
    assert np.abs(found.singular_values - dense.singular_values).max() <= tolerance * dense.singular_values[0]
    assert np.abs(found.components - dense.components).max() <= 100 * tolerance  # signs and order too
    assert abs(found.relative_error - dense.relative_error) <= tolerance * 10
    assert abs(reduce.relative_error(sparse, found) - dense.relative_error) <= tolerance * 10
    again = reduce.truncated_svd(sparse, 4)
    assert (again.components == found.components).all()
    other = reduce.truncated_svd(sparse, 4, rng=np.random.default_rng(7))
    assert np.abs(other.components - found.components).max() <= 100 * tolerance


def test_new_rows_are_transformed_too() -> None:
    found = reduce.truncated_svd(data(0, (20, 6)), 3)
    new = data(1, (5, 6))
    assert np.abs(found.transform(new) - new @ found.components.T).max() <= 1e-15
    assert found.inverse(found.transform(new)).shape == (5, 6)


@pytest.mark.parametrize("kind", reduce.KINDS)
def test_a_projection_keeps_lengths_in_the_mean_and_gives_the_same_matrix_again(kind: str) -> None:
    x = data(0, (30, 50))
    drawn = [reduce.random_projection(x, 20, rng=np.random.default_rng(seed), kind=kind) for seed in range(300)]
    ratio = [(p.transform(x) ** 2).sum(1) / (x**2).sum(1) for p in drawn]
    error = np.std(ratio, axis=0) / np.sqrt(len(drawn))
    assert (np.abs(np.mean(ratio, axis=0) - 1) <= 5 * error).all() and error.max() < 0.03
    again = reduce.random_projection(x, 20, rng=np.random.default_rng(0), kind=kind).transform(x)
    assert (again == drawn[0].transform(x)).all()


def test_the_entries_are_as_the_papers_say() -> None:
    x = np.ones((1, 10_000))
    gaussian = reduce.random_projection(x, 16, rng=np.random.default_rng(0)).matrix
    assert abs(gaussian.std() - 0.25) < 0.002 and abs(gaussian.mean()) < 0.004
    for kind, density, inverse in (("achlioptas", 1 / 3, 3), ("li", 0.01, 100)):
        r = reduce.random_projection(x, 16, rng=np.random.default_rng(0), kind=kind).matrix
        assert np.allclose(np.abs(r.data), np.sqrt(inverse / 16), rtol=1e-14, atol=0), kind
        assert abs(r.nnz / 160_000 - density) < 5 * np.sqrt(density / 160_000), kind
        assert abs((r.data > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(r.nnz), kind
        columns = np.bincount(r.indices, minlength=16)
        assert np.abs(columns / columns.mean() - 1).max() < 0.2 and r.has_canonical_format, kind
    half = reduce.random_projection(x, 16, rng=np.random.default_rng(0), kind="li", density=0.5).matrix
    assert abs(half.nnz / 160_000 - 0.5) < 0.01


def test_johnson_lindenstrauss_holds_for_the_dimension_it_names() -> None:
    points, eps = 40, 0.5
    n = reduce.johnson_lindenstrauss(points, eps)
    x = data(0, (points, 3000))
    apart = ((x[:, None] - x) ** 2).sum(-1)[np.triu_indices(points, 1)]
    held = 0
    for seed in range(20):
        z = reduce.random_projection(x, n, rng=np.random.default_rng(seed)).transform(x)
        ratio = ((z[:, None] - z) ** 2).sum(-1)[np.triu_indices(points, 1)] / apart
        held += bool((np.abs(ratio - 1) <= eps).all())
    assert held == 20
    few = reduce.random_projection(x, 8, rng=np.random.default_rng(0)).transform(x)  # control: 8 are too few
    assert np.abs(((few[:, None] - few) ** 2).sum(-1)[np.triu_indices(points, 1)] / apart - 1).max() > eps
    assert reduce.johnson_lindenstrauss(1, 0.5) == 1


@pytest.mark.parametrize("kind", reduce.KINDS)
def test_the_inverse_is_the_shortest_row_with_that_projection(kind: str) -> None:
    x = data(0, (6, 9))
    projection = reduce.random_projection(x, 4, rng=np.random.default_rng(3), kind=kind)
    z = projection.transform(x)
    back = projection.inverse(z)
    r = projection.matrix if kind == "gaussian" else projection.matrix.toarray()
    assert np.abs(back - z @ np.linalg.pinv(r)).max() <= 1e-13
    assert np.abs(projection.transform(back) - z @ (np.linalg.pinv(r) @ r)).max() <= 1e-13
    assert (np.linalg.norm(back, axis=1) <= np.linalg.norm(x, axis=1) * (1 + 1e-13)).all()
    assert 0 < reduce.relative_error(x, projection) < 1


def test_sparse_data_times_a_sparse_projection_is_dense_and_right() -> None:
    x = data(0, (6, 30), 0.3)
    projection = reduce.random_projection(scipy.sparse.csr_array(x), 5, rng=np.random.default_rng(0), kind="li")
    z = projection.transform(scipy.sparse.csr_array(x))
    assert isinstance(z, np.ndarray) and np.abs(z - projection.transform(x)).max() <= 1e-14


def test_zero_data() -> None:
    found = reduce.truncated_svd(np.zeros((4, 3)), 2)
    assert not found.singular_values.any() and found.relative_error == 0 == reduce.relative_error(
        np.zeros((4, 3)), found
    )


X = np.ones((4, 3))


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: reduce.truncated_svd(X, 4), ConfigError, "n must be at most 3"),
        (lambda: reduce.truncated_svd(X, 0), ConfigError, "n must be an integer of at least 1"),
        (lambda: reduce.truncated_svd(scipy.sparse.csr_array(X), 3), ConfigError, "of a sparse matrix"),
        (lambda: reduce.truncated_svd(X * np.nan, 1), NonFiniteError, "x is nan"),
        (lambda: reduce.truncated_svd(scipy.sparse.csr_array(X * np.inf), 1), NonFiniteError, "stored values of x"),
        (lambda: reduce.truncated_svd(np.ones((2, 2), int), 1), DtypeError, "floating"),
        (lambda: reduce.truncated_svd(scipy.sparse.csr_array(np.ones((2, 2), int)), 1), DtypeError, "floating"),
        (lambda: reduce.truncated_svd([[1.0]], 1), DtypeError, "NumPy array or a scipy.sparse"),
        (lambda: reduce.truncated_svd(np.ones(3), 1), ShapeError, "x must have shape (N, M)"),
        (lambda: reduce.truncated_svd(X, 2).transform(np.ones((2, 4))), ShapeError, "rows must have width 3"),
        (lambda: reduce.random_projection(X, 2, rng=np.random.default_rng(0), kind="x"), ConfigError, "kind must be"),
        (lambda: reduce.random_projection(X, 2, rng=np.random.default_rng(0), density=0.5), ConfigError, "density is"),
        (lambda: reduce.random_projection(X, 0, rng=np.random.default_rng(0)), ConfigError, "n must be"),
        (lambda: reduce.johnson_lindenstrauss(10, 1.0), ConfigError, "eps must lie in (0, 1)"),
        (lambda: reduce.johnson_lindenstrauss(0, 0.5), ConfigError, "points"),
    ],
)
def test_what_is_refused(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value)
