"""The decoders with experts that pymoe runs: for each model_type its settings, and where its tensors lie.

A family is data: ``attention`` makes the attention of layer i from the fields of a config.json, ``sparse`` says which
layers have experts; the block itself, its tensors too, is ``hf.blocks``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.hf import blocks
from pymoe.hf.blocks.family import BlockConfig, activation
from pymoe.hf.models.fields import Said, damaged
from pymoe.hf.models.tensors import Form
from pymoe.models import LMConfig, Multipliers
from pymoe.models.block import AttentionConfig
from pymoe.nn import LatentAttentionConfig, SelfAttentionConfig, Temperature


def every(said: Said, i: int) -> bool:
    """Each layer has experts."""
    return True


@dataclasses.dataclass(frozen=True)
class ModelFamily:
    """One row; ``neighbours``: do neighbouring channels turn together (``layouts``)?  ``block``: the name of a layer's
    feed-forward in memory; ``dense``: the field with the width of the layers without experts."""

    name: str
    attention: Callable[[Said, int], AttentionConfig]
    sparse: Callable[[Said, int], bool] = every
    multipliers: Callable[[Said], Multipliers] = lambda said: Multipliers()
    neighbours: Callable[[Said], bool] = lambda said: False
    block: str = "mlp"
    dense: str = "intermediate_size"


def _heads(said: Said, **more: Any) -> SelfAttentionConfig:
    base, stretch = said.rope()
    h, g, d = said.heads
    return SelfAttentionConfig(
        said.whole("hidden_size"), h, g, d, rope_base=base, rope_stretch=stretch,
        std=float(said["initializer_range"]), norm_eps=float(said["rms_norm_eps"]), **more,
    )  # fmt: skip


def _window(said: Said, i: int, usual: Callable[[int], bool]) -> int | None:
    """The sliding window of layer i: as ``layer_types`` says, or else where ``usual``."""
    types = said.get("layer_types")
    slides = usual(i) if types is None else types[i] == "sliding_attention"
    return said.whole("sliding_window") if slides else None


def _qwen2(said: Said, i: int) -> SelfAttentionConfig:
    def usual(i: int) -> bool:
        return i % 2 == 0 and i < said.whole("max_window_layers")

    window = _window(said, i, usual) if said["use_sliding_window"] else None
    return _heads(said, bias=bool(said["qkv_bias"]), out_bias=False, window=window)


def _qwen3(said: Said, i: int) -> SelfAttentionConfig:
    window = said.whole("sliding_window") if said["use_sliding_window"] else None
    return _heads(said, bias=bool(said["attention_bias"]), qk_norm="head", window=window)


def _stepped(said: Said, i: int) -> bool:
    return i not in (said["mlp_only_layers"] or ()) and (i + 1) % said.whole("decoder_sparse_step") == 0


def _olmoe(said: Said, i: int) -> SelfAttentionConfig:
    if said["clip_qkv"] is not None:
        raise ConfigError(f"config.json has clip_qkv = {said['clip_qkv']!r}, and this decoder clips nothing")
    return _heads(said, bias=bool(said["attention_bias"]), qk_norm="width")


def _granite(said: Said, i: int) -> SelfAttentionConfig:
    return _heads(said, bias=bool(said["attention_bias"]), scale=float(said["attention_multiplier"]))


def _granite_multipliers(said: Said) -> Multipliers:
    return Multipliers(
        float(said["embedding_multiplier"]), float(said["residual_multiplier"]), 1 / float(said["logits_scaling"])
    )


def _deepseek(said: Said, i: int) -> LatentAttentionConfig:
    base, stretch = said.rope()
    nope, rope = said.whole("qk_nope_head_dim"), said.whole("qk_rope_head_dim")
    return LatentAttentionConfig(
        said.whole("hidden_size"), said.whole("num_attention_heads"), said.whole("kv_lora_rank"), nope, rope,
        said.whole("v_head_dim"), None if said["q_lora_rank"] is None else said.whole("q_lora_rank"), rope_base=base,
        rope_stretch=stretch, scale=said.yarn_scale() / math.sqrt(nope + rope), bias=bool(said["attention_bias"]),
        std=float(said["initializer_range"]),
    )  # fmt: skip


def _after_dense(said: Said, i: int) -> bool:
    return i >= said.whole("first_k_dense_replace")


def _gpt_oss(said: Said, i: int) -> SelfAttentionConfig:
    window = _window(said, i, lambda i: i % 2 == 0)
    return _heads(said, bias=bool(said["attention_bias"]), sinks=True, window=window)


def _llama4(said: Said, i: int) -> SelfAttentionConfig:
    turned, types = said["no_rope_layers"], said["layer_types"]
    turns = bool(turned[i]) if turned else (i + 1) % said.whole("no_rope_layer_interval") != 0
    chunked = turns if types is None else types[i] == "chunked_attention"
    tuned = not turns and said["attn_temperature_tuning"]
    made = _heads(
        said, bias=bool(said["attention_bias"]), qk_norm="unit" if turns and said["use_qk_norm"] else "none",
        chunk=said.whole("attention_chunk_size") if chunked and said["attention_chunk_size"] is not None else None,
        temperature=Temperature(float(said["attn_scale"]), said.whole("floor_scale")) if tuned else None,
    )  # fmt: skip
    return made if turns else dataclasses.replace(made, rope_base=None, rope_stretch=None)


def _llama4_sparse(said: Said, i: int) -> bool:
    if said["moe_layers"] is not None:
        return i in said["moe_layers"]
    return (i + 1) % said.whole("interleave_moe_layer_step") == 0


FAMILIES: dict[str, ModelFamily] = {
    family.name: family
    for family in (
        ModelFamily("qwen2_moe", _qwen2, _stepped),
        ModelFamily("qwen3_moe", _qwen3, _stepped),
        ModelFamily("olmoe", _olmoe),
        ModelFamily(
            "granitemoe", _granite, multipliers=_granite_multipliers, block="block_sparse_moe"
        ),
        ModelFamily("deepseek_v2", _deepseek, _after_dense, neighbours=lambda said: True),
        ModelFamily(
            "deepseek_v3", _deepseek, _after_dense, neighbours=lambda said: bool(said["rope_interleave"])
        ),
        ModelFamily("gpt_oss", _gpt_oss),
        ModelFamily(
            "llama4_text", _llama4, _llama4_sparse, neighbours=lambda said: True, dense="intermediate_size_mlp",
            block="feed_forward",
        ),
    )
}  # fmt: skip


def config(raw: Mapping[str, Any]) -> LMConfig:
    """The settings of a whole decoder from its config.json.

    A model_type that is not one of ``FAMILIES``, or a setting that this decoder has not: ConfigError; a field that is
    missing or of another kind: CheckpointError.

    >>> cfg = config({"model_type": "qwen3_moe", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3,
    ...               "num_key_value_heads": 1, "head_dim": 6, "vocab_size": 11, "num_experts": 4,
    ...               "num_experts_per_tok": 2, "moe_intermediate_size": 5, "mlp_only_layers": [1]})
    >>> [b.sparse for b in cfg.stack.blocks], cfg.stack.blocks[0].attention.qk_norm
    ([True, False, True], 'head')
    """
    family, said = _said(raw)
    with damaged():
        return _config(raw, family, said)


def _config(raw: Mapping[str, Any], family: ModelFamily, said: Said) -> LMConfig:
    n = said.whole("num_hidden_layers")
    sparse = tuple(i for i in range(n) if family.sparse(said, i))
    attention = tuple(family.attention(said, i) for i in range(n))
    moe = blocks.config(raw) if sparse else None
    assert moe is None or isinstance(moe, BlockConfig)  # the families of this table have no rules of their own
    latent = any(isinstance(a, LatentAttentionConfig) for a in attention)
    h, g, d = (said.whole("num_attention_heads"), None, None) if latent else said.heads
    return LMConfig(
        vocab=said.whole("vocab_size"),
        context=said.whole("max_position_embeddings"),
        d_model=said.whole("hidden_size"),
        n_layers=n,
        n_heads=h,
        n_kv_heads=g,
        head_dim=d,
        d_ff=None if len(sparse) == n else said.whole(family.dense),
        activation=activation(said.get("hidden_act") or "silu"),
        bias=bool(said.get("mlp_bias")),
        moe=moe,
        moe_layers=sparse,
        norm_eps=float(said["rms_norm_eps"]),
        tie=bool(said["tie_word_embeddings"]),
        std=float(said["initializer_range"]),
        multipliers=family.multipliers(said),
        attention=attention[0] if len(set(attention)) == 1 else attention,
    )


def form(raw: Mapping[str, Any]) -> Form:
    """How the tensors of the model of this config.json lie, beyond what ``hf.blocks`` knows."""
    family, said = _said(raw)
    return Form(family.block, family.neighbours(said), said.get("num_nextn_predict_layers") or 0)


def _said(raw: Mapping[str, Any]) -> tuple[ModelFamily, Said]:
    name = raw.get("model_type")
    if name not in FAMILIES:
        raise ConfigError(f"model_type {name!r} is not a decoder that pymoe.hf runs: {', '.join(FAMILIES)}")
    return FAMILIES[name], Said.of(name, raw)
