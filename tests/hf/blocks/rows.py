"""Which block of transformers stands for a row of the table, and how it is made small: one line a family.

A row names the folder and the config class; its block is found in the folder's modelling file.  ``tiny`` gives every
config the same awkward sizes (D = 8, F = 5, E = 6 or 9 with groups, k = 3 or 4, nothing at its default); ``variants``
are what is changed besides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

_SIZES: list[tuple[tuple[str, ...], Any]] = [
    (("hidden_size", "d_model"), 8),
    (("num_attention_heads", "num_key_value_heads", "num_heads", "n_heads", "encoder_attention_heads"), 2),
    (("decoder_attention_heads",), 2),
    (("norm_topk_prob", "moe_renormalize"), True),
    (
        (
            "routed_scaling_factor", "router_scaling_factor", "route_scale", "moe_router_scaling_factor",
            "moe_routed_scaling_factor",
        ),
        1.7,
    ),
    (("n_group", "num_expert_group"), 3),
    (("topk_group",), 2),
    (
        (
            "shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size",
            "share_expert_dim", "shared_experts_intermediate_size",
        ),
        7,
    ),
    (("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 2),
    (("swiglu_limit",), 0.3),
]  # fmt: skip
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOICES = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k", "top_k_experts")
_GROUPS = ("n_group", "num_expert_group")
_WIDTHS = ("moe_intermediate_size", "expert_ffn_hidden_size", "ffn_hidden_size", "intermediate_size", "d_ff")


def tiny(kind: Any) -> dict[str, Any]:
    """Small and unusual values for whatever of these a config class has."""
    has = {f.name for f in dataclasses.fields(kind)}
    found = {name: value for names, value in _SIZES for name in names if name in has}
    grouped = bool(has & set(_GROUPS))
    found |= {name: 9 if grouped else 6 for name in _EXPERTS if name in has}
    found |= {name: 4 if grouped else 3 for name in _CHOICES if name in has}
    widths = [name for name in _WIDTHS if name in has]
    return found | {name: 5 if i == 0 else 11 for i, name in enumerate(widths)}


def the(name: str, *more: Any) -> Callable[[Any, Any], Any]:
    """The class of that name, made from the config and ``more`` arguments."""
    return lambda module, cfg: getattr(module, name)(cfg, *more)


class Together(nn.Module):
    """What a decoder layer does with parts that are no module of their own: y = experts(x) (+ shared(x))."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Any) -> Any:
        if hasattr(self, "router"):  # Gemma: the router beside the experts
            flat = x.reshape(-1, x.shape[-1])
            _, weight, idx = self.router(flat)
            return self.experts(flat, idx, weight).reshape(x.shape)
        return self.block_sparse_moe(x) + self.shared_mlp(x)


def granite(prefix: str) -> Callable[[Any, Any], Any]:
    def build(module: Any, cfg: Any) -> Any:
        return Together(
            block_sparse_moe=getattr(module, f"{prefix}MoE")(cfg), shared_mlp=getattr(module, f"{prefix}MLP")(cfg)
        )

    return build


def gemma(prefix: str) -> Callable[[Any, Any], Any]:
    return lambda module, cfg: Together(
        router=getattr(module, f"{prefix}TextRouter")(cfg), experts=getattr(module, f"{prefix}TextExperts")(cfg)
    )


def gate(block: Any) -> Any:
    """The router inside a block, whatever it is called."""
    for name in ("gate", "router"):
        if hasattr(block, name):
            return getattr(block, name)
    return gate(block.block_sparse_moe)


def triple(block: Any, out: Any) -> tuple[Any, Any, Any]:
    """(logits, weights, indices) of what most routers give."""
    return out[0], out[1], out[2]


def pooled(module: Any, logits: Any, cfg: Any) -> Any:
    """Mixtral's loss on the logits of this layer alone."""
    return module.load_balancing_loss_func((logits,), logits.shape[-1], choices(cfg))


def choices(cfg: Any) -> int:
    for name in _CHOICES:
        if isinstance(getattr(cfg, name, None), int):
            return int(getattr(cfg, name))
    raise AssertionError(f"{type(cfg).__name__} names no number of choices")


def no_inputs(rng: np.random.Generator, cfg: Any, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    return {}


def no_table(rng: np.random.Generator, cfg: Any, shape: tuple[int, ...]) -> np.ndarray:
    raise AssertionError("a buffer of integers, and the row does not say what is in it")


def width(cfg: Any) -> int:
    return int(cfg.hidden_size)


@dataclasses.dataclass(frozen=True)
class Row:
    folder: str
    config: str
    build: Callable[[Any, Any], Any]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    aux: Callable[..., Any] | None = None
    router: Callable[[Any], Any] = gate
    routing: Callable[[Any, Any], tuple[Any, Any, Any]] = triple
    inputs: Callable[..., dict[str, np.ndarray]] = no_inputs
    table: Callable[..., np.ndarray] = no_table
    width: Callable[[Any], int] = width
    shape: tuple[int, int] = (2, 7)
    spread: float = 0.5
    part: str | None = None  # what hf.config is told
    layer: int | None = None
    raw: Callable[[Any], Any] = lambda cfg: cfg  # what hf.config is given: as a rule the config object itself


RAW = {"raw": {"norm_topk_prob": False}}
ONE_GROUP = {"one group": {"n_group": 1, "topk_group": 1}}
A = {
    "mixtral": Row("mixtral", "MixtralConfig", the("MixtralSparseMoeBlock"), aux=pooled),
    "minimax": Row("minimax", "MiniMaxConfig", the("MiniMaxSparseMoeBlock"), aux=pooled),
    "qwen3_moe": Row("qwen3_moe", "Qwen3MoeConfig", the("Qwen3MoeSparseMoeBlock"), variants=RAW, aux=pooled),
    "mellum": Row("mellum", "MellumConfig", the("MellumSparseMoeBlock"), variants=RAW, aux=pooled),
    "olmoe": Row("olmoe", "OlmoeConfig", the("OlmoeSparseMoeBlock"), variants=RAW, aux=pooled),
    "flex_olmo": Row("flex_olmo", "FlexOlmoConfig", the("FlexOlmoSparseMoeBlock"), variants=RAW, aux=pooled),
    "qwen2_moe": Row("qwen2_moe", "Qwen2MoeConfig", the("Qwen2MoeSparseMoeBlock"), variants=RAW, aux=pooled),
    "qwen3_next": Row("qwen3_next", "Qwen3NextConfig", the("Qwen3NextSparseMoeBlock"), variants=RAW, aux=pooled),
    "qwen4_exp": Row("qwen4_exp", "Qwen4ExpTextConfig", the("Qwen4ExpTextSparseMoeBlock"), variants=RAW, aux=pooled),
    "qwen3_omni_moe": Row(
        "qwen3_omni_moe", "Qwen3OmniMoeTextConfig", the("Qwen3OmniMoeThinkerTextSparseMoeBlock"), variants=RAW,
        aux=pooled,
    ),
    "qwen3_omni_moe.talker": Row(
        "qwen3_omni_moe", "Qwen3OmniMoeTalkerTextConfig", the("Qwen3OmniMoeTalkerTextSparseMoeBlock"),
        {"shared_expert_intermediate_size": 7}, variants=RAW, aux=pooled, part="talker",
    ),
    "qwen3_5_moe": Row("qwen3_5_moe", "Qwen3_5MoeTextConfig", the("Qwen3_5MoeSparseMoeBlock"), aux=pooled),
    "qwen3_vl_moe": Row("qwen3_vl_moe", "Qwen3VLMoeTextConfig", the("Qwen3VLMoeTextSparseMoeBlock"), aux=pooled),
    "hunyuan_v1_moe": Row(
        "hunyuan_v1_moe", "HunYuanMoEV1Config", the("HunYuanMoEV1Moe", 1),
        variants={"k per layer": {"num_hidden_layers": 2, "moe_topk": [2, 3]}}, layer=1,
    ),
    "dbrx": Row(
        "dbrx", "DbrxFFNConfig", lambda m, c: m.DbrxFFN(_holding(c)), {"moe_normalize_expert_weights": 2.0},
        variants={"raw": {"moe_normalize_expert_weights": None}, "sum": {"moe_normalize_expert_weights": 1.0}},
        aux=lambda m, logits, c: m.load_balancing_loss_func((logits,), c.moe_num_experts, c.moe_top_k),
        routing=lambda b, out: (out, *b.route_tokens_to_experts(out)),
        raw=lambda c: {"model_type": "dbrx", "d_model": 8, "ffn_config": c.to_dict()},
    ),
    "jamba": Row("jamba", "JambaConfig", the("JambaSparseMoeBlock"), aux=pooled),
    "gemma4": Row("gemma4", "Gemma4TextConfig", gemma("Gemma4"), {"enable_moe_block": True}),
    "diffusion_gemma": Row("diffusion_gemma", "DiffusionGemmaTextConfig", gemma("DiffusionGemma")),
}  # fmt: skip


class _holding:
    """A config that holds the one of DBRX's feed-forward part."""

    def __init__(self, ffn_config: Any) -> None:
        self.ffn_config = ffn_config


SIGMOID = {"expert_selection_fn": "sigmoid"}
B = {
    "granitemoe": Row("granitemoe", "GraniteMoeConfig", the("GraniteMoeMoE"), aux=pooled),
    "granitemoe_swa": Row("granitemoe_swa", "GraniteMoeSWAConfig", granite("GraniteMoeSWA"), aux=pooled),
    "granitemoehybrid": Row(
        "granitemoehybrid", "GraniteMoeHybridConfig", granite("GraniteMoeHybrid"), {"mamba_n_heads": 2}, aux=pooled
    ),
    "granitemoeshared": Row(
        "granitemoeshared", "GraniteMoeSharedConfig", granite("GraniteMoeShared"), aux=pooled
    ),
    "aria": Row("aria", "AriaTextConfig", the("AriaTextMoELayer"), variants={"bias": {"mlp_bias": True}}),
    "gpt_oss": Row("gpt_oss", "GptOssConfig", the("GptOssMLP"), aux=pooled),
    "openai_privacy_filter": Row(
        "openai_privacy_filter", "OpenAIPrivacyFilterConfig", the("OpenAIPrivacyFilterMLP"),
        routing=lambda b, out: (out[0], out[1] * b.num_experts, out[2]),
    ),
    "cohere2_moe": Row(
        "cohere2_moe", "Cohere2MoeConfig", the("Cohere2MoeSparseMoeBlock"),
        variants={
            "sigmoid": SIGMOID | {"shared_expert_combination_strategy": "sum"},
            "raw sigmoid": SIGMOID | {"norm_topk_prob": False, "num_shared_experts": 0},
        },
    ),
    "jetmoe": Row(
        "jetmoe", "JetMoeConfig", the("JetMoeMoE"), aux=pooled, routing=lambda b, out: jetmoe(out),
    ),
}  # fmt: skip


def jetmoe(out: Any) -> tuple[Any, Any, Any]:
    """Its router gives the slots in the order of their experts; here they are put back beside their tokens."""
    order, token, gates, sizes, logits = out
    experts = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    k = len(order) // len(logits)
    idx, weight = torch.empty(len(order), dtype=torch.long), torch.empty(len(order), dtype=gates.dtype)
    idx[order], weight[order] = experts, gates.detach()
    return logits, weight.reshape(-1, k), idx.reshape(-1, k)


V2 = {"greedy": {"topk_method": "greedy"}, "bias": {"mlp_bias": True}}
LIMITED = {"topk_method": "group_limited_greedy"}
F = {
    "deepseek_v2": Row("deepseek_v2", "DeepseekV2Config", the("DeepseekV2Moe"), LIMITED, V2),
    "deepseek_ocr2": Row("deepseek_ocr2", "DeepseekOcr2TextConfig", the("DeepseekOcr2TextMoe"), LIMITED, V2),
    "unlimited_ocr": Row("unlimited_ocr", "UnlimitedOcrTextConfig", the("UnlimitedOcrTextMoe"), LIMITED, V2),
    "mistral4": Row("mistral4", "Mistral4Config", the("Mistral4MoE"), variants=RAW),
    "mistral_large4": Row("mistral_large4", "MistralLarge4TextConfig", the("MistralLarge4TextMoE")),
}
ROWS: dict[str, Row] = {**A, **B, **F}
