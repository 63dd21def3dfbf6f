"""The defects put back, one for each test of what shipped: a test that a defect does not fail is none."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend import tree
from pymoe.backend.errors import PymoeError
from pymoe.moe import plan, weigh
from pymoe.moe.losses import balance
from pymoe.moe.select import group_limited, topk
from pymoe.ops import sqrt_softplus

from ..oracles.cases import TOPK
from . import (
    broken,
    test_shipped_bugs,
    test_shipped_bugs_cases,
    test_shipped_bugs_more,
    test_shipped_bugs_settings,
)
from .test_shipped_bugs_cases import rounded_to_bf16

MODULES: tuple[ModuleType, ...] = (
    test_shipped_bugs,
    test_shipped_bugs_cases,
    test_shipped_bugs_more,
    test_shipped_bugs_settings,
)
TESTS: dict[str, Callable[..., None]] = {
    n: f for m in MODULES for n, f in vars(m).items() if n.startswith("test_") and callable(f)
}
FAILURES = (AssertionError, PymoeError, pytest.fail.Exception)


def exponentials(z: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def logits(x: Any, p: Any) -> Any:
    return x.reshape(-1, x.shape[-1]) @ p["router"]["weight"].T + p["router"].get("bias", 0.0)


def chosen(a: Any, out: Any) -> Any:
    return np.take_along_axis(a, out.routing.idx, 1)


def pooled() -> broken.Break:
    """The balance loss of all layers that were run so far, as one."""
    counts: list[Any] = []
    means: list[Any] = []

    def change(out: Any, x: Any, p: Any, cfg: Any) -> dict[str, Any]:
        counts.append(out.routing.load / out.routing.load.sum())
        means.append(exponentials(logits(x, p)).mean(0))
        return {"loss balance": cfg.n_experts * np.sum(np.mean(counts, 0) * np.mean(means, 0))}

    return broken.output(change)


def masked_with_zero(right: Any) -> Any:
    def select(c: Any, cfg: Any, real_token: Any = None) -> Any:
        size = cfg.n_experts // cfg.n_group
        best = np.sort(c.reshape(len(c), cfg.n_group, size), axis=2)[:, :, -2:].sum(2)
        groups = np.argsort(-best, axis=1, kind="stable")[:, : cfg.topk_group]
        inside = (np.arange(cfg.n_experts)[None, :, None] // size == groups[:, None, :]).any(2)
        return np.argsort(-np.where(inside, c, 0.0), axis=1, kind="stable")[:, : cfg.k], None

    return select


def biased_weights(out: Any, x: Any, p: Any, cfg: Any) -> dict[str, Any]:
    s = 1 / (1 + np.exp(-logits(x, p))) + p["router"]["selection_bias"]
    v = chosen(s, out)
    return {"weight": cfg.router.scale * v / v.sum(1, keepdims=True)}


def alone(out: Any) -> Any:
    return np.bincount(out.routing.idx[:, 0], minlength=len(out.routing.load)) == 0


def lexicographic(x: Any, p: Any, draws: Any) -> Any:
    order = sorted(range(len(p["router"]["weight"])), key=lambda e: f"expert_{e}")
    return x, {**p, "experts": {n: a[order] for n, a in p["experts"].items()}}


def transposed(x: Any, p: Any, draws: Any) -> Any:
    square = {n: np.swapaxes(a, 1, 2) for n, a in p["experts"].items() if a.shape[1] == a.shape[2]}
    return x, {**p, "experts": {**p["experts"], **square}}


def other_ties(right: Any) -> Any:
    """The highest id of a tie."""
    return lambda c, cfg, *a, **k: (c.shape[1] - 1 - right(np.ascontiguousarray(c[:, ::-1]), cfg)[0], None)


def rounded(right: Any) -> Any:
    return lambda c, cfg, *a, **k: right(rounded_to_bf16(c), cfg, *a, **k)


def wrapped_ids(n: int) -> broken.Break:
    return broken.replaced(plan, "make", lambda right: lambda idx, kept, e: right(idx % n, kept, e))


def plan_of(change: Callable[..., Any]) -> broken.Break:
    return broken.replaced(plan, "make", lambda right: lambda idx, kept, e: change(right(idx, kept, e), idx, kept))


def drifting() -> broken.Break:
    calls: list[int] = []

    def change(out: Any, x: Any, p: Any, cfg: Any) -> dict[str, Any]:
        calls.append(1)
        return {"y": out.y * (1 + 1e-15 * len(calls))}

    return broken.output(change)


def always_noisy(right: Any) -> Any:
    def forward(x: Any, p: Any, cfg: Any, mask: Any = None, draws: Any = None, **k: Any) -> Any:
        return right(x, p, cfg, mask=mask, draws=moe.draw(np.random.default_rng(1), cfg, x.shape[0]), **k)

    return forward


def of_first(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Break a function in its first argument."""
    return lambda right: lambda first, *a, **k: right(change(first), *a, **k)


def of_result(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda right: lambda *a, **k: change(right(*a, **k))


def quotient(right: Any) -> Any:
    """√softplus as it is written, and its gradient as σ(x) / (2 s)."""

    def forward(x: Any) -> Any:
        with np.errstate(all="ignore"):
            s = np.sqrt(np.log1p(np.exp(x)))
            return s, right(x)[1]._replace(slope=1 / (1 + np.exp(-x)) / (2 * s))

    return forward


def interleaved(x: Any, p: Any, draws: Any) -> Any:
    w = p["experts"]["gate_up_proj"]
    return x, {**p, "experts": {**p["experts"], "gate_up_proj": np.concatenate([w[:, ::2], w[:, 1::2]], 1)}}


def with_scale(out: Any, x: Any, p: Any, cfg: Any) -> dict[str, Any]:
    scale = p["router"].get("expert_scale")
    return {} if scale is None else {"weight": out.routing.weight * scale[out.routing.idx]}


LOSS = "loss balance"
NOT_A_NUMBER = broken.output(lambda out, x, p, cfg: {"weight": out.routing.weight * np.nan, "y": out.y * np.nan})
ROUTER = broken.scaled("router.weight")

CONTROLS: dict[str, tuple[dict[str, Any], broken.Break]] = {
    # test_shipped_bugs
    "test_l_layers_that_collapse_on_different_experts_are_each_unbalanced": ({}, pooled()),
    "test_l_the_balance_loss_is_of_one_softmax": ({}, broken.replaced(balance, "forward", of_first(exponentials))),
    "test_g_the_losses_reach_the_router": (
        {"loss": "balance"},
        broken.replaced(moe, "backward", lambda right: lambda dy, cache, dlosses=None: right(dy, cache, {})),
    ),
    "test_p_padding_counts_nowhere": (
        {"where": "middle", "rule": "softmax"},
        broken.replaced(moe, "forward", lambda right: lambda *a, mask=None, **k: right(*a, **k)),
    ),
    "test_d_a_dropped_token_gets_zero_not_itself": (
        {},
        broken.output(lambda out, x, p, cfg: {"y": np.where(out.routing.kept.any(1)[:, None], out.y, 0.3 * x)}),
    ),
    "test_r_routing_is_not_transposed": (
        {},
        broken.replaced(
            topk, "select", lambda _: lambda c, cfg, *a: (np.argsort(-c, axis=0, kind="stable")[:, : cfg.k], None)
        ),
    ),
    "test_d_capacity_is_not_a_no_op": ({}, broken.settings(capacity=moe.Capacity(factor=50.0))),
    "test_r_jitter_stays_in_the_router": (
        {},
        broken.inputs(lambda x, p, draws: (x if draws.jitter is None else x * draws.jitter, p)),
    ),
    "test_r_groups_are_masked_with_minus_infinity": ({}, broken.replaced(group_limited, "select", masked_with_zero)),
    "test_g_an_expert_without_tokens_gets_exactly_zero": (
        {"score": "softmax"},
        broken.gradient(lambda g: {n: a + 1e-30 for n, a in g.items() if n.startswith("experts")}),
    ),
    "test_s_the_balance_loss_of_a_uniform_router_is_one_for_every_k": (
        {},
        broken.output(lambda out, x, p, cfg: {LOSS: out.losses["balance"] * cfg.k / 2}),
    ),
    "test_l_sigmoid_routing_balances_sigmoid_scores": (
        {},
        broken.replaced(balance, "forward", of_first(lambda s: s / (1 - s))),
    ),
    "test_r_the_selection_bias_is_not_in_the_weights": ({}, broken.output(biased_weights)),
    "test_n_scores_are_not_recovered_by_subtracting_the_bias": (
        {},
        broken.output(lambda out, x, p, cfg: {"weight": (out.routing.weight + 64.0) - 64.0}),
    ),
    "test_l_the_balance_loss_counts_what_the_scores_choose_not_the_bias": (
        {},
        broken.output(
            lambda out, x, p, cfg: {LOSS: np.sum(out.routing.load * 1 / (1 + np.exp(-logits(x, p))).mean(0))}
        ),
    ),
    "test_d_capacity_beyond_the_number_of_tokens": (
        {},
        broken.replaced(moe.capacity, "keep", of_result(lambda kept: kept & (np.arange(len(kept)) > 0)[:, None])),
    ),
    "test_g_k1_renormalised_teaches_the_router_nothing": (
        {},
        broken.gradient(lambda g: {"router.weight": g["router.weight"] + 7e-10}),
    ),
    "test_d_all_logits_negative_drop_nobody_by_sign": (
        {},
        broken.output(lambda out, x, p, cfg: {"kept": out.routing.kept & (chosen(logits(x, p), out) > 0)}),
    ),
    "test_n_every_chosen_score_underflows": (
        {},
        broken.output(lambda out, x, p, cfg: {"weight": out.routing.weight / out.routing.weight.sum(1, keepdims=True)}),
    ),
    "test_s_the_scale_is_applied_once": ({}, broken.settings(scale=lambda scale: scale**2)),
    "test_s_weights_without_renormalisation_are_scores_not_logits": (
        {},
        broken.output(lambda out, x, p, cfg: {"weight": chosen(logits(x, p), out)}),
    ),
    "test_i_more_than_ten_and_more_than_255_experts": ({}, broken.inputs(lexicographic)),
    "test_i_square_weights_are_not_transposed": ({"size": (4, 4)}, broken.inputs(transposed)),
    "test_t_no_cotangent_hides_a_fault": ({"kind": "linspace"}, ROUTER),
    "test_p_duplicated_and_swapped_tokens": (
        {},
        broken.output(lambda out, x, p, cfg: {"y": out.y + 1e-3 * np.roll(x, 1, axis=0)}),
    ),
    "test_b_evaluation_has_no_noise_but_the_same_load_loss_form": (
        {},
        broken.output(lambda out, x, p, cfg: {"loss load": out.losses["load"] * np.nan}),
    ),
    "test_r_selection_on_noisy_logits_weights_of_the_noisy_softmax": (
        {},
        broken.output(lambda out, x, p, cfg: {"weight": chosen(exponentials(logits(x, p)), out)}),
    ),
    # test_shipped_bugs_cases
    "test_as_few_tokens_as_choices": ({"tokens": 2, "rule": "gshard"}, broken.scaled("x")),
    "test_any_number_of_experts_and_choices": ({"experts": 288, "k": 8}, wrapped_ids(256)),
    "test_ids_beyond_16_bits": (
        {},
        broken.replaced(topk, "select", of_result(lambda found: (found[0].astype(np.int16).astype(np.int64), None))),
    ),
    "test_offsets_beyond_32_bits": ({}, wrapped_ids(2**31 // (2 * 128 * 256))),
    "test_one_row_more_or_less_than_a_tile": (
        {"tile": 4},
        plan_of(lambda made, idx, kept: made._replace(slot=np.where(made.slot == made.slot.max(), -1, made.slot))),
    ),
    "test_every_pair_swapped": (
        {},
        broken.output(lambda out, x, p, cfg: {"y": out.y * (1 + 1e-9 * np.arange(7))[:, None]}),
    ),
    "test_logits_rounded_to_bf16_tie_often_and_the_lowest_id_wins": (
        {"rule": "softmax"},
        broken.replaced(topk, "select", other_ties),
    ),
    "test_a_constant_selection_bias_changes_no_bit": ({"shift": 64.0}, broken.replaced(topk, "select", rounded)),
    "test_n_a_selection_bias_keeps_its_digits": ({}, broken.replaced(topk, "select", rounded)),
    "test_l_scores_of_1e_minus_18_still_teach_the_router": (
        {},
        broken.replaced(balance, "forward", of_first(lambda s: s + 1e-20)),
    ),
    "test_a_nan_row_raises_or_stays_in_its_row": ({"value": np.nan}, broken.settings(nonfinite="propagate")),
    "test_logits_of_200_in_single_precision": ({"score": "softmax"}, NOT_A_NUMBER),
    "test_l_the_cv_losses_at_perfect_balance_have_a_gradient": ({}, broken.scaled("router.weight", np.nan)),
    "test_a_recomputed_forward_has_the_same_bits": ({"rule": TOPK}, drifting()),
    "test_evaluation_is_the_layer_without_draws": ({}, broken.replaced(moe, "forward", always_noisy)),
    "test_ids_of_any_integer_type_make_the_same_plan": (
        {"dtype": np.int8},
        plan_of(lambda made, idx, kept: made._replace(pair=made.pair.astype(idx.dtype))),
    ),
    # test_shipped_bugs_more
    "test_l_the_z_loss_is_of_the_logits": (
        {},
        broken.output(
            lambda out, x, p, cfg: {"loss z": np.mean(np.log(np.exp(exponentials(logits(x, p))).sum(1)) ** 2)}
        ),
    ),
    "test_r_deepseek_v2_chooses_the_sets_of_its_rule": (
        {},
        broken.settings(select="topk", n_group=1, topk_group=1),
    ),
    "test_s_deepseek_v3_renormalises_then_scales": ({}, broken.settings(norm="none")),
    "test_r_a_preset_scores_as_its_paper_does": ({"name": "deepseek_v3"}, broken.settings(score="softmax")),
    "test_b_the_bias_moves_by_the_load_of_the_whole_step_once": (
        {},
        broken.replaced(moe, "bias_update", lambda _: lambda b, n, rate: b + rate * (n.mean() - n)),
    ),
    "test_n_a_tied_row_chooses_the_same_wherever_it_stands": ({}, broken.replaced(topk, "select", other_ties)),
    "test_l_the_balance_loss_of_first_choices_in_closed_form": ({}, broken.settings(balance_choices="all")),
    "test_d_every_kept_pair_has_a_place_of_its_own": (
        {},
        plan_of(lambda made, idx, kept: made._replace(slot=np.where(kept, np.minimum(made.slot, 20), -1))),
    ),
    "test_n_the_epsilon_of_the_normalisation_is_in_both_directions": ({"eps": 0.125}, broken.settings(eps=0.0)),
    "test_r_gate_and_up_are_told_apart": ({}, broken.inputs(interleaved)),
    "test_d_a_duplicated_token_is_two_tokens": (
        {},
        broken.output(lambda out, x, p, cfg: {"load": out.routing.load // 2 if len(x) == 2 else out.routing.load}),
    ),
    "test_d_drop_orders_are_told_apart": (
        {},
        broken.settings(capacity=lambda c: moe.Capacity(factor=c.factor, order="token")),
    ),
    "test_g_negative_weights_keep_their_gradient": (
        {"scale": -2.0},
        broken.replaced(weigh, "backward", of_first(lambda dg: np.maximum(dg, 0.0))),
    ),
    "test_g_no_loss_ends_the_backward_of_another": (
        {},
        broken.replaced(
            moe,
            "backward",
            lambda right: (
                lambda dy, cache, dlosses=None: right(
                    dy, cache, {} if dlosses and not all(dlosses.values()) else dlosses
                )
            ),
        ),
    ),
    "test_t_small_numbers_are_judged_by_their_own_size": (
        {"power": -40},
        broken.gradient(lambda g: {"experts.gate_up_proj": g["experts.gate_up_proj"] + 1e-16}),
    ),
    "test_g_dx_at_sizes_that_are_no_tile": ({"tokens": 17, "d": 33, "f": 9}, broken.scaled("x", 1.5)),
    "test_d_the_shared_expert_is_not_forgotten": (
        {},
        broken.inputs(
            lambda x, p, draws: (x, {**p, "shared": tree.map(np.zeros_like, p["shared"])} if "shared" in p else p)
        ),
    ),
    "test_g_dispatch_and_combine_are_adjoint": (
        {},
        plan_of(lambda made, idx, kept: made._replace(slot=made.pair.reshape(idx.shape))),
    ),
    "test_l_the_z_loss_does_not_see_the_number_of_pieces": (
        {},
        broken.output(lambda out, x, p, cfg: {"loss z": out.losses["z"] * len(x)}),
    ),
    # test_shipped_bugs_settings
    "test_n_the_square_root_of_softplus_has_no_0_over_0": (
        {"z": -800.0},
        broken.replaced(sqrt_softplus, "forward", quotient),
    ),
    "test_r_gpt_oss_weighs_by_a_softmax_of_the_chosen_logits": ({}, broken.settings(score_at="all")),
    "test_n_a_table_may_choose_experts_whose_scores_underflow": ({}, NOT_A_NUMBER),
    "test_s_the_scale_of_an_expert_is_applied_once": ({"sign": -1.0}, broken.output(with_scale)),
    "test_l_the_balance_loss_of_pieces_with_the_counts_of_all_is_that_of_the_whole": (
        {},
        broken.replaced(moe, "forward", lambda right: lambda *a, given=None, **k: right(*a, **k)),
    ),
    "test_l_each_sequence_is_balanced_by_itself": ({}, broken.settings(balance_over="batch")),
    "test_r_the_limit_of_a_gated_expert_is_kept": ({"limit": 1.0}, broken.settings(limit=None)),
    "test_r_a_limit_that_is_hit_exactly": ({}, broken.settings(limit=lambda _: 1.0 - 2**-53)),
    "test_r_the_activation_is_the_one_that_was_asked_for": ({"activation": "gelu"}, broken.settings(activation="silu")),
    "test_s_the_weight_goes_where_it_was_put": ({"where": "input"}, broken.settings(weight_at="output")),
    "test_g_the_sum_over_shards_is_the_whole": (
        {"owners": "halves", "crowded": False},
        broken.replaced(
            plan, "make", lambda right: lambda idx, kept, e: right(idx, None if kept is None else kept | True, e)
        ),
    ),
    "test_g_a_sentinel_id_that_is_not_masked_is_refused": ({}, wrapped_ids(3)),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_defect_put_back_fails_the_test(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, put_back = CONTROLS[name]
    TESTS[name](**given)
    put_back(monkeypatch)
    with pytest.raises(FAILURES):
        TESTS[name](**given)


def test_every_test_has_its_control() -> None:
    assert list(CONTROLS) == [n for m in MODULES for n in TESTS if TESTS[n].__module__ == m.__name__]
