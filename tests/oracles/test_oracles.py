"""The oracles against autograd, differences, hand-worked numbers; each check with a control that must fail."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from .cases import GSHARD, V3, cases, make, rules
from .loops import (
    DEFAULTS,
    bias_update,
    capacity_of,
    complete,
    cv_squared,
    keep_pairs,
    moe_loop,
    moe_loop_backward,
    renormalise,
    second_choice_offered,
    select_experts,
    smooth_load_of_token,
)
from .margins import margin

CASES = {case.name: case for case in cases()}
TOLERANCE = 1e-13


def mismatch(found, wanted) -> float:
    """Largest difference relative to the greatest entry (absolute where the wanted array is zero to rounding)."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    if not wanted.size:
        return 0.0
    size = np.abs(wanted).max()
    return float(np.abs(found - wanted).max() / (size if size > 1e-12 else 1.0))


def everything(case):
    """y, losses, gradients of a case as one flat dict."""
    out = moe_loop(case.x, case.params, case.settings, case.mask, case.draws)
    dx, grads = moe_loop_backward(case.x, case.params, case.settings, case.dy, case.dlosses, case.mask, case.draws)
    return {"y": out["y"], "dx": dx, **{f"loss {n}": v for n, v in out["losses"].items()}, **grads}


# ---- autograd and differences ----


@pytest.mark.parametrize("name", CASES)
def test_loops_agree_with_autograd(name):
    pytest.importorskip("torch")
    from .torch_layer import moe_torch_backward

    case = CASES[name]
    y, losses, dx, grads = moe_torch_backward(
        case.x, case.params, case.settings, case.dy, case.dlosses, case.mask, case.draws
    )
    wanted = {"y": y, "dx": dx, **{f"loss {n}": v for n, v in losses.items()}, **grads}
    found = everything(case)
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert mismatch(found[key], value) < TOLERANCE, key
        if np.any(np.abs(value) > 1e-12):
            assert mismatch(np.asarray(found[key]) * 1.001, value) > 1e-4, f"control: {key}"


SMOOTH = [case.name for case in rules() if case.settings.get("activation") != "relu"]


@pytest.mark.parametrize("name", SMOOTH)
def test_backward_agrees_with_four_point_differences(name):
    """Needs no torch: one random direction through x and every parameter, inside one cell of the routing."""
    case = CASES[name]
    rng = np.random.default_rng(5)
    leaves = {"x": case.x, **case.params}
    direction = {n: rng.normal(size=a.shape) for n, a in leaves.items() if n != "router.selection_bias"}
    start = moe_loop(case.x, case.params, case.settings, case.mask, case.draws)
    decisions = "tokens" if start["idx"] is None else "idx"

    def along(h):
        moved = {n: a + h * direction[n] if n in direction else a for n, a in leaves.items()}
        x = moved.pop("x")
        out = moe_loop(x, moved, case.settings, case.mask, case.draws)
        assert np.array_equal(out[decisions], start[decisions]) and np.array_equal(out["kept"], start["kept"])
        return float((out["y"] * case.dy).sum() + sum(d * out["losses"][n] for n, d in case.dlosses.items()))

    h = 2e-4
    measured = (8.0 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12.0 * h)
    dx, grads = moe_loop_backward(case.x, case.params, case.settings, case.dy, case.dlosses, case.mask, case.draws)
    grads["x"] = dx
    computed = sum(float((grads[n] * d).sum()) for n, d in direction.items())
    scale = sum(float((np.abs(grads[n]) * np.abs(d)).sum()) for n, d in direction.items())
    assert abs(measured - computed) < 1e-8 * scale
    for n, d in direction.items():  # control: 0.1 % more of any one gradient is seen
        part = float((grads[n] * d).sum())
        if abs(part) > 1e-4 * scale:
            assert abs(measured - computed - 1e-3 * part) > 1e-8 * scale, n


def test_every_decision_is_clear_of_rounding():
    for case in CASES.values():
        assert margin(case) > 1e-8, case.name


def test_the_margin_sees_a_tie_made_by_rounding():
    case = CASES["bias of 1e3"]
    huge = case.params["router.selection_bias"] * 1e13
    assert margin(case._replace(params={**case.params, "router.selection_bias": huge})) == 0.0


# ---- a worked example: three tokens, D = E = 2, identity router ----

LN = math.log
X3 = np.array([[LN(3), 0.0], [0.0, LN(4)], [LN(2), 0.0]])  # z = x: p = (3/4, 1/4), (1/5, 4/5), (2/3, 1/3)
P3 = {
    "router.weight": np.eye(2),
    "experts.up_proj": np.ones((2, 1, 2)),  # hidden = ln 3, ln 4, ln 2
    "experts.down_proj": np.array([[[1.0], [2.0]], [[10.0], [0.0]]]),  # expert 0: (h, 2h); expert 1: (10h, 0)
}
S3 = {"k": 1, "gated": False, "activation": "relu", "losses": ("balance", "z", "importance", "load")}


def test_worked_example_top1():
    out = moe_loop(X3, P3, S3)
    y = [[0.75 * LN(3), 1.5 * LN(3)], [8.0 * LN(4), 0.0], [2 / 3 * LN(2), 4 / 3 * LN(2)]]
    assert out["idx"].tolist() == [[0], [1], [0]] and out["load"].tolist() == [2, 1]
    assert mismatch(out["y"], y) < 1e-15
    assert out["losses"]["balance"] == pytest.approx(277 / 270, rel=1e-15)
    assert out["losses"]["z"] == pytest.approx((LN(4) ** 2 + LN(5) ** 2 + LN(3) ** 2) / 3, rel=1e-15)
    assert out["losses"]["importance"] == pytest.approx((37 / 133) ** 2, rel=1e-14)  # I = (17/12, 4/5)
    assert out["losses"]["load"] == pytest.approx(1 / 9, rel=1e-15)  # n = (2, 1)
    assert mismatch(out["y"] * 1.001, y) > 1e-4


def test_worked_example_gradient():
    dy = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    _, grads = moe_loop_backward(X3, P3, {**S3, "losses": ()}, dy)
    dz0 = 3 / 16 * LN(3)  # dw = ⟨dy, o⟩ = ln 3, dz = p0 p1 dw (1, −1)
    dz2 = 2 / 9 * 2 * LN(2)
    row = [dz0 * LN(3) + dz2 * LN(2), 0.0]
    assert mismatch(grads["router.weight"], [row, [-row[0], 0.0]]) < 1e-15
    assert mismatch(grads["experts.down_proj"], [[[0.75 * LN(3)], [2 / 3 * LN(2)]], [[0.0], [0.0]]]) < 1e-15


def test_worked_example_capacity_and_top2():
    one = {**S3, "capacity_rule": "fixed", "capacity": 1}
    assert moe_loop(X3, P3, one)["kept"].tolist() == [[True], [True], [False]]
    assert moe_loop(X3, P3, {**one, "drop_order": "score"})["kept"].tolist() == [[True], [True], [False]]
    assert not moe_loop(X3, P3, one)["y"][2].any()
    dense = moe_loop(X3, P3, {**S3, "k": 2})["y"]
    assert mismatch(dense[0], [(0.75 + 2.5) * LN(3), 1.5 * LN(3)]) < 1e-15
    late = {**one, "k": 2, "renorm": True, "renorm_when": "after", "capacity": 2, "drop_order": "choice"}
    # first choices 0, 1, 0; then token 0 takes the last place of expert 1; tokens 1 and 2 find no place
    out = moe_loop(X3, P3, late)
    assert out["kept"].tolist() == [[True, True], [True, False], [True, False]]
    assert mismatch(out["weight"], [[0.75, 0.25], [1.0, 0.0], [1.0, 0.0]]) < 1e-15
    early = moe_loop(X3, P3, {**late, "renorm_when": "before"})["weight"]
    assert mismatch(early, [[0.75, 0.25], [0.8, 0.0], [2 / 3, 0.0]]) < 1e-15


def test_worked_example_expert_choice():
    rule = {**S3, "select": "expert_choice", "capacity_rule": "fixed", "capacity": 2, "losses": ()}
    out = moe_loop(X3, P3, rule)
    assert out["tokens"].tolist() == [[0, 2], [1, 2]]
    assert mismatch(out["combine"], [[0.75, 0.0], [0.0, 0.8], [2 / 3, 1 / 3]]) < 1e-15


def test_worked_example_noise():
    params = {**P3, "router.noise_weight": np.zeros((2, 2))}  # σ = ln 2 + 0.01
    sigma = LN(2) + 0.01
    noise = np.array([[0.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    rule = {**S3, "score": "softmax_topk", "noisy": True, "losses": ("load",)}
    out = moe_loop(X3, params, rule, draws={"noise": noise})
    assert out["idx"].tolist() == [[1], [1], [0]]  # h of token 0 = (ln 3, 2σ), 2σ > ln 3
    assert out["weight"].tolist() == [[1.0], [1.0], [1.0]]
    cdf = NormalDist().cdf
    load0 = cdf((LN(3) - 2 * sigma) / sigma) + cdf(-LN(4) / sigma) + cdf(LN(2) / sigma)
    load1 = cdf(-LN(3) / sigma) + cdf(LN(4) / sigma) + cdf(-LN(2) / sigma)
    wanted = ((load0 - load1) / (load0 + load1)) ** 2
    assert out["losses"]["load"] == pytest.approx(wanted, rel=1e-13)
    probability, _, at = smooth_load_of_token([5.0, 1.0, 2.0], [5.0, 1.0, 2.0], [1.0, 1.0, 1.0], 2)
    assert at == [1, 2, 1]  # θ of a chosen expert is the third h, of another the second
    assert probability == pytest.approx([cdf(4), cdf(-1), cdf(1)])


# ---- single rules by hand ----


def test_groups_by_hand():
    v2 = complete({"k": 2, "n_groups": 2, "topk_groups": 1, "group_score": "max"})
    v3 = {**v2, "group_score": "top2"}
    s = [0.9, 0.1, 0.1, 0.6, 0.5, 0.4]
    assert select_experts(s, None, v2) == [0, 1]
    assert select_experts(s, None, v3) == [3, 4]
    below = [-5.0, -5.0, -5.0, -0.8, -0.8, -0.8]  # kept scores are negative: closed groups count as −inf, not as 0
    assert select_experts(s, below, {**v3, "k": 3}) == [3, 4, 5]
    assert select_experts([0.5, 0.5, 0.2, 0.5], None, complete({"k": 2})) == [0, 1]


def test_drop_orders_by_hand():
    chosen = [[0, 1], [1, 0], [0, 2], [3, 4], [4, 3]]
    weight = [[0.6, 0.3], [0.5, 0.45], [0.8, 0.2], [0.9, 0.7], [0.6, 0.1]]
    all_in = [[True, True]] * 5
    wanted = {
        "token": {(0, 0), (0, 1), (2, 1), (3, 0), (3, 1)},
        "choice": {(0, 0), (1, 0), (2, 1), (3, 0), (4, 0)},
        "score": {(2, 0), (1, 0), (2, 1), (3, 0), (4, 0)},
        "score_token": {(2, 0), (2, 1), (0, 1), (3, 0), (3, 1)},
        "probability": {(2, 0), (1, 0), (2, 1), (3, 0), (3, 1)},
    }
    for order, pairs in wanted.items():
        kept = keep_pairs(chosen, all_in, weight, complete({"k": 2, "drop_order": order}), 5, 1)
        assert {(t, j) for t in range(5) for j in range(2) if kept[t][j]} == pairs, order
    assert len({frozenset(pairs) for pairs in wanted.values()}) == 5  # the example tells all five apart


def test_offset_by_kept_or_by_all_choices_keeps_the_same_pairs():
    """min(n1, C) + r < C exactly when n1 + r < C, so the two published offsets drop the same pairs."""
    rng = np.random.default_rng(7)
    for _ in range(200):
        k = int(rng.integers(1, 5))
        chosen = [rng.permutation(6)[:k].tolist() for _ in range(13)]
        offered = (rng.random((13, k)) < 0.8).tolist()
        priority = rng.random((13, k)).tolist()
        for order in ("choice", "score"):
            rule = complete({"k": k, "drop_order": order})
            runs = [
                keep_pairs(chosen, offered, priority, option, 6, 3) for option in (rule, {**rule, "drop_offset": "all"})
            ]
            assert runs[0] == runs[1]


def test_capacity_formulas():
    def of(n, e, **rule):
        return capacity_of(complete(rule), n, e)

    assert of(10, 4) is None
    assert of(10, 4, capacity_rule="switch", capacity_factor=1.25) == 3  # int(3.125)
    assert of(10, 4, capacity_rule="switch", capacity_factor=1.25, capacity_min=4) == 4
    assert of(10, 4, capacity_rule="switch", capacity_factor=99.0) == 10
    assert of(10, 4, k=2, capacity_rule="gshard") == 5 and of(11, 4, k=2, capacity_rule="gshard") == 5
    assert of(11, 4, k=2, capacity_rule="ceil", capacity_factor=1.0) == 6  # ceil(5.5)
    assert of(11, 4, k=2, capacity_rule="floor", capacity_factor=1.5) == 8  # int(8.25)
    assert of(10, 4, capacity_rule="expert_choice", capacity_factor=2.0) == 5
    assert of(10, 4, capacity_rule="expert_choice", capacity_factor=9.0) == 10
    assert of(10, 4, capacity_rule="fixed", capacity=0) == 0


def test_bias_update_by_hand():
    assert bias_update([0.5, 0.0, 0.25, 0.0], [6, 1, 3, 2], 0.125) == [0.375, 0.125, 0.25, 0.125]
    assert bias_update([0.5, 0.0, 0.25, 0.0], [6, 1, 3, 2], 0.125, centre=True) == [0.34375, 0.09375, 0.21875, 0.09375]
    assert bias_update([0.5, -1.0], [4, 4], 0.1) == [0.5, -1.0]


def test_second_choice_by_hand():
    assert second_choice_offered(0.1, 0.49, 0.2) and not second_choice_offered(0.1, 0.5, 0.2)
    assert second_choice_offered(0.3, 0.999999, 0.2) and not second_choice_offered(0.0, 0.0, 0.2)


def test_renormalise_by_hand():
    assert renormalise([3.0, 1.0], "add", 0.0) == [0.75, 0.25]
    assert renormalise([3.0, 1.0], "add", 4.0) == [0.375, 0.125]
    assert renormalise([3.0, 1.0], "clamp", 8.0) == [0.375, 0.125]
    assert renormalise([3.0, 1.0], "add", 0.0, [False, True]) == [0.0, 1.0]
    assert renormalise([3.0, 1.0], "add", 0.0, [False, False]) == [0.0, 0.0]


def test_cv_squared_by_hand():
    assert cv_squared([1.0, 3.0], 0, 0.0) == 0.25 and cv_squared([1.0, 3.0], 1, 0.0) == 0.5
    assert cv_squared([1.0, 3.0], 0, 4.0) == 0.125
    assert cv_squared([0.0, 0.0], 1, 0.0) == 0.0 and cv_squared([5.0], 1, 0.0) == 0.0


def test_unknown_settings_are_refused():
    with pytest.raises(KeyError):
        complete({"renormalise": True})
    with pytest.raises(ValueError):
        complete({"drop_order": "by luck"})
    assert complete({}) == {**DEFAULTS, "topk_groups": 1}
    assert complete(V3)["topk_groups"] == 2 and complete(GSHARD)["k"] == 2
    assert make("a name", {"k": 1}).x.flags.writeable is False
