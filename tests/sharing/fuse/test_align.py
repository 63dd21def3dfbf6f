"""Alignment: the best of all permutations by enumeration, the same function, a permuted copy found again (F16, M4)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.sharing.fuse import align, average
from tests.sharing.fuse.cases import FORMS, PROPERTY, D, F, T, expert, hidden, identical, off, output, tokens


def gain(a, b, perm):
    """Σ_f of the inner products of all that unit f of a and unit perm[f] of b are made of."""
    total = []
    for f, g in enumerate(perm):
        for name in a:
            if name == "down_proj":
                total += [float(u) * float(v) for u, v in zip(a[name][:, f], b[name][:, g], strict=True)]
            elif name != "down_proj_bias":
                for half in range(len(a[name]) // F):
                    u, v = np.ravel(a[name][half * F + f]), np.ravel(b[name][half * F + g])
                    total += [float(i) * float(j) for i, j in zip(u, v, strict=True)]
    return math.fsum(total)


@pytest.mark.parametrize(("gated", "bias"), FORMS)
def test_it_is_the_best_of_all_permutations(gated, bias):
    for seed in range(2):
        a, b = expert(seed, gated, bias), expert(seed + 50, gated, bias)
        best = max(itertools.permutations(range(F)), key=lambda perm: gain(a, b, perm))
        assert tuple(align.permutation(a, b, gated)) == best
        assert gain(a, b, best) > gain(a, b, range(F))
        before = sum(float(np.square(a[n] - b[n]).sum()) for n in a)  # and it brings the weights closer
        assert sum(float(np.square(a[n] - w).sum()) for n, w in align.apply(b, best).items()) < before


def test_matching_by_activations_is_the_best_of_all():
    a, b = hidden(expert(0), tokens()), hidden(expert(1), tokens())

    def correlation(u, v):
        mu, mv = math.fsum(u) / T, math.fsum(v) / T
        top = math.fsum((x - mu) * (y - mv) for x, y in zip(u, v, strict=True))
        return top / math.sqrt(math.fsum((x - mu) ** 2 for x in u) * math.fsum((y - mv) ** 2 for y in v))

    table = [[correlation(a[:, f], b[:, g]) for g in range(F)] for f in range(F)]
    product = [[math.fsum(a[:, f] * b[:, g]) for g in range(F)] for f in range(F)]
    for rule, gains in ((True, table), (False, product)):
        best = max(itertools.permutations(range(F)), key=lambda s: math.fsum(gains[f][g] for f, g in enumerate(s)))
        assert tuple(align.by_activations(a, b, correlate=rule)) == best


@PROPERTY
@given(st.integers(0, 10_000), st.sampled_from(FORMS))
def test_a_permutation_leaves_the_function_and_a_copy_is_found_again(seed, form):
    """F16: R(√F).  M4: exactly, and the mean of both is the original, bit for bit."""
    a = expert(seed, *form)
    perm = np.random.default_rng(seed).permutation(F)
    copy = align.apply(a, perm)
    x = tokens(seed, 4)
    assert off(output(copy, x), output(a, x)) <= 4 * math.sqrt(F) * 2**-53
    found = align.apply(copy, align.permutation(a, copy))
    assert identical(found, a) and identical(average.uniform([a, found]), a)
    x = tokens(seed)
    assert identical(align.apply(copy, align.by_activations(hidden(a, x), hidden(copy, x))), a)
    moved = np.roll(np.arange(F), 1)
    half = align.apply(a, moved) | {"down_proj": a["down_proj"]}  # negative control: rows moved, columns not
    assert off(output(half, x), output(a, x)) > 1e-3
    assert not identical(average.uniform([a, align.apply(a, moved)]), a)


def test_integers_are_exact():
    a = expert(3, integer=True)
    x = np.random.default_rng(1).integers(-3, 4, (7, D)).astype(float)
    b = align.apply(a, np.random.default_rng(0).permutation(F))
    assert np.array_equal(output(a, x, "relu"), output(b, x, "relu"))


def test_units_that_never_change_correlate_with_nothing():
    h = tokens(1)[:, :4].copy()
    h[:, 1] = 1.1  # its mean over 23 tokens is not 1.1: a naive standard deviation would be rounding, not 0
    assert not align.standard(h)[:, 1].any()
    assert np.array_equal(align.by_activations(h, h), np.arange(4))


def test_the_order_and_the_dtype_of_the_arrays_stay():
    a = {n: w.astype(np.float32) for n, w in expert(0, bias=True).items()}
    b = align.apply(a, np.arange(F)[::-1])
    assert list(b) == list(a) and all(w.dtype == np.float32 for w in b.values())
    assert b["down_proj_bias"] is a["down_proj_bias"]  # belongs to no unit


def test_bad_input():
    a = expert(0)
    for perm in ([0, 1], [0] * F, list(range(1, F + 1)), np.arange(F) * 1.0):
        with pytest.raises(ConfigError, match="permutation of 6 hidden units"):
            align.apply(a, perm)
    with pytest.raises(ShapeError):
        align.permutation(a, expert(1, f=4))
    with pytest.raises(ShapeError, match="gated=False"):
        align.permutation(a, a, gated=False)
    with pytest.raises(ShapeError, match="h_other"):
        align.by_activations(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(NonFiniteError):
        align.by_activations(np.ones((3, 2)), np.full((3, 2), np.inf))
    with pytest.raises(ShapeError, match="an expert has gate_up_proj or up_proj"):
        align.apply({"down_proj": np.ones((2, 3))}, [0, 1, 2])
    with pytest.raises(ShapeError, match="up_proj must have shape"):
        align.apply({"up_proj": np.ones((4, 2)), "down_proj": np.ones((2, 3))}, [0, 1, 2])
