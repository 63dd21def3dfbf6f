"""config.json <-> ``LMConfig``.  What the decoder of pymoe cannot express is refused by the name of its field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymoe import presets
from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.models import LMConfig, Multipliers
from pymoe.moe import MoEConfig
from pymoe.nn import SelfAttentionConfig

FAMILIES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "mixtral": "MixtralForCausalLM"}
_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# What a config.json means that leaves a field out (transformers 5.23).
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "num_key_value_heads": None, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
    },
    "mistral": {
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "sliding_window": 4096,
    },
    "mixtral": {
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
        "num_local_experts": 8, "num_experts_per_tok": 2,
    },
}  # fmt: skip
_EVERYWHERE: dict[str, Any] = {
    "hidden_act": "silu", "tie_word_embeddings": False, "head_dim": None, "initializer_range": 0.02,
    "sliding_window": None,
}  # fmt: skip


def from_hf(raw: Mapping[str, Any]) -> LMConfig:
    """The settings of a config.json.

    The context is ``max_position_embeddings``, or ``sliding_window`` where that is shorter: within it every token sees
    all before it, as here.

    >>> from_hf({"model_type": "llama", "vocab_size": 19, "hidden_size": 12, "intermediate_size": 10,
    ...          "num_hidden_layers": 2, "num_attention_heads": 6}).d_ff
    10
    """
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise ConfigError(f"model_type {family!r} is not one that pymoe.hf reads: {', '.join(FAMILIES)}")
    missing = [name for name in _NEEDED if raw.get(name) is None]
    if missing:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}: use another copy")
    _refuse(raw)
    said = _EVERYWHERE | _DEFAULTS[family] | dict(raw)
    if family == "llama":
        said["sliding_window"] = None  # a field of the others
    try:
        return _settings(said)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise CheckpointError(f"config.json holds a value of another kind than its field has: {error}") from None


def _refuse(raw: Mapping[str, Any]) -> None:
    """ConfigError for what this decoder has not, by the name of the field."""
    rope = _rope(raw)
    has = {
        "hidden_act": (raw.get("hidden_act") or "silu", "silu"),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "partial_rotary_factor": (rope.get("partial_rotary_factor", raw.get("partial_rotary_factor")) or 1, 1),
        "attention_bias": (raw.get("attention_bias") or False, False),
        "mlp_bias": (raw.get("mlp_bias") or False, False),
        "router_jitter_noise": (raw.get("router_jitter_noise") or 0, 0),
        "quantization_config": (raw.get("quantization_config"), None),
    }
    for name, (got, want) in has.items():
        if got != want:
            what = f"{name} = {got!r}" if name != "quantization_config" else "a quantization_config"
            only = f"only {want!r}" if want is not None else "only plain floating-point weights"
            raise ConfigError(f"config.json has {what}, and this decoder has {only}")


def _rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(found, Mapping):
        raise CheckpointError(f"config.json has rope_parameters = {found!r}, which is no object: use another copy")
    return dict(found)


def _settings(said: Mapping[str, Any]) -> LMConfig:
    d, f = _whole(said, "hidden_size"), _whole(said, "intermediate_size")
    context = _whole(said, "max_position_embeddings")
    if said["sliding_window"] is not None:
        context = min(context, _whole(said, "sliding_window"))
    moe = None
    if said["model_type"] == "mixtral":
        n_experts, k = _whole(said, "num_local_experts"), _whole(said, "num_experts_per_tok")
        moe = presets.mixtral(d_model=d, d_ff=f, n_experts=n_experts, k=k)
    heads = _whole(said, "num_attention_heads")
    return LMConfig(
        vocab=_whole(said, "vocab_size"),
        context=context,
        d_model=d,
        n_layers=_whole(said, "num_hidden_layers"),
        n_heads=heads,
        n_kv_heads=heads if said["num_key_value_heads"] is None else _whole(said, "num_key_value_heads"),
        head_dim=None if said["head_dim"] is None else _whole(said, "head_dim"),
        d_ff=None if moe is not None else f,
        moe=moe,
        norm_eps=float(said["rms_norm_eps"]),
        rope_base=float(_rope(said).get("rope_theta") or said["rope_theta"]),
        tie=bool(said["tie_word_embeddings"]),
        std=float(said["initializer_range"]),
    )


def _whole(said: Mapping[str, Any], name: str) -> int:
    value = said[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return value


def to_hf(cfg: LMConfig, like: Mapping[str, Any]) -> dict[str, Any]:
    """config.json for ``cfg``: the fields of ``like``, with those of ``cfg`` written over them.

    Dense becomes mixtral when it has experts, mixtral becomes mistral when it has none.  ConfigError for a model that
    these families do not have, such as a router that is not Mixtral's (softmax, top-k, weights that sum to 1).
    """
    source = like.get("model_type")
    if source not in FAMILIES:
        raise ConfigError(f"model_type {source!r} is not one that pymoe.hf writes: {', '.join(FAMILIES)}")
    _expressible(cfg)
    raw = dict(like)
    said = _EVERYWHERE | _DEFAULTS[source] | raw
    if cfg.moe is None:
        family = "mistral" if source == "mixtral" else source
        only = ("num_local_experts", "num_experts_per_tok", "router_aux_loss_coef", "output_router_logits")
        for name in (*only, "router_jitter_noise"):
            raw.pop(name, None)
        raw["intermediate_size"] = cfg.d_ff
    else:
        moe = mixtral_like(cfg)
        family = "mixtral"
        for name in ("mlp_bias", "attention_bias", "pretraining_tp"):
            raw.pop(name, None)
        raw |= {
            "num_local_experts": moe.n_experts, "num_experts_per_tok": moe.k, "intermediate_size": moe.d_ff,
            "router_aux_loss_coef": raw.get("router_aux_loss_coef", 0.001), "router_jitter_noise": 0.0,
        }  # fmt: skip
    attention = cfg.stack.blocks[0].attention
    assert isinstance(attention, SelfAttentionConfig)  # ``_expressible`` has seen to it
    raw |= {
        "model_type": family, "architectures": [FAMILIES[family]], "vocab_size": cfg.vocab, "hidden_act": "silu",
        "hidden_size": cfg.d_model, "num_hidden_layers": cfg.n_layers, "num_attention_heads": cfg.n_heads,
        "num_key_value_heads": attention.kv_heads, "rms_norm_eps": cfg.norm_eps, "tie_word_embeddings": cfg.tie,
    }  # fmt: skip
    if attention.d_head * cfg.n_heads != cfg.d_model or raw.get("head_dim") is not None:
        raw["head_dim"] = attention.d_head
    if "rope_parameters" in raw:
        raw["rope_parameters"] = _rope(raw) | {"rope_theta": cfg.rope_base}
    else:
        raw["rope_theta"] = cfg.rope_base
    window = None if source == "llama" else said["sliding_window"]
    positions = said["max_position_embeddings"]
    if cfg.context != (positions if window is None else min(positions, window)):
        positions, window = cfg.context, None if window is None or window < cfg.context else window
    raw |= {"max_position_embeddings": positions, "sliding_window": window}
    if family == "llama":
        del raw["sliding_window"]
    return raw


def _expressible(cfg: LMConfig) -> None:
    dense = {b.feed_forward.gated for b in cfg.stack.blocks}, {b.feed_forward.activation for b in cfg.stack.blocks}
    odd = {
        "norm": (cfg.norm, "rms"), "bias": (cfg.bias, False), "rope_base": (cfg.rope_base is None, False),
        "gated": (dense[0], {True}), "activation": (dense[1], {"silu"}), "attention": (cfg.attention, None),
        "attention_scale": (cfg.attention_scale, None), "relative": (cfg.relative, None),
        "multipliers": (cfg.multipliers, Multipliers()),
    }  # fmt: skip
    for name, (got, want) in odd.items():
        if got != want:
            raise ConfigError(
                f"a Hugging Face folder of {', '.join(FAMILIES)} cannot say this model's {name}: keep a run"
            )


def mixtral_like(cfg: LMConfig) -> MoEConfig:
    """The one MoE layer of ``cfg`` as Mixtral has it (a scale goes into the ways down); else a ConfigError."""
    each = set(cfg.moe_settings)
    if len(each) != 1 or len({b.sparse for b in cfg.stack.blocks}) != 1:
        raise ConfigError("a mixtral folder has one setting for all its layers: this model's layers differ")
    (moe,) = each
    r = moe.router
    odd = {
        "score": (r.score, "softmax"), "select": (r.select, "topk"), "norm": (r.norm, "l1"), "eps": (r.eps, 0.0),
        "bias": (r.bias or moe.bias, False), "selection_bias": (r.selection_bias, False), "noise": (r.noise, "none"),
        "skip": (r.skip, None), "capacity": (r.capacity, None), "second_threshold": (r.second_threshold, None),
        "gated": (moe.gated, True), "activation": (moe.activation, "silu"), "d_shared": (moe.d_shared, 0),
    }  # fmt: skip
    for name, (got, want) in odd.items():
        if got != want:
            raise ConfigError(f"a mixtral folder cannot say {name} = {got!r} (only {want!r}): keep it as a run instead")
    return moe
