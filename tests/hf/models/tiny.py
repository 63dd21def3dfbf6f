"""Tiny models of the families that ``pymoe.hf.models`` runs: their settings, sizes that differ where they may."""

from __future__ import annotations

from typing import Any

COMMON: dict[str, Any] = {
    "vocab_size": 19, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 32, "rms_norm_eps": 3e-5, "initializer_range": 0.3, "num_experts_per_tok": 2,
    "pad_token_id": None,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "kv_lora_rank": 10, "q_lora_rank": 11, "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 7,
    "moe_intermediate_size": 9, "intermediate_size": 13, "n_routed_experts": 6, "n_shared_experts": 2,
    "num_key_value_heads": 4, "first_k_dense_replace": 1, "num_experts_per_tok": 3,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 8, "beta_fast": 4.0,
    "beta_slow": 1.0,
}  # fmt: skip
# name -> (model_type, the class of transformers, settings)
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mixtral": ("mixtral", "MixtralForCausalLM", {
        "intermediate_size": 9, "num_local_experts": 5, "sliding_window": None, "num_hidden_layers": 2,
    }),
    "qwen2_moe": ("qwen2_moe", "Qwen2MoeForCausalLM", {
        "intermediate_size": 13, "moe_intermediate_size": 9, "shared_expert_intermediate_size": 7, "num_experts": 5,
        "decoder_sparse_step": 2, "num_hidden_layers": 4, "mlp_only_layers": [1], "norm_topk_prob": True,
        "num_experts_per_tok": 3,
    }),
    "qwen2_moe windows": ("qwen2_moe", "Qwen2MoeForCausalLM", {
        "intermediate_size": 13, "moe_intermediate_size": 9, "shared_expert_intermediate_size": 7, "num_experts": 5,
        "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2, "tie_word_embeddings": True,
    }),
    "qwen3_moe": ("qwen3_moe", "Qwen3MoeForCausalLM", {
        "intermediate_size": 13, "moe_intermediate_size": 9, "num_experts": 5, "head_dim": 6, "mlp_only_layers": [0],
        "attention_bias": True,
    }),
    "olmoe": ("olmoe", "OlmoeForCausalLM", {
        "intermediate_size": 9, "num_experts": 5, "num_hidden_layers": 2,
    }),
    "granitemoe": ("granitemoe", "GraniteMoeForCausalLM", {
        "intermediate_size": 9, "num_local_experts": 5, "num_hidden_layers": 2, "embedding_multiplier": 3.0,
        "logits_scaling": 0.7, "residual_multiplier": 0.4, "attention_multiplier": 0.3
    }),
    "deepseek_v2": ("deepseek_v2", "DeepseekV2ForCausalLM", LATENT | {
        "topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2, "routed_scaling_factor": 1.7,
        "attention_bias": True,
    }),
    "deepseek_v2 lite": ("deepseek_v2", "DeepseekV2ForCausalLM", LATENT | {
        "q_lora_rank": None, "num_hidden_layers": 2, "rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.5},
    }),
    "deepseek_v3": ("deepseek_v3", "DeepseekV3ForCausalLM", LATENT | {
        "n_group": 3, "topk_group": 2, "routed_scaling_factor": 2.5,
    }),
    "deepseek_v3 halves": ("deepseek_v3", "DeepseekV3ForCausalLM", LATENT | {
        "n_group": 1, "topk_group": 1, "rope_interleave": False, "num_hidden_layers": 2, "attention_bias": True,
        "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
    }),
    "gpt_oss": ("gpt_oss", "GptOssForCausalLM", {
        "intermediate_size": 9, "num_local_experts": 5, "head_dim": 8, "sliding_window": 4,
        "rope_parameters": YARN | {"truncate": False},
    }),
    "llama4": ("llama4_text", "Llama4ForCausalLM", {
        "intermediate_size": 9, "intermediate_size_mlp": 13, "num_local_experts": 5, "head_dim": 8,
        "num_hidden_layers": 4, "interleave_moe_layer_step": 2, "no_rope_layer_interval": 3, "attention_chunk_size": 4,
        "floor_scale": 3, "attn_scale": 0.7,
    }),
    "llama4 stretched": ("llama4_text", "Llama4ForCausalLM", {
        "intermediate_size": 9, "num_local_experts": 5, "head_dim": 8, "num_hidden_layers": 2, "use_qk_norm": False,
        "num_experts_per_tok": 1, "attn_temperature_tuning": False, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    }),
}  # fmt: skip

_SWITCH: dict[str, Any] = {
    "vocab_size": 19, "d_model": 12, "d_kv": 5, "d_ff": 9, "num_heads": 3, "num_experts": 4, "expert_capacity": 2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "router_jitter_noise": 0.0,
    "layer_norm_epsilon": 3e-5, "decoder_start_token_id": 0,
}  # fmt: skip
SWITCH: dict[str, dict[str, Any]] = {
    "switch": _SWITCH | {
        "num_layers": 4, "num_sparse_encoder_layers": 2, "num_decoder_layers": 2, "num_sparse_decoder_layers": 1,
    },
    "switch untied": _SWITCH | {
        "num_layers": 3, "num_sparse_encoder_layers": 3, "num_decoder_layers": 2, "num_sparse_decoder_layers": 2,
        "tie_word_embeddings": False, "router_bias": True, "dense_act_fn": "gelu_new",
    },
}  # fmt: skip


def settings(name: str) -> dict[str, Any]:
    """The fields of one model's config."""
    return COMMON | MODELS[name][2]
