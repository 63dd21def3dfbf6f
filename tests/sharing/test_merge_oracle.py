"""Merged groups of experts, layers made dense, and branches made one model, against loops over ids and units."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend import tree
from pymoe.models import LMConfig, lm
from pymoe.nn import feed_forward
from pymoe.sharing import btx
from pymoe.sharing.fuse import merge_groups, to_dense
from pymoe.sparsity import statistics

from ..oracles.layer_backward_loops import moe_loop_backward
from ..oracles.layer_loops import moe_loop
from ..sparsity.oracles import expert_scores
from ..sparsity.oracles.judge import agree, close, locked
from ..sparsity.oracles.layers import KINDS, nested, params, tokens
from ..sparsity.test_experts_oracle import EVERY, config
from .oracles import average_loops, group_loops, merge_loops, split_loops

GROUPS = pytest.mark.parametrize("group_of", [[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [1, 0, 0, 2, 1]])
ALIGN = pytest.mark.parametrize("align", [True, False])


def layer(seed: int, kind: str, t: int = 37):
    p, x = params(seed, kind), tokens(seed, t=t)
    return p, x, config(p, kind), nested(p)


def observed(x, p, cfg):
    return statistics.observe(moe.forward(x, p, cfg)[1], cfg, hessians=True)


@EVERY
@GROUPS
@ALIGN
def test_means_of_groups(kind, group_of, align):
    p, x, cfg, given = layer(1, kind, t=150)  # enough for Gram matrices that are not nearly singular
    seen, want = observed(x, given, cfg), expert_scores.observe(x, p, KINDS[kind])
    fishers = {name: locked(np.random.default_rng(3).random(a.shape)) for name, a in given["experts"].items()}
    grams = {"x": want["x_gram"], "h": want["h_gram"]}
    count = want["count"]
    cases = [
        ("uniform", {}, {}),
        ("frequency", {}, {}),
        ("fisher", {"fisher": fishers, "eps": 0.01}, {"fishers": fishers, "eps": 0.01}),
        ("regmean", {"alpha": 0.8}, {"grams": grams, "alpha": 0.8}),
        ("ties", {"density": 0.57}, {"density": 0.57}),
    ]
    for how, ours, theirs in cases:
        got, got_cfg = merge_groups(given, cfg, group_of, how, statistics=seen, align=align, **ours)
        stack = merge_loops.merged(given["experts"], group_of, how, used_by=count, align=align, **theirs)
        assert tuple(got_cfg.tied or range(5)) == tuple(group_of)
        for name, value in stack.items():
            assert close(got["experts"][name], value, 1e-13), (how, name)
        full = {**{n: a for n, a in p.items() if n.startswith("router")}}
        full |= {"experts." + n: a for n, a in merge_loops.expanded(got["experts"], group_of).items()}
        agree(moe.forward(x, got, got_cfg)[0].y, moe_loop(x, full, KINDS[kind])["y"])
        for name, a in given["router"].items():
            assert np.array_equal(got["router"][name], a)
        if group_of == [0, 1, 2, 3, 4]:
            assert all(np.array_equal(got["experts"][n], a) for n, a in given["experts"].items())
        elif how == "frequency":  # control: the uniform mean
            other = merge_loops.merged(given["experts"], group_of, "uniform", used_by=count, align=align)
            assert not close(got["experts"]["down_proj"], other["down_proj"], 1e-3)
        elif how == "regmean" and align:  # control: Gram matrices that were not brought into the same order
            raw = merge_loops.merged(given["experts"], group_of, "uniform", used_by=count, align=False)
            assert not close(got["experts"]["down_proj"], raw["down_proj"], 1e-3)


def test_a_group_of_permuted_copies_is_that_expert():
    for kind in ("softmax", "renormalised", "one choice, no gate"):
        p, x, cfg, given = layer(2, kind)
        one = merge_loops.member(given["experts"], 0)
        perms = [[0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0], [0, 2, 1]]
        copies = [group_loops.permuted(one, perm) for perm in perms]
        stack = {name: locked(np.stack([c[name] for c in copies])) for name in one}
        full = {"router": given["router"], "experts": stack}
        y = moe.forward(x, full, cfg)[0].y
        for how in ("uniform", "frequency", "ties"):
            got, got_cfg = merge_groups(full, cfg, [0] * 5, how, statistics=observed(x, full, cfg))
            agree(moe.forward(x, got, got_cfg)[0].y, y)
        naive, naive_cfg = merge_groups(full, cfg, [0] * 5, "uniform", align=False)  # control
        assert not close(moe.forward(x, naive, naive_cfg)[0].y, y, 1e-2)


@EVERY
@GROUPS
def test_the_gradient_of_a_stored_expert_is_the_sum_over_its_ids(kind, group_of):
    p, x, cfg, given = layer(4, kind)
    got, got_cfg = merge_groups(given, cfg, group_of, "uniform")
    full = {n: a for n, a in p.items() if n.startswith("router")}
    full |= {"experts." + n: a for n, a in merge_loops.expanded(got["experts"], group_of).items()}
    dy = locked(np.random.default_rng(5).standard_normal(x.shape))
    out, cache = moe.forward(x, got, got_cfg)
    dx, dp = moe.backward(dy, cache)
    want_dx, want = moe_loop_backward(x, full, KINDS[kind], dy, {})
    agree(dx, want_dx)
    want = tree.flatten(want) if any(isinstance(v, dict) for v in want.values()) else want
    for name, a in got["experts"].items():
        total = np.zeros(a.shape)
        for e, g in enumerate(group_of):
            total[g] += want["experts." + name][e]
        agree(dp["experts"][name], total)
        if max(group_of) < 4:  # control: the gradient of the last id only
            last = np.stack(
                [want["experts." + name][len(group_of) - 1 - group_of[::-1].index(g)] for g in range(len(a))]
            )
            assert not close(dp["experts"][name], last, 1e-3)
    row = np.abs(dy).max() * np.abs(x).max() * len(x)  # with one group no choice is better: only rounding is left
    assert np.abs(dp["router"]["weight"] - want["router.weight"]).max() <= 1e-13 * row


@EVERY
def test_a_layer_made_dense(kind):
    p, x, cfg, given = layer(6, kind)
    for weights in (None, (3.0, 1.0, 2.0, 0.5, 1.0)):
        c = [1.0] * 5 if weights is None else list(weights)
        ids = [merge_loops.member(given["experts"], e) for e in range(5)]
        wide, wide_cfg = to_dense(given, cfg, weights, how="concatenate")
        want = sum(g * split_loops.said(one, x, cfg.activation) for g, one in zip(c, ids, strict=True))
        agree(feed_forward.forward(x, wide, wide_cfg)[0], want)
        assert wide_cfg.d_ff == 5 * cfg.d_ff
        scale = cfg.router.scale
        mean, mean_cfg = to_dense(given, cfg, weights, align=False)
        average = {name: average_loops.weighted([one[name] for one in ids], c) for name in ids[0]}
        agree(feed_forward.forward(x, mean, mean_cfg)[0], scale * split_loops.said(average, x, cfg.activation))
        lead = max(range(5), key=lambda e: (c[e], -e))
        aligned = [group_loops.permuted(one, merge_loops.order_to(ids[lead], one)) for one in ids]
        average = {name: average_loops.weighted([one[name] for one in aligned], c) for name in ids[0]}
        mean, mean_cfg = to_dense(given, cfg, weights)
        agree(feed_forward.forward(x, mean, mean_cfg)[0], scale * split_loops.said(average, x, cfg.activation))


def test_branches_are_mixed():
    cfg = LMConfig(vocab=11, d_model=6, n_layers=2, n_heads=3, d_ff=4, context=8)
    models = [lm.init(np.random.default_rng(seed), cfg) for seed in range(3)]
    flat = [tree.flatten(m) for m in models]
    for one in flat:
        locked(*one.values(), np.zeros(1))
    got, got_cfg = btx.mix(models, cfg, k=2, rng=np.random.default_rng(9))
    found = tree.flatten(got)
    assert (got_cfg.moe.n_experts, got_cfg.moe.k) == (3, 2)
    feed = {name for name in flat[0] if ".mlp." in name}
    assert feed and len(found) == len(flat[0]) + 2  # and two routers
    for name in flat[0]:
        if name in feed:
            stacked = found[name.replace(".mlp.", ".mlp.experts.")]
            assert all(np.array_equal(stacked[e], flat[e][name]) for e in range(3))
        else:
            want = average_loops.weighted([one[name].astype(np.float64) for one in flat], [1, 1, 1])
            agree(found[name], want, str(found[name].dtype))
    ids = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 10]])
    thrice, thrice_cfg = btx.mix([models[0]] * 3, cfg, k=2, rng=np.random.default_rng(9))
    say = lm.forward(ids, models[0], cfg)[0]
    again = lm.forward(ids, thrice, thrice_cfg)[0]
    first = say.logits if hasattr(say, "logits") else say[0]
    second = again.logits if hasattr(again, "logits") else again[0]
    agree(second, np.asarray(first, dtype=np.float64), str(np.asarray(second).dtype))


@pytest.mark.parametrize("kind", ["softmax", "renormalised", "one choice, no gate"])
def test_groups_zipped_and_groups_aligned_by_activations(kind):
    p, x, cfg, given = layer(8, kind, t=60)
    seen, group_of = observed(x, given, cfg), [0, 1, 0, 1, 1]
    used = expert_scores.observe(x, p, KINDS[kind])["count"]
    members = [merge_loops.member(given["experts"], e) for e in range(5)]
    acts = [split_loops.hidden(one, x, cfg.activation) for one in members]
    got, _ = merge_groups(given, cfg, group_of, "zipit", statistics=seen, x=x)
    aligned, _ = merge_groups(given, cfg, group_of, "frequency", statistics=seen, x=x, align="activations")
    for g in range(2):
        ids = sorted((e for e in range(5) if group_of[e] == g), key=lambda e: (-used[e], e))  # the most used one first
        order = sorted(ids)  # zipped as they come
        want = group_loops.zipit([members[e] for e in order], [acts[e] for e in order], [used[e] for e in order], True)
        mean = []
        for e in ids:
            a, b, f = acts[ids[0]], acts[e], cfg.d_ff
            gain = [[group_loops.correlation(a[:, i].tolist(), b[:, j].tolist()) for j in range(f)] for i in range(f)]
            mean.append(group_loops.permuted(members[e], group_loops.best_permutation(gain)[0]))
        for name in want:
            agree(got["experts"][name][g], want[name])
            average = average_loops.weighted([one[name] for one in mean], [used[e] for e in ids])
            agree(aligned["experts"][name][g], average)


def test_a_shared_expert_joins_the_dense_layer():
    rng = np.random.default_rng(0)
    router = moe.RouterConfig(n_experts=3, k=2, norm="l1")
    cfg = moe.MoEConfig(d_model=4, d_ff=3, router=router, d_shared=5, bias=True)
    flat = {name: locked(rng.standard_normal(a.shape)) for name, a in tree.flatten(moe.init(rng, cfg)).items()}
    given, x = tree.unflatten(flat), tokens(9)
    gates = [0.5, 2.0, 0.25]
    wide, wide_cfg = to_dense(given, cfg, gates, how="concatenate")
    want = split_loops.said(given["shared"], x)
    routed = [split_loops.said(merge_loops.member(given["experts"], e), x) for e in range(3)]
    agree(feed_forward.forward(x, wide, wide_cfg)[0], want + sum(g * y for g, y in zip(gates, routed, strict=True)))
    assert wide_cfg.d_ff == 3 * 3 + 5
    mean, mean_cfg = to_dense(given, cfg, gates, align=False)
    stack = [merge_loops.member(given["experts"], e) for e in range(3)]
    average = {name: average_loops.weighted([one[name] for one in stack], gates) for name in stack[0]}
    agree(feed_forward.forward(x, mean, mean_cfg)[0], want + split_loops.said(average, x))
    assert not close(feed_forward.forward(x, mean, mean_cfg)[0], split_loops.said(average, x), 1e-3)  # control
