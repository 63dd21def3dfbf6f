"""Three tiny models in the hub's layout, drawn from seeds: the inputs of ``vectors.json``."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("vectors.json")
IDS = np.array([[3, 18, 0, 7, 7, 11, 2, 9], [16, 5, 1, 12, 4, 0, 8, 13]])
_COMMON = {
    "vocab_size": 19, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
    "max_position_embeddings": 32, "rms_norm_eps": 3e-5, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _COMMON | {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "intermediate_size": 10, "rope_theta": 500.0,
        "tie_word_embeddings": True,
    },
    "mistral": _COMMON | {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "intermediate_size": 10, "head_dim": 8,
        "sliding_window": None, "rope_theta": 9000.0,
    },
    "mixtral": _COMMON | {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "intermediate_size": 7, "rope_theta": 1e6,
        "sliding_window": None, "num_local_experts": 5, "num_experts_per_tok": 3,
    },
}  # fmt: skip


def shapes(raw: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The hub's names and shapes, written out here and not taken from pymoe."""
    d, f, v = raw["hidden_size"], raw["intermediate_size"], raw["vocab_size"]
    head = raw.get("head_dim") or d // raw["num_attention_heads"]
    q, kv = raw["num_attention_heads"] * head, raw["num_key_value_heads"] * head
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not raw["tie_word_embeddings"]:
        found["lm_head.weight"] = (v, d)
    for i in range(raw["num_hidden_layers"]):
        at = f"model.layers.{i}."
        found |= {f"{at}self_attn.q_proj.weight": (q, d), f"{at}self_attn.k_proj.weight": (kv, d)}
        found |= {f"{at}self_attn.v_proj.weight": (kv, d), f"{at}self_attn.o_proj.weight": (d, q)}
        found |= {f"{at}input_layernorm.weight": (d,), f"{at}post_attention_layernorm.weight": (d,)}
        if raw["model_type"] != "mixtral":
            found |= {f"{at}mlp.gate_proj.weight": (f, d), f"{at}mlp.up_proj.weight": (f, d)}
            found[f"{at}mlp.down_proj.weight"] = (d, f)
            continue
        at += "block_sparse_moe."
        found[f"{at}gate.weight"] = (raw["num_local_experts"], d)
        for e in range(raw["num_local_experts"]):
            found |= {f"{at}experts.{e}.w1.weight": (f, d), f"{at}experts.{e}.w3.weight": (f, d)}
            found[f"{at}experts.{e}.w2.weight"] = (d, f)
    return found


def tensors(raw: dict[str, Any]) -> dict[str, np.ndarray]:
    """Each tensor from a seed of its own; norms around 1."""
    found = {}
    for name, shape in shapes(raw).items():
        drawn = 0.4 * np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        found[name] = 1 + drawn if name.endswith("norm.weight") else drawn
    return found
