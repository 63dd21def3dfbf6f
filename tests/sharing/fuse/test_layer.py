"""Groups of one layer merged: means by hand after alignment by enumeration, M1 to M4 for the layer, what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymoe import moe, storage, verify
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.sharing import fuse
from pymoe.sparsity import statistics
from tests.sharing.fuse.cases import PROPERTY, agree, hidden, identical, off, output
from tests.sparsity import layers

E, F = layers.E, layers.F
GROUPS = np.array([0, 1, 0, 2, 1, 0, 2])
HOW = ["uniform", "frequency", "fisher", "regmean", "ties", "zipit"]


def given_to(how, p, x, cfg):
    """What a method needs, by keyword."""
    more = {"statistics": statistics.observe(moe.forward(x, p, cfg)[1], cfg, hessians=how == "regmean")}
    if how == "fisher":
        rng = np.random.default_rng(7)
        more["fisher"] = {n: np.square(rng.standard_normal(a.shape)) for n, a in p["experts"].items()}
    return more | ({"x": x} if how == "zipit" else {})


def one(p, e):
    return {n: a[e] for n, a in p["experts"].items()}


def best(reference, other):
    """The order of other's units that brings its matrices closest to the reference's, of all of them."""

    def distance(perm):
        moved = permuted(other, perm)
        return math.fsum(float(np.square(moved[n] - a).sum()) for n, a in reference.items())

    return min(itertools.permutations(range(F)), key=distance)


def permuted(e, perm):
    rows = [*perm, *(F + i for i in perm)]
    moved = {n: a[rows[: len(a)]] for n, a in e.items() if n not in ("down_proj", "down_proj_bias")}
    return moved | {n: a[:, list(perm)] if n == "down_proj" else a for n, a in e.items() if n.startswith("down")}


@pytest.mark.parametrize("changes", [{}, {"gated": False}, {"bias": True}], ids=str)
@pytest.mark.parametrize("how", HOW)
def test_the_merged_layer_is_a_layer_with_a_verified_gradient(how, changes):
    cfg, p, x = layers.layer(**changes)
    q, smaller = fuse.merge_groups(p, cfg, GROUPS, how, **given_to(how, p, x, cfg))
    assert smaller == dataclasses.replace(cfg, tied=tuple(GROUPS.tolist()))
    assert q["router"] is p["router"] and list(q["experts"]) == list(p["experts"])
    assert all(len(a) == 3 for a in q["experts"].values())
    assert verify.gradcheck(moe, x[:5], q, smaller).error <= 1e-13


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("how", ["uniform", "frequency", "fisher", "regmean", "ties"])
def test_each_mean_by_hand(how, align):
    cfg, p, x = layers.layer(bias=True)
    more = given_to(how, p, x, cfg)
    seen = more["statistics"]
    q, _ = fuse.merge_groups(p, cfg, GROUPS, how, align=align, **more)
    moved = 0
    for g in range(3):
        ids = [e for e in range(E) if GROUPS[e] == g]
        head = max(ids, key=lambda e: (seen.count[e], -e))
        orders = [best(one(p, head), one(p, e)) if align else tuple(range(F)) for e in ids]
        moved += sum(order != tuple(range(F)) for order in orders)
        parts = [permuted(one(p, e), order) for e, order in zip(ids, orders, strict=True)]
        counts = [float(seen.count[e]) for e in ids]
        for name in parts[0]:
            w = [part[name] for part in parts]
            if how == "frequency":
                want = sum(c * a for c, a in zip(counts, w, strict=True)) / sum(counts)
            elif how == "fisher":
                info = [
                    permuted({n: a[e] for n, a in more["fisher"].items()}, order)[name]
                    for e, order in zip(ids, orders, strict=True)
                ]
                floor = 1e-6 * max(float(i.max()) for i in info)
                info = [np.maximum(i, floor) for i in info]
                want = sum(i * a for i, a in zip(info, w, strict=True)) / sum(info)
            elif how == "regmean" and not name.endswith("bias"):
                grams = [
                    seen.x_gram[e] if name != "down_proj" else seen.h_gram[e][np.ix_(order, order)]
                    for e, order in zip(ids, orders, strict=True)
                ]
                grams = [0.9 * m + 0.1 * np.diag(np.diag(m)) for m in grams]
                want = sum(a @ m for a, m in zip(w, grams, strict=True)) @ np.linalg.inv(sum(grams))
            elif how == "ties":
                want = fuse.ties.merge(sum(w) / len(w), w, density=0.2)
            else:
                want = sum(w) / len(w)
            agree(q["experts"][name][g], want, 1e-13)
    assert bool(moved) == align  # the alignment had something to do


def test_zipit_and_alignment_by_activations_use_the_calibration_tokens():
    cfg, p, x = layers.layer()
    seen = statistics.observe(moe.forward(x, p, cfg)[1], cfg)
    h = [hidden(one(p, e), x) for e in range(E)]
    q, _ = fuse.merge_groups(p, cfg, GROUPS, "zipit", x=x, statistics=seen, within=False)
    for g in range(3):
        ids = np.flatnonzero(GROUPS == g)
        want = fuse.zipit.merge([one(p, e) for e in ids], [h[e] for e in ids], seen.count[ids], within=False)
        for name, a in want.items():
            agree(q["experts"][name][g], a)
    q, _ = fuse.merge_groups(p, cfg, GROUPS, "uniform", x=x, statistics=seen, align="activations")
    for g in range(3):
        ids = np.flatnonzero(GROUPS == g)
        head = ids[np.argmax(seen.count[ids])]
        parts = [fuse.align.apply(one(p, e), fuse.align.by_activations(h[head], h[e])) for e in ids]
        for name in parts[0]:
            agree(q["experts"][name][g], sum(part[name] for part in parts) / len(parts))


@PROPERTY
@given(st.integers(0, 10_000), st.sampled_from(HOW), st.booleans())
def test_identical_experts_merge_into_themselves(seed, how, shuffled):
    """M1, M2, and M4 where their hidden units stand in other orders: bit for bit but for ZipIt."""
    cfg, p, x = layers.layer(seed)
    rng = np.random.default_rng(seed)
    copies = [one(p, 0)]
    copies += [fuse.align.apply(copies[0], rng.permutation(F)) if shuffled else copies[0] for _ in range(E - 1)]
    p = p | {"experts": {n: np.stack([c[n] for c in copies]) for n in copies[0]}}
    more = given_to(how, p, x, cfg)
    q, smaller = fuse.merge_groups(p, cfg, GROUPS, how, **more)
    heads = [max(np.flatnonzero(GROUPS == g), key=lambda e: (more["statistics"].count[e], -e)) for g in range(3)]
    for g, head in enumerate(heads):
        if how == "zipit":
            assert off(output(one(q, g), x), output(copies[0], x)) < 1e-14
        else:
            assert identical(one(q, g), copies[head])
    assert off(moe.forward(x, q, smaller)[0].y, moe.forward(x, p, cfg)[0].y) <= 64 * 2**-53
    if shuffled and how != "zipit":  # negative control
        q, smaller = fuse.merge_groups(p, cfg, GROUPS, how, align=False, **more)
        assert off(moe.forward(x, q, smaller)[0].y, moe.forward(x, p, cfg)[0].y) > 1e-3


@PROPERTY
@given(st.integers(0, 10_000))
def test_whom_the_router_prefers_inside_a_group_does_not_matter(seed):
    """M3: other rows for the ids of a group, dealt among themselves; and any router at all when all are one group."""
    cfg, p, x = layers.layer(seed)
    rng = np.random.default_rng(seed)
    q, smaller = fuse.merge_groups(p, cfg, GROUPS, "uniform")
    ids = np.arange(E)
    for g in range(3):
        ids[GROUPS == g] = rng.permutation(ids[GROUPS == g])
    dealt = q | {"router": {"weight": p["router"]["weight"][ids]}}
    assert off(moe.forward(x, dealt, smaller)[0].y, moe.forward(x, q, smaller)[0].y) <= 3 * 4 * 2**-53
    across = q | {"router": {"weight": p["router"]["weight"][[1, 0, 2, 3, 4, 5, 6]]}}  # negative control: 0 and 1
    assert off(moe.forward(x, across, smaller)[0].y, moe.forward(x, q, smaller)[0].y) > 1e-6
    r, single = fuse.merge_groups(q, smaller, [0, 0, 0], "uniform")
    other = r | {"router": {"weight": rng.standard_normal((E, layers.D))}}
    assert off(moe.forward(x, other, single)[0].y, moe.forward(x, r, single)[0].y) <= 3 * 4 * 2**-53


def test_merging_composes():
    cfg, p, x = layers.layer()
    q, half = fuse.merge_groups(p, cfg, GROUPS, "uniform", align=False)
    r, less = fuse.merge_groups(q, half, [1, 0, 1], "uniform", align=False)
    assert less.tied == (1, 0, 1, 1, 0, 1, 1) and less.n_stored == 2
    agree(r["experts"]["down_proj"][1], (q["experts"]["down_proj"][0] + q["experts"]["down_proj"][2]) / 2)
    seen = statistics.observe(moe.forward(x, q, half)[1], half, hessians=True)
    for how in ("frequency", "regmean"):
        assert fuse.merge_groups(q, half, [0, 0, 1], how, statistics=seen)[1].tied == (0, 0, 0, 1, 0, 0, 1)
    alone, same = fuse.merge_groups(p, cfg, np.arange(E), "uniform")
    assert same == cfg and identical(alone["experts"], p["experts"])  # a group of one keeps its bits, nothing is tied
    swapped, told = fuse.merge_groups(p, cfg, np.arange(E)[::-1], "uniform")
    assert told.tied == tuple(range(E))[::-1]
    assert np.array_equal(swapped["experts"]["down_proj"][6], p["experts"]["down_proj"][0])
    assert np.array_equal(moe.forward(x, swapped, told)[0].y, moe.forward(x, p, cfg)[0].y)


def test_experts_that_no_token_reached():
    cfg, p, x = layers.layer(n_experts=20, k=1)
    seen = statistics.observe(moe.forward(x[:3], p, cfg)[1], cfg, hessians=True)
    idle, busy = np.flatnonzero(seen.count == 0), np.flatnonzero(seen.count)
    group_of = np.zeros(20, int)
    group_of[busy] = 1
    group_of[idle[0]] = 1
    plain = {n: a.mean(0) for n, a in ((n, a[idle[1:]]) for n, a in p["experts"].items())}
    for how in ("frequency", "regmean"):
        q, _ = fuse.merge_groups(p, cfg, group_of, how, statistics=seen, align=False)
        for name, a in plain.items():
            agree(q["experts"][name][0], a)  # all of the group unused: the uniform mean
    q, _ = fuse.merge_groups(p, cfg, group_of, "frequency", statistics=seen, align=False)
    want = np.tensordot(seen.count[busy] / seen.count.sum(), p["experts"]["down_proj"][busy], 1)
    agree(q["experts"]["down_proj"][1], want)  # one of the group unused: weight 0


def test_ties_with_the_dense_ancestor():
    cfg, p, x = layers.layer()
    rng = np.random.default_rng(0)
    base = one(p, 0)
    tuned = [{n: a + 0.01 * rng.standard_normal(a.shape) for n, a in base.items()} for _ in range(E)]
    shuffled = [fuse.align.apply(t, rng.permutation(F)) for t in tuned]
    p = p | {"experts": {n: np.stack([t[n] for t in shuffled]) for n in base}}
    q, _ = fuse.merge_groups(p, cfg, np.zeros(E, int), "ties", base=base, density=0.4, scale=0.5)
    for name, a in base.items():  # the members are brought into the ancestor's order
        agree(q["experts"][name][0], fuse.ties.merge(a, [t[name] for t in tuned], density=0.4, scale=0.5))
    two = np.array([0, 0, 1, 1, 2, 2, 2])
    q, _ = fuse.merge_groups(p, cfg, two, "ties", align=False)  # of two, nobody is the majority: their mean
    agree(q["experts"]["down_proj"][0], p["experts"]["down_proj"][:2].mean(0))


def test_stored_weights_and_float32():
    cfg, p, x = layers.layer()
    kept = np.random.default_rng(0).random(p["experts"]["down_proj"].shape) < 0.5
    sparse = p | {"experts": p["experts"] | {"down_proj": storage.csr.from_dense(p["experts"]["down_proj"], kept)}}
    plain = p | {"experts": p["experts"] | {"down_proj": p["experts"]["down_proj"] * kept}}
    a, b = (fuse.merge_groups(q, cfg, GROUPS, "uniform")[0] for q in (sparse, plain))
    assert identical(a["experts"], b["experts"])
    small = {part: {n: a.astype(np.float32) for n, a in v.items()} for part, v in p.items()}
    q, smaller = fuse.merge_groups(small, cfg, GROUPS, "uniform")
    assert q["experts"]["down_proj"].dtype == np.float32
    moe.forward(x.astype(np.float32), q, smaller)


def test_bad_input():
    cfg, p, x = layers.layer()
    seen = statistics.observe(moe.forward(x, p, cfg)[1], cfg)
    fewer = {n: np.square(a[1:]) for n, a in p["experts"].items()}
    negative = {n: -np.square(a) for n, a in p["experts"].items()}
    less = layers.layer(d_ff=4)
    nan = p["experts"]["down_proj"].copy()
    nan[6, 2, 1] = np.nan  # alone in its group or not
    bad = p | {"experts": p["experts"] | {"down_proj": nan}}
    merge = fuse.merge_groups
    for call, error, message in (
        (lambda: merge(p, cfg, [0, 1]), ConfigError, "each of the 7 stored experts"),
        (lambda: merge(p, cfg, GROUPS * 1.0), ConfigError, "float64"),
        (lambda: merge(p, cfg, [0, 1, 1, 1, 1, 1, 3], "uniform"), ConfigError, "none left out"),
        (lambda: merge(p, cfg, GROUPS - 1, "uniform"), ConfigError, "none left out"),
        (lambda: merge(p, cfg, GROUPS, "magic"), ConfigError, "how must be one of"),
        (lambda: merge(p, cfg, GROUPS, "uniform", align="magic"), ConfigError, "align must be one of"),
        (lambda: merge(p, cfg, GROUPS, "uniform", density=0.5), ConfigError, "has the settings"),
        (lambda: merge(p, cfg, GROUPS), ConfigError, "needs statistics="),
        (lambda: merge(p, cfg, GROUPS, "regmean", statistics=seen), ConfigError, "hessians=True"),
        (lambda: merge(p, cfg, GROUPS, "fisher"), ConfigError, "needs fisher="),
        (lambda: merge(p, cfg, GROUPS, "zipit"), ConfigError, "needs x="),
        (lambda: merge(p, cfg, GROUPS, "uniform", align="activations"), ConfigError, "needs x="),
        (lambda: merge(bad, cfg, np.arange(E), "uniform"), NonFiniteError, r"down_proj is nan at \(6, 2, 1\)"),
        (lambda: merge(p, less[0], GROUPS, "uniform"), ShapeError, "must have shape"),
        (lambda: merge(less[1], less[0], GROUPS, statistics=seen), ShapeError, "statistics.h_sumsq"),
        (lambda: merge(p, cfg, GROUPS, "zipit", x=x[:, 1:]), ShapeError, "x must have shape"),
        (lambda: merge(p, cfg, GROUPS, "zipit", x=x * np.nan), NonFiniteError, "x is nan"),
        (lambda: merge(p, cfg, GROUPS, "ties", base={"down_proj": nan[0]}), ShapeError, "base"),
        (lambda: merge(p, cfg, GROUPS, "fisher", fisher=fewer), ShapeError, "fisher is of 6"),
        (lambda: merge(p, cfg, GROUPS, "fisher", fisher=negative), ConfigError, "mean of squares"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
