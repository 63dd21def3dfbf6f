"""ZipIt: the matching by a greedy loop, its two matrices, an expert and its permuted copy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.sharing.fuse import align, zipit
from tests.sharing.fuse.cases import FORMS, PROPERTY, F, agree, expert, hidden, identical, off, output, tokens


def greedy(columns, f, within):
    """Pairs of units in the order in which they are found."""

    def correlation(u, v):
        n = len(u)
        mu, mv = math.fsum(u) / n, math.fsum(v) / n
        below = math.fsum((x - mu) ** 2 for x in u) * math.fsum((y - mv) ** 2 for y in v)
        return math.fsum((x - mu) * (y - mv) for x, y in zip(u, v, strict=True)) / math.sqrt(below)

    left, pairs = set(range(2 * f)), []
    while left:
        candidates = [(i, j) for i in left for j in left if i < j and (within or i < f <= j)]
        best = max(candidates, key=lambda ij: (correlation(columns[ij[0]], columns[ij[1]]), -ij[0], -ij[1]))
        pairs.append(best)
        left -= set(best)
    return sorted(pairs)


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize(("gated", "bias"), FORMS)
def test_two_experts_by_hand(gated, bias, within):
    a, b = expert(0, gated, bias), expert(1, gated, bias)
    h = [hidden(e, tokens()) for e in (a, b)]
    w = [0.25, 0.75]
    pairs = greedy([list(c) for m in h for c in m.T], F, within)
    label = zipit.match(*h, within=within)
    assert [tuple(np.flatnonzero(label == g)) for g in range(F)] == pairs
    assert within or all(i < F <= j for i, j in pairs)
    m, u = zipit.matrices(label, w)
    got = zipit.merge([a, b], h, [1, 3], within=within)
    for name in a:
        if name == "down_proj":
            want = np.concatenate([w[0] * a[name], w[1] * b[name]], axis=1) @ u
        elif name == "down_proj_bias":
            want = w[0] * a[name] + w[1] * b[name]
        else:
            halves = [np.concatenate([a[name][lo : lo + F], b[name][lo : lo + F]]) for lo in range(0, len(a[name]), F)]
            want = np.concatenate([m @ half for half in halves])
        agree(got[name], want)
    assert (m.sum(1) == 1).all() and np.array_equal(m @ u, np.eye(F))  # merging undoes handing out


@PROPERTY
@given(st.integers(0, 10_000), st.sampled_from(FORMS), st.booleans())
def test_an_expert_and_its_permuted_copy_give_it_back(seed, form, within):
    """M4, for ZipIt: bit for bit, and three copies too."""
    a = expert(seed, *form)
    x = tokens(seed)
    copies = [a] + [align.apply(a, np.random.default_rng(seed + i).permutation(F)) for i in range(2)]
    h = [hidden(e, x) for e in copies]
    assert identical(zipit.merge(copies[:2], h[:2], within=within), a)
    three = zipit.merge(copies, h, [1, 2, 5], within=within)
    assert off(output(three, x), output(a, x)) <= 1e-14
    other = expert(seed + 1, *form)
    far = zipit.merge([a, other], [h[0], hidden(other, x)], within=within)
    assert off(output(far, x), output(a, x)) > 1e-3  # negative control


def test_units_that_are_twice_in_one_expert_are_merged_within_it():
    """Of two experts with F/2 different units each, the F different ones are left: the mean of both, exactly."""
    wide = expert(0, f=F // 2), expert(1, f=F // 2)
    twice = []
    for e in wide:
        gate, up = np.split(e["gate_up_proj"], 2)
        first = np.concatenate([gate, gate, up, up])
        twice.append({"gate_up_proj": first, "down_proj": np.concatenate([e["down_proj"] / 2] * 2, axis=1)})
    x = tokens()
    h = [hidden(e, x) for e in twice]
    want = (output(wide[0], x) + output(wide[1], x)) / 2
    assert off(output(zipit.merge(twice, h), x), want) <= 1e-14
    assert off(output(zipit.merge(twice, h, within=False), x), want) > 0.05  # nothing within: no pair is alike


def test_an_expert_of_weight_zero_has_no_say():
    a, b = expert(0), expert(1)
    h = [hidden(e, tokens()) for e in (a, b)]
    assert identical(zipit.merge([a, b], h, [1, 0]), a) and identical(zipit.merge([a, b], h, [0, 2]), b)
    assert identical(zipit.merge([a], h[:1]), a)


def test_bad_input():
    a, b = expert(0), expert(1)
    h = [hidden(e, tokens()) for e in (a, b)]
    with pytest.raises(ConfigError, match="activations for each expert"):
        zipit.merge([a, b], h[:1])
    with pytest.raises(ShapeError, match=r"activations\[1\]"):
        zipit.merge([a, b], [h[0], h[1][1:]])
    with pytest.raises(ConfigError, match="at least two tokens"):
        zipit.merge([a, b], [m[:1] for m in h])
    with pytest.raises(ShapeError, match="exactly two"):
        zipit.matrices(np.array([0, 0, 0, 1]), [1, 1])
