"""Limits in which the whole layer has a closed form, and the proof that the cases tell the rules apart."""

from __future__ import annotations

import numpy as np
import pytest

from .cases import CHOICE, NOISY, TOPK, case, make
from .loops import moe_loop, moe_loop_backward
from .test_oracles import CASES, everything, mismatch

EXACT = 2e-15


def dense(x, params, e):
    """Expert e on all rows, in matrix form: silu GLU without biases."""
    gate, up = np.split(x @ params["experts.gate_up_proj"][e].T, 2, axis=-1)
    return (gate / (1 + np.exp(-gate)) * up) @ params["experts.down_proj"][e].T


def run(one):
    return moe_loop(one.x, one.params, one.settings, one.mask, one.draws)


def back(one):
    return moe_loop_backward(one.x, one.params, one.settings, one.dy, one.dlosses, one.mask, one.draws)


def altered(one, **settings):
    return one._replace(settings={**one.settings, **settings})


def with_params(one, **leaves):
    return one._replace(params={**one.params, **{name.replace("__", "."): leaf for name, leaf in leaves.items()}})


def without_losses(one):
    return altered(one, losses=())._replace(dlosses={})


def test_one_expert_is_the_expert():
    one = make("limit E = 1", {"k": 1, "losses": ()}, E=1)
    assert mismatch(run(one)["y"], dense(one.x, one.params, 0)) < EXACT
    _, grads = back(one)
    assert not grads["router.weight"].any()


def test_all_experts_are_the_dense_mixture():
    one = make("limit k = E", {"k": 5}, E=5)
    z = one.x @ one.params["router.weight"].T
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    wanted = sum(p[:, e : e + 1] * dense(one.x, one.params, e) for e in range(5))
    assert mismatch(run(one)["y"], wanted) < EXACT
    assert mismatch(run(altered(one, renorm=True, score="softmax_topk"))["y"], wanted) < EXACT
    assert mismatch(run(one)["y"], wanted * 1.001) > 1e-4


@pytest.mark.parametrize("rule", [TOPK, {"score": "softmax_topk", "k": 3}, {**TOPK, "score": "sigmoid"}])
def test_identical_experts_hide_the_router(rule):
    one = make("limit identical experts", rule)
    same = {n: np.repeat(one.params[n][:1], 7, axis=0) for n in one.params if n.startswith("experts")}
    one = without_losses(one._replace(params={**one.params, **same}))
    assert mismatch(run(one)["y"], dense(one.x, one.params, 0)) < EXACT
    _, grads = back(one)
    assert np.abs(grads["router.weight"]).max() < 1e-13 * np.abs(grads["experts.down_proj"]).max()


def test_all_tokens_to_one_expert():
    one = case("one expert for all, softmax")
    out, (_, grads) = run(one), back(one)
    assert out["load"].tolist() == [0, 0, 11, 0, 0, 0, 0]
    assert out["losses"]["balance"] == pytest.approx(7.0, rel=1e-13)
    assert out["losses"]["load"] == pytest.approx(6.0, rel=1e-13)
    others = [0, 1, 3, 4, 5, 6]
    assert not grads["experts.down_proj"][others].any() and grads["experts.down_proj"][2].any()


@pytest.mark.parametrize("order", ["token", "choice", "score", "score_token", "probability"])
def test_capacity_limits(order):
    nothing, plenty = case(f"capacity 0 in the order {order}"), case(f"capacity 12 in the order {order}")
    assert not run(nothing)["y"].any() and not run(nothing)["kept"].any()
    dx, grads = back(without_losses(nothing))
    assert not dx.any() and not any(g.any() for g in grads.values())
    dropless = everything(altered(plenty, capacity_rule=None))
    for name, value in everything(plenty).items():
        assert np.array_equal(value, dropless[name]), name
    some = run(case(f"capacity 3 in the order {order}"))
    assert some["kept_load"].max() <= 3 and some["kept_load"].sum() < some["load"].sum() == 36


def test_more_places_never_drop_a_kept_pair():
    for order in ("token", "choice", "score", "score_token", "probability"):
        one = case(f"capacity 3 in the order {order}")
        kept = [run(altered(one, capacity=places))["kept"] for places in range(13)]
        assert all((b >= a).all() for a, b in zip(kept, kept[1:], strict=False))


def test_uniform_router_losses():
    one = make("limit uniform", {"k": 2}, E=7)
    one = with_params(one, router__weight=np.zeros((7, 5)))
    losses = run(one)["losses"]
    assert losses["balance"] == pytest.approx(1.0, rel=1e-15)
    assert losses["z"] == pytest.approx(np.log(7.0) ** 2, rel=1e-15)
    assert losses["importance"] == pytest.approx(2.5, rel=1e-14)  # all mass on 2 of 7


def test_k1_renormalised_gives_the_router_no_gradient():
    _, grads = back(case("k = 1 renormalised"))
    assert not grads["router.weight"].any()
    _, grads = back(altered(case("k = 1 renormalised"), renorm_eps=0.1))
    assert grads["router.weight"].any()


def test_groups_in_the_limit():
    one = CASES["groups by top two"]
    plain = run(altered(one, n_groups=1, topk_groups=1))["y"]
    assert np.array_equal(run(altered(one, topk_groups=4))["y"], plain)
    assert not np.array_equal(run(one)["y"], plain)


def test_the_selection_bias_only_selects():
    one = case("constant bias")
    free = {n: a for n, a in one.params.items() if n != "router.selection_bias"}
    assert np.array_equal(run(one)["y"], run(one._replace(params=free))["y"])
    biased = run(CASES["sigmoid with selection bias"])
    v = np.take_along_axis(biased["scores"], biased["idx"], -1)
    assert mismatch(biased["weight"], 2.5 * v / v.sum(-1, keepdims=True)) < EXACT
    assert not np.array_equal(v, -np.sort(-biased["scores"], -1)[:, :3])


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("padding") and "all tokens" not in n])
def test_padding_changes_nothing(name):
    one = CASES[name]
    real = one.mask.reshape(-1)
    draws = {n: a[real] for n, a in one.draws.items()}
    short = one._replace(x=one.x.reshape(-1, 5)[real], dy=one.dy.reshape(-1, 5)[real], mask=None, draws=draws)
    padded, alone = everything(one), everything(short)
    for key, value in padded.items():
        if key in ("y", "dx"):
            assert not value.reshape(-1, 5)[~real].any()
            value = value.reshape(-1, 5)[real]
        assert np.array_equal(value, alone[key]), key


def test_expert_choice_takes_the_best_tokens():
    one = CASES["expert choice"]
    out = run(one)
    assert out["capacity"] == 3 and out["load"].tolist() == [3] * 7
    for e in range(7):
        order = np.argsort(-out["scores"][:, e], kind="stable")
        assert out["tokens"][e].tolist() == order[:3].tolist()
    everyone = run(altered(one, capacity_rule="fixed", capacity=99))
    mixture = run(altered(one, select="topk", k=7, capacity_rule=None))
    assert mismatch(everyone["y"], mixture["y"]) < EXACT
    ties = run(case("all logits equal, expert choice"))
    assert (ties["tokens"] == np.arange(9)).all()


def test_no_tokens():
    for name in ("T = 0, k = 8", "T = 0 noisy", "T = 0 expert choice"):
        out, (dx, grads) = run(case(name)), back(case(name))
        assert out["y"].shape == dx.shape == case(name).x.shape
        assert set(out["losses"].values()) == {0.0} and not any(g.any() for g in grads.values())


def test_random_second_choice_limits():
    one = CASES["gshard random second"]
    assert run(one)["offered_load"].sum() < run(one)["load"].sum() == 38
    always = run(one._replace(draws={"second": np.zeros(19)}))
    assert np.array_equal(always["y"], run(altered(one, second="all"))["y"])
    never = run(one._replace(draws={"second": np.full(19, 1e9)}))
    assert not never["kept"][:, 1].any()


CHANGES = [
    ("softmax top-k renormalised", {"renorm": False}),
    ("softmax top-k renormalised", {"score": "sigmoid"}),
    ("softmax top-k renormalised with a large epsilon", {"renorm_form": "clamp"}),
    ("softmax top-k", {"score": "softmax_topk"}),
    ("softmax top-k", {"k": 2}),
    ("softmax top-k", {"activation": "gelu"}),
    ("input weighted", {"weight_on": "output"}),
    ("groups by maximum", {"group_score": "top2"}),
    ("groups by maximum", {"topk_groups": 3}),
    ("groups by top two", {"group_score": "max"}),
    ("noisy top-k", {"noisy": False}),
    ("noisy top-k unbiased variance", {"cv_ddof": 0}),
    ("noisy top-k unbiased variance", {"loss_logits": "clean"}),
    ("gshard renormalised before the drop", {"renorm_when": "after"}),
    ("gshard renormalised before the drop", {"drop_order": "token"}),
    ("gshard renormalised before the drop", {"balance_choices": "all"}),
    ("gshard random second", {"second": "all"}),
    ("gshard random second", {"second_gate": "score"}),
    ("capacity by ceiling", {"capacity_rule": "floor"}),
    ("capacity 3 in the order token", {"drop_order": "choice"}),
    ("capacity 3 in the order token", {"drop_order": "score_token"}),
    ("capacity 3 in the order choice", {"drop_order": "score"}),
    ("capacity 3 in the order score", {"drop_order": "probability"}),
    ("capacity 3 in the order score_token", {"drop_order": "probability"}),
    ("priority by score score", {"priority": "weight"}),
    ("padding in the middle, all tokens count", {"capacity_tokens": "real"}),
    ("expert choice", {"capacity_factor": 1.0}),
    ("importance of the scores", {"importance_of": "weight"}),
    ("scale only", {"scale": 1.0}),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=str)
def test_the_cases_tell_the_rules_apart(name, change):
    one = CASES[name]
    right, wrong = everything(one), everything(altered(one, **change))
    assert max(mismatch(wrong[key], right[key]) for key in right) > 1e-4


LEAVES = ["x", "router.weight", "experts.gate_up_proj", "experts.down_proj", "shared.down_proj"]


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_perturbed_input_is_seen(leaf):
    one = CASES["sigmoid with selection bias"]
    moved = (
        one._replace(x=one.x * 1.001)
        if leaf == "x"
        else one._replace(params={**one.params, leaf: one.params[leaf] * 1.001})
    )
    assert mismatch(everything(moved)["y"], everything(one)["y"]) > 1e-5


@pytest.mark.parametrize("settings", [TOPK, NOISY, CHOICE])
def test_inputs_are_never_written(settings):
    one = make("frozen", settings, shared=1, bias=True)
    before = [np.array(a) for a in (one.x, *one.params.values())]
    everything(one)
    assert all(np.array_equal(a, b) for a, b in zip(before, (one.x, *one.params.values()), strict=True))
