"""Task arithmetic, TIES and DARE one weight at a time, and their limits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from pymoe.sharing.fuse import arithmetic, dare, ties
from tests.sharing.fuse.cases import PROPERTY, agree, off

SHAPE = 6, 5


def models(seed=0, n=3, step=0.5):
    """A base and tuned tensors; differences are multiples of a half, so that equal sizes and cancelling signs occur."""
    rng = np.random.default_rng(seed)
    base = rng.integers(-8, 9, SHAPE) / 4
    tuned = [base + step * rng.integers(-3, 4, SHAPE) for _ in range(n)]
    for a in (base, *tuned):
        a.setflags(write=False)
    return base, tuned


def by_hand(base, tuned, keep, scale, weights):
    """Algorithm 1 of the paper; keep: how many of each difference stay."""
    trimmed = []
    for w in tuned:
        d = [float(a) - float(b) for a, b in zip(w.flat, base.flat, strict=True)]
        order = sorted(range(len(d)), key=lambda i: (abs(d[i]), i), reverse=True)[:keep]
        trimmed.append([v if i in order else 0.0 for i, v in enumerate(d)])
    made = []
    for i, b in enumerate(base.flat):
        column = [t[i] for t in trimmed]
        total = math.fsum(c * v for c, v in zip(weights, column, strict=True))
        sign = (total > 0) - (total < 0)
        agreed = [(c, v) for c, v in zip(weights, column, strict=True) if v * sign > 0]
        below = math.fsum(c for c, _ in agreed)
        made.append(float(b) + scale * (math.fsum(c * v for c, v in agreed) / below if below else 0.0))
    return np.array(made).reshape(base.shape)


@pytest.mark.parametrize(("density", "keep"), [(0.0, 0), (0.2, 6), (0.29, 8), (0.5, 15), (0.7, 21), (1.0, 30)])
@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.5]])
def test_ties_weight_by_weight(density, keep, weights):
    for seed in range(3):
        base, tuned = models(seed)
        got = ties.merge(base, tuned, density=density, weights=weights, scale=0.7)
        want = by_hand(base, tuned, keep, 0.7, weights or [1.0] * 3)
        agree(got, want)
        assert not density or off(base + (got - base) * 1.001, want) > 1e-6
        assert density or np.array_equal(got, base)


def test_a_majority_of_rounding_is_none():
    """0.4 - 0.3 and 0.2 - 0.3 are equal and opposite, whatever their last bits say."""
    for dtype in (np.float64, np.float32):
        base, up, down = (np.full(4, v, dtype) for v in (0.3, 0.4, 0.2))
        assert (up - base) + (down - base) != pytest.approx(0, abs=0) or dtype == np.float32
        assert np.array_equal(ties.merge(base, [up, down], density=1.0), base)
        won = ties.merge(base, [up, down], density=1.0, weights=[1.001, 1.0])
        np.testing.assert_allclose(won, up, rtol=1e-6)
    exact = np.array([1.0]), [np.array([1.0 + 2.0**-40]), np.array([1.0])]  # a small difference alone is a majority
    assert ties.merge(*exact, density=1.0) == exact[1][0]


@PROPERTY
@given(st.integers(0, 10_000))
def test_limits(seed):
    base, tuned = models(seed, n=1)
    assert np.array_equal(ties.merge(base, tuned, density=1.0), tuned[0])  # one model, nothing trimmed
    assert np.array_equal(ties.merge(base, [tuned[0]] * 3, density=1.0), tuned[0])
    assert np.array_equal(arithmetic.merge(base, tuned), tuned[0])
    assert np.array_equal(dare.merge(base, tuned, [np.ones(SHAPE, bool)], rate=0.0), tuned[0])
    assert np.array_equal(ties.merge(base, [base], density=0.5), base)
    few = [ties.merge(base, tuned, density=d) != base for d in (0.1, 0.4, 0.9)]
    assert all((a <= b).all() for a, b in itertools.pairwise(few))  # nested in the density


def test_arithmetic():
    base, tuned = models()
    got = arithmetic.merge(base, tuned, weights=[2.0, -1.0, 0.25], scale=0.3)
    want = [
        float(b) + 0.3 * math.fsum(w * (float(a) - float(b)) for w, a in zip((2.0, -1.0, 0.25), column, strict=True))
        for b, *column in zip(base.flat, *(t.flat for t in tuned), strict=True)
    ]
    agree(got, np.array(want).reshape(SHAPE))


def test_dare_weight_by_weight():
    base, tuned = models(1)
    masks = [dare.draw(np.random.default_rng(i), SHAPE, 0.4) for i in range(3)]
    for elect in (False, True):
        got = dare.merge(base, tuned, masks, rate=0.4, weights=[1.0, 2.0, 0.5], scale=0.7, elect=elect)
        want = np.empty(SHAPE)
        for place in np.ndindex(SHAPE):
            d = [
                (float(t[place]) - float(base[place])) / 0.6 if m[place] else 0.0
                for t, m in zip(tuned, masks, strict=True)
            ]
            total = math.fsum(c * v for c, v in zip((1.0, 2.0, 0.5), d, strict=True))
            if elect:
                agreed = [
                    (c, v) for c, v in zip((1.0, 2.0, 0.5), d, strict=True) if v * total > 0 and abs(total) > 1e-9
                ]
                total = math.fsum(c * v for c, v in agreed) / math.fsum(c for c, _ in agreed) if agreed else 0.0
            want[place] = float(base[place]) + 0.7 * total
        agree(got, want)


def test_the_draw_is_a_value_and_unbiased():
    delta = np.random.default_rng(0).standard_normal(SHAPE)
    kept, mask = dare.drop(np.random.default_rng(3), delta, 0.4)
    assert np.array_equal(mask, dare.draw(np.random.default_rng(3), SHAPE, 0.4))
    assert np.array_equal(kept, dare.apply(delta, mask, 0.4)) and np.array_equal(kept != 0, mask)
    assert np.array_equal(dare.drop(np.random.default_rng(3), delta, 0.0)[0], delta)
    drawn = np.mean([dare.drop(np.random.default_rng(s), delta, 0.4)[0] for s in range(4000)], axis=0)
    sigma = np.abs(delta) * math.sqrt(0.4 / 0.6 / 4000)
    assert (np.abs(drawn - delta) <= 5 * sigma).all()
    assert not (np.abs(0.6 * drawn - delta) <= 5 * sigma).all()  # negative control: without the rescaling


def test_bad_input():
    base, tuned = models()
    mask = np.ones(SHAPE, bool)
    for call, error, message in (
        (lambda: ties.merge(base, [], density=0.5), ConfigError, "at least one tuned"),
        (lambda: ties.merge(base, tuned, density=1.5), ConfigError, "density"),
        (lambda: ties.merge(base, tuned, density=0.5, weights=[1.0]), ConfigError, "weights"),
        (lambda: ties.merge(base, tuned, density=0.5, weights=[1.0, 1.0, -1.0]), ConfigError, "vote"),
        (lambda: ties.merge(base, [tuned[0][1:]], density=0.5), ShapeError, "model 1"),
        (lambda: ties.merge(base, [tuned[0] * np.nan], density=0.5), NonFiniteError, "model 1"),
        (lambda: arithmetic.merge(base, tuned, scale=np.nan), ConfigError, "scale"),
        (lambda: arithmetic.merge(base, tuned, weights=[np.nan] * 3), NonFiniteError, "weights"),
        (lambda: dare.draw(np.random.default_rng(0), SHAPE, 1.0), ConfigError, "rate"),
        (lambda: dare.apply(base, mask[1:], 0.5), ShapeError, "mask"),
        (lambda: dare.apply(base, mask.astype(int), 0.5), DtypeError, "bool"),
        (lambda: dare.merge(base, tuned, [mask], rate=0.5), ConfigError, "one mask for each"),
    ):
        with pytest.raises(error, match=message):
            call()
