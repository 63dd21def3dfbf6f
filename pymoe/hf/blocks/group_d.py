"""Sigmoid or √softplus, no groups: AFMoE, HunYuan 3, MiniMax, Step, Laguna, LFM2, MuseSpark, DeepSeek-V4, Inkling."""

from __future__ import annotations

from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.hf.blocks import parts
from pymoe.hf.blocks.family import MORE, Family, Fields, Get
from pymoe.hf.blocks.layouts import Blocks, Centred, Pair, Same
from pymoe.moe import Form, Norm

TEXT = ("text_config",)
SIGMOID: dict[str, Any] = {"score": "sigmoid", "selection_bias": True, "norm": "l1"}
SCALED = SIGMOID | {"eps": 1e-20, "scale": Get("scale")}
OUTSIDE = SIGMOID | {"scale": Get("scale"), "scale_at": "output"}  # after the sum, on the routed part alone
SHARED = {"d_shared": parts.times("moe_intermediate_size", "n_shared")}
OWN_BIAS = parts.router("gate", bias="e_score_correction_bias") | parts.stacked()
GATE_BIAS = parts.router("gate", bias="gate.e_score_correction_bias") | parts.stacked()
SCORES = {"sigmoid": "sigmoid", "softmax": "softmax", "sqrtsoftplus": "sqrtsoftplus", "relu": "relu"}


def _score(fields: Fields) -> str:
    name = fields("scoring_func")
    if name not in SCORES:
        raise ConfigError(f"{fields.family}: scoring_func must be one of {', '.join(SCORES)}, got {name!r}")
    return SCORES[name]


def _soft_cap(fields: Fields) -> float | None:
    return float(fields("moe_router_logit_softcapping")) or None  # 0 is none


def _step3p7(fields: Fields) -> dict[str, Any]:
    """Clamped after the activation by a limit of the layer, the shared network by another; 0 and null are none."""
    own, common = (
        float(fields(name) or 0) or None if fields.raw.get(name) else None
        for name in ("swiglu_limits", "swiglu_limits_shared")
    )
    form = Form(limit=common, clamp="after")
    return {"activation": "silu", "limit": own, "clamp": "after", "shared_form": form}


def _dots3_experts(fields: Fields) -> int:
    """Their number in this layer; the published config lists them, transformers has ``per_layer_config``."""
    listed = fields.raw.get("pyramid_num_routed")
    return int(fields.of_layer("pyramid_num_routed", listed) if listed else fields("n_experts"))


def _dots3_k(fields: Fields) -> int:
    """``capacity_factor`` in the published config, where transformers has ``num_experts_per_tok``."""
    k = fields("k") if fields.says("k") else fields.raw.get("capacity_factor", 2)
    return min(int(k), _dots3_experts(fields))


def _dots3_scale(fields: Fields) -> float:
    return float(fields("scale") if fields.says("scale") else fields.raw.get("router_scale", 1.0))


_DOTS3_VISION = {
    "n_experts": _dots3_experts, "k": _dots3_k, "scale": _dots3_scale,
    "d_model": lambda fields: fields.raw.get("embed_dim") or fields("d_model"),
}  # fmt: skip


def _muse_spark(fields: Fields) -> dict[str, Any]:
    return {
        "d_latent": fields("moe_hidden_size"), "latent_norm": Norm(fields("rms_norm_eps")),
        "post_expert_norm": Norm(fields("post_norm_eps"), "input"),
    }  # fmt: skip


def _inkling2(fields: Fields) -> dict[str, Any]:
    return {"softcap": (float(fields("mlp_gate_softcap")), float(fields("mlp_up_softcap")))}


def _inkling(fields: Fields) -> dict[str, Any]:
    """n shared experts that are weighed together with the chosen ones; without any the chosen share the weight."""
    n = int(fields("n_shared"))
    if not n:
        return {"global_scale": True}
    found: dict[str, Any] = {"norm": "joint", "n_shared_logits": n, "global_scale": True}
    return found | {"shared": "joint", "n_shared": n, "d_shared": n * int(fields("moe_intermediate_size"))}


def _inkling_names(cfg: Any) -> parts.Names:
    n = cfg.n_shared
    return GATE_BIAS | {
        "router.global_scale": Same("gate.global_scale"),
        "shared.gate_up_proj": Pair("shared_experts.gate_proj", "shared_experts.up_proj", n=n),
        "shared.down_proj": Blocks("shared_experts.down_proj", n=n),
    }


_V4 = parts.sizes("only_width") | SCALED | parts.POOLED | {
    "score": _score, "limit": Get("swiglu_limit"), "d_shared": Get("only_width"),
    "shared_bias": Get("mlp_bias", bool),
}  # fmt: skip
_HASHED = {n: v for n, v in _V4.items() if n != "selection_bias"} | {
    "select": "table", "table_size": Get("vocab_size"), "losses": (),
}  # fmt: skip

FAMILIES = (
    Family(
        "afmoe", {"afmoe": ()}, parts.sizes() | SCALED | SHARED | parts.NO_LOSS,
        parts.router("router.gate", bias="expert_bias") | parts.stacked() | parts.shared(),
    ),
    Family("hy_v3", {"hy_v3": ()}, parts.sizes() | SCALED | SHARED | parts.NO_LOSS | {
        "shared_bias": Get("mlp_bias", bool)}, OWN_BIAS | parts.shared()),
    Family(
        "dots3_note.vision", {"dots3_note": ("vision_config",), "dots3_note_vision_encoder": ()},
        parts.sizes() | SCALED | parts.NO_LOSS | _DOTS3_VISION, OWN_BIAS,
    ),
    Family("minimax_m2", {"minimax_m2": ()}, parts.sizes("intermediate_size") | SIGMOID | parts.POOLED, OWN_BIAS),
    Family(
        "minimax_m3_vl", {"minimax_m3_vl": TEXT, "minimax_m3_vl_text": ()},
        parts.sizes("intermediate_size") | OUTSIDE | parts.POOLED | {
            "activation": "silu", "limit": Get("swiglu_limit"), "gate_alpha": Get("swiglu_alpha"), "up_offset": 1.0,
            "d_shared": Get("shared_intermediate_size"),
        },
        GATE_BIAS | {
            "shared.gate_up_proj": Same("shared_experts.gate_up_proj.weight"),
            "shared.down_proj": Same("shared_experts.down_proj.weight"),
        },
    ),
    Family(
        "step3p7", {"step3p7": TEXT, "step3p5": ()},
        parts.sizes() | OUTSIDE | parts.NO_LOSS | {
            MORE: _step3p7, "d_shared": Get("share_expert_dim"), "shared_bias": Get("mlp_bias", bool),
        },
        GATE_BIAS | parts.shared(),
    ),
    Family(
        "laguna", {"laguna": ()},
        parts.sizes() | OUTSIDE | parts.POOLED | {
            "soft_cap": _soft_cap, "d_shared": Get("shared_expert_intermediate_size"),
        },
        GATE_BIAS | parts.shared(),
    ),
    Family(
        "lfm2_moe", {"lfm2_moe": ()},
        parts.sizes() | SCALED | parts.NO_LOSS | {
            "activation": "silu", "selection_bias": Get("use_expert_bias", bool), "eps": 1e-6,
            "norm": Get("norm", parts.normalised),
        },
        parts.router("gate", bias="expert_bias") | parts.stacked(),
    ),
    Family(
        "muse_spark", {"muse_spark": TEXT, "muse_spark_text": ()},
        parts.sizes() | SCALED | parts.NO_LOSS | {
            "eps": 1e-15, "logit_multiplier": Get("output_multiplier"), MORE: _muse_spark,
        },
        GATE_BIAS | {
            "experts.post_norm": Centred("experts.post_expert_norm.weight"),
            "latent.pre_proj": Same("pre_expert_proj.weight"), "latent.pre_norm": Centred("pre_expert_norm.weight"),
            "latent.post_proj": Same("post_expert_proj.weight"),
        },
    ),
    Family(
        "kolibri1", {"kolibri1": ()},
        parts.sizes() | SIGMOID | parts.NO_LOSS | {
            "score_at": "chosen", "select_on": "logits", "norm": Get("norm", parts.normalised),
            "d_shared": Get("shared_expert_intermediate_size"),
        },
        GATE_BIAS | parts.shared(),
    ),
    Family(
        "flint", {"flint": ()},
        parts.sizes() | parts.POOLED | {
            "score": "sigmoid", "norm": Get("norm", parts.normalised),
            "d_shared": Get("shared_expert_intermediate_size"),
        },
        parts.router("gate") | parts.stacked() | parts.shared("shared_expert"),
    ),
    Family("deepseek_v4", {"deepseek_v4": ()}, _V4, GATE_BIAS | parts.shared()),
    Family(
        "deepseek_v4.hash", {"deepseek_v4": ()}, _HASHED, GATE_BIAS | parts.shared() | {
            "router.table": Same("gate.tid2eid")},
    ),
    Family(
        "inkling2", {"inkling2": TEXT, "inkling2_text": ()},
        parts.sizes("only_width") | SCALED | parts.NO_LOSS | {"score": _score, "activation": "silu", MORE: _inkling2},
        GATE_BIAS,
    ),
    Family(
        "inkling", {"inkling_mm_model": TEXT, "inkling_text": ()},
        parts.sizes() | SCALED | parts.NO_LOSS | {"eps": 0.0, MORE: _inkling},
        _inkling_names,
    ),
)  # fmt: skip
