"""Statistics, expert scores, NAEE and cuts against the token-by-token layer."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import moe
from pymoe.moe import Capacity, MoEConfig, RouterConfig
from pymoe.sparsity import experts, statistics
from pymoe.sparsity.experts import naee

from ..oracles.layer_loops import moe_loop
from .oracles import expert_scores
from .oracles.judge import agree, close, locked, same
from .oracles.layers import KINDS, nested, params, tokens

EVERY = pytest.mark.parametrize("kind", list(KINDS))


def config(p: dict, kind: str, **router) -> MoEConfig:
    s = KINDS[kind]
    e, d = p["router.weight"].shape
    return MoEConfig(
        d_model=d,
        d_ff=p["experts.down_proj"].shape[-1],
        gated=s.get("gated", True),
        activation=s.get("activation", "silu"),
        bias="experts.down_proj_bias" in p,
        router=RouterConfig(
            n_experts=e,
            k=s["k"],
            score=s["score"],
            norm="l1" if s.get("renorm") else "none",
            scale=s.get("scale", 1.0),
            bias="router.bias" in p,
            selection_bias="router.selection_bias" in p,
            **router,
        ),
    )


def seen(x, p, cfg, dtype="f8", mask=None):
    _, cache = moe.forward(locked(x.astype(dtype)), nested(p, dtype), cfg, mask)
    return statistics.observe(cache, cfg, hessians=True)


FIELDS = ("count", "weight", "norm", "weighted_norm", "x_sumsq", "h_sumsq", "x_gram", "h_gram")


@EVERY
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_statistics_are_those_of_the_routed_tokens(kind, dtype):
    for seed in range(3):
        p, x = params(seed, kind, unrouted=2), tokens(seed)
        got, want = seen(x, p, config(p, kind), dtype), expert_scores.observe(x, p, KINDS[kind])
        assert want["count"][2] == 0 and got.tokens == len(x)
        for name in FIELDS:
            agree(getattr(got, name), want[name], "float32" if dtype == "f4" else "float64")
            assert np.all(np.asarray(getattr(got, name))[2] == 0)  # exactly nothing of an unrouted expert
        scored = expert_scores.scores(want)
        for name, value in scored.items():
            agree(getattr(experts, name)(got), value, "float32" if dtype == "f4" else "float64")
        # control: the mean over all tokens is another number than the mean over the routed ones
        assert not close(experts.reap(got), np.array(want["weighted_norm"]) / len(x), 1e-3)


@EVERY
def test_statistics_add_up_over_batches_and_leave_padding_out(kind):
    p, x = params(7, kind), tokens(7, t=13)
    cfg = config(p, kind)
    whole, parts = seen(x, p, cfg), statistics.add(seen(x[:5], p, cfg), seen(x[5:], p, cfg))
    for name in FIELDS:
        agree(getattr(parts, name), np.asarray(getattr(whole, name), dtype=np.float64), "float64")
    mask = locked(np.arange(13) % 3 != 1)
    got, want = seen(x, p, cfg, mask=mask), expert_scores.observe(x, p, KINDS[kind], mask)
    for name in FIELDS:
        agree(getattr(got, name), want[name], "float64")
    assert not close(got.x_sumsq, expert_scores.observe(x, p, KINDS[kind])["x_sumsq"], 1e-3)  # control: padding counted
    assert got.tokens in (13, int(mask.sum()))


def test_a_dropped_choice_is_not_a_routed_token():
    kind = "renormalised"
    p, x = params(3, kind), tokens(3, t=17)
    settings = {**KINDS[kind], "capacity_rule": "fixed", "capacity": 4}
    got = seen(x, p, config(p, kind, capacity=Capacity(factor=0.0, minimum=4)))
    want = expert_scores.observe(x, p, settings)
    assert sum(want["count"]) < 34
    for name in FIELDS:
        agree(getattr(got, name), want[name], "float64")
    assert not close(got.count, expert_scores.observe(x, p, KINDS[kind])["count"], 1e-3)  # control: all counted


def test_keep_takes_the_greatest_and_the_lowest_id_of_equals():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for score in (rng.standard_normal(7), rng.integers(0, 3, 7) / 2, np.zeros(7), np.ones(1)):
            for n in range(1, len(score) + 1):
                same(experts.keep(locked(score), n), np.array(expert_scores.keep(score.tolist(), n)))
    tied = np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    assert not np.array_equal(experts.keep(tied, 3), [1, 3, 4])  # control: the highest id instead


@EVERY
def test_naee_tries_every_set(kind):
    for seed in range(3):
        p, x = params(seed, kind, e=5), tokens(seed, t=6)
        cfg, tree = config(p, kind), nested(p)
        for n in range(cfg.k, 5):
            best, least, all_of_them = expert_scores.naee(x, p, KINDS[kind], n)
            same(naee.exhaustive(x, tree, cfg, n), np.array(best))
            same(naee.greedy(x, tree, cfg, n), np.array(expert_scores.naee_greedy(x, p, KINDS[kind], n)))
            assert sorted(all_of_them)[1] > least * (1 + 1e-9)  # the judgement is not one of rounding
            whole = moe.forward(x, tree, cfg)[0].y
            agree(np.array([naee.error(x, whole, tree, cfg, best)]), np.array([least]))
            worst = max(all_of_them)
            assert worst > least  # control: another set would have been noticed


@EVERY
def test_the_cut_layer_is_the_layer_of_the_kept_experts(kind):
    for seed in range(2):
        p, x = params(seed, kind), tokens(seed)
        cfg, tree = config(p, kind), nested(p)
        for kept in ([0, 1, 3], [1, 2, 3, 4], [2, 4, 0], [0, 1, 2, 3, 4]):
            small, small_cfg = experts.cut(tree, cfg, kept)
            assert small_cfg.n_experts == len(kept)
            want = moe_loop(x, expert_scores.without(p, sorted(kept)), KINDS[kind])
            out = moe.forward(x, small, small_cfg)[0]
            agree(out.y, want["y"])
            same(out.routing.idx, want["idx"])
            for branch in ("router", "experts"):
                for name, a in small[branch].items():
                    assert np.array_equal(a, tree[branch][name][sorted(kept)])  # bits kept
        wrong = moe_loop(x, expert_scores.without(p, [0, 1, 4]), KINDS[kind])["y"]  # control
        assert not close(moe.forward(x, *experts.cut(tree, cfg, [0, 1, 3]))[0].y, wrong, 1e-3)


def test_dropping_an_expert_that_nobody_asks_for_changes_nothing():
    kind = "renormalised"
    p, x = params(5, kind, unrouted=1), tokens(5)
    cfg, tree = config(p, kind), nested(p)
    y = moe.forward(x, tree, cfg)[0].y
    agree(moe.forward(x, *experts.cut(tree, cfg, [0, 2, 3, 4]))[0].y, y)
    assert not close(moe.forward(x, *experts.cut(tree, cfg, [0, 1, 2, 3]))[0].y, y, 1e-3)


def test_skipping_starts_at_the_median_ratio():
    for seed, t in enumerate((1, 2, 7, 8)):
        w = np.sort(np.random.default_rng(seed).random((t, 2)))[:, ::-1].copy()
        locked(w)
        want = expert_scores.median([b / a for a, b in w.tolist()])
        got = experts.skip_threshold(w)
        agree(np.array([got]), np.array([want]))


def test_skipping_drops_the_second_choice_below_the_share_and_renormalises():
    """NAEE 2402.14800, section 3.3: skip if w_1 < β w_0; renormalised, so that the first weighs 1."""
    kind = "renormalised"
    p, x = params(11, kind), tokens(11, t=40)
    full = moe_loop(x, p, KINDS[kind])
    beta = expert_scores.median([b / a for a, b in full["weight"].tolist()])
    cfg = config(p, kind, skip=beta)
    out = moe.forward(x, nested(p), cfg)[0]
    want = np.zeros_like(full["weight"])
    for t, (a, b) in enumerate(full["weight"].tolist()):
        want[t] = (1.0, 0.0) if b < beta * a else (a, b)
    assert 15 <= int((want[:, 1] == 0).sum()) <= 20
    agree(out.routing.weight, want)
    assert not close(out.routing.weight, full["weight"], 1e-3)  # control


def test_skipping_of_three_choices_compares_with_the_first():
    settings = {"score": "softmax", "k": 3, "renorm": True, "scale": 2.5}
    p, x, beta = params(12, "softmax"), tokens(12, t=40), 0.45
    full = moe_loop(x, p, settings)["weight"]
    router = RouterConfig(n_experts=5, k=3, norm="l1", scale=2.5, skip=beta)
    cfg = MoEConfig(d_model=4, d_ff=3, router=router)
    want = np.zeros_like(full)
    for t, row in enumerate(full.tolist()):
        kept = [w if w >= beta * row[0] else 0.0 for w in row]
        want[t] = [2.5 * w / sum(kept) for w in kept]
    assert {1, 2, 3} == set((want > 0).sum(1).tolist())
    out, cache = moe.forward(x, nested(p), cfg)
    agree(out.routing.weight, want)
    seen = statistics.observe(cache, cfg)
    assert int(seen.count.sum()) == int((want > 0).sum())  # what is skipped is not a routed token
    agree(np.array([seen.weight.sum()]), np.array([2.5 * 40]))
