"""Pruning by magnitude: exactly n entries, the smallest, and of equal ones the first."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError
from pymoe.kernels import cython, reference
from tests.kernels.cases import DTYPES

BACKENDS = pytest.mark.parametrize("k", [reference, cython], ids=["reference", "cython"])


def looped(w: np.ndarray, n: int) -> np.ndarray:
    """Sort the places by (magnitude, place), NaN before all, and prune the first n."""
    flat = [float(v) for v in np.real(w).reshape(-1)]
    order = sorted(range(len(flat)), key=lambda i: (-1.0 if flat[i] != flat[i] else abs(flat[i]), i))
    mask = np.ones(len(flat), dtype=bool)
    mask[order[:n]] = False
    return mask.reshape(w.shape)


@BACKENDS
@pytest.mark.parametrize("dtype", DTYPES)
def test_loops(k, dtype):
    rng = np.random.default_rng(2)
    w = rng.standard_normal((13, 31)).astype(dtype)
    ties = (rng.integers(-3, 4, (13, 31)) / 2).astype(dtype)
    ties[2, 5], ties[3, 3], ties[7, 1], ties[0, 30] = np.nan, np.inf, -np.inf, -0.0
    for a in (w, ties):
        a.setflags(write=False)
        for n in (0, 1, 2, 57, 200, 402, 403):
            mask = k.prune_mask(a, n)
            assert mask.dtype == bool and mask.shape == a.shape and np.count_nonzero(~mask) == n
            assert np.array_equal(mask, looped(a, n))
    assert not np.array_equal(k.prune_mask(ties, 57)[:, ::-1], looped(ties[:, ::-1], 57))  # the rule for ties is seen


@BACKENDS
def test_equal_magnitudes_go_by_their_place(k):
    assert k.prune_mask(np.full((2, 3), -1.0), 4).tolist() == [[False] * 3, [False, True, True]]
    assert k.prune_mask(np.array([[1.0, np.nan, -1.0, 0.0, np.nan]]), 2).tolist() == [[True, False, True, True, False]]


@BACKENDS
def test_only_the_real_part_decides(k):
    w = np.array([[1.0 + 9j, 2.0, -0.5 + 9j]])
    assert k.prune_mask(w, 2).tolist() == [[False, True, False]]


@BACKENDS
def test_empty_and_refused(k):
    assert k.prune_mask(np.empty((0, 3)), 0).shape == (0, 3)
    for n in (-1, 7):
        with pytest.raises(ConfigError, match=r"in \[0, 6\]"):
            k.prune_mask(np.ones((2, 3)), n)
    with pytest.raises(DtypeError):
        cython.prune_mask(np.ones((2, 3), dtype=object), 2)
