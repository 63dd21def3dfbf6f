"""Softmax and a bias that only selects: Ernie 4.5, LongCat-Flash; and Zaya, whose router is a network of its own."""

from __future__ import annotations

from typing import Any

from pymoe.hf.blocks import parts
from pymoe.hf.blocks.family import MORE, Family, Fields, Get
from pymoe.hf.blocks.layouts import Layout, Leading, Reshaped, Same
from pymoe.moe.rules import zaya

TEXT = ("text_config",)
_STATICS = "gate.moe_statics.e_score_correction_bias"
_ERNIE = parts.sizes() | parts.POOLED | {
    "selection_bias": True, "norm": "clamp", "eps": Get("moe_norm_min"), "shared_bias": Get("use_bias", bool),
    "d_shared": parts.times("moe_intermediate_size", "n_shared"),
}  # fmt: skip


def _ernie_names(before: str = "") -> parts.Names:
    """The text and the vision experts have routers of their own, and one shared network."""
    return {
        "router.weight": Same(f"{before}gate.weight"),
        "router.selection_bias": Reshaped(before + _STATICS, stored=(1, -1)),
    } | parts.stacked(f"{before}experts") | parts.shared()  # fmt: skip


def _of(position: int) -> dict[str, Any]:
    """Of the two widths, text and vision, this one; the shared network is as wide as n of the text experts."""

    def width(fields: Fields) -> Any:
        return fields.pair("moe_intermediate_size", (1536, 512))[position]

    def shared(fields: Fields) -> Any:
        return fields.pair("moe_intermediate_size", (1536, 512))[0] * int(fields.maybe("n_shared") or 0)

    return {"d_ff": width, "d_shared": shared}


_ERNIE_VL = {n: v for n, v in _ERNIE.items() if n not in ("d_ff", "d_shared")}


def _longcat(fields: Fields) -> dict[str, Any]:
    """The identity experts; a bias of the router is part of its logits, which transformers forgets."""
    kinds = ("identity",) * int(fields.maybe("zero_expert_num") or 0)
    return {"null_experts": kinds, "router_bias": bool(fields.maybe("router_bias")) or None}


def _longcat_names(cfg: Any) -> dict[str, Layout]:
    """gate_up_proj has rows for the identity experts too, which nothing reads."""
    return {
        "router.weight": Same("router.classifier.weight"), "router.bias": Same("router.classifier.bias"),
        "router.selection_bias": Same("router.e_score_correction_bias"),
        "experts.gate_up_proj": Leading("experts.gate_up_proj", unused=len(cfg.router.null_experts)),
        "experts.down_proj": Same("experts.down_proj"),
    }  # fmt: skip


def _zaya(fields: Fields) -> dict[str, Any]:
    """The first layer has no state from one before."""
    return {"carried": fields.layer != 0}


_ZAYA_NAMES: parts.Names = {
    "router.down_weight": Same("gate.down_proj.weight"), "router.down_bias": Same("gate.down_proj.bias"),
    "router.norm_weight": Same("gate.router_mlp.norm.weight"),
    "router.fc1_weight": Same("gate.router_mlp.fc1.weight"), "router.fc1_bias": Same("gate.router_mlp.fc1.bias"),
    "router.fc2_weight": Same("gate.router_mlp.fc2.weight"), "router.fc2_bias": Same("gate.router_mlp.fc2.bias"),
    "router.out_weight": Same("gate.router_mlp.out_proj.weight"),
    "router.selection_bias": Same("gate.balancing_biases"),
    "router.state_scale": Same("gate.router_states_scale"),
} | parts.stacked()  # fmt: skip

FAMILIES = (
    Family(
        "ernie4_5_moe", {"ernie4_5_moe": ()}, _ERNIE, _ernie_names(),
    ),
    Family(
        "ernie4_5_vl_moe", {"ernie4_5_vl_moe": TEXT, "ernie4_5_vl_moe_text": ()}, _ERNIE_VL | _of(0),
        _ernie_names("text_moe."), unread=("vision_moe.",),
    ),
    Family(
        "ernie4_5_vl_moe.vision", {"ernie4_5_vl_moe": TEXT, "ernie4_5_vl_moe_text": ()}, _ERNIE_VL | _of(1),
        _ernie_names("vision_moe."), unread=("text_moe.",),
    ),
    Family(
        "longcat_flash", {"longcat_flash": ()},
        parts.sizes() | parts.NO_LOSS | {"selection_bias": True, "scale": Get("scale"), MORE: _longcat}, _longcat_names,
    ),
    Family(
        "zaya", {"zaya": ()},
        parts.sizes() | {"d_router": Get("router_hidden_size"), "eps": Get("rms_norm_eps"), MORE: _zaya}, _ZAYA_NAMES,
        rule=zaya,
    ),
)  # fmt: skip
