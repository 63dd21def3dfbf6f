"""Means of experts entry by entry, RegMean by its normal equations, M1 and M2."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from pymoe.sharing.fuse import average
from tests.sharing.fuse.cases import PROPERTY, D, F, agree, expert, identical, off


def squares(seed, **form):
    return {n: np.square(a) for n, a in expert(seed, **form).items()}


def entrywise(arrays, rule):
    want = np.empty(arrays[0].shape)
    for place in np.ndindex(want.shape):
        want[place] = rule([float(a[place]) for a in arrays], place)
    return want


@pytest.mark.parametrize("weights", [[1, 1, 1], [2, 0, 5], [0.1, 0.7, 30.0]])
def test_the_weighted_mean_entry_by_entry(weights):
    experts = [expert(i, bias=True) for i in range(3)]
    got = average.weighted(experts, weights)
    for name in experts[0]:
        want = entrywise(
            [e[name] for e in experts],
            lambda v, _: math.fsum(w * x for w, x in zip(weights, v, strict=True)) / math.fsum(weights),
        )
        agree(got[name], want)
    assert weights != [1, 1, 1] or identical(got, average.uniform(experts))


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.2])
@pytest.mark.parametrize("weights", [None, [3.0, 1.0, 2.0]])
def test_the_fisher_mean_entry_by_entry(eps, weights):
    experts, fishers = [expert(i, bias=True) for i in range(3)], [squares(10 + i, bias=True) for i in range(3)]
    got = average.fisher(experts, fishers, eps, weights)
    c = weights or [1.0] * 3
    for name in experts[0]:
        most = max(float(f[name].max()) for f in fishers)

        def rule(v, place, name=name, most=most):
            info = [w * max(float(f[name][place]), eps * most) for w, f in zip(c, fishers, strict=True)]
            return math.fsum(i * x for i, x in zip(info, v, strict=True)) / math.fsum(info)

        agree(got[name], entrywise([e[name] for e in experts], rule))


def test_fisher_without_information_is_the_plain_mean():
    experts = [expert(i) for i in range(3)]
    none = [{n: np.zeros_like(a) for n, a in e.items()} for e in experts]
    for eps in (0.0, 1e-6):
        for name, a in average.uniform(experts).items():
            agree(average.fisher(experts, none, eps)[name], a)
            agree(average.fisher(experts, none, eps, [1, 1, 2])[name], average.weighted(experts, [1, 1, 2])[name])
    some = [{n: np.where(a > 0, 1.0, 0.0) for n, a in expert(9).items()}] * 3  # with eps 0 some entries know nothing
    for name, a in average.uniform(experts).items():
        agree(average.fisher(experts, some, 0.0)[name], a)


def test_the_scale_of_the_loss_does_not_matter():
    experts, fishers = [expert(i) for i in range(3)], [squares(10 + i) for i in range(3)]
    small = [{n: a * 2.0**-80 for n, a in f.items()} for f in fishers]
    assert identical(average.fisher(experts, small), average.fisher(experts, fishers))


@pytest.mark.parametrize("alpha", [1.0, 0.9, 0.0])
def test_regmean_solves_the_normal_equations(alpha):
    rng = np.random.default_rng(0)
    w = [rng.standard_normal((F, D)) for _ in range(3)]
    x = [rng.standard_normal((n, D)) for n in (11, 13, 17)]
    grams = [a.T @ a for a in x]
    got = average.regmean(w, grams, alpha)
    left, right = np.zeros((D, D)), np.zeros((F, D))
    for wi, g in zip(w, grams, strict=True):
        for i in range(D):
            for j in range(D):
                v = float(g[i, j]) * (1.0 if i == j else alpha)
                left[i, j] += v
                for f in range(F):
                    right[f, j] += float(wi[f, i]) * v
    agree(got @ left, right, 1e-13)
    agree(got, np.linalg.solve(left.T, right.T).T, 1e-13)
    if alpha == 1:  # it is a least squares fit to what each expert says on its own tokens
        targets = np.concatenate([a @ wi.T for a, wi in zip(x, w, strict=True)])
        agree(got, np.linalg.lstsq(np.concatenate(x), targets, rcond=None)[0].T, 1e-13)


def test_regmean_keeps_the_mean_where_no_token_looked():
    rng = np.random.default_rng(1)
    w = [rng.standard_normal((F, D)) for _ in range(2)]
    x = [rng.standard_normal((n, 2)) @ rng.standard_normal((2, D)) for n in (11, 13)]  # four of five directions
    grams = [a.T @ a for a in x]
    got, middle = average.regmean(w, grams, 1.0), (w[0] + w[1]) / 2
    seen = np.linalg.svd(np.concatenate(x).T)[0][:, :4]
    open_ = np.eye(D) - seen @ seen.T  # the direction that no token has
    agree(got @ open_, middle @ open_, 1e-13)
    agree(got @ sum(grams), sum(wi @ g for wi, g in zip(w, grams, strict=True)), 1e-13)
    none = np.zeros((D, D))
    agree(average.regmean(w, [none, none]), middle)
    agree(average.regmean(w, [none, grams[1] + np.eye(D)], 1.0), w[1], 1e-13)  # an expert without tokens has no say


@PROPERTY
@given(st.integers(0, 10_000), st.integers(2, 7), st.booleans())
def test_equal_experts_keep_their_bits(seed, n, bias):
    """M1, M2: for every mean, any number, any weights."""
    rng = np.random.default_rng(seed)
    e = expert(seed, bias=bias)
    weights = rng.random(n) + 1e-3
    fishers = [squares(seed + i, bias=bias) for i in range(n)]
    assert identical(average.uniform([e] * n), e)
    assert identical(average.weighted([e] * n, weights), e)
    assert identical(average.fisher([e] * n, fishers, weights=weights), e)
    grams = [(a := rng.standard_normal((3, D))).T @ a for _ in range(n)]
    assert np.array_equal(average.regmean([e["gate_up_proj"]] * n, grams), e["gate_up_proj"])
    other = expert(seed + 1, bias=bias)
    assert not identical(average.uniform([e, other]), e)  # negative control


@PROPERTY
@given(st.integers(0, 10_000), st.permutations(range(4)))
def test_the_order_does_not_matter_and_a_weight_of_one_picks(seed, order):
    experts = [expert(seed + i) for i in range(4)]
    weights = np.random.default_rng(seed).random(4)
    a, b = average.weighted(experts, weights), average.weighted([experts[i] for i in order], weights[list(order)])
    assert all(off(b[n], a[n]) <= 4 * 2**-53 * 4 for n in a)
    assert identical(average.weighted(experts, np.eye(4)[order[0]]), experts[order[0]])


def test_float32_is_rounded_once_and_signed_zeros_stay():
    a, b = ({"w": np.array(v, np.float32)} for v in ([0.1, -0.0, 3.0], [0.2, -0.0, 4.0]))
    got = average.weighted([a, b], [1, 2])["w"]
    assert got.dtype == np.float32 and np.signbit(got[1])
    assert got[0] == np.float32((np.float64(a["w"][0]) + 2 * np.float64(b["w"][0])) / 3)


def test_bad_input():
    a, b = expert(0), expert(1)
    with pytest.raises(ConfigError, match="nothing to merge"):
        average.uniform([])
    with pytest.raises(ShapeError, match="expert 1 has other parameters"):
        average.uniform([a, {"down_proj": a["down_proj"]}])
    with pytest.raises(ShapeError, match="of expert 1 must have shape"):
        average.uniform([a, expert(1, f=4)])
    nan = b["down_proj"].copy()
    nan[2, 3] = np.nan
    with pytest.raises(NonFiniteError, match=r"down_proj of expert 1 is nan at \(2, 3\)"):
        average.uniform([a, b | {"down_proj": nan}])
    with pytest.raises(DtypeError):
        average.uniform([{"w": np.arange(3)}])
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(ConfigError, match="weights"):
            average.weighted([a, b], weights)
    with pytest.raises(NonFiniteError, match="weights"):
        average.weighted([a, b], [1.0, np.inf])
    with pytest.raises(ConfigError, match="one Fisher information for each"):
        average.fisher([a, b], [squares(3)])
    with pytest.raises(ConfigError, match="mean of squares"):
        average.fisher([a, b], [a, b])
    with pytest.raises(ShapeError):
        average.fisher([a, b], [squares(1, f=4)] * 2)
    with pytest.raises(ShapeError, match=r"grams\[0\]"):
        average.regmean([np.ones((2, 3))], [np.ones((2, 2))])
    with pytest.raises(ConfigError, match="alpha"):
        average.regmean([np.ones((2, 3))], [np.ones((3, 3))], 1.5)
    with pytest.raises(ConfigError, match="not symmetric"):
        average.regmean([np.ones((2, 3))], [np.triu(np.ones((3, 3)))])
    with pytest.raises(ConfigError, match="one Gram matrix"):
        average.regmean([np.ones((2, 3))], [])
