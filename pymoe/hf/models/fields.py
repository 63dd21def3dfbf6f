"""What a config.json says about a decoder outside its MoE block: sizes, heads, rotary positions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.nn.rotary import Linear, Llama3, Stretch, Yarn

_COMMON = {"initializer_range": 0.02, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "head_dim": None}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
# What a field means that is left out (transformers 5.23; a test compares these with its config classes).
DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen2_moe": _COMMON | {
        "max_position_embeddings": 32768, "num_attention_heads": 16, "num_key_value_heads": 16, "qkv_bias": True,
        "decoder_sparse_step": 1, "mlp_only_layers": (), "use_sliding_window": False, "sliding_window": 4096,
        "max_window_layers": 28, "rope_parameters": _ROPE, "vocab_size": 151936, "num_hidden_layers": 24,
        "intermediate_size": 5632, "hidden_size": 2048,
    },
    "qwen3_moe": _COMMON | {
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_key_value_heads": 4, "attention_bias": False,
        "decoder_sparse_step": 1, "mlp_only_layers": (), "use_sliding_window": False, "sliding_window": 4096,
        "rope_parameters": _ROPE, "vocab_size": 151936, "num_hidden_layers": 24, "intermediate_size": 6144,
        "hidden_size": 2048,
    },
    "olmoe": _COMMON | {
        "max_position_embeddings": 4096, "num_attention_heads": 16, "num_key_value_heads": None,
        "attention_bias": False, "clip_qkv": None, "rms_norm_eps": 1e-5, "rope_parameters": _ROPE,
        "vocab_size": 50304, "num_hidden_layers": 16, "hidden_size": 2048,
    },
    "granitemoe": _COMMON | {
        "max_position_embeddings": 2048, "num_attention_heads": 32, "num_key_value_heads": None,
        "attention_bias": False, "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "residual_multiplier": 1.0,
        "logits_scaling": 1.0, "rope_parameters": _ROPE, "vocab_size": 32000, "num_hidden_layers": 32,
        "hidden_size": 4096,
    },
    "deepseek_v2": _COMMON | {
        "max_position_embeddings": 2048, "num_attention_heads": 32, "attention_bias": False, "mlp_bias": False,
        "first_k_dense_replace": 0, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_parameters": _ROPE, "vocab_size": 102400,
        "num_hidden_layers": 32, "intermediate_size": 11008, "hidden_size": 4096,
    },
    "deepseek_v3": _COMMON | {
        "max_position_embeddings": 4096, "num_attention_heads": 128, "attention_bias": False,
        "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_interleave": True, "rope_parameters": _ROPE,
        "num_nextn_predict_layers": 1, "vocab_size": 129280, "num_hidden_layers": 61, "intermediate_size": 18432,
        "hidden_size": 7168,
    },
    "gpt_oss": _COMMON | {
        "max_position_embeddings": 131072, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
        "attention_bias": True, "sliding_window": 128, "layer_types": None, "rms_norm_eps": 1e-5,
        "vocab_size": 201088, "num_hidden_layers": 36, "hidden_size": 2880,
        "rope_parameters": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
            "original_max_position_embeddings": 4096, "rope_theta": 150000.0,
        },
    },
    "llama4_text": _COMMON | {
        "max_position_embeddings": 131072, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
        "attention_bias": False, "rms_norm_eps": 1e-5, "rope_parameters": _ROPE | {"rope_theta": 500000.0},
        "intermediate_size_mlp": 16384, "interleave_moe_layer_step": 1, "moe_layers": None, "use_qk_norm": True,
        "no_rope_layers": None, "no_rope_layer_interval": 4, "attention_chunk_size": 8192,
        "attn_temperature_tuning": True, "floor_scale": 8192, "attn_scale": 0.1, "layer_types": None,
        "vocab_size": 202048, "num_hidden_layers": 48, "hidden_size": 5120,
    },
    "switch_transformers": {
        "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12,
        "num_decoder_layers": None, "num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 3,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
        "dense_act_fn": "relu", "tie_word_embeddings": True,
    },
}  # fmt: skip


@contextlib.contextmanager
def damaged() -> Iterator[None]:
    """A field of another kind than it has to be, or a part of it that is missing, is a CheckpointError."""
    try:
        yield
    except (ConfigError, CheckpointError):
        raise
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json holds a value of another kind than its field has: {error!r}") from None


class Said(dict[str, Any]):
    """The fields of one config.json over the defaults of its family.

    >>> Said.of("olmoe", {"hidden_size": 8}).whole("hidden_size")
    8
    """

    @classmethod
    def of(cls, family: str, raw: Mapping[str, Any]) -> Said:
        said = cls(DEFAULTS[family] | dict(raw))
        if raw.get("rope_parameters") is None and (raw.get("rope_scaling") or raw.get("rope_theta")):
            older = dict(raw.get("rope_scaling") or {})  # older files: the base beside it, and "type"
            kind = older.get("rope_type", older.get("type", "default"))
            base = raw.get("rope_theta") or said["rope_parameters"]["rope_theta"]
            said["rope_parameters"] = {"rope_theta": base, **older, "rope_type": kind}
        if said.get("quantization_config") is not None:
            raise ConfigError("config.json has a quantization_config: only plain floating-point weights are read")
        return said

    def whole(self, name: str) -> int:
        """A field that is an integer."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise CheckpointError(f"config.json: {name} must be an integer, got {value!r}: use another copy")
        return value

    @property
    def heads(self) -> tuple[int, int, int]:
        """H, G, d."""
        h = self.whole("num_attention_heads")
        g = h if self["num_key_value_heads"] is None else self.whole("num_key_value_heads")
        return h, g, self.whole("hidden_size") // h if self["head_dim"] is None else self.whole("head_dim")

    def rope(self) -> tuple[float, Stretch | None]:
        """The base of the frequencies and how they are stretched; kinds that pymoe has not are refused."""
        p = self["rope_parameters"] or _ROPE
        base = float(p.get("rope_theta") or self.get("rope_theta") or _ROPE["rope_theta"])
        kind = p.get("rope_type", "default")
        if (p.get("partial_rotary_factor") or self.get("partial_rotary_factor") or 1) != 1:
            raise ConfigError("config.json has a partial_rotary_factor, and this decoder turns whole heads")
        if kind == "default":
            return base, None
        if kind == "linear":
            return base, Linear(float(p["factor"]))
        original = p.get("original_max_position_embeddings") or self.whole("max_position_embeddings")
        if kind == "yarn":
            factor = p.get("factor") or self.whole("max_position_embeddings") / original
            ends = (float(p.get("beta_fast") or 32), float(p.get("beta_slow") or 1))
            return base, Yarn(float(factor), original, *ends, bool(p.get("truncate", True)), _amplitude(p, factor))
        if kind == "llama3":
            return base, Llama3(
                float(p["factor"]), original, float(p["low_freq_factor"]), float(p["high_freq_factor"])
            )  # fmt: skip
        raise ConfigError(f"config.json has rope_type = {kind!r}; this decoder has default, linear, yarn and llama3")

    def yarn_scale(self) -> float:
        """DeepSeek's factor on the scores where positions are stretched: (0.1 m ln factor + 1)², m = mscale_all_dim."""
        p = self["rope_parameters"] or _ROPE
        m = p.get("mscale_all_dim")
        if p.get("rope_type", "default") == "default" or not m:
            return 1.0
        return _mscale(float(p["factor"]), float(m)) ** 2


def _amplitude(p: Mapping[str, Any], factor: float) -> float | None:
    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])
    if p.get("mscale") and p.get("mscale_all_dim"):
        return _mscale(factor, p["mscale"]) / _mscale(factor, p["mscale_all_dim"])
    return None


def _mscale(factor: float, m: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0
