"""N:M: at most n of every m, filled up, refused when there are more, ragged tails refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe import kernels
from pymoe.backend.errors import ConfigError, DtypeError, IndexRangeError, ShapeError
from pymoe.storage import NM, nm

from .cases import frozen

QUIET = settings(derandomize=True, database=None, max_examples=60, deadline=None)
DATA, POSITION = frozen([[1.0, 2, 3, 4], [5, 6, 7, 8]]), frozen(np.array([[0, 3, 1, 2], [0, 1, 2, 3]], np.uint8))


def make(**changes: Any) -> NM:
    given_ = {"data": DATA, "position": POSITION, "m": 4, "shape": (2, 8)} | changes
    return NM(**given_)


def test_by_hand() -> None:
    w = make()
    assert w.dense().tolist() == [[1, 0, 0, 2, 0, 3, 4, 0], [5, 6, 0, 0, 0, 0, 7, 8]]
    assert w.n == 2 and w.m == 4 and w.nbytes == 8 * 8 + 8


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"data": DATA.astype(int)}, DtypeError, "floating"),
        ({"data": DATA[:1]}, ShapeError, "data must have shape"),
        ({"data": DATA[:, :3]}, ShapeError, "position must have shape"),
        ({"data": DATA[:, :3], "position": POSITION[:, :3]}, ShapeError, "for each of the 2 groups"),
        ({"position": frozen([[0, 3, 1, 2], [1, 0, 2, 3]])}, ShapeError, "ascend within a group"),
        ({"position": frozen([[0, 3, 1, 2], [1, 1, 2, 3]])}, ShapeError, "none twice"),
        ({"position": frozen([[0, 4, 1, 2], [0, 1, 2, 3]])}, IndexRangeError, "must lie in"),
        ({"position": POSITION.astype(float)}, DtypeError, "integers"),
        ({"shape": (2, 9)}, ConfigError, "the last group would have 1"),
        ({"m": 3}, ConfigError, "multiple of m = 3"),
        ({"m": 0}, ConfigError, "m must be an integer"),
        ({"m": 4.0}, ConfigError, "m must be an integer"),
        ({"m": 1}, (ShapeError, IndexRangeError), "position"),
    ],
)
def test_a_structure_that_is_none(changes: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make(**changes)


@QUIET
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 2), (2, 4), (3, 4), (1, 6), (12, 12), (0, 3)]), st.booleans())
def test_what_the_mask_kernel_chooses_comes_back(seed: int, form: tuple[int, int], stack: bool) -> None:
    n, m = form
    w = np.random.default_rng(seed).standard_normal((2, 5, 12) if stack else (5, 12))
    mask = kernels.reference.nm_mask(w.reshape(-1, 12), n, m).reshape(w.shape) if n else np.zeros(w.shape, bool)
    made = nm.from_dense(frozen(w), n, m, frozen(mask))
    assert np.array_equal(made.mask(), mask) and np.array_equal(made.dense(), np.where(mask, w, 0))
    assert made.n == n and made.position.dtype == np.uint8
    if stack:
        assert np.array_equal(made.expert(1).dense(), made.dense()[1])


@QUIET
@given(st.integers(0, 2**32 - 1))
def test_groups_with_fewer_are_filled_up_with_the_lowest_free_columns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = np.zeros((3, 8))
    for row in w.reshape(-1, 4):
        row[rng.choice(4, rng.integers(0, 4), replace=False)] = rng.standard_normal()
    made = nm.from_dense(frozen(w), 3, 4)
    assert np.array_equal(made.dense(), w)
    for before, after in zip((w != 0).reshape(-1, 4), made.mask().reshape(-1, 4), strict=True):
        wanted = before.copy()
        wanted[np.flatnonzero(~before)[: 3 - before.sum()]] = True
        assert np.array_equal(after, wanted)


def test_more_than_n_is_refused_and_says_where() -> None:
    w = np.zeros((3, 8))
    w[0, :2] = w[1, 4:7] = 1.0
    with pytest.raises(ConfigError, match="group 1 of row 1 has 3"):
        nm.from_dense(w, 2, 4)
    with pytest.raises(ConfigError, match="group 0 of row 0 has 4"):
        nm.from_dense(w, 2, 4, np.ones((3, 8), bool))
    assert nm.from_dense(w, 3, 4).nnz == 18
    with pytest.raises(ConfigError, match="group 1 of row 1 has 3"):
        nm.from_dense(w[None], 2, 4)


@pytest.mark.parametrize("n", [-1, 5, 2.0, True])
def test_n_that_is_none(n: Any) -> None:
    with pytest.raises(ConfigError, match="n must be an integer from 0 to m"):
        nm.from_dense(np.zeros((2, 8)), n, 4)


def test_ragged_tail_and_wrong_masks() -> None:
    with pytest.raises(ConfigError, match="the last group would have 2"):
        nm.from_dense(np.zeros((2, 10)), 2, 4)
    with pytest.raises(ShapeError, match="mask must have shape"):
        nm.from_dense(np.zeros((2, 8)), 2, 4, np.zeros((8, 2), bool))
    with pytest.raises(DtypeError, match="bool"):
        nm.from_dense(np.zeros((2, 8)), 2, 4, np.zeros((2, 8)))


def test_the_shape_and_n_of_nothing() -> None:
    assert make(shape=[2, 8]).shape == (2, 8) and make(m=np.int64(4)).m == 4
    none = NM(np.empty((2, 0)), np.empty((2, 0), np.uint8), 4, (2, 0))
    assert none.n == 0 and none.dense().shape == (2, 0)


@pytest.mark.parametrize("m, dtype", [(255, np.uint8), (256, np.uint8), (257, np.int32)])
def test_positions_take_as_few_bytes_as_they_need(m: int, dtype: Any) -> None:
    w = np.zeros((1, m))
    w[0, m - 1] = 1.0
    made = nm.from_dense(w, 1, m)
    assert made.position.dtype == dtype and made.position.tolist() == [[m - 1]]


def test_wide_groups_have_wide_positions() -> None:
    w = np.zeros((1, 600))
    w[0, 299] = w[0, 301] = 1.0
    made = nm.from_dense(w, 1, 300)
    assert made.position.tolist() == [[299, 1]] and np.array_equal(made.dense(), w)


def test_scipy_in_and_out() -> None:
    w = make()
    out = w.to_scipy()
    assert all(0 <= out.indices) and all(out.indices < out.shape[1])  # before SciPy writes where they say
    assert isinstance(out, scipy.sparse.csr_array) and np.array_equal(out.toarray(), w.dense()) and out.nnz == 8
    again = nm.from_scipy(out, 2, 4)
    assert np.array_equal(again.position, w.position) and np.array_equal(again.data, w.data)
    with pytest.raises(ConfigError, match="at most 1"):
        nm.from_scipy(out, 1, 4)
    assert nm.from_dense(np.zeros((2, 8)), 0, 4).to_scipy().nnz == 0
