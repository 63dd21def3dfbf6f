"""Routers as their papers define them."""

from __future__ import annotations

from typing import Any

from pymoe.moe.config import MoEConfig
from pymoe.moe.router_config import Capacity
from pymoe.presets.make import make


def mixtral(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """Softmax, top-k, renormalised (= softmax over the k chosen logits).  arXiv:2401.04088, sec. 2.1."""
    return make(d_model, d_ff, n_experts, k, {"norm": "l1"}, settings)


def olmoe(d_model: int, d_ff: int, n_experts: int = 64, k: int = 8, **settings: Any) -> MoEConfig:
    """Softmax, top-k, not renormalised.  arXiv:2409.02060, sec. 2."""
    return make(d_model, d_ff, n_experts, k, {}, settings)


def switch(d_model: int, d_ff: int, n_experts: int = 8, k: int = 1, **settings: Any) -> MoEConfig:
    """Switch: top-1, weight p_e, capacity in token order, ReLU MLP experts.  arXiv:2101.03961, eq. 1-6.

    ``jitter=1e-2`` is the paper's; a dropped token gets 0 (the residual passes).
    """
    defaults = {
        "capacity": Capacity(factor=1.25, minimum=4, rounding="floor", order="token"),
        "losses": ("balance",),
        "gated": False,
        "activation": "relu",
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def gshard(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """GShard top-2: renormalised before the drop, first choices first, f from first choices.  arXiv:2006.16668, alg. 1.

    ``second_threshold=0.5`` with draws makes the second choice random (kept with probability 2 g₂);
    ``capacity=Capacity(..., renorm="after")`` is the fairscale and DeepSpeed family.
    """
    defaults = {
        "norm": "l1",
        "capacity": Capacity(factor=1.0, rounding="ceil", order="choice"),
        "losses": ("balance",),
        "balance_choices": "first",
        "gated": False,
        "activation": "relu",
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def noisy_topk(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """Noisy top-k gating: learned noise, softmax over the chosen, importance and load losses.  arXiv:1701.06538."""
    defaults = {
        "norm": "l1",
        "noise": "learned",
        "losses": ("importance", "load"),
        "gated": False,
        "activation": "relu",
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def deepseek_v2(d_model: int, d_ff: int, n_experts: int = 64, k: int = 6, **settings: Any) -> MoEConfig:
    """Softmax, groups by their best expert, top-k, scaled and not renormalised.  arXiv:2405.04434, sec. 2.2."""
    defaults = {"select": "group_limited", "group_score": "max", "n_group": 1, "topk_group": 1}
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def deepseek_v3(d_model: int, d_ff: int, n_experts: int = 256, k: int = 8, **settings: Any) -> MoEConfig:
    """Sigmoid, selection bias, groups by the sum of their two best, renormalised, times 2.5.

    arXiv:2412.19437, eq. 12-16.  The bias selects only; ``moe.bias_update`` moves it once per optimiser step.
    """
    defaults = {
        "score": "sigmoid",
        "select": "group_limited",
        "group_score": "top2",
        "selection_bias": True,
        "norm": "l1",
        "scale": 2.5,
        "losses": ("balance",),
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def expert_choice(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """Each expert takes its k·T/E best tokens; no balance loss is needed.  Not causal.  arXiv:2202.09368, sec. 3.2."""
    return make(d_model, d_ff, n_experts, k, {"select": "expert_choice", "losses": ()}, settings)
