"""Adversarial cases: each a name, x, parameters, settings, mask, draws and a cotangent, all read-only and seeded.

Router inputs and weights are dyadic (multiples of 1/16 of small size), so logits are exact in float64 whatever the
order of summation: ties are real ties, and an equal choice is demanded of every implementation.  `margins.margin` tells
how far the other comparisons (noise, groups, priorities) are from a change of mind.

    for case in cases():                     # or case("ties at the cut")
        oracle = moe_loop(case.x, case.params, case.settings, case.mask, case.draws)
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

LOSSES = ("balance", "z", "importance", "load")


class Case(NamedTuple):
    name: str
    x: np.ndarray  # (T, D) or (B, S, D)
    params: dict  # dotted names -> arrays
    settings: dict
    mask: np.ndarray | None
    draws: dict  # noise (T, E), second (T,), jitter (T, D)
    dy: np.ndarray  # like x
    dlosses: dict


def dyadic(rng, shape, limit=2.0):
    """Multiples of 1/16 in [−limit, limit]."""
    return rng.integers(-int(16 * limit), int(16 * limit) + 1, size=shape) / 16.0


def make(
    name,
    settings,
    T=11,
    D=5,
    F=6,
    E=7,
    *,
    shape=None,
    bias=False,
    router_bias=False,
    selection_bias=None,
    shared=0,
    shared_width=4,
    mask=None,
    change=None,
    cotangent="random",
) -> Case:
    """A case of the given size; `change(rng, x, params, draws)` edits the arrays before they are frozen."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = dyadic(rng, (T, D) if shape is None else (*shape, D))
    n_tokens = x[..., 0].size
    params = {"router.weight": dyadic(rng, (E, D), 1.0)}
    if router_bias:
        params["router.bias"] = dyadic(rng, (E,), 1.0)
    if selection_bias is not None:
        params["router.selection_bias"] = np.array(selection_bias(rng, E), dtype=np.float64)
    gated = settings.get("gated", True)

    def ffn(branch, lead, width):
        first, rows = ("gate_up_proj", 2 * width) if gated else ("up_proj", width)
        params[f"{branch}.{first}"] = rng.normal(size=(*lead, rows, D)) / np.sqrt(D)
        params[f"{branch}.down_proj"] = rng.normal(size=(*lead, D, width)) / np.sqrt(width)
        if bias:
            params[f"{branch}.{first}_bias"] = rng.normal(size=(*lead, rows)) / 2
            params[f"{branch}.down_proj_bias"] = rng.normal(size=(*lead, D)) / 2

    ffn("experts", (E if settings.get("tied") is None else max(settings["tied"]) + 1,), F)
    if shared:
        ffn("shared", (shared,), shared_width)
    draws = {}
    if settings.get("noisy"):
        params["router.noise_weight"] = dyadic(rng, (E, D), 1.0)
        draws["noise"] = rng.normal(size=(n_tokens, E))
    if settings.get("second") == "random":
        draws["second"] = rng.random(n_tokens)
    if change is not None:
        x = np.array(change(rng, x, params, draws))
    if cotangent == "random":
        dy = rng.normal(size=x.shape)
    elif cotangent == "linspace":
        dy = np.linspace(-1.0, 2.0, x.size).reshape(x.shape)
    else:
        dy = np.zeros(x.size)
        dy[x.size // 3] = 1.0
        dy = dy.reshape(x.shape)
    settings = {"losses": LOSSES, **settings}
    dlosses = {loss: float(rng.uniform(0.5, 2.0)) for loss in settings["losses"]}
    mask = None if mask is None else np.array(mask, dtype=bool)
    for a in (x, dy, mask, *params.values(), *draws.values()):
        if a is not None:
            a.setflags(write=False)
    return Case(name, x, params, settings, mask, draws, dy, dlosses)


# ---- edits ----


def one_expert_for_all(rng, x, params, draws):
    """Expert 2 of every token by far: all logits but its own fall by a constant feature."""
    weight = params["router.weight"]
    weight[:, 0] = -4.0
    weight[2, 0] = 4.0
    x[..., 0] = 8.0
    return x


def tied_experts(rng, x, params, draws):
    """Every other expert has the router row of expert 0: many exact ties, at the cut too."""
    params["router.weight"][::2, :] = params["router.weight"][0, :]
    return x


def all_logits_equal(rng, x, params, draws):
    params["router.weight"][:, :] = params["router.weight"][0, :]
    return x


def signed_zeros(rng, x, params, draws):
    """Logits of +0 and −0 are equal: lowest id first."""
    params["router.weight"][:, :] = 0.0
    params["router.weight"][1::2, :] = -0.0
    return x


def logits_of_200(rng, x, params, draws):
    """z = ±200 by turns, plus a little: no score may overflow, none may become NaN."""
    weight = params["router.weight"]
    weight[:, 0] = np.where(np.arange(len(weight)) % 2, 100.0, -100.0)
    x[..., 0] = np.where(np.arange(x[..., 0].size).reshape(x[..., 0].shape) % 2, 2.0, -2.0)
    return x


def scores_near_zero(rng, x, params, draws):
    """Sigmoid scores of about 1e-18: renormalised weights of ordinary size, any epsilon shows."""
    params["router.weight"][:, 0] = -5.0
    x[..., 0] = 8.25
    return x


def duplicated_tokens(rng, x, params, draws):
    half = len(x) // 2
    x[half : 2 * half] = x[:half]
    return x


def priorities_reversed(rng, x, params, draws):
    """Later tokens are surer: the order by score is the reverse of the order by position."""
    return x * (np.arange(1, len(x) + 1)[:, None] / 4.0)


def zero_tokens(rng, x, params, draws):
    return x * 0.0


def zero_router(rng, x, params, draws):
    params["router.weight"][:, :] = 0.0
    return x


def jittered(rng, x, params, draws):
    draws["jitter"] = 1.0 + dyadic(rng, x.shape, 0.25)
    return x


def evaluation(rng, x, params, draws):
    draws.clear()
    return x


TOPK = {"k": 3, "renorm": True}
SIGMOID = {"score": "sigmoid", "k": 3, "renorm": True, "renorm_eps": 1e-20, "scale": 2.5}
NOISY = {"score": "softmax_topk", "noisy": True, "k": 3}
SWITCH = {"k": 1, "capacity_rule": "switch", "capacity_factor": 1.25, "gated": False, "activation": "relu"}
GSHARD = {
    "k": 2,
    "renorm": True,
    "renorm_eps": 1e-9,
    "capacity_rule": "gshard",
    "drop_order": "choice",
    "balance_choices": "first",
    "gated": False,
    "activation": "relu",
}
V2 = {"k": 3, "n_groups": 4, "topk_groups": 2, "group_score": "max", "scale": 16.0}
V3 = {**SIGMOID, "n_groups": 4, "topk_groups": 2, "group_score": "top2"}
CHOICE = {"select": "expert_choice", "capacity_rule": "expert_choice", "capacity_factor": 2.0}


def any_bias(rng, n):
    return dyadic(rng, (n,), 1.0)


def negative_bias(rng, n):
    return -2.0 + dyadic(rng, (n,), 0.5)


def constant_bias(rng, n):
    return np.full(n, 0.5)


def bias_of_1e3(rng, n):
    return np.where(np.arange(n) % 3 == 1, 1e3, -1e3)


def rules():
    """Each rule of routing once, at ordinary sizes."""
    yield make("softmax top-k", {"k": 3})
    yield make("softmax top-k renormalised", TOPK, router_bias=True, bias=True)
    yield make("softmax top-k renormalised with a large epsilon", {**TOPK, "renorm_eps": 0.125, "scale": 1.5})
    yield make("softmax top-k clamped", {"k": 2, "renorm": True, "renorm_form": "clamp", "renorm_eps": 0.6}, E=8)
    yield make("softmax after top-k", {"score": "softmax_topk", "k": 3}, router_bias=True, bias=True)
    yield make("sigmoid plain", {"score": "sigmoid", "k": 3}, shared=1)
    yield make("sigmoid with selection bias", SIGMOID, E=8, selection_bias=any_bias, shared=2)
    yield make("softmax with selection bias", {"k": 3, "scale": 1.5}, selection_bias=any_bias)
    yield make("groups by maximum", V2, E=8)
    yield make("groups by top two", V3, E=12, selection_bias=any_bias, shared=1)
    yield make("groups of one expert", {**V3, "k": 2, "n_groups": 8, "topk_groups": 3}, E=8, selection_bias=any_bias)
    yield make("one group", {**V3, "n_groups": 1, "topk_groups": 1}, E=12, selection_bias=any_bias)
    yield make("all groups", {**V3, "topk_groups": 4}, E=12, selection_bias=any_bias)
    yield make("input weighted", {"score": "sigmoid", "k": 1, "weight_on": "input"}, shared=1)
    yield make("noisy top-k", NOISY)
    yield make("noisy top-k unbiased variance", {**NOISY, "cv_ddof": 1, "cv_eps": 1e-10, "loss_logits": "noisy"})
    yield make("noisy top-k in evaluation", NOISY, change=evaluation)
    yield make("noisy top-k of all experts", {**NOISY, "k": 5}, E=5, D=4)
    yield make("switch", SWITCH, bias=True)
    yield make("switch with jitter", SWITCH, change=jittered)
    yield make("switch with a minimum", {**SWITCH, "capacity_factor": 0.25, "capacity_min": 4})
    yield make("gshard renormalised before the drop", GSHARD, T=19)
    yield make(
        "gshard renormalised after the drop",
        {**GSHARD, "renorm_when": "after", "renorm_form": "clamp", "renorm_eps": 2.0**-52, "drop_offset": "all"},
        T=19,
    )
    yield make("gshard random second", {**GSHARD, "second": "random", "second_threshold": 0.6}, T=19)
    yield make(
        "gshard random second by raw score",
        {**GSHARD, "second": "random", "second_gate": "score", "renorm_when": "after", "second_threshold": 0.4},
        T=19,
    )
    yield make("capacity by ceiling", {**TOPK, "capacity_rule": "ceil", "capacity_factor": 0.8}, T=13)
    yield make("capacity by floor", {**TOPK, "capacity_rule": "floor", "capacity_factor": 0.8}, T=13)
    yield make("expert choice", CHOICE)
    yield make("expert choice by sigmoid", {**CHOICE, "score": "sigmoid", "scale": 0.5}, shared=1)
    yield make("importance of the scores", {"k": 2, "importance_of": "score", "cv_ddof": 1})


def experts():
    for name in ("relu", "relu_squared", "gelu", "gelu_tanh", "silu"):
        yield make(f"mlp {name}", {"k": 2, "gated": False, "activation": name}, T=6, bias=name != "gelu", E=4, D=3)
        yield make(f"glu {name}", {"k": 2, "activation": name}, T=6, bias=name == "silu", E=4, D=3, shared=1)
    yield make("square F = D", TOPK, D=5, F=5)
    yield make("square F = D mlp", {**TOPK, "gated": False}, D=5, F=5, bias=True)
    yield make("square 2F = D", TOPK, D=6, F=3)
    yield make("F = 1 and D = 1", {"k": 2}, D=1, F=1)


def sizes():
    for tokens in (0, 1, 2, 7, 8):
        yield make(f"T = {tokens}, k = 8", {"k": 8, "renorm": True}, T=tokens, E=9, D=3, F=4)
        yield make(f"T = {tokens}, k = 8, capacity", {**GSHARD, "k": 8}, T=tokens, E=9, D=3, F=4)
    for n_experts, k in ((1, 1), (7, 1), (7, 2), (7, 7), (8, 2), (8, 8), (60, 1), (60, 8), (60, 60)):
        for score in ("softmax", "sigmoid", "softmax_topk"):
            small = {"score": score, "k": k, "renorm": score != "softmax"}
            yield make(f"E = {n_experts}, k = {k}, {score}", small, T=5, D=3, F=2, E=n_experts)
    yield make("T = 0 noisy", NOISY, T=0)
    yield make("T = 0 expert choice", CHOICE, T=0)
    yield make("T = 1 noisy", NOISY, T=1)
    yield make("E = 1 noisy", {**NOISY, "k": 1}, E=1)
    yield make("E = 1 expert choice", CHOICE, E=1)


def crowds():
    """One expert takes all (E − 1 or more are empty), ties, extreme logits, biases."""
    for name, rule in (("softmax", {"k": 1}), ("renormalised", TOPK), ("sigmoid", SIGMOID), ("switch", SWITCH)):
        yield make(f"one expert for all, {name}", rule, change=one_expert_for_all)
    for name, rule in (
        ("softmax", {"k": 3}),
        ("renormalised", TOPK),
        ("softmax after top-k", {"score": "softmax_topk", "k": 3}),
        ("sigmoid", SIGMOID),
        ("switch", SWITCH),
        ("gshard", GSHARD),
    ):
        yield make(f"ties at the cut, {name}", rule, T=9, change=tied_experts)
        yield make(f"all logits equal, {name}", rule, T=9, E=18, change=all_logits_equal)
        yield make(f"logits of 200, {name}", rule, T=9, change=logits_of_200)
    yield make("ties between groups", V3, E=12, selection_bias=constant_bias, change=tied_experts)
    yield make("all logits equal, groups", V2, E=8, change=all_logits_equal)
    yield make("all logits equal, expert choice", CHOICE, E=4, T=18, change=all_logits_equal)
    yield make("signed zeros", TOPK, change=signed_zeros)
    yield make("signed zeros, expert choice", CHOICE, T=18, change=signed_zeros)
    yield make("zero tokens", TOPK, change=zero_tokens)
    yield make("zero router, noisy", NOISY, change=zero_router)
    yield make("scores near 1e-18", {**SIGMOID, "renorm_eps": 0.0}, change=scores_near_zero)
    yield make("scores near 1e-18 with epsilon", SIGMOID, change=scores_near_zero)
    yield make("negative bias in groups", V3, E=12, selection_bias=negative_bias)
    yield make("constant bias", SIGMOID, E=8, selection_bias=constant_bias)
    yield make("bias of 1e3", SIGMOID, E=8, selection_bias=bias_of_1e3)
    yield make("bias of 1e3, softmax", {"k": 3}, E=8, selection_bias=bias_of_1e3)


MASKS = {
    "in the middle": [[1, 1, 0, 0, 1, 1], [1, 0, 1, 0, 1, 1], [1, 1, 1, 0, 1, 1]],
    "at both ends": [[0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]],
    "a whole row": [[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]],
    "everything": [[0] * 6] * 3,
    "nothing": [[1] * 6] * 3,
}


def padding():
    for where, mask in MASKS.items():
        for name, rule, more in (
            ("softmax", TOPK, {"shared": 1}),
            ("noisy", NOISY, {}),
            ("gshard", {**GSHARD, "capacity_factor": 1.0}, {"bias": True}),
            ("all tokens count", {**GSHARD, "capacity_tokens": "all"}, {}),
            ("expert choice", CHOICE, {}),
        ):
            yield make(f"padding {where}, {name}", rule, shape=(3, 6), mask=mask, **more)


def capacities():
    for order in ("token", "choice", "score", "score_token", "probability"):
        for places in (0, 1, 3, 12, 99):
            rule = {"k": 3, "renorm": True, "capacity_rule": "fixed", "capacity": places, "drop_order": order}
            yield make(f"capacity {places} in the order {order}", rule, T=12, E=5, D=4)
        after = {"k": 3, "renorm": True, "renorm_when": "after", "capacity_rule": "fixed", "capacity": 4}
        after = {**after, "drop_order": order, "score": "sigmoid", "renorm_eps": 1e-20, "scale": 2.5}
        yield make(f"renormalised after the drop {order}", after, T=12, E=5, D=4, shared=1)
        rule = {"k": 2, "capacity_rule": "fixed", "capacity": 3, "drop_order": order}
        yield make(f"priorities reversed {order}", rule, T=12, E=5, D=4, change=priorities_reversed)
        yield make(f"priority by score {order}", {**rule, "renorm": True, "priority": "score"}, T=17, E=5, D=4)
        yield make(f"duplicated tokens {order}", rule, T=12, E=5, D=4, change=duplicated_tokens)
    for places in (0, 1, 12, 99):
        rule = {"select": "expert_choice", "capacity_rule": "fixed", "capacity": places}
        yield make(f"expert choice of {places}", rule, T=12, E=5, D=4)


def cotangents():
    for kind in ("random", "one-hot", "linspace"):
        for name, rule in (("softmax", {"k": 2}), ("renormalised", TOPK), ("gshard", GSHARD)):
            yield make(f"cotangent {kind}, {name}", rule, cotangent=kind, bias=True)
    yield make("k = 1 renormalised", {"k": 1, "renorm": True, "losses": ()})
    yield make("duplicated tokens", TOPK, T=10, change=duplicated_tokens)
    yield make("scale only", {"k": 2, "scale": -3.5})


def skipping():
    """Small choices are dropped before anything else is: with every rule that drops or renormalises."""
    for share in (0.0, 0.25, 0.55, 1.0):
        yield make(f"skip below {share}", {**TOPK, "skip": share}, T=13, bias=True)
        yield make(f"skip below {share}, plain", {"k": 3, "skip": share, "scale": -1.5}, T=13, shared=1)
    yield make("skip with epsilon", {**TOPK, "skip": 0.55, "renorm_eps": 0.125}, T=13)
    yield make("skip beyond the first", {**SIGMOID, "skip": 1.25}, T=13, E=8, selection_bias=any_bias)
    yield make("skip in groups", {**V3, "skip": 0.8}, T=13, E=12, selection_bias=any_bias)
    yield make("skip with noise", {**NOISY, "renorm": True, "skip": 0.55, "losses": ("balance", "z", "load")}, T=13)
    yield make("skip ties at the cut", {**TOPK, "skip": 1.0}, T=9, change=tied_experts)
    yield make("skip, random second", {**GSHARD, "second": "random", "second_threshold": 0.6, "skip": 0.4}, T=19)
    few = {**TOPK, "skip": 0.4, "capacity_rule": "fixed"}
    for order in ("token", "choice", "score", "probability"):
        for when in ("before", "after"):
            rule = {**few, "capacity": 4, "priority": "score", "drop_order": order, "renorm_when": when}
            yield make(f"skip, then capacity in the order {order}, {when}", rule, T=12, E=5, D=4)
    yield make("skip with padding", {**few, "capacity": 3}, shape=(3, 6), mask=MASKS["in the middle"])


def ties():
    """Several ids of the router stand for one stored expert, so one token may meet it twice."""
    three = (1, 0, 1, 2, 1, 0, 2)
    yield make("tied experts", {**TOPK, "tied": three}, bias=True, shared=1)
    yield make("tied experts, mlp", {"k": 3, "tied": three, "gated": False, "activation": "gelu"}, bias=True)
    yield make("one stored expert", {"k": 3, "tied": (0,) * 7})
    yield make("each its own", {**TOPK, "tied": (3, 1, 4, 0, 6, 5, 2)})
    yield make("tied experts with capacity of each id", {**GSHARD, "tied": three}, T=19)
    yield make("tied experts, skipping", {**TOPK, "tied": three, "skip": 0.4}, shape=(3, 6), mask=MASKS["at both ends"])
    yield make("tied experts choose", {**CHOICE, "tied": three}, T=18)
    yield make("tied experts in groups", {**V3, "tied": (0, 1, 2, 3, 4, 2, 3, 1, 0, 5, 5, 6)}, E=12)


FAMILIES = (rules, experts, sizes, crowds, padding, capacities, cotangents, skipping, ties)


def cases() -> list[Case]:
    """Every case, names unique."""
    found = [one for family in FAMILIES for one in family()]
    assert len({one.name for one in found}) == len(found)
    return found


def case(name: str) -> Case:
    return next(one for one in cases() if one.name == name)
