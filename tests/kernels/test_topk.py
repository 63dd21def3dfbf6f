"""The selection rule, against Python's own sort: descending, ties to the lowest id, NaN last, -0 equal to +0."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from pymoe.kernels import cython, parallel
from tests.kernels.cases import DTYPES

SPECIAL = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, math.inf, -math.inf, math.nan, 1e-45, 3.4e38])


def by_sorting(row, k):
    return sorted(range(len(row)), key=lambda i: (math.isnan(row[i]), 0 if math.isnan(row[i]) else -row[i], i))[:k]


def check(s, k):
    s.setflags(write=False)
    want = [by_sorting([float(v.real) for v in row], k) for row in s]
    assert cython.topk(s, k).tolist() == want


@pytest.mark.parametrize("dtype", DTYPES)
@settings(derandomize=True, deadline=None, max_examples=150)
@given(data=st.data())
def test_specials(dtype, data):
    rows, experts = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    values = data.draw(hnp.arrays(np.float64, (rows, experts), elements=SPECIAL))
    with np.errstate(over="ignore"):
        check(values.astype(dtype), data.draw(st.integers(1, experts)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("experts", [1, 2, 8, 15, 16, 17, 64, 100, 255, 256, 257, 1024, 1025, 5000])
def test_sizes_round_the_blocks(dtype, experts):
    rng = np.random.default_rng(experts)
    for k in sorted({1, min(2, experts), min(9, experts), min(33, experts), min(experts, 300)}):
        check(rng.standard_normal((3, experts)).astype(dtype), k)
        check(rng.integers(0, 3, (3, experts)).astype(dtype), k)  # mostly ties


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_equal_gives_the_first_ids(dtype):
    for experts in (20, 64, 300):
        check(np.full((2, experts), -1.5, dtype=dtype), 7)


def test_k_beyond_the_compiled_limit_is_the_same_rule():
    check(np.random.default_rng(3).integers(0, 50, (2, 700)).astype("f4"), cython.MOST_CHOICES + 1)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_neighbouring_numbers_are_told_apart(dtype):
    """Every bit counts: 1, 1 + eps, 1 + 2 eps, and the smallest subnormals of both signs."""
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).smallest_subnormal
    s = np.array([[1, 1 + eps, 1 + 2 * eps, 1 - eps / 2, tiny, -tiny, 0, 2 * tiny, -2 * tiny, -1]], dtype=dtype)
    check(s, 10)


def test_the_check_sees_one_exchange():
    s = np.array([[3.0, 1.0, 2.0]])
    assert cython.topk(s, 3)[:, ::-1].tolist() != [by_sorting(s[0].tolist(), 3)]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    ids=st.lists(st.integers(-1, 6), max_size=60),
    threads=st.sampled_from([1, 3]),
)
def test_counting_sort_is_stable(ids, threads):
    with parallel.exactly(threads):
        order, start = cython.counting_sort(np.array(ids, dtype=np.int64), 7)
    kept = [i for i, e in enumerate(ids) if e >= 0]
    assert order.tolist() == sorted(kept, key=lambda i: ids[i])
    assert start.tolist() == [sum(0 <= e < n for e in ids) for n in range(8)]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), m=st.sampled_from([1, 2, 3, 4, 8, 12, 64, 66]))
def test_nm_mask(data, dtype, m):
    n = data.draw(st.integers(1, m))
    w = data.draw(hnp.arrays(np.float64, (2, 2 * m), elements=SPECIAL))
    with np.errstate(over="ignore", invalid="ignore"):
        w = w.astype(dtype)
        size = np.abs(w)
    want = np.zeros(w.shape, dtype=bool)
    for r in range(2):
        for b in (0, m):
            want[r, [b + i for i in by_sorting([float(v) for v in size[r, b : b + m]], n)]] = True
    np.testing.assert_array_equal(cython.nm_mask(w, n, m), want)
