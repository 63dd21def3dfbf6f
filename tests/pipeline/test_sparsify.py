"""Sparsified activations: counts, ties, sparse = dense, the gradient, scikit-learn's contract."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from pymoe import verify
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.pipeline import sparsify
from pymoe.pipeline.sparsify import Sparsify
from pymoe.sparsity import masks

CASES = [("random", 0.4), ("threshold", 0.7), ("magnitude", 0.45), ("n:m", "2:3"), ("top-k", 3)]


@parametrize_with_checks([Sparsify(method, amount, random_state=3) for method, amount in CASES])
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def rows(seed: int = 0, n: int = 7, d: int = 11, *, ties: bool = True) -> np.ndarray:
    """Few different values, so that there are many ties; zeros of which some will be stored."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (n, d)) / 2 if ties else rng.standard_normal((n, d))
    x[2] = 0.0
    x.setflags(write=False)
    return x


def by_loop(x: np.ndarray, method: str, amount: Any, columns: np.ndarray) -> np.ndarray:
    """The table of the module, one row after another."""
    y = np.zeros_like(x)
    d = x.shape[1]
    for i, row in enumerate(x):
        if method == "random":
            kept = [j for j in range(d) if columns[j]]
        elif method == "threshold":
            kept = [j for j in range(d) if abs(row[j]) >= amount]
        elif method == "magnitude":
            kept = sorted(range(d), key=lambda j: (abs(row[j]), j))[int(amount * d) :]
        elif method == "top-k":
            kept = sorted(range(d), key=lambda j: (-row[j], j))[:amount]
        else:
            n, m = (int(part) for part in amount.split(":"))
            kept = []
            for start in range(0, d, m):
                kept += sorted(range(start, min(d, start + m)), key=lambda j: (-abs(row[j]), j))[:n]
        y[i, kept] = row[kept]
    return y


@pytest.mark.parametrize("method, amount", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_dense_and_sparse_keep_what_a_loop_keeps(method: str, amount: Any, seed: int) -> None:
    x = rows(seed)
    found = Sparsify(method, amount, random_state=1).fit(x)
    columns = masks.random(np.random.Generator(np.random.PCG64(np.random.SeedSequence([1]))), (11,), 0.4)
    wanted = by_loop(x, method, amount, columns)
    assert (found.transform(x) == wanted).all()
    stored = scipy.sparse.csr_array(x)
    assert (found.transform(stored).toarray() == wanted).all()
    with_zeros = scipy.sparse.csr_array((np.append(stored.data, 0.0), np.append(stored.indices, 4),
                                         np.append(stored.indptr[:-1], stored.nnz + 1)), shape=x.shape)  # fmt: skip
    assert (found.transform(with_zeros).toarray() == wanted).all()
    assert found.transform(stored.tocsc()).format == "csr"


def test_control_another_tie_rule_is_seen() -> None:
    x = rows(0)
    other = by_loop(x[:, ::-1], "magnitude", 0.45, np.ones(11))[:, ::-1]
    assert (Sparsify("magnitude", 0.45).fit_transform(x) != other).any()


@pytest.mark.parametrize("method, amount, kept", [("random", 0.4, 7), ("magnitude", 0.4, 7), ("top-k", 4, 4)])
def test_each_row_keeps_the_exact_count(method: str, amount: Any, kept: int) -> None:
    mask = Sparsify(method, amount, random_state=0).fit(rows()).mask(rows())
    assert (mask.sum(1) == kept).all()


def op(method: str, amount: Any, columns: np.ndarray) -> Any:
    """The functions as an op module of one setting."""
    return types.SimpleNamespace(
        forward=lambda x: sparsify.forward(x, method=method, amount=amount, columns=columns),
        backward=sparsify.backward,
        __name__="sparsify",
    )


@pytest.mark.parametrize("method, amount", CASES)
def test_the_gradient_is_that_of_the_complex_step(method: str, amount: Any) -> None:
    x = rows(5, 4, 9, ties=False)
    columns = masks.random(np.random.default_rng(0), (9,), 0.4)
    module = op(method, amount, columns)
    assert verify.gradcheck(module, x).error <= 1e-13

    class Broken:
        forward = staticmethod(module.forward)

        @staticmethod
        def backward(dy: Any, cache: Any) -> Any:
            return 1.001 * sparsify.backward(dy, cache)[0], {}

    with pytest.raises(Exception, match="gradient of 'x' is wrong"):
        verify.gradcheck(Broken, x)


@pytest.mark.parametrize("method, amount", CASES)
def test_the_sparse_gradient_is_the_dense_one_at_the_stored_places(method: str, amount: Any) -> None:
    x, dy = rows(6, ties=False), np.random.default_rng(7).standard_normal((7, 11))
    x = x * (np.random.default_rng(8).random(x.shape) < 0.6)
    columns = masks.random(np.random.default_rng(0), (11,), 0.4)
    _, dense = sparsify.forward(x, method=method, amount=amount, columns=columns)
    y, stored = sparsify.forward(scipy.sparse.csr_array(x), method=method, amount=amount, columns=columns)
    wanted = np.where(x != 0, sparsify.backward(dy, dense)[0], 0)
    dx = sparsify.backward(dy, stored)[0]
    assert (dx.toarray() == wanted).all() and (dx.indices == scipy.sparse.csr_array(x).indices).all()
    pattern = y.copy()
    pattern.data = dy[y.nonzero()]
    assert (sparsify.backward(pattern, stored)[0].toarray() == wanted).all()
    with pytest.raises(ShapeError, match="that of x"):
        sparsify.backward(dy[:, :3], stored)


def test_what_comes_out() -> None:
    x = rows().astype(np.float32)
    assert Sparsify().fit_transform(x).dtype == np.float32
    assert scipy.sparse.issparse(Sparsify(output="csr").fit_transform(x))
    assert isinstance(Sparsify(output="dense").fit_transform(scipy.sparse.csr_array(x)), np.ndarray)
    assert isinstance(Sparsify().fit_transform(scipy.sparse.csr_matrix(x)), scipy.sparse.csr_matrix)
    assert Sparsify("top-k", 99).fit_transform(x).tolist() == x.tolist()


def test_a_state_brings_back_the_same_bits_and_a_pipeline_takes_it() -> None:
    x = rows(3)
    for method, amount in CASES:
        found = Sparsify(method, amount, random_state=9).fit(x)
        again = Sparsify.from_state(*found.state())
        assert (again.transform(x) == found.transform(x)).all()
        assert clone(found).get_params() == found.get_params()
    texts = ["the weather is nice today", "rain again today", "nice nice weather"]
    pipe = make_pipeline(TfidfVectorizer(), Sparsify("top-k", 2))
    assert np.diff(pipe.fit_transform(texts).indptr).max() == 2


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda x: Sparsify("no").fit(x), "method must be one of"),
        (lambda x: Sparsify("magnitude", 3).fit(x), "must lie in|share"),
        (lambda x: Sparsify("n:m", 2).fit(x), "like '2:4'"),
        (lambda x: Sparsify("n:m", "3:2").fit(x), "like '2:4'"),
        (lambda x: Sparsify("top-k", 0.5).fit(x), "integer of at least 1"),
        (lambda x: Sparsify("threshold", float("nan")).fit(x), "must be a number"),
        (lambda x: Sparsify(output="x").fit(x), "output must be"),
        (lambda x: sparsify.forward(x, method="random", amount=0.5), "needs columns"),
        (lambda x: sparsify.forward(x, method="random", amount=0.5, columns=np.ones(3, bool)), "columns must have"),
    ],
)
def test_bad_settings_say_what_to_do(call: Any, says: str) -> None:
    with pytest.raises((ConfigError, ShapeError), match=says):
        call(rows())
