"""Settings that have no meaning are refused when they are made, and say which rule they break."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pymoe import presets
from pymoe.backend.errors import ConfigError
from pymoe.moe import Capacity, Form, MoEConfig, Norm, RouterConfig
from pymoe.moe import router_checks as module
from pymoe.moe.score import SCORES
from pymoe.moe.select import SELECTORS

BAD_ROUTER: list[tuple[dict[str, Any], str]] = [
    ({"k": 5}, "k must not exceed n_experts: got k=5, n_experts=4"),
    ({"k": 0}, "k must be an integer of at least 1, got 0"),
    ({"k": -1}, "k must be an integer"),
    ({"k": 2.0}, "k must be an integer"),
    ({"k": True}, "k must be an integer"),
    ({"n_experts": 0}, "n_experts must be an integer of at least 1, got 0"),
    (
        {"score": "soft"},
        r"score must be one of \('softmax', 'sigmoid', .*\), or a module with forward and backward, got 'soft'",
    ),
    ({"score": 3}, "a score rule needs forward and backward; 3 has not"),
    ({"select": "top_k"}, "select must be one of"),
    ({"select": SimpleNamespace()}, "a select rule needs select"),
    ({"norm": "l2"}, r"norm must be one of \('none', 'l1', 'clamp', 'lp', 'joint'\), got 'l2'"),
    ({"eps": -1e-9}, "eps must be a finite number and at least 0"),
    ({"eps": float("nan")}, "eps must be a finite number"),
    ({"scale": float("inf")}, "scale must be a finite number, got inf"),
    ({"scale": "2"}, "scale must be a finite number"),
    ({"n_group": 3}, "groups must divide the experts"),
    ({"n_group": 2}, "n_group > 1 needs select='group_limited', got 'topk'"),
    ({"n_group": 2, "select": "expert_choice"}, "n_group > 1 needs select='group_limited'"),
    ({"n_group": 2, "topk_group": 3, "select": "group_limited"}, "topk_group must not exceed n_group"),
    ({"n_group": 4, "topk_group": 1, "select": "group_limited"}, "the 1 chosen groups hold 1 experts, fewer than k=2"),
    ({"group_score": "mean"}, "group_score must be one of"),
    ({"noise": "gumbel"}, "noise must be one of"),
    ({"jitter": 1.0}, r"jitter must be in \[0, 1\), got 1.0"),
    ({"jitter": -0.1}, r"jitter must be in"),
    ({"jitter": float("nan")}, "jitter must be a finite number"),
    ({"second_threshold": 0.2, "k": 1}, "second_threshold is for k=2 and must be positive, got 0.2 with k=1"),
    ({"second_threshold": 0.0}, "second_threshold is for k=2 and must be positive, got 0.0"),
    ({"second_threshold": float("nan")}, "second_threshold must be a finite number"),
    ({"losses": ("aux",)}, "losses must be one of .*got 'aux'"),
    ({"losses": "balance"}, "losses must be a tuple of names, got the string 'balance'"),
    ({"balance_choices": "second"}, "balance_choices must be one of"),
    ({"noise": "learned", "k": 4, "losses": ("load",)}, "needs k < n_experts"),
    ({"cv_ddof": 4, "losses": ("importance",)}, "cv_ddof must be smaller than n_experts, got 4 and 4"),
    ({"cv_ddof": -1}, "cv_ddof must be an integer of at least 0"),
    ({"cv_eps": -1.0}, "cv_eps must be a finite number and at least 0"),
    ({"nonfinite": "ignore"}, r"nonfinite must be one of \('raise', 'propagate'\), got 'ignore'"),
    ({"select": "expert_choice", "capacity": Capacity()}, "expert choice has its own capacity"),
    ({"select": "expert_choice", "norm": "l1"}, "leave norm='none'"),
    ({"select": "expert_choice", "second_threshold": 0.2}, "no first and second choice"),
    ({"select": "expert_choice", "balance_choices": "first"}, "no first and second choice"),
    ({"select": "expert_choice", "selection_bias": True}, "a selection bias would change nothing"),
    ({"select": "expert_choice", "score_at": "chosen"}, "leave score_at='all'"),
    ({"score_at": "last"}, r"score_at must be one of \('all', 'chosen'\), got 'last'"),
    ({"norm": "lp", "norm_p": 0.5}, "norm_p must be a finite number and at least 1, got 0.5"),
    ({"norm": "lp", "eps": 1e-6}, "norm='lp' has no eps, got 1e-06"),
    ({"norm": "joint"}, "set both or neither, got norm='joint', n_shared_logits=0"),
    ({"n_shared_logits": 2}, "set both or neither, got norm='none', n_shared_logits=2"),
    ({"norm": "joint", "n_shared_logits": 2}, "it needs score='sigmoid'"),
    ({"norm": "joint", "n_shared_logits": 2, "score": "sigmoid", "skip": 0.5}, "no noise, skip"),
    ({"soft_cap": 0.0}, "soft_cap must be positive, got 0.0"),
    ({"logit_multiplier": float("nan")}, "logit_multiplier must be a finite number"),
    ({"null_experts": "zero"}, "null_experts must be a tuple of names, got the string 'zero'"),
    ({"null_experts": ("one",)}, "null_experts must be one of"),
    ({"null_norm": "true", "norm": "l1"}, "null_norm='true' leaves null experts out of a norm: it needs null_experts"),
    ({"null_norm": "true", "null_experts": ("zero",)}, "and norm 'l1', 'clamp' or 'lp'"),
    ({"k": 6, "null_experts": ("zero",)}, "k must not exceed n_experts: got k=6, n_experts=5"),
    ({"select": "table"}, "select='table' needs table_size"),
    ({"table_size": 3}, "select='table' needs table_size, .*nothing else does: got select='topk', table_size=3"),
    ({"select": "given", "selection_bias": True}, "compares nothing that a selection bias could move"),
    ({"select": "top_p", "top_p": 1.5}, r"top_p is a share in \(0, 1\], got 1.5"),
    ({"select": "top_p", "select_on": "logits"}, "top_p adds up scores"),
    ({"sample": "all", "selection_bias": True}, "sample draws by the logits alone"),
    ({"sample": "second", "k": 1}, "sample='second' needs k of at least 2, got 1"),
    ({"second_policy": "none", "k": 1}, "second_policy='none' is for k=2, got k=1"),
    ({"losses": ("balance_second",), "k": 1}, "balance_second needs k of at least 2, got 1"),
    ({"score": "identity"}, "scores of any sign have no shares"),
    (
        {"score": "identity", "losses": ("importance",), "importance_of": "scores"},
        "with score='identity' leave importance_of='weights'",
    ),
    ({"noise": "gaussian", "noise_std": 0.0, "losses": ("load",)}, "noise_std must be positive"),
    ({"group_best": 0}, "group_best must be an integer of at least 1, got 0"),
    ({"second_policy": "threshold"}, "second_policy='threshold' needs second_threshold"),
    ({"select": "assignment"}, "a balanced assignment gives each token one expert: it needs k=1, got k=2"),
    ({"select": "sinkhorn", "selection_bias": True}, "select='sinkhorn' balances the columns itself"),
    ({"null_balance": "mean"}, "null_balance='mean' is about null_experts, and there are none"),
]
BAD_CAPACITY: list[tuple[dict[str, Any], str]] = [
    ({"factor": -1.0}, "capacity factor must be a finite number and at least 0, got -1.0"),
    ({"factor": float("inf")}, "capacity factor must be a finite number"),
    ({"factor": float("nan")}, "capacity factor"),
    ({"minimum": -1}, "capacity minimum must be an integer of at least 0, got -1"),
    ({"minimum": 1.5}, "capacity minimum"),
    ({"rounding": "nearest"}, "capacity rounding must be one of"),
    ({"order": "fifo"}, "capacity order must be one of"),
    ({"renorm": "never"}, "capacity renorm must be one of"),
    ({"rule": "ours"}, "capacity rule must be one of"),
    ({"multiple": 0}, "capacity multiple must be an integer of at least 1, got 0"),
    ({"priority": "logit"}, "capacity priority must be one of"),
    ({"per": "token"}, "capacity per must be one of"),
    ({"rule": "vmoe", "factor": -1.0}, "capacity factor must be a finite number and at least 0, got -1.0"),
    ({"rule": "vmoe", "minimum": 4}, "the capacity rule 'vmoe' has no minimum, got 4: it belongs to plain, switch"),
    ({"rule": "megatron", "multiple": 8}, "the capacity rule 'megatron' has no multiple, got 8: .* tutel, vmoe"),
    ({"rule": "deepspeed", "rounding": "ceil"}, "the capacity rule 'deepspeed' has no rounding, got 'ceil': .* plain"),
]
JOINT = RouterConfig(4, 2, score="sigmoid", norm="joint", n_shared_logits=2)
BAD_LAYER: list[tuple[dict[str, Any], str]] = [
    ({"d_model": 0}, "d_model must be an integer of at least 1, got 0"),
    ({"d_ff": -2}, "d_ff must be an integer"),
    ({"d_shared": -1}, "d_shared must be an integer of at least 0, got -1"),
    ({"d_shared": 1.5}, "d_shared must be an integer"),
    ({"activation": "swish"}, "activation must be one of"),
    ({"limit": 0.0}, "limit must be above 0, got 0.0; None leaves it out"),
    ({"limit": float("inf")}, "limit must be a finite number"),
    ({"clamp": "both"}, r"clamp must be one of \('before', 'after'\)"),
    ({"gate_alpha": float("nan")}, "gate_alpha must be a finite number"),
    ({"up_offset": "1"}, "up_offset must be a finite number"),
    ({"softcap": (1.0,)}, "softcap must be the two caps"),
    ({"softcap": (1.0, -2.0)}, "softcap must be above 0, got -2.0"),
    ({"softcap": (1.0, 2.0), "limit": 7.0}, "give limit or softcap, not both"),
    ({"gate_alpha": 1.702, "activation": "gelu"}, "activation='silu'; got 'gelu'"),
    ({"limit": 7.0, "gated": False}, "are those of a gated expert: got gated=False"),
    ({"weight_at": "hidden"}, "weight_at must be one of"),
    ({"weight_at": "pre_down", "post_expert_norm": Norm()}, "a norm takes out a weight that went in before it"),
    ({"post_expert_norm": 1e-6}, "post_expert_norm must be a moe.Norm or None, got 1e-06"),
    ({"d_latent": -1}, "d_latent must be an integer of at least 0"),
    ({"latent_bias": True}, "belong to the projections of d_latent, which is 0"),
    ({"latent_norm": Norm()}, "belong to the projections of d_latent, which is 0"),
    ({"shared": "sum", "d_shared": 4}, "shared must be one of"),
    ({"shared": "gated"}, "describe a shared expert: d_shared is 0"),
    ({"shared_bias": True}, "describe a shared expert: d_shared is 0"),
    ({"n_shared": 3, "d_shared": 4}, "3 do not divide d_shared=4"),
    ({"shared": "joint", "d_shared": 4, "bias": True, "router": JOINT, "n_shared": 2}, "a bias would stay unweighted"),
    ({"shared": "joint", "d_shared": 4}, "takes its weights from a router of norm='joint'"),
    ({"router": JOINT, "d_shared": 4}, "takes its weights from a router of norm='joint'"),
    ({"shared": "joint", "d_shared": 4, "router": JOINT}, "got n_shared=1, n_shared_logits=2"),
    ({"d_shared": 4, "shared_form": "silu"}, "shared_form must be a moe.Form or None"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_ROUTER)
def test_router(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        RouterConfig(**{"n_experts": 4, "k": 2, **settings})
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(("settings", "message"), BAD_CAPACITY)
def test_capacity(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Capacity(**settings)


@pytest.mark.parametrize(("settings", "message"), BAD_LAYER)
def test_layer(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MoEConfig(**{"d_model": 3, "d_ff": 4, "router": RouterConfig(4, 2), **settings})


def test_the_base_of_these_tests_is_valid() -> None:
    """Control: without the bad setting nothing raises, and k = E, E = 1, NumPy integers are welcome."""
    RouterConfig(4, 2), Capacity(), MoEConfig(3, 4, RouterConfig(1, 1)), RouterConfig(4, 4)
    assert RouterConfig(np.int64(4), np.int32(2)).n_experts == 4
    assert RouterConfig(4, 2, losses=["z"]).losses == ("z",)
    hash(RouterConfig(4, 2, losses=["z"], capacity=Capacity()))


def test_the_names_are_those_of_the_tables() -> None:
    assert set(module.SCORES) == set(SCORES) and set(module.SELECTORS) == set(SELECTORS)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RouterConfig(4, 2).k = 3  # type: ignore[misc]


def test_json_round_trip_of_every_form() -> None:
    cfg = MoEConfig(
        3, 4, RouterConfig(4, 2), limit=7.0, clamp="after", weight_at="input", post_expert_norm=Norm(0.5, "input"),
        d_latent=2, latent_norm=Norm(), d_shared=6, n_shared=2, shared="gated", shared_form=Form(softcap=(1.0, 2.0)),
        shared_bias=True, output_norm=Norm(1e-5), output_bias=True, tied=(0, 1, 1, 0),
    )  # fmt: skip
    assert MoEConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg
    hash(cfg)
    for bad, message in (({"eps": -1.0}, "eps of a norm"), ({"scale": "both"}, "scale of a norm")):
        with pytest.raises(ConfigError, match=message):
            Norm(**bad)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_json_round_trip(name: str) -> None:
    more = {"d_shared": 6} if name == "inkling" else {"d_shared": 5, "bias": True}
    cfg = presets.PRESETS[name](d_model=3, d_ff=4, n_experts=6, k=2, **more)
    assert MoEConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_a_rule_of_the_callers_cannot_be_written_to_a_file() -> None:
    from pymoe.ops import softmax

    cfg = MoEConfig(3, 4, RouterConfig(4, 2, score=softmax))
    with pytest.raises(ConfigError, match="only named rules can be written"):
        cfg.to_dict()
