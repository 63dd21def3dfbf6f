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
}
SIZES = {  # E and k of the published models: the defaults
    "mixtral": (8, 2),
    "olmoe": (64, 8),
    "gshard": (8, 2),
    "deepseek_v2": (64, 6),
    "deepseek_v3": (256, 8),
}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_says_what_the_paper_says(name: str) -> None:
    cfg = presets.PRESETS[name](**SMALL)
    values = {**dataclasses.asdict(cfg.router), **{f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}}
    values |= {"capacity": cfg.router.capacity}
    assert {n: values[n] for n in PAPER[name]} == PAPER[name]
    assert (cfg.d_model, cfg.d_ff, cfg.n_experts, cfg.k) == (3, 4, 6, 2)
    assert re.search(r"arXiv:\d{4}\.\d{5}", inspect.getdoc(presets.PRESETS[name]) or ""), "a preset names its source"


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
    out, cache = moe.forward(x, p, cfg, draws=moe.draw(rng, cfg, 7))
    dx, dp = moe.backward(dy, cache, dict.fromkeys(cfg.router.losses, 0.01))
    assert out.y.shape == dx.shape == (7, 3) and dp.keys() == p.keys()


@pytest.mark.parametrize("name", presets.PRESETS)
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
