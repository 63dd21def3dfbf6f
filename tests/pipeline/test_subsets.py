"""Subsets: every row once, exact sizes, the same seed the same rows; balanced k-means against all assignments."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline import subsets

quick = run(derandomize=True, database=None, deadline=None, max_examples=40)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blobs(seed: int = 0, n: int = 61, d: int = 6, parts: int = 3) -> np.ndarray:
    """Rows round ``parts`` directions, uneven in number, many entries 0."""
    r = rng(seed)
    middle = r.random((parts, d)) * (r.random((parts, d)) < 0.6) + 0.05
    x = middle[r.choice(parts, n, p=np.arange(1, parts + 1) / (parts * (parts + 1) / 2))]
    x = x * r.random((n, d)) * (r.random((n, d)) < 0.8)
    x[4] = 0.0
    x.setflags(write=False)
    return x


def once(rows: list[np.ndarray], n: int) -> bool:
    return sorted(np.concatenate(rows).tolist()) == list(range(n))


@quick
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 99))
def test_random_subsets_hold_every_row_once_in_even_sizes(n: int, parts: int, seed: int) -> None:
    if parts > n:
        with pytest.raises(DataError, match=f"n_samples = {n}"):
            subsets.random(n, parts, rng(seed))
        return
    rows = subsets.random(n, parts, rng(seed))
    sizes = [len(r) for r in rows]
    assert once(rows, n) and max(sizes) - min(sizes) <= 1 and len(rows) == parts
    again = subsets.random(n, parts, rng(seed))
    assert all((a == b).all() for a, b in zip(rows, again, strict=True))
    wider = subsets.random(n, parts, rng(seed), overlap=0.25)
    for own, more in zip(rows, wider, strict=True):
        assert np.isin(own, more).all() and len(more) == len(own) + (n - len(own)) // 4 == len(set(more.tolist()))


def test_labels_stay_together_and_parts_are_even() -> None:
    y = rng(1).choice(list("abcde"), 200, p=[0.4, 0.2, 0.2, 0.1, 0.1])
    rows = subsets.by_label(y, 3, rng())
    assert once(rows, 200)
    held = [set(y[r]) for r in rows]
    assert sum(len(h) for h in held) == 5 and held[0] == {"a"}
    assert max(len(r) for r in rows) <= 1.3 * 200 / 3
    with pytest.raises(ConfigError, match="as many classes, got 5"):
        subsets.by_label(y, 6, rng())


def test_groups_are_what_the_column_says() -> None:
    g = np.array(["film", "tweet", "news", "film"])
    rows, names = subsets.by_group(g)
    assert names == ["film", "news", "tweet"] and [r.tolist() for r in rows] == [[0, 3], [2], [1]]
    with pytest.raises(DataError, match="one value a row"):
        subsets.by_group(np.zeros((3, 2)))


def all_balanced(cost: np.ndarray) -> float:
    """The least cost over every assignment whose sizes differ by at most 1."""
    n, parts = cost.shape
    best = np.inf
    for owner in itertools.product(range(parts), repeat=n):
        sizes = np.bincount(owner, minlength=parts)
        if sizes.max() - sizes.min() <= 1:
            best = min(best, cost[np.arange(n), list(owner)].sum())
    return float(best)


@pytest.mark.parametrize("n, parts", [(6, 2), (7, 3), (5, 3), (4, 1), (3, 3)])
def test_the_exact_assignment_is_the_best_of_all_and_the_greedy_one_is_balanced(n: int, parts: int) -> None:
    for seed in range(10):
        cost = rng(seed).random((n, parts))
        best = all_balanced(cost)
        owner = subsets.balanced(cost, exact=True)
        assert abs(cost[np.arange(n), owner].sum() - best) <= 1e-14
        greedy = subsets.balanced(cost, exact=False)
        for found in (owner, greedy):
            sizes = np.bincount(found, minlength=parts)
            assert sizes.max() - sizes.min() <= 1
        assert cost[np.arange(n), greedy].sum() >= best - 1e-14


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_balanced_k_means_keeps_its_invariants(exact: bool, seed: int) -> None:
    x = blobs(seed)
    found = subsets.by_cluster(x, 4, rng(seed), exact=exact)
    sizes = [len(r) for r in found.rows]
    assert once(found.rows, 61) and sorted(sizes) == [15, 15, 15, 16]
    assert all(b < a for a, b in itertools.pairwise(found.costs))
    unit = x / np.maximum(np.sqrt((x**2).sum(1, keepdims=True)), 1e-300)
    cost = 0.0
    for e, rows in enumerate(found.rows):
        centre = sum(unit[i] for i in rows) / len(rows)
        assert np.abs(found.centres[e] - centre).max() <= 1e-14
        cost += sum(float(((unit[i] - centre) ** 2).sum()) for i in rows)
    assert abs(cost - found.costs[-1]) <= 1e-12 * cost < abs(1.001 * found.costs[-1] - cost)
    stored = subsets.by_cluster(scipy.sparse.csr_array(x), 4, rng(seed), exact=exact)
    assert all((a == b).all() for a, b in zip(found.rows, stored.rows, strict=True))


def test_the_greedy_rounds_end_close_to_the_exact_ones() -> None:
    gaps = []
    for seed in range(8):
        x = blobs(seed, n=200)
        exact, greedy = (subsets.by_cluster(x, 4, rng(seed), exact=e).costs[-1] for e in (True, False))
        gaps.append(greedy / exact - 1)
    assert np.mean(gaps) < 0.1


def test_distances_are_those_of_unit_rows() -> None:
    x, c = blobs(3), rng(4).random((3, 6))
    unit = x / np.maximum(np.sqrt((x**2).sum(1, keepdims=True)), 1e-300)
    wanted = np.array([[((u - centre) ** 2).sum() for u in unit] for centre in c])
    for rows in (x, scipy.sparse.csr_array(x), scipy.sparse.csr_matrix(x * 7)):
        assert np.abs(subsets.distances(rows, c) - wanted).max() <= 1e-13


def test_equal_rows_are_dealt_out_evenly() -> None:
    found = subsets.by_cluster(np.ones((7, 2)), 3, rng())
    assert once(found.rows, 7) and sorted(len(r) for r in found.rows) == [2, 2, 3] and found.costs[-1] <= 1e-14


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: subsets.by_cluster(np.ones((2, 3)), 3, rng()), "n_samples = 2"),
        (lambda: subsets.random(3, 0, rng()), "integer of at least 1"),
        (lambda: subsets.random(3, 2, rng(), overlap=2.0), "overlap"),
    ],
)
def test_bad_input_says_what_to_do(call: Any, says: str) -> None:
    with pytest.raises((ConfigError, DataError), match=says):
        call()
