"""What is like nothing else: Llama 4, Switch, NLLB, and the rules of their own: Phi-3.5-MoE (SparseMixer), Doge."""

from __future__ import annotations

from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.hf.blocks import parts
from pymoe.hf.blocks.family import MORE, Family, Fields, Get
from pymoe.hf.blocks.layouts import Each, Same, Squeezed, Transposed
from pymoe.moe import Capacity
from pymoe.moe.rules import product_keys, sparse_mixer

_EPSILON = 2.0**-52  # of float64: NLLB's code divides by the sum, or by the machine epsilon of its dtype


def _switch(fields: Fields) -> dict[str, Any]:
    """The first ``expert_capacity`` tokens of each sequence that choose an expert get it."""
    places = Capacity(factor=0.0, minimum=int(fields("expert_capacity")), order="token", per="sequence")
    return {"capacity": places, "router_bias": bool(fields("router_bias")) or None}


def _nllb(fields: Fields) -> dict[str, Any]:
    """As in evaluation: ceil(fraction · T) places, or ``expert_capacity``; the outputs times 1 - token dropout."""
    if fields("second_expert_policy") != "all":
        raise ConfigError("nllb_moe: second_expert_policy draws: say what it means with second_threshold and draws")
    order = "score" if fields("batch_prioritized_routing") else "choice"
    before = "before" if fields("normalize_router_prob_before_dropping") else "after"
    fraction = float(fields("moe_eval_capacity_token_fraction"))
    rule: dict[str, Any] = {"rule": "fraction", "factor": fraction}
    if fraction <= 0:
        rule = {"factor": 0.0, "minimum": int(fields("expert_capacity"))}
    return {
        "capacity": Capacity(order=order, renorm=before, **rule), "router_bias": bool(fields("router_bias")) or None,
        "scale": 1 - float(fields("moe_token_dropout")), "scale_at": "output",
    }  # fmt: skip


def _stack(up: str, down: str) -> parts.Names:
    """An nn.Linear for each expert, named in full."""
    expert = "experts.expert_{}."
    return {
        "experts.up_proj": Each(f"{expert}{up}.weight"), "experts.up_proj_bias": Each(f"{expert}{up}.bias"),
        "experts.down_proj": Each(f"{expert}{down}.weight"), "experts.down_proj_bias": Each(f"{expert}{down}.bias"),
    }  # fmt: skip


_CLASSIFIER = parts.router("router.classifier")

FAMILIES = (
    Family(
        "llama4", {"llama4": ("text_config",), "llama4_text": ()},
        parts.sizes("intermediate_size") | parts.NO_LOSS | {
            "score": "sigmoid", "score_at": "chosen", "select_on": "logits", "weight_at": "input",
            "d_shared": Get("intermediate_size"),
        },
        parts.router("router") | parts.shared("shared_expert") | {
            "experts.gate_up_proj": Transposed("experts.gate_up_proj"),
            "experts.down_proj": Transposed("experts.down_proj"),
        },
    ),
    Family(
        "switch_transformers", {"switch_transformers": ()},
        parts.sizes("d_ff") | {
            "k": 1, "gated": False, "losses": ("balance", "z"), "balance_over": "sequence", MORE: _switch,
        },
        _CLASSIFIER | _stack("wi", "wo"),
    ),
    Family(
        "nllb_moe", {"nllb-moe": ()},
        parts.sizes("encoder_ffn_dim") | parts.NO_LOSS | {
            "k": 2, "gated": False, "bias": True, "norm": "clamp", "eps": _EPSILON, MORE: _nllb,
        },
        _CLASSIFIER | _stack("fc1", "fc2"),
    ),
    Family(
        "phimoe", {"phimoe": ()},
        parts.sizes("intermediate_size") | {
            "k": 2, "jitter": Get("router_jitter_noise"), "losses": ("balance",), "midpoint": 0.3333,
        },
        parts.router("router") | parts.stacked(), rule=sparse_mixer,
    ),
    Family(
        "doge", {"doge": ()},
        parts.sizes() | {
            "d_ff": 1, "gated": False, "d_shared": Get("intermediate_size"), "shared_bias": Get("mlp_bias", bool),
        },
        parts.shared("") | {
            "router.weight": Same("router_gate.weight"), "experts.up_proj": Squeezed("down_embed.weight", axis=1),
            "experts.down_proj": Squeezed("up_embed.weight", axis=2),
        },
        rule=product_keys,
    ),
)  # fmt: skip
