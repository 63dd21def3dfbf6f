"""Softmax, top-k, weights renormalised or not: Mixtral, Qwen, OLMoE, DBRX, Gemma 4 and theirs."""

from __future__ import annotations

import math
from typing import Any

from pymoe.hf.blocks import parts
from pymoe.hf.blocks.family import MORE, Family, Fields, Get, activation
from pymoe.hf.blocks.layouts import Pair, Reshaped, Same

ALWAYS = {"norm": "l1"}
FLAG = {"norm": Get("norm", parts.normalised)}
PLAIN = parts.router() | parts.stacked()
GATED = {"shared": "gated", "d_shared": Get("shared_expert_intermediate_size")}
GATED_NAMES = PLAIN | parts.shared("shared_expert") | {"shared.gate": Same("shared_expert_gate.weight")}
TEXT = ("text_config",)


def _dbrx_norm(fields: Fields) -> dict[str, Any]:
    p = fields.maybe("moe_normalize_expert_weights")
    return {"norm": "none"} if p is None else {"norm": "lp", "norm_p": float(p)}


def _dbrx_activation(fields: Fields) -> str:
    return activation((fields.maybe("ffn_act_fn") or {}).get("name", "silu"))


_DBRX = {
    "d_model": Get("d_model"), "d_ff": Get("ffn_hidden_size"), "n_experts": Get("n_experts"), "k": Get("k"),
    "activation": _dbrx_activation,
}  # fmt: skip
_GEMMA = parts.sizes() | ALWAYS | parts.NO_LOSS | {
    "input_norm": "rms", "input_norm_eps": Get("rms_norm_eps"), "expert_scale": True,
    "input_multiplier": Get("d_model", lambda d: 1 / math.sqrt(d)),
}  # fmt: skip
_GEMMA_NAMES = parts.stacked() | {
    "router.weight": Same("router.proj.weight"), "router.input_scale": Same("router.scale"),
    "router.expert_scale": Same("router.per_expert_scale"),
}  # fmt: skip

FAMILIES = (
    Family("mixtral", {"mixtral": ()}, parts.sizes("intermediate_size") | ALWAYS | parts.POOLED, PLAIN),
    Family("minimax", {"minimax": ()}, parts.sizes("intermediate_size") | ALWAYS | parts.POOLED, PLAIN),
    Family("qwen3_moe", {"qwen3_moe": ()}, parts.sizes() | FLAG | parts.POOLED, PLAIN),
    Family("mellum", {"mellum": ()}, parts.sizes() | FLAG | parts.POOLED, PLAIN),
    Family("olmoe", {"olmoe": ()}, parts.sizes("intermediate_size") | FLAG | parts.POOLED, PLAIN),
    Family("flex_olmo", {"flex_olmo": ()}, parts.sizes("intermediate_size") | FLAG | parts.POOLED, PLAIN),
    Family("qwen2_moe", {"qwen2_moe": ()}, parts.sizes() | FLAG | GATED | parts.POOLED, GATED_NAMES),
    Family("qwen3_next", {"qwen3_next": ()}, parts.sizes() | FLAG | GATED | parts.POOLED, GATED_NAMES),
    Family(
        "qwen4_exp", {"qwen4_exp": TEXT, "qwen4_exp_text": ()}, parts.sizes() | FLAG | GATED | parts.POOLED, GATED_NAMES
    ),
    Family(
        "qwen3_omni_moe",
        {
            "qwen3_omni_moe": ("thinker_config", "text_config"), "qwen3_omni_moe_thinker": TEXT,
            "qwen3_omni_moe_text": (),
        },
        parts.sizes() | FLAG | parts.POOLED, PLAIN,
    ),
    Family(
        "qwen3_omni_moe.talker",
        {
            "qwen3_omni_moe": ("talker_config", "text_config"), "qwen3_omni_moe_talker": TEXT,
            "qwen3_omni_moe_talker_text": (),
        },
        parts.sizes() | FLAG | GATED | parts.POOLED, GATED_NAMES,
    ),
    Family(
        "qwen3_5_moe", {"qwen3_5_moe": TEXT, "qwen3_5_moe_text": ()}, parts.sizes() | ALWAYS | GATED | parts.POOLED,
        GATED_NAMES,
    ),
    Family(
        "qwen3_vl_moe", {"qwen3_vl_moe": TEXT, "qwen3_vl_moe_text": ()}, parts.sizes() | ALWAYS | parts.POOLED, PLAIN
    ),
    Family(
        "hunyuan_v1_moe", {"hunyuan_v1_moe": ()},
        parts.sizes("intermediate_size") | ALWAYS | {"d_shared": Get("intermediate_size")} | parts.NO_LOSS,
        parts.router("gate.wg") | parts.stacked() | parts.shared("shared_mlp"),
    ),
    Family(
        "dbrx", {"dbrx": ("ffn_config",)}, _DBRX | {MORE: _dbrx_norm} | parts.POOLED,
        parts.router("router.layer") | {
            "experts.gate_up_proj": Pair("experts.mlp.w1", "experts.mlp.v1", flat=True),
            "experts.down_proj": Reshaped("experts.mlp.w2", transposed=True),
        },
    ),
    Family(
        "jamba", {"jamba": ()}, parts.sizes("intermediate_size") | parts.POOLED,
        parts.router("router") | parts.stacked(),
    ),
    Family("gemma4", {"gemma4": TEXT, "gemma4_text": ()}, _GEMMA, _GEMMA_NAMES),
    Family("diffusion_gemma", {"diffusion_gemma": TEXT, "diffusion_gemma_text": ()}, _GEMMA, _GEMMA_NAMES),
)  # fmt: skip
