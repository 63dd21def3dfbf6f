"""Each preset says what its paper says, takes every setting by keyword, and refuses a word it does not know."""

from __future__ import annotations

import dataclasses
import inspect
import re

import numpy as np
import pytest

from pymoe import moe, presets
from pymoe.backend.errors import ConfigError
from pymoe.moe import Capacity, MoEConfig, RouterConfig

SMALL = {"d_model": 3, "d_ff": 4, "n_experts": 6, "k": 2}
PAPER = {
    # what the paper of each fixes: settings of the router and of the layer
    "mixtral": {"score": "softmax", "select": "topk", "norm": "l1", "eps": 0.0, "capacity": None, "gated": True},
    "olmoe": {"score": "softmax", "norm": "none", "losses": ("balance", "z"), "activation": "silu"},
    "switch": {"norm": "none", "capacity": Capacity(1.25, 4, "floor", "token"), "gated": False, "activation": "relu"},
    "gshard": {"norm": "l1", "balance_choices": "first", "gated": False},
    "noisy_topk": {"norm": "l1", "noise": "learned", "losses": ("importance", "load"), "cv_ddof": 0, "cv_eps": 0.0},
    "deepseek_v2": {"score": "softmax", "select": "group_limited", "group_score": "max", "norm": "none"},
    "deepseek_v3": {
        "score": "sigmoid",
        "select": "group_limited",
        "group_score": "top2",
        "selection_bias": True,
        "norm": "l1",
        "eps": 0.0,
        "scale": 2.5,
    },
    "expert_choice": {"select": "expert_choice", "norm": "none", "losses": (), "capacity": None},
    "fairscale_top2": {"norm": "clamp", "sample": "second", "balance_choices": "first", "balance_factor": "fairscale"},
    "deepspeed_top1": {"norm": "none", "capacity": Capacity(1.0, 4, rule="deepspeed", order="random")},
    "deepspeed_top2": {"norm": "clamp", "sample": "second", "balance_choices": "first", "balance_factor": "switch"},
    "deepspeed_topk": {
        "norm": "clamp",
        "capacity": Capacity(1.0, 4, rule="deepspeed", order="probability", renorm="after"),
        "balance_choices": "all",
    },
    "vmoe": {"noise": "gaussian", "norm": "none", "importance_of": "scores", "losses": ("importance", "load")},
    "megablocks": {"norm": "none", "capacity": None, "gated": False},
    "dbrx": {"norm": "lp", "norm_p": 1.0, "score_at": "all"},
    "gpt_oss": {"score": "softmax", "score_at": "chosen", "bias": True, "limit": 7.0, "gate_alpha": 1.702},
    "llama4": {"score": "sigmoid", "score_at": "chosen", "weight_at": "input", "norm": "none", "d_shared": 4},
    "gemma4": {"norm": "l1", "expert_scale": True, "input_norm": "rms", "input_multiplier": 3**-0.5},
    "deepseek_v4": {"score": "sqrtsoftplus", "selection_bias": True, "eps": 1e-20, "scale": 1.5, "limit": 10.0},
    "sigmoid_bias": {"score": "sigmoid", "selection_bias": True, "norm": "l1", "eps": 0.0, "select_on": "scores"},
    "logit_bias": {"score": "sigmoid", "selection_bias": True, "select_on": "logits", "score_at": "chosen"},
    "ernie": {"score": "softmax", "selection_bias": True, "norm": "clamp", "eps": 1e-12, "d_shared": 4},
    "longcat": {"null_experts": ("identity",) * 3, "norm": "none", "scale": 6.0, "selection_bias": True},
    "inkling": {"norm": "joint", "n_shared_logits": 2, "global_scale": True, "shared": "joint", "d_shared": 8},
    "hash_layer": {"select": "table", "norm": "l1", "selection_bias": False},
    "top_p": {"select": "top_p", "top_p": 0.4, "losses": ("balance", "entropy")},
    "adamoe": {"null_experts": ("zero",) * 6, "null_norm": "true", "null_balance": "mean", "norm": "l1"},
    "moe_plus_plus": {"null_norm": "nonzero", "norm": "l1"},
    "s_base": {"select": "sinkhorn", "select_on": "logits", "score": "softmax", "norm": "none", "losses": ()},
    "quantile_balancing": {"select": "quantile", "select_on": "scores", "norm": "l1", "losses": ()},
}
SIZES = {  # E and k of the published models: the defaults
    "mixtral": (8, 2),
    "olmoe": (64, 8),
    "gshard": (8, 2),
    "deepseek_v2": (64, 6),
    "deepseek_v3": (256, 8),
    "dbrx": (16, 4),
    "gpt_oss": (128, 4),
    "llama4": (16, 1),
    "deepseek_v4": (256, 6),
    "longcat": (512, 12),
    "top_p": (16, 16),
}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_says_what_the_paper_says(name: str) -> None:
    cfg = presets.PRESETS[name](**SMALL)
    values = {**dataclasses.asdict(cfg.router), **{f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}}
    values |= {"capacity": cfg.router.capacity}
    assert {n: values[n] for n in PAPER[name]} == PAPER[name]
    assert (cfg.d_model, cfg.d_ff, cfg.n_experts, cfg.k) == (3, 4, 6, 2)
    said = " ".join((inspect.getdoc(presets.PRESETS[name]) or "").split())
    assert re.search(r"arXiv:\d{4}\.\d{5}|transformers, ``models/|Megatron-LM", said), "a preset names its source"


def test_every_preset_is_in_this_table() -> None:
    assert set(PAPER) == set(presets.PRESETS)


@pytest.mark.parametrize("name", SIZES)
def test_default_sizes(name: str) -> None:
    cfg = presets.PRESETS[name](d_model=3, d_ff=4)
    assert (cfg.n_experts, cfg.k) == SIZES[name]


@pytest.mark.parametrize("name", presets.PRESETS)
def test_runs_forward_and_backward(name: str) -> None:
    cfg = presets.PRESETS[name](**SMALL)
    rng = np.random.default_rng(0)
    p = moe.init(rng, cfg)
    x, dy = rng.standard_normal((2, 7, 3))
    given = moe.Given(token_ids=np.arange(7)) if cfg.router.select == "table" else None
    out, cache = moe.forward(x, p, cfg, draws=moe.draw(rng, cfg, 7), given=given)
    dx, dp = moe.backward(dy, cache, dict.fromkeys(cfg.router.losses, 0.01))
    assert out.y.shape == dx.shape == (7, 3) and dp.keys() == p.keys()


# a clamp needs a gate, and jointly weighted shared experts have no bias
@pytest.mark.parametrize("name", [n for n in presets.PRESETS if n not in ("gpt_oss", "deepseek_v4", "inkling")])
def test_every_setting_by_keyword(name: str) -> None:
    cfg = presets.PRESETS[name](**SMALL, losses=("z",), scale=3.0, bias=True, router_bias=True, d_shared=5, gated=False)
    assert cfg.router.losses == ("z",) and cfg.router.scale == 3.0 and cfg.router.bias and cfg.bias
    assert cfg.d_shared == 5 and not cfg.gated


def test_bias_is_that_of_the_experts_and_router_bias_that_of_the_logits() -> None:
    assert presets.mixtral(**SMALL, bias=True) == MoEConfig(3, 4, RouterConfig(6, 2, norm="l1"), bias=True)
    assert presets.mixtral(**SMALL, router_bias=True) == MoEConfig(3, 4, RouterConfig(6, 2, norm="l1", bias=True))


def test_an_unknown_word_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown settings \['capacty', 'topk'\]; a router has .*capacity.*a layer"):
        presets.mixtral(**SMALL, topk=2, capacty=None)
    with pytest.raises(ConfigError, match="k must not exceed n_experts"):
        presets.mixtral(d_model=3, d_ff=4, n_experts=2, k=3)
