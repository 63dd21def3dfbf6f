"""Top-k of the logits, then the score of the chosen alone: Granite, Aria, GPT-OSS, Cohere 2, JetMoe."""

from __future__ import annotations

from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.hf.blocks import parts
from pymoe.hf.blocks.family import MORE, Family, Fields, Get, activation
from pymoe.hf.blocks.layouts import Interleaved, Layout, Same, Transposed
from pymoe.moe import Form

CHOSEN = {"score_at": "chosen", "select_on": "logits"}
_GRANITE = parts.sizes("intermediate_size") | CHOSEN | parts.POOLED
_JOINED: parts.Names = {  # gate and up already one matrix
    "shared.gate_up_proj": Same("shared_mlp.input_linear.weight"),
    "shared.down_proj": Same("shared_mlp.output_linear.weight"),
}
# A decoder layer adds the shared network to the block: with one, the names are those of the layer.
_PREFIXED = parts.router("block_sparse_moe.router") | parts.stacked("block_sparse_moe.experts") | _JOINED
_BARE = parts.router("router") | parts.stacked()


def _granite_names(cfg: Any) -> parts.Names:
    return _PREFIXED if cfg.d_shared else _BARE


_GRANITE_SHARED = _GRANITE | {"d_shared": Get("shared_intermediate_size")}
# g σ(1.702 g) (u + 1), both clamped
_GPT_OSS = {n: v for n, v in parts.sizes("intermediate_size").items() if n != "activation"} | CHOSEN | {
    "router_bias": True, "bias": True, "limit": Get("swiglu_limit"), "gate_alpha": Get("swiglu_alpha"),
    "up_offset": 1.0,
}  # fmt: skip
_TRANSPOSED: dict[str, Layout] = {
    "experts.gate_up_proj": Transposed("experts.gate_up_proj"), "experts.down_proj": Transposed("experts.down_proj"),
    "experts.gate_up_proj_bias": Same("experts.gate_up_proj_bias"),
    "experts.down_proj_bias": Same("experts.down_proj_bias"),
}  # fmt: skip


def _shared_form(fields: Fields) -> Form:
    """Aria's experts are SiLU whatever ``hidden_act`` says; its shared network follows it."""
    return Form(activation(fields("activation")))


def _cohere2(fields: Fields) -> dict[str, Any]:
    score, how = fields("expert_selection_fn"), fields("shared_expert_combination_strategy")
    if score not in ("softmax", "sigmoid") or how not in ("sum", "average"):
        raise ConfigError(
            "cohere2_moe: expert_selection_fn must be softmax or sigmoid, shared_expert_combination_strategy sum or "
            f"average; got {score!r}, {how!r}"
        )
    norm = parts.normalised(fields("norm")) if score == "sigmoid" else "none"
    d_shared = parts.times("intermediate_size", "n_shared")(fields)
    return {"score": score, "norm": norm, "d_shared": d_shared} | (
        {"shared": "average"} if d_shared and how == "average" else {}
    )


FAMILIES = (
    Family("granitemoe", {"granitemoe": ()}, _GRANITE, _BARE),
    Family("granitemoe_swa", {"granitemoe_swa": ()}, _GRANITE_SHARED, _granite_names),
    Family("granitemoehybrid", {"granitemoehybrid": ()}, _GRANITE_SHARED, _granite_names),
    Family("granitemoeshared", {"granitemoeshared": ()}, _GRANITE_SHARED, _granite_names),
    Family(
        "aria", {"aria": ("text_config",), "aria_text": ()},
        parts.sizes("intermediate_size") | CHOSEN | parts.NO_LOSS | {
            "activation": "silu", "d_shared": parts.times("intermediate_size", "n_shared"),
            "shared_bias": Get("mlp_bias", bool), "shared_form": _shared_form,
        },
        parts.router("router") | _TRANSPOSED | parts.shared(),
    ),
    Family(
        "gpt_oss", {"gpt_oss": ()}, _GPT_OSS | parts.POOLED,
        parts.router("router") | _TRANSPOSED | {
            "experts.gate_up_proj": Interleaved("experts.gate_up_proj"),
            "experts.gate_up_proj_bias": Interleaved("experts.gate_up_proj_bias", bias=True),
        },
    ),
    # Its router divides by k and its block multiplies by k: neither is here.
    Family(
        "openai_privacy_filter", {"openai_privacy_filter": ()}, _GPT_OSS | parts.NO_LOSS,
        parts.router("router") | _TRANSPOSED,
    ),
    Family(
        "cohere2_moe", {"cohere2_moe": ()},
        parts.sizes("intermediate_size") | CHOSEN | {MORE: _cohere2} | parts.NO_LOSS,
        parts.router() | parts.stacked() | parts.shared(),
    ),
    Family(
        "jetmoe", {"jetmoe": ()}, parts.sizes("intermediate_size") | CHOSEN | {"output_bias": True} | parts.POOLED,
        parts.router("router.layer") | {
            "experts.gate_up_proj": Same("input_linear.weight"), "experts.down_proj": Same("output_linear.weight"),
            "output.bias": Same("bias"),
        },
    ),
)  # fmt: skip
