"""Groups of experts: M-SMoE's by cosines and HC-SMoE's by average linkage, in loops; ties; what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.sharing.fuse import hcsmoe, msmoe
from tests.sharing.fuse.cases import PROPERTY

E = 7


def numbered(groups):
    """{ids} of each group -> group_of, numbered by the lowest id."""
    found = np.empty(sum(map(len, groups)), int)
    for g, ids in enumerate(sorted(groups, key=min)):
        found[list(ids)] = g
    return found.tolist()


def around_the_dominant(z, count, n):
    order = sorted(range(z.shape[1]), key=lambda e: (-count[e], e))
    heads = sorted(order[:n])
    groups = {d: [d] for d in heads}
    for e in sorted(order[n:]):

        def cosine(d, e=e):
            a, b = z[:, e], z[:, d]
            length = math.sqrt(math.fsum(a * a)) * math.sqrt(math.fsum(b * b))
            return math.fsum(a * b) / length if length else 0.0

        groups[max(heads, key=lambda d: (cosine(d), -d))].append(e)
    return numbered(groups.values())


@PROPERTY
@given(st.integers(0, 10_000), st.integers(1, E))
def test_msmoe_by_the_loop(seed, n):
    rng = np.random.default_rng(seed)
    z, count = rng.standard_normal((19, E)), rng.integers(0, 5, E)  # counts tie
    assert msmoe.groups(z, count, n).tolist() == around_the_dominant(z, count, n)
    assert len(set(msmoe.groups(z, count, n).tolist())) == n


def test_msmoe_looks_at_the_counts_and_at_the_angle_only():
    z = np.array([[1.0, 0.0, 0.1, 0.0], [0.0, 1.0, 0.0, 9.0]])
    assert msmoe.groups(z, [9, 8, 1, 1], 2).tolist() == [0, 1, 0, 1]
    assert msmoe.groups(z, [1, 8, 9, 1], 2).tolist() == [0, 1, 0, 1]
    assert msmoe.groups(z, [9, 1, 8, 1], 2).tolist() != [0, 1, 0, 1]  # negative control: other dominant experts
    assert msmoe.groups(np.zeros((3, 4)), [1, 2, 3, 4], 2).tolist() == [0, 0, 0, 1]  # like nothing: the lowest id


def shared_out(counts, total):
    """One expert after the other: first the most used of every layer, then whoever is most used of those left."""
    share = [[n / max(sum(c), 1) for n in c] for c in counts]
    kept = [{max(range(len(s)), key=lambda e: (s[e], -e))} for s in share]
    while sum(map(len, kept)) < total:
        left = [(s[e], -i, -e) for i, s in enumerate(share) for e in range(len(s)) if e not in kept[i]]
        _, i, e = max(left)
        kept[-i].add(-e)
    return [len(k) for k in kept]


@pytest.mark.parametrize("seed", range(5))
def test_experts_are_shared_out_over_the_layers_by_their_use(seed):
    rng = np.random.default_rng(seed)
    counts = [rng.integers(0, 20, size).tolist() for size in (7, 5, 6)] + [[0, 0, 0, 0]]
    for total in range(4, 23):
        assert msmoe.share_out(counts, total) == shared_out(counts, total)
    assert msmoe.share_out([[9, 1, 0], [4, 3, 3]], 4) == [1, 3]
    assert msmoe.share_out([[4, 3, 3], [9, 1, 0]], 4) == [3, 1]  # negative control: it is the use that decides
    for total in (3, 23, 4.0, True):
        with pytest.raises(ConfigError, match="from 4"):
            msmoe.share_out(counts, total)
    with pytest.raises(NonFiniteError, match=r"counts\[1\]"):
        msmoe.share_out([[1, 2], [1, np.nan]], 3)


def test_msmoe_of_a_tied_layer():
    z = np.random.default_rng(0).standard_normal((19, 5))
    tied = (0, 1, 0, 2, 1)
    mean = np.stack([(z[:, 0] + z[:, 2]) / 2, (z[:, 1] + z[:, 4]) / 2, z[:, 3]], axis=1)
    assert msmoe.groups(z, [3, 9, 5], 2, tied=tied).tolist() == around_the_dominant(mean, [3, 9, 5], 2)
    for count in ([1] * 5, [1, 2]):
        with pytest.raises(ConfigError, match="count is of"):
            msmoe.groups(z, count, 2, tied=tied)


def joined(o, n):
    groups = [[e] for e in range(len(o))]
    while len(groups) > n:

        def far(a, b):
            return math.fsum(math.dist(o[i], o[j]) for i in a for j in b) / (len(a) * len(b))

        i, j = min(itertools.combinations(range(len(groups)), 2), key=lambda ij: far(groups[ij[0]], groups[ij[1]]))
        groups[i] = groups[i] + groups.pop(j)
    return numbered(groups)


@PROPERTY
@given(st.integers(0, 10_000), st.integers(1, E))
def test_hcsmoe_by_the_loop(seed, n):
    o = np.random.default_rng(seed).standard_normal((E, 3))
    assert hcsmoe.groups(o, n).tolist() == joined(o, n)


def test_hcsmoe_is_not_another_linkage():
    differ = {method: 0 for method in ("single", "complete", "ward")}
    for seed in range(30):
        o = np.random.default_rng(seed).standard_normal((E, 3))
        for method in differ:
            differ[method] += hcsmoe.groups(o, 3, method).tolist() != joined(o, 3)
    assert min(differ.values()) > 0


@pytest.mark.parametrize("n", range(1, E + 1))
def test_exactly_as_many_groups_as_asked_even_where_distances_tie(n):
    for o in (np.zeros((E, 2)), np.arange(E)[:, None] * np.ones((1, 2)), np.eye(E), np.repeat(np.eye(4), 2, 0)[:E]):
        for method in hcsmoe.METHODS:
            group_of = hcsmoe.groups(o, n, method)
            assert sorted(set(group_of.tolist())) == list(range(n))
            assert group_of.tolist() == hcsmoe.groups(o, n, method).tolist()
            firsts = [int(np.flatnonzero(group_of == g)[0]) for g in range(n)]
            assert firsts == sorted(firsts)


def test_bad_input():
    z, o = np.ones((4, E)), np.ones((E, 3))
    for n in (0, E + 1, 2.0, True):
        with pytest.raises(ConfigError, match="n_groups"):
            hcsmoe.groups(o, n)
        with pytest.raises(ConfigError, match="n_groups"):
            msmoe.groups(z, np.arange(E), n)
    with pytest.raises(ConfigError, match="method"):
        hcsmoe.groups(o, 2, "centroid")
    with pytest.raises(NonFiniteError):
        hcsmoe.groups(o * np.nan, 2)
    with pytest.raises(NonFiniteError):
        msmoe.groups(z * np.nan, np.arange(E), 2)
    with pytest.raises(NonFiniteError):
        msmoe.groups(z, np.full(E, np.nan), 2)
    with pytest.raises(ConfigError, match="count is of"):
        msmoe.groups(z, np.arange(E - 1), 2)
    with pytest.raises(ShapeError):
        msmoe.groups(z[0], np.arange(E), 2)
