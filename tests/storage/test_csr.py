"""CSR: what is stored, what is refused, scipy in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe import storage
from pymoe.backend.errors import DtypeError, IndexRangeError, ShapeError
from pymoe.storage import CSR, csr
from pymoe.storage._make import integer

from .cases import frozen

QUIET = settings(derandomize=True, database=None, max_examples=60, deadline=None)
DATA, INDICES, INDPTR = frozen([1.0, 2.0, 3.0]), frozen([0, 3, 1]), frozen([0, 2, 2, 3])


def make(**changes: Any) -> CSR:
    given_ = {"data": DATA, "indices": INDICES, "indptr": INDPTR, "shape": (3, 4)} | changes
    return CSR(**given_)


def test_by_hand() -> None:
    w = make()
    assert w.dense().tolist() == [[1, 0, 0, 2], [0, 0, 0, 0], [0, 3, 0, 0]]
    assert w.linear(np.array([1.0, 10.0, 100.0, 1000.0])).tolist() == [2001, 0, 30]
    assert w.linear_dx(np.array([1.0, 7.0, 2.0])).tolist() == [1, 6, 0, 2]
    assert w.dparts(np.array([1.0, 7.0, 2.0]), np.array([1.0, 10.0, 100.0, 1000.0]))["data"].tolist() == [1, 1000, 20]
    assert w.data is DATA and w.indices is INDICES, "the arrays are the caller's, not copies"


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"data": DATA.astype(int)}, DtypeError, "data must be floating point"),
        ({"data": DATA[:-1]}, ShapeError, "indices must have shape"),
        ({"data": DATA[:, None]}, ShapeError, "data must have shape"),
        ({"indices": frozen([0, 4, 1])}, IndexRangeError, "must lie in"),
        ({"indices": frozen([-1, 3, 1])}, IndexRangeError, "must lie in"),
        ({"indices": frozen([3, 0, 1])}, ShapeError, "ascend within a row"),
        ({"indices": frozen([3, 3, 1])}, ShapeError, "no column twice"),
        ({"indices": INDICES.astype(float)}, DtypeError, "indices must be integers"),
        ({"indptr": INDPTR[:-1]}, ShapeError, "indptr must have shape"),
        ({"indptr": frozen([0, 2, 1, 3])}, ShapeError, "ascending offsets"),
        ({"indptr": frozen([0, 2, 2, 4])}, ShapeError, "ascending offsets"),
        ({"shape": (4, 4)}, ShapeError, "indptr must have shape"),
        ({"shape": (3, 3)}, IndexRangeError, "must lie in"),
        ({"shape": (12,)}, ShapeError, "a weight must have shape"),
        ({"shape": 3}, ShapeError, "must be integers"),
        ({"shape": (3, -4)}, ShapeError, "a weight must have shape"),
        ({"data": [1.0, 2.0, 3.0]}, DtypeError, "expected an array"),
    ],
)
def test_a_structure_that_is_none(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make(**changes)


@QUIET
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(0, 5), st.integers(0, 6), st.sampled_from("fdF"))
def test_round_trip_keeps_every_bit(seed: int, e: int, f: int, d: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    w = (rng.standard_normal((e, f, d)) * (rng.random((e, f, d)) < rng.random())).astype(dtype)
    if w.size:
        w.reshape(-1)[rng.integers(w.size)] = np.nan
    w.setflags(write=False)
    made = csr.from_dense(w)
    assert np.array_equal(made.dense(), w, equal_nan=True) and made.dtype == w.dtype
    assert np.array_equal(made.mask(), w != 0) and made.nnz == np.count_nonzero(w)
    for i in range(e):
        assert np.array_equal(made.expert(i).dense(), w[i], equal_nan=True)


@QUIET
@given(st.integers(0, 2**32 - 1))
def test_a_mask_says_what_is_stored(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = np.where(rng.random((3, 5)) < 0.3, 0.0, rng.standard_normal((3, 5)))
    mask = rng.random((3, 5)) < 0.5
    made = csr.from_dense(frozen(w), frozen(mask))
    assert np.array_equal(made.mask(), mask) and np.array_equal(made.dense(), np.where(mask, w, 0))
    assert made.nnz == mask.sum(), "a zero under the mask is stored: it may become something"


def test_masks_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="mask must have shape"):
        csr.from_dense(np.ones((2, 3)), np.ones((3, 2), bool))
    with pytest.raises(DtypeError, match="mask must be bool"):
        csr.from_dense(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(DtypeError, match="floating"):
        csr.from_dense(np.ones((2, 3), int))
    with pytest.raises(ShapeError, match="a weight must have shape"):
        csr.from_dense(np.ones(3))


def test_indices_are_small() -> None:
    w = csr.from_dense(np.eye(3))
    assert w.indices.dtype == w.indptr.dtype == np.int32
    assert w.nbytes == 3 * 8 + 3 * 4 + 4 * 4


def test_no_rows_or_no_columns() -> None:
    for shape in ((2, 4, 0), (2, 0, 4), (0, 2, 4), (4, 0), (0, 4)):
        made = csr.from_dense(np.zeros(shape))
        assert made.shape == shape and made.nnz == 0 and made.dense().shape == shape
        assert not made.indptr.any() and made.indptr.dtype == np.int32
    assert make(shape=[3, 4]).shape == (3, 4)


def test_indices_grow_with_what_they_count() -> None:
    a = np.ones(1)
    assert integer(a, 2**31 - 1) == np.int32 and integer(a, 2**31) == np.int64 and integer(a, 4) == np.int32


def test_four_axes_fold_into_the_rows() -> None:
    w = np.random.default_rng(0).standard_normal((2, 3, 4, 5)) * (np.arange(5) % 2)
    assert np.array_equal(csr.from_dense(w).dense(), w)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dok", "lil"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_scipy_in_any_format(form: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    dense = rng.standard_normal((4, 7)) * (rng.random((4, 7)) < 0.5)
    given_ = getattr(scipy.sparse, f"{form}_{kind}")(dense)
    w = csr.from_scipy(given_)
    assert np.array_equal(w.dense(), dense) and w.indices.dtype == np.int32


def test_scipy_out_shares_the_values_and_computes_the_same() -> None:
    w, x = make(), np.random.default_rng(0).standard_normal((5, 4))
    out = w.to_scipy()
    assert isinstance(out, scipy.sparse.csr_array) and np.array_equal(out.toarray(), w.dense())
    assert np.shares_memory(out.data, w.data)
    assert np.allclose((out @ x.T).T, w.linear(x), rtol=1e-15, atol=1e-15)
    assert np.array_equal(csr.from_scipy(out).dense(), w.dense())
    with pytest.raises(ShapeError, match="expert"):
        csr.from_dense(np.ones((2, 3, 4))).to_scipy()


def test_scipy_is_brought_into_canonical_form_and_left_alone() -> None:
    data, indices, indptr = np.array([1.0, 2.0, 4.0, 8.0, 0.0]), np.array([2, 0, 2, 1, 0]), np.array([0, 3, 5])
    his = scipy.sparse.csr_matrix((data, indices, indptr), shape=(2, 3))
    for a in (his.data, his.indices, his.indptr):
        a.setflags(write=False)
    w = csr.from_scipy(his)
    assert w.dense().tolist() == [[2, 0, 5], [0, 8, 0]]
    assert w.nnz == 4, "a stored zero stays stored"
    assert his.indices.tolist() == [2, 0, 2, 1, 0] and his.data.tolist() == [1, 2, 4, 8, 0] and his.nnz == 5
    assert not np.shares_memory(w.data, his.data)


def test_scipy_integers_are_refused() -> None:
    with pytest.raises(DtypeError, match="floating"):
        csr.from_scipy(scipy.sparse.csr_array(np.eye(3, dtype=int)))
    with pytest.raises(ShapeError, match="one matrix"):
        csr.from_scipy(scipy.sparse.coo_array(np.ones(3)))
    assert storage.csr.from_scipy(scipy.sparse.csr_array((3, 4))).nnz == 0
