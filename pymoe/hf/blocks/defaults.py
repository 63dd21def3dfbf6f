"""What a field means that a config.json leaves out: written by ``tests/hf/blocks/make_defaults.py``.

Source: the config classes of transformers 5.23.0; a test compares this file with the installed ones.
"""

from __future__ import annotations

from typing import Any

DEFAULTS: dict[str, dict[str, Any]] = {
    "aria": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 4096, "mlp_bias": False,
        "moe_num_experts": 8, "moe_num_shared_experts": 2, "moe_topk": 2, "rms_norm_eps": 1e-06},
    "cohere2_moe": {"expert_selection_fn": "softmax", "hidden_act": "silu", "hidden_size": 8192,
        "intermediate_size": 22528, "norm_topk_prob": True, "num_experts": 8, "num_experts_per_tok": 2,
        "num_shared_experts": 0, "shared_expert_combination_strategy": "average"},
    "dbrx": {"ffn_hidden_size": 3584, "hidden_size": 6144, "moe_normalize_expert_weights": 1.0, "moe_num_experts":
        4, "moe_top_k": 1},
    "deepseek_ocr2": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008, "mlp_bias": False,
        "moe_intermediate_size": 1407, "n_routed_experts": 64, "n_shared_experts": 2, "rms_norm_eps": 1e-06,
        "routed_scaling_factor": 1.0, "topk_method": "greedy"},
    "deepseek_v2": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008, "mlp_bias": False,
        "moe_intermediate_size": 1407, "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": False,
        "rms_norm_eps": 1e-06, "routed_scaling_factor": 1.0, "topk_method": "greedy"},
    "diffusion_gemma": {"hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216,
        "rms_norm_eps": 1e-06},
    "flex_olmo": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008, "norm_topk_prob": False,
        "num_experts": 7, "num_experts_per_tok": 5, "rms_norm_eps": 1e-06},
    "gemma4": {"hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216,
        "rms_norm_eps": 1e-06},
    "gpt_oss": {"hidden_act": "silu", "hidden_size": 2880, "intermediate_size": 2880, "num_experts_per_tok": 4,
        "num_local_experts": 128, "rms_norm_eps": 1e-05, "swiglu_alpha": 1.702, "swiglu_limit": 7.0},
    "granitemoe": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008, "num_experts_per_tok": 2,
        "num_local_experts": 8, "rms_norm_eps": 1e-06},
    "granitemoe_swa": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008, "num_experts_per_tok":
        2, "num_local_experts": 8, "rms_norm_eps": 1e-06, "shared_intermediate_size": 0},
    "granitemoehybrid": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
        "num_experts_per_tok": 2, "num_local_experts": 8, "rms_norm_eps": 1e-06, "shared_intermediate_size": 1024},
    "granitemoeshared": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
        "num_experts_per_tok": 2, "num_local_experts": 8, "rms_norm_eps": 1e-06, "shared_intermediate_size": 0},
    "hunyuan_v1_moe": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008, "moe_topk": 1,
        "num_experts": 1, "rms_norm_eps": 1e-05},
    "jamba": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "num_experts": 16,
        "num_experts_per_tok": 2, "rms_norm_eps": 1e-06},
    "jetmoe": {"activation_function": "silu", "hidden_size": 2048, "intermediate_size": 5632, "num_experts_per_tok":
        2, "num_local_experts": 8, "rms_norm_eps": 1e-06},
    "mellum": {"hidden_act": "silu", "hidden_size": 2304, "intermediate_size": 7168, "moe_intermediate_size": 896,
        "norm_topk_prob": True, "num_experts": 64, "num_experts_per_tok": 8, "rms_norm_eps": 1e-06},
    "minimax": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "num_experts_per_tok": 2,
        "num_local_experts": 8, "rms_norm_eps": 1e-05, "router_jitter_noise": 0.0},
    "mistral4": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size":
        2048, "n_group": 1, "n_routed_experts": 128, "n_shared_experts": 1, "norm_topk_prob": True,
        "num_experts_per_tok": 4, "rms_norm_eps": 1e-06, "routed_scaling_factor": 1.0, "topk_group": 1},
    "mistral_large4": {"hidden_act": "silu", "hidden_size": 6144, "intermediate_size": 24576,
        "moe_intermediate_size": 6144, "n_group": 1, "n_routed_experts": 128, "n_shared_experts": 1,
        "num_experts_per_tok": 4, "rms_norm_eps": 1e-05, "routed_scaling_factor": 1.0, "topk_group": 1},
    "mixtral": {"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "num_experts_per_tok": 2,
        "num_local_experts": 8, "rms_norm_eps": 1e-05, "router_jitter_noise": 0.0},
    "olmoe": {"hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 2048, "norm_topk_prob": False,
        "num_experts": 64, "num_experts_per_tok": 8, "rms_norm_eps": 1e-05},
    "openai_privacy_filter": {"hidden_size": 640, "intermediate_size": 640, "num_experts_per_tok": 4,
        "num_local_experts": 128, "rms_norm_eps": 1e-05, "swiglu_alpha": 1.702, "swiglu_limit": 7.0},
    "qwen2_moe": {"hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size":
        1408, "norm_topk_prob": False, "num_experts": 60, "num_experts_per_tok": 4, "rms_norm_eps": 1e-06,
        "shared_expert_intermediate_size": 5632},
    "qwen3_5_moe": {"hidden_act": "silu", "hidden_size": 2048, "moe_intermediate_size": 512, "num_experts": 256,
        "num_experts_per_tok": 8, "rms_norm_eps": 1e-06, "shared_expert_intermediate_size": 512},
    "qwen3_moe": {"hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size":
        768, "norm_topk_prob": False, "num_experts": 128, "num_experts_per_tok": 8, "rms_norm_eps": 1e-06},
    "qwen3_next": {"hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size":
        512, "norm_topk_prob": True, "num_experts": 512, "num_experts_per_tok": 10, "rms_norm_eps": 1e-06,
        "shared_expert_intermediate_size": 512},
    "qwen3_omni_moe": {"hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 18944,
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_experts": 128, "num_experts_per_tok": 8,
        "rms_norm_eps": 1e-06},
    "qwen3_omni_moe.talker": {"hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 2048,
        "moe_intermediate_size": 384, "norm_topk_prob": False, "num_experts": 128, "num_experts_per_tok": 8,
        "rms_norm_eps": 1e-06},
    "qwen3_vl_moe": {"hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size":
        1408, "num_experts": 60, "num_experts_per_tok": 4, "rms_norm_eps": 1e-06},
    "qwen4_exp": {"hidden_act": "silu", "hidden_size": 2048, "moe_intermediate_size": 512, "norm_topk_prob": True,
        "num_experts": 512, "num_experts_per_tok": 10, "rms_norm_eps": 1e-06, "shared_expert_intermediate_size":
        512},
    "unlimited_ocr": {"hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 6848, "mlp_bias": False,
        "moe_intermediate_size": 896, "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "rms_norm_eps": 1e-06, "routed_scaling_factor": 1.0, "topk_group": 1,
        "topk_method": "greedy"},
}  # fmt: skip
