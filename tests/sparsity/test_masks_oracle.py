"""Every mask against the sorted lists of the oracles: counts, ties, pools, norms, patterns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe.sparsity import masks

from .oracles import mask_loops
from .oracles.judge import locked, same

RNG = np.random.default_rng
SPARSITIES = [0.0, 0.07, 0.29, 0.3, 1 / 3, 0.57, 0.9, 0.999, 1.0]
DTYPES = pytest.mark.parametrize("dtype", ["f4", "f8"])
SHAPES = [(1,), (7,), (1, 1), (5, 11), (3, 4, 6), (2, 3, 1, 5)]


def drawn(seed: int, shape, dtype: str, kind: str) -> np.ndarray:
    """Without ties ("plain"), of few values ("ties"), of one ("equal"), of ±1, whose magnitudes all tie ("signs")."""
    rng = RNG(seed)
    a = {
        "plain": lambda: rng.standard_normal(shape),
        "ties": lambda: rng.integers(-2, 3, shape) / 4,
        "equal": lambda: np.full(shape, 0.75),
        "signs": lambda: rng.choice([-1.0, 1.0], shape),
    }[kind]()
    return locked(a.astype(dtype))


KINDS = ["plain", "ties", "equal", "signs"]


def test_counts_are_those_of_the_printed_decimal():
    for size in (0, 1, 2, 3, 7, 10, 100, 1000, 12345):
        for s in [i / 100 for i in range(101)] + [1 / 3, 2 / 3, 1e-9, 1 - 1e-12, 0.1 + 0.2, 5e-324]:
            assert masks.count(s, size) == mask_loops.count(s, size), (s, size)
    assert mask_loops.count(0.29, 100) == 29 and math.floor(0.29 * 100) == 28  # control: a product of floats is wrong


@DTYPES
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["tensor", "matrix", "row"])
def test_by_score_and_magnitude(dtype, kind, by):
    for seed, shape in enumerate(SHAPES):
        if by == "matrix" and len(shape) < 2:
            continue
        a = drawn(seed, shape, dtype, kind)
        for s in SPARSITIES:
            same(masks.by_score(a, s, by=by), mask_loops.by_score(a, s, by))
            same(masks.magnitude(a, s, by=by), mask_loops.magnitude(a, s, by))


def test_controls_the_wrong_tie_rule_and_the_wrong_pool_are_noticed():
    a = drawn(0, (5, 11), "f8", "ties")
    got = masks.by_score(a, 0.57)
    last_first = mask_loops.by_score(a[::-1, ::-1], 0.57)[::-1, ::-1]
    assert not np.array_equal(got, last_first)
    assert not np.array_equal(got, mask_loops.by_score(a, 0.57, "row"))
    assert not np.array_equal(got, mask_loops.by_score(a, 0.59, "tensor"))  # one entry more
    b = drawn(1, (3, 4, 6), "f8", "plain")
    assert not np.array_equal(masks.magnitude(b, 0.3, by="matrix"), mask_loops.magnitude(b, 0.3, "tensor"))
    assert not np.array_equal(masks.magnitude(b, 0.3), mask_loops.by_score(b, 0.3))


def test_zeros_of_both_signs_tie_and_infinities_have_their_places():
    a = locked(np.array([0.0, -0.0, np.inf, -np.inf, 1.0, -0.0, 0.0]))
    for s in SPARSITIES:
        same(masks.by_score(a, s), mask_loops.by_score(a, s))
        same(masks.magnitude(a, s), mask_loops.magnitude(a, s))


@pytest.mark.parametrize("by", ["tensor", "matrix", "row"])
def test_random_masks_have_the_exact_count_in_every_pool(by):
    shape = (3, 4, 6)
    for s in SPARSITIES:
        mask = masks.random(RNG(5), shape, s, by=by)
        assert mask.dtype == bool and mask.shape == shape
        for pool in mask_loops.pools(shape, by):
            assert sum(not mask[i] for i in pool) == mask_loops.count(s, len(pool))
        same(mask, masks.random(RNG(5), shape, s, by=by))
    draws = np.stack([masks.random(RNG(seed), (40,), 0.3) for seed in range(400)])
    kept = draws.mean(0)
    assert np.max(np.abs(kept - 0.7)) < 5 * math.sqrt(0.21 / 400)  # every place is as likely as any other
    assert not np.array_equal(draws[0], draws[1])


@DTYPES
@pytest.mark.parametrize("kind", KINDS)
def test_threshold_and_quantile(dtype, kind):
    for seed, shape in enumerate(SHAPES):
        a = drawn(seed, shape, dtype, kind)
        for t in (0.0, 0.25, 0.5, 0.75, 1.0, math.inf):
            same(masks.threshold(a, t), mask_loops.threshold(a, t))
        for q in SPARSITIES:
            t = masks.quantile(a, q)
            assert float(t) == mask_loops.quantile(a, q)
            pruned = int((~masks.threshold(a, t)).sum())
            assert pruned <= mask_loops.count(q, a.size)
            if kind == "plain":
                assert pruned == mask_loops.count(q, a.size)
    a = drawn(3, (5, 11), dtype, "plain")
    assert masks.quantile(a, 0.29) != mask_loops.quantile(a, 0.31)  # control: one place further


@DTYPES
@pytest.mark.parametrize("kind", KINDS)
def test_over_model(dtype, kind):
    shapes = {"b": (3, 4), "a": (7,), "c": (2, 1, 5)}
    scores = {name: drawn(n, shape, dtype, kind) for n, (name, shape) in enumerate(shapes.items())}
    for s in SPARSITIES:
        got, want = masks.over_model(scores, s), mask_loops.over_model(scores, s)
        assert list(got) == list(want)
        for name in want:
            same(got[name], want[name])
    if kind == "equal":  # control: the order of the mapping breaks ties
        other = mask_loops.over_model({name: scores[name] for name in sorted(scores)}, 0.3)
        got = masks.over_model(scores, 0.3)
        assert any(not np.array_equal(got[name], other[name]) for name in got)


@DTYPES
@pytest.mark.parametrize("order", [1, 2, math.inf])
@pytest.mark.parametrize("kind", ["plain", "ties", "equal"])
def test_whole_rows_columns_heads_and_blocks(dtype, order, kind):
    for seed, shape in enumerate([(6, 4), (1, 1), (3, 6, 4), (2, 1, 4, 8)]):
        a = drawn(seed, shape, dtype, kind)
        f, d = shape[-2:]
        for s in SPARSITIES:
            same(masks.rows(a, s, ord=order), mask_loops.rows(a, s, order))
            same(masks.columns(a, s, ord=order), mask_loops.columns(a, s, order))
            for n in {1, f, 2 if f % 2 == 0 else 1}:
                same(masks.heads(a, s, n, ord=order), mask_loops.heads(a, s, n, -2, order))
            for n in {1, d, 2 if d % 2 == 0 else 1}:
                same(masks.heads(a, s, n, axis=-1, ord=order), mask_loops.heads(a, s, n, -1, order))
            for tile in {(1, 1), (f, 1), (1, d), (2 if f % 2 == 0 else 1, 2 if d % 2 == 0 else 1)}:
                same(masks.blocks(a, s, tile, ord=order), mask_loops.blocks(a, s, tile, order))
    a = drawn(0, (6, 4), dtype, "plain")  # controls
    assert not np.array_equal(masks.rows(a, 0.57), mask_loops.columns(a, 0.57))
    assert not np.array_equal(masks.blocks(a, 0.57, (2, 2)), mask_loops.blocks(a, 0.57, (3, 2)))
    assert not np.array_equal(masks.heads(a, 0.57, 3), mask_loops.heads(a, 0.57, 2))


@DTYPES
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n, m", [(0, 2), (1, 2), (1, 4), (2, 4), (4, 8), (3, 8), (4, 4), (1, 1)])
def test_n_of_m(dtype, kind, n, m):
    for seed, shape in enumerate([(m,), (5, 3 * m), (2, 3, 2 * m)]):
        a = drawn(seed, shape, dtype, kind)
        if n == 0:
            continue
        same(masks.nm(a, n, m), mask_loops.nm(a, n, m))
    if kind == "ties" and 0 < n < m:  # control: the last column instead of the first
        a = drawn(9, (31, 4 * m), dtype, "ties")
        assert not np.array_equal(masks.nm(a, n, m), mask_loops.nm(a[:, ::-1], n, m)[:, ::-1])


def test_nothing_at_all():
    for shape in [(0,), (3, 0), (0, 4)]:
        a = np.empty(shape)
        for s in (0.0, 0.5, 1.0):
            assert masks.by_score(a, s).shape == shape and masks.magnitude(a, s, by="row").shape == shape
