"""BSR: whole blocks are stored, blocks divide, scipy in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, DtypeError, IndexRangeError, ShapeError
from pymoe.storage import BSR, bsr

from .cases import frozen

QUIET = settings(derandomize=True, database=None, max_examples=60, deadline=None)
DATA, INDICES, INDPTR = frozen(np.arange(1.0, 13).reshape(3, 2, 2)), frozen([0, 1, 2]), frozen([0, 2, 2, 3])


def make(**changes: Any) -> BSR:
    given_ = {"data": DATA, "indices": INDICES, "indptr": INDPTR, "shape": (6, 6)} | changes
    return BSR(**given_)


def test_by_hand() -> None:
    w = make()
    assert w.dense().tolist() == [
        [1, 2, 5, 6, 0, 0],
        [3, 4, 7, 8, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 9, 10],
        [0, 0, 0, 0, 11, 12],
    ]
    assert w.block == (2, 2) and w.nnz == 12
    assert w.linear(np.array([1.0, 0, 10, 0, 100, 0])).tolist() == [51, 73, 0, 0, 900, 1100]


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"data": DATA.astype(int)}, DtypeError, "floating"),
        ({"data": DATA[:2]}, ShapeError, "data must have shape"),
        ({"data": DATA[:, :, 0]}, ShapeError, "data must have shape"),
        ({"data": DATA[:, :, :0]}, ConfigError, "at least"),
        ({"indices": frozen([0, 3, 2])}, IndexRangeError, "must lie in"),
        ({"indices": frozen([1, 0, 2])}, ShapeError, "ascend"),
        ({"indices": INDICES[:, None]}, ShapeError, "indices must have shape"),
        ({"indptr": frozen([0, 2, 3])}, ShapeError, "indptr must have shape"),
        ({"indptr": frozen([0, 3, 2, 3])}, ShapeError, "ascending offsets"),
        ({"shape": (6, 7)}, ConfigError, "1 columns are left"),
        ({"shape": (5, 6)}, ConfigError, "1 rows and 0 columns"),
        ({"shape": (2, 3, 6)}, ConfigError, "must divide"),
    ],
)
def test_a_structure_that_is_none(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make(**changes)


@QUIET
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (2, 3), (3, 2), (6, 6), (1, 6)]), st.booleans())
def test_round_trip(seed: int, block: tuple[int, int], stack: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (2, 6, 12) if stack else (6, 12)
    w = frozen(rng.standard_normal(shape) * (rng.random(shape) < 0.1))
    made = bsr.from_dense(w, block)
    assert np.array_equal(made.dense(), w)
    r, c = block
    touched = (w.reshape(-1, 6 // r, r, 12 // c, c) != 0).any(axis=(2, 4), keepdims=True)
    assert np.array_equal(made.mask(), np.broadcast_to(touched, (w.size // 72, 6 // r, r, 12 // c, c)).reshape(shape))
    if stack:
        assert np.array_equal(made.expert(1).dense(), w[1])


def test_a_mask_stores_whole_blocks_with_zeros_inside() -> None:
    w = np.arange(1.0, 9).reshape(2, 4)
    mask = np.zeros((2, 4), bool)
    mask[1, 3] = True
    made = bsr.from_dense(w, (2, 2), mask)
    assert made.data.tolist() == [[[0, 0], [0, 8]]] and made.mask().tolist() == [[False, False, True, True]] * 2
    with pytest.raises(ShapeError, match="mask must have shape"):
        bsr.from_dense(w, (2, 2), mask.T)


def test_no_rows_or_no_columns() -> None:
    for shape in ((2, 4, 0), (2, 0, 4), (0, 2, 4)):
        made = bsr.from_dense(np.zeros(shape), (2, 2))
        assert made.shape == shape and made.nnz == 0 and made.dense().shape == shape
        assert made.indptr.dtype == np.int32 and make(shape=[6, 6]).shape == (6, 6)


@pytest.mark.parametrize("block", [(0, 1), (2,), "ab", (2, 2.0), None, (True, 1), (-1, 2)])
def test_blocks_that_are_none(block: Any) -> None:
    with pytest.raises(ConfigError, match="a block must be"):
        bsr.from_dense(np.ones((4, 4)), block)
    with pytest.raises(ConfigError, match=r"must divide the matrix of 4 x 4: 1 rows and 0 columns"):
        bsr.from_dense(np.ones((4, 4)), (3, 2))


def test_scipy_in_and_out() -> None:
    w = make()
    out = w.to_scipy()
    assert isinstance(out, scipy.sparse.bsr_array) and out.blocksize == (2, 2)
    assert np.array_equal(out.toarray(), w.dense()) and np.shares_memory(out.data, w.data)
    assert np.array_equal(bsr.from_scipy(out).dense(), w.dense())
    other = bsr.from_scipy(out, (3, 6))
    assert other.block == (3, 6) and np.array_equal(other.dense(), w.dense())
    assert np.array_equal(bsr.from_scipy(scipy.sparse.csc_matrix(w.dense()), (2, 2)).data, w.data)
    with pytest.raises(ConfigError, match="say block"):
        bsr.from_scipy(scipy.sparse.csr_array(w.dense()))
    with pytest.raises(ConfigError, match="must divide"):
        bsr.from_scipy(out, (4, 2))
    with pytest.raises(ShapeError, match="one matrix"):
        bsr.from_scipy(scipy.sparse.coo_array(np.ones(3)), (1, 1))


def test_scipy_is_brought_into_canonical_form_and_left_alone() -> None:
    data = np.array([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]], [[0.0, 0.0]]])
    his = scipy.sparse.bsr_matrix((data, np.array([1, 0, 1, 2]), np.array([0, 3, 4])), shape=(2, 6))
    for a in (his.data, his.indices, his.indptr):
        a.setflags(write=False)
    w = bsr.from_scipy(his)
    assert w.dense().tolist() == [[3, 4, 6, 8, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert w.indices.tolist() == [0, 1, 2], "a stored block of zeros stays stored"
    assert his.indices.tolist() == [1, 0, 1, 2] and his.data[2, 0].tolist() == [5, 6]


def test_scipy_with_columns_twice_in_another_format() -> None:
    his = scipy.sparse.csr_array((np.array([1.0, 2.0]), np.array([1, 1]), np.array([0, 2])), shape=(1, 4))
    assert bsr.from_scipy(his, (1, 2)).dense().tolist() == [[0, 3, 0, 0]]
    assert his.nnz == 2
