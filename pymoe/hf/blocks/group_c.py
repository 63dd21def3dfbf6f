"""Sigmoid, a bias that only selects, groups of experts: DeepSeek-V3 and the families that took its router over.

All mask the experts of other groups with -inf, A.X-K2 too: in transformers it masks them with 0, and then a forbidden
expert wins as soon as every allowed one has a negative biased score.
"""

from __future__ import annotations

from typing import Any

from pymoe.hf.blocks import parts
from pymoe.hf.blocks.family import MORE, Family, Fields, Get, activation
from pymoe.hf.blocks.layouts import Same
from pymoe.moe import Form, Norm

BIAS = "gate.e_score_correction_bias"
SHARED = {"d_shared": parts.times("moe_intermediate_size", "n_shared")}
ROUTER: dict[str, Any] = {
    "score": "sigmoid", "select": "group_limited", "group_score": "top2", "selection_bias": True,
    "n_group": Get("n_group"), "topk_group": Get("topk_group"), "norm": Get("norm", parts.normalised), "eps": 1e-20,
    "scale": Get("scale"),
}  # fmt: skip
BARE = parts.sizes() | ROUTER | parts.NO_LOSS
V3 = BARE | SHARED
BARE_NAMES = parts.router("gate", bias=BIAS) | parts.stacked()
NAMES = BARE_NAMES | parts.shared()
TEXT = ("text_config",)


def _axk2(fields: Fields) -> dict[str, Any]:
    """Without n_group there are no groups."""
    if fields.maybe("n_group") is None:
        return {"select": "topk"}
    return {"select": "group_limited", "n_group": fields("n_group"), "topk_group": fields("topk_group")}


def _plain_shared(fields: Fields) -> Form:
    """The shared network of HY-V4 is not clamped, and is the only part that follows ``hidden_act``."""
    return Form(activation(fields("activation")))


def _glm5_shared(fields: Fields) -> Form:
    return Form(activation(fields("activation")), limit=fields("swiglu_limit"))


def _nemotron(fields: Fields) -> dict[str, Any]:
    """Squared ReLU without a gate, in a narrower space if ``moe_latent_size`` says so; biases outside the experts."""
    bias = bool(fields("mlp_bias"))
    found: dict[str, Any] = {"gated": False, "shared_bias": bias}
    latent = fields.maybe("moe_latent_size")
    return found if latent is None else found | {"d_latent": latent, "latent_bias": bias}


def _latent_norm(fields: Fields) -> Norm:
    return Norm(fields("rms_norm_eps"))


_CLAMPED = V3 | {"activation": "silu", "limit": Get("swiglu_limit")}

FAMILIES = (
    *(
        Family(name, {name: ()}, V3, NAMES)
        for name in (
            "deepseek_v3", "deepseek_v32", "kimi_linear", "bailing_hybrid", "dots1", "glm4_moe", "glm4_moe_lite",
            "glm_moe_dsa", "solar_open", "exaone_moe",
        )
    ),
    Family(
        "dots3_note", {"dots3_note": TEXT, "dots3_note_text": ()},
        V3 | {"d_shared": parts.times("shared_experts_intermediate_size", "n_shared")}, NAMES,
    ),
    Family("glm4v_moe", {"glm4v_moe": TEXT, "glm4v_moe_text": ()}, V3 | parts.POOLED, NAMES),
    Family(
        "glm5_next", {"glm5_next": TEXT, "glm5_next_text": ()}, _CLAMPED | parts.POOLED | {"shared_form": _glm5_shared},
        NAMES,
    ),
    Family("hy_v4", {"hy_v4": ()}, _CLAMPED | {"shared_form": _plain_shared}, NAMES),
    Family(
        "axk1", {"axk1": ()}, V3 | {"output_norm": _latent_norm},
        NAMES | {"output.norm": Same("post_mlp_layernorm.weight")},
    ),
    Family(
        "axk2", {"axk2": ()}, {n: v for n, v in V3.items() if n not in ("n_group", "topk_group")} | {MORE: _axk2}, NAMES
    ),
    Family("mimo_v2_flash", {"mimo_v2_flash": ()}, BARE, BARE_NAMES),
    Family(
        "nemotron_h", {"nemotron_h": ()},
        BARE | {"d_shared": Get("moe_shared_expert_intermediate_size"), MORE: _nemotron},
        NAMES | {
            "latent.pre_proj": Same("fc1_latent_proj.weight"), "latent.post_proj": Same("fc2_latent_proj.weight"),
            "latent.pre_proj_bias": Same("fc1_latent_proj.bias"), "latent.post_proj_bias": Same("fc2_latent_proj.bias"),
        },
    ),
    Family("beam", {"beam": ()}, BARE | {"scale_at": "output"}, BARE_NAMES),
)  # fmt: skip
