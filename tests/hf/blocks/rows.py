"""Which block of transformers stands for a row of the table: one line a family, in the groups of ``hf.blocks``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.hf.blocks.row import Row, gemma, granite, pooled, the  # noqa: E402

nn = torch.nn

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


V2: dict[str, Any] = {"greedy": {"topk_method": "greedy"}, "bias": {"mlp_bias": True}}
LIMITED = {"topk_method": "group_limited_greedy"}
V2_ROW = LIMITED | {"norm_topk_prob": False}  # which transformers ignores: test_defects
F = {
    "deepseek_v2": Row("deepseek_v2", "DeepseekV2Config", the("DeepseekV2Moe"), V2_ROW, V2),
    "deepseek_ocr2": Row("deepseek_ocr2", "DeepseekOcr2TextConfig", the("DeepseekOcr2TextMoe"), LIMITED, V2),
    "unlimited_ocr": Row("unlimited_ocr", "UnlimitedOcrTextConfig", the("UnlimitedOcrTextMoe"), LIMITED, V2),
    "mistral4": Row("mistral4", "Mistral4Config", the("Mistral4MoE"), variants=RAW),
    "mistral_large4": Row("mistral_large4", "MistralLarge4TextConfig", the("MistralLarge4TextMoE")),
}


def v3(folder: str, config: str, block: str, **more: Any) -> Row:
    return Row(folder, config, the(block), variants=RAW | ONE_GROUP | more.pop("variants", {}), **more)


C = {
    "deepseek_v3": v3("deepseek_v3", "DeepseekV3Config", "DeepseekV3MoE"),
    "deepseek_v32": v3("deepseek_v32", "DeepseekV32Config", "DeepseekV32MoE"),
    "kimi_linear": Row(
        "kimi_linear", "KimiLinearConfig", the("KimiLinearMoE"), variants={"raw": {"moe_renormalize": False}},
    ),
    "bailing_hybrid": Row(
        "bailing_hybrid", "BailingHybridConfig", the("BailingHybridMoE"), variants={"raw": {"moe_renormalize": False}},
    ),
    "dots1": v3("dots1", "Dots1Config", "Dots1MoE"),
    "dots3_note": v3("dots3_note", "Dots3NoteTextConfig", "Dots3NoteTextMoE"),
    "glm4_moe": v3("glm4_moe", "Glm4MoeConfig", "Glm4MoeMoE"),
    "glm4_moe_lite": v3("glm4_moe_lite", "Glm4MoeLiteConfig", "Glm4MoeLiteMoE"),
    "glm4v_moe": v3("glm4v_moe", "Glm4vMoeTextConfig", "Glm4vMoeTextMoE", aux=pooled),
    "glm_moe_dsa": v3("glm_moe_dsa", "GlmMoeDsaConfig", "GlmMoeDsaMoE"),
    "solar_open": v3("solar_open", "SolarOpenConfig", "SolarOpenMoE"),
    "exaone_moe": v3("exaone_moe", "ExaoneMoeConfig", "ExaoneMoeSparseMoEBlock"),
    "glm5_next": v3(
        "glm5_next", "Glm5NextTextConfig", "Glm5NextTextMoE", variants={"gelu": {"hidden_act": "gelu"}}, aux=pooled
    ),
    "hy_v4": v3("hy_v4", "HYV4Config", "HYV4MoE", variants={"gelu": {"hidden_act": "gelu"}}),
    "axk1": v3("axk1", "AXK1Config", "AXK1MoE"),
    "axk2": v3("axk2", "AXK2Config", "AXK2MoE", variants={"no groups": {"n_group": None, "topk_group": None}}),
    "mimo_v2_flash": v3("mimo_v2_flash", "MiMoV2FlashConfig", "MiMoV2FlashMoE"),
    "nemotron_h": v3(
        "nemotron_h", "NemotronHConfig", "NemotronHMoE",
        variants={"latent": {"moe_latent_size": 4}, "latent bias": {"moe_latent_size": 4, "mlp_bias": True}},
    ),
    "beam": v3("beam", "BeamConfig", "BeamMoE"),
}  # fmt: skip


def llama4(block: Any, out: Any) -> tuple[Any, Any, Any]:
    scores, logits = out
    idx = logits.topk(block.top_k, dim=1).indices
    return logits, scores.gather(1, idx), idx


def steps(block: str) -> Callable[[Any, Any], Any]:
    return lambda module, cfg: getattr(module, block)(cfg, 1)


def token_ids(rng: np.random.Generator, cfg: Any, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    return {"input_ids": rng.integers(0, cfg.vocab_size, shape)}


def distinct(rng: np.random.Generator, cfg: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A table of experts by token id: no expert twice in a row."""
    return np.stack([rng.permutation(cfg.num_local_experts)[: shape[1]] for _ in range(shape[0])])


V4 = {"num_hidden_layers": 2, "mlp_layer_types": ["hash_moe", "moe"], "vocab_size": 13}
D = {
    "afmoe": Row("afmoe", "AfmoeConfig", the("AfmoeSparseMoeBlock")),
    "hy_v3": Row(
        "hy_v3", "HYV3Config", the("HYV3MoE"), variants={"bf16 combine": {"enable_moe_fp32_combine": False}}
    ),
    "dots3_note.vision": Row(
        "dots3_note", "Dots3NoteVisionConfig", the("Dots3NoteVisionMoE", 1),
        {"num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"], "adapter_in_dim": 8,
         "per_layer_config": {1: {"num_local_experts": 7, "num_experts_per_tok": 4}}}, part="vision", layer=1,
    ),
    "minimax_m2": Row("minimax_m2", "MiniMaxM2Config", the("MiniMaxM2SparseMoeBlock"), aux=pooled),
    "minimax_m3_vl": Row("minimax_m3_vl", "MiniMaxM3VLTextConfig", the("MiniMaxM3VLSparseMoeBlock"), aux=pooled),
    "step3p7": Row(
        "step3p7", "Step3p7TextConfig", steps("Step3p7SparseMoeBlock"),
        {"num_hidden_layers": 2, "swiglu_limits": [0, 0.1], "swiglu_limits_shared": [0, 0.2],
         "layer_types": ["full_attention"] * 2, "mlp_layer_types": ["sparse"] * 2},
        variants={"no limits": {"swiglu_limits": None, "swiglu_limits_shared": [0.2, 0]}}, layer=1,
    ),
    "laguna": Row(
        "laguna", "LagunaConfig", the("LagunaSparseMoeBlock"), {"moe_router_logit_softcapping": 0.7},
        variants={"no cap": {"moe_router_logit_softcapping": 0.0}}, aux=pooled,
    ),
    "lfm2_moe": Row(
        "lfm2_moe", "Lfm2MoeConfig", the("Lfm2MoeSparseMoeBlock"),
        variants=RAW | {"no bias": {"use_expert_bias": False}},
    ),
    "muse_spark": Row(
        "muse_spark", "MuseSparkTextConfig", the("MuseSparkMoE"),
        {"moe_hidden_size": 4, "output_multiplier": 0.6, "rms_norm_eps": 1e-3, "post_norm_eps": 2e-3},
    ),
    "kolibri1": Row("kolibri1", "Kolibri1Config", the("Kolibri1SparseMoeBlock"), variants=RAW),
    "flint": Row("flint", "FlintConfig", the("FlintSparseMoeBlock"), variants=RAW, aux=pooled),
    "deepseek_v4": Row(
        "deepseek_v4", "DeepseekV4Config", the("DeepseekV4SparseMoeBlock", 1), V4,
        variants={"sigmoid": {"scoring_func": "sigmoid"}, "bias": {"mlp_bias": True}}, aux=pooled,
    ),
    "deepseek_v4.hash": Row(
        "deepseek_v4", "DeepseekV4Config", the("DeepseekV4SparseMoeBlock", 0), V4, inputs=token_ids, table=distinct,
        part="hash",
    ),
    "inkling2": Row(
        "inkling2", "Inkling2TextConfig", the("Inkling2SparseMoeBlock"),
        {"mlp_gate_softcap": 0.4, "mlp_up_softcap": 0.7}, variants={"softplus": {"scoring_func": "sqrtsoftplus"}},
    ),
    "inkling": Row("inkling", "InklingTextConfig", the("InklingMoE")),
}  # fmt: skip


def token_types(kind: int) -> Callable[..., dict[str, np.ndarray]]:
    return lambda rng, cfg, shape: {"moe_mm_token_type_ids": np.full(shape, kind, np.int32)}


def ernie(part: str) -> Callable[[Any], Any]:
    return lambda block: getattr(block, part).gate


def zaya(block: Any, out: Any) -> tuple[Any, Any, Any]:
    """The router gives the class «skip» as expert 0 with weight 0; its id is E."""
    logits, weight, idx, _ = out
    return logits, weight, torch.where(weight == 0, block.experts.num_experts, idx)


def state_before(rng: np.random.Generator, cfg: Any, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    return {"prev_router_hidden_states": rng.standard_normal((*shape, cfg.router_hidden_size))}


BIASED = {"bias": {"use_bias": True}}
E = {
    "ernie4_5_moe": Row("ernie4_5_moe", "Ernie4_5_MoeConfig", the("Ernie4_5_MoeSparseMoeBlock"),
                        {"moe_norm_min": 0.7}, BIASED, aux=pooled),
    "ernie4_5_vl_moe": Row(
        "ernie4_5_vl_moe", "Ernie4_5_VLMoeTextConfig", the("Ernie4_5_VLMoeMoeBlock"), {"moe_intermediate_size": [5, 3]},
        BIASED, router=ernie("text_moe"), aux=pooled,
    ),
    "ernie4_5_vl_moe.vision": Row(
        "ernie4_5_vl_moe", "Ernie4_5_VLMoeTextConfig", the("Ernie4_5_VLMoeMoeBlock"), {"moe_intermediate_size": [5, 3]},
        BIASED, router=ernie("vision_moe"), aux=pooled, inputs=token_types(1), part="vision",
    ),
    "longcat_flash": Row(
        "longcat_flash", "LongcatFlashConfig", the("LongcatFlashMoE"), {"zero_expert_num": 2},
        variants={"no identity": {"zero_expert_num": 0}},
    ),
    "zaya": Row(
        "zaya", "ZayaConfig", the("ZayaSparseMoeBlock", 1),
        {"num_experts_per_tok": 1, "router_hidden_size": 7, "rms_norm_eps": 1e-3}, routing=zaya, inputs=state_before,
        layer=1,
    ),
    "zaya.first": Row(
        "zaya", "ZayaConfig", the("ZayaSparseMoeBlock", 0),
        {"num_experts_per_tok": 1, "router_hidden_size": 7, "rms_norm_eps": 1e-3}, routing=zaya, layer=0,
        family="zaya",
    ),
}  # fmt: skip


class _AllExperts(nn.Module):
    """NLLB's router, with the ids of all experts in the place of the mask that its experts take for ids (defect L1)."""

    def __init__(self, router: Any) -> None:
        super().__init__()
        self.inner = router

    def forward(self, x: Any, padding_mask: Any = None) -> Any:
        _, gates, logits = self.inner(x, padding_mask)
        return torch.arange(gates.shape[1]).expand(gates.shape), gates, logits


class _EachToken(nn.Module):
    """Doge's router scores laid out so that its ``view(2, B S, n)`` gives each token its own (defect L2)."""

    def __init__(self, gate: Any) -> None:
        super().__init__()
        self.inner = gate

    def forward(self, x: Any) -> Any:
        z = self.inner(x)
        return z.reshape(-1, 2, z.shape[-1] // 2).transpose(0, 1).contiguous().view(z.shape)


def mended(block: Any, name: str, wrap: Any) -> Any:
    """The block with the part ``name`` wrapped, its parameters under their own names."""
    setattr(block, name, wrap(getattr(block, name)))
    return block


def switch_losses(module: Any, logits: Any, cfg: Any) -> Any:
    return module.load_balancing_loss_func(torch.softmax(logits, -1), logits.argmax(-1))


def nllb(block: Any, out: Any) -> tuple[Any, Any, Any]:
    _, gates, logits = out
    idx = logits.topk(2, dim=-1).indices
    return logits, gates.gather(1, idx), idx


def switch(block: Any, out: Any) -> tuple[Any, Any, Any]:
    kept, weight, logits = out
    return logits, (weight * kept.sum(-1, keepdim=True)).reshape(-1, 1), logits.argmax(-1).reshape(-1, 1)


def doge(block: Any, out: Any) -> tuple[Any, Any, Any]:
    """What its block keeps to itself: the k best of n² sums of two scores."""
    halves = out.view(2, -1, out.shape[-1] // 2)
    sums = (halves[0][:, :, None] + halves[1][:, None, :]).flatten(1)
    best = sums.topk(block.top_k, dim=-1)
    return halves.transpose(0, 1).flatten(1), best.values.softmax(-1), best.indices


BEFORE = {"normalize_router_prob_before_dropping": True}
G = {
    "llama4": Row("llama4", "Llama4TextConfig", the("Llama4TextMoe"), routing=llama4),
    "switch_transformers": Row(
        "switch_transformers", "SwitchTransformersConfig", the("SwitchTransformersSparseMLP"),
        {"expert_capacity": 2}, variants={"room": {"expert_capacity": 64}, "bias": {"router_bias": True}},
        routing=switch, aux=switch_losses,
    ),
    "nllb_moe": Row(
        "nllb_moe", "NllbMoeConfig", lambda m, c: mended(m.NllbMoeSparseMLP(c, 5), "router", _AllExperts),
        {"encoder_ffn_dim": 5, "moe_eval_capacity_token_fraction": 0.3},
        variants={
            "before": BEFORE, "by score": {"batch_prioritized_routing": True}, "bias": {"router_bias": True},
            "room": {"moe_eval_capacity_token_fraction": 1.0},
        },
        router=lambda b: b.router.inner, routing=nllb,
    ),
    "phimoe": Row(
        "phimoe", "PhimoeConfig", the("PhimoeSparseMoeBlock"), {"num_experts_per_tok": 2, "router_jitter_noise": 0.2},
        aux=pooled, factor=2.0,
    ),
    "doge": Row(
        "doge", "DogeConfig", lambda m, c: mended(m.DogeCDMoE(c), "router_gate", _EachToken),
        {"num_experts": 16, "num_experts_per_tok": 3, "norm_topk_prob": False}, variants={"bias": {"mlp_bias": True}},
        router=lambda b: b.router_gate, routing=doge,
    ),
}  # fmt: skip
ROWS: dict[str, Row] = {**A, **B, **C, **D, **E, **F, **G}
