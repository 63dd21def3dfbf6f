"""config.json <-> ``LMConfig``.  What the decoder of pymoe cannot express is refused by the name of its field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymoe import presets
from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.models.lm import LMConfig
from pymoe.moe import MoEConfig

FAMILIES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "mixtral": "MixtralForCausalLM"}
_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


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
    missing = [name for name in _NEEDED if name not in raw]
    if missing:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}: use another copy")
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    must = {
        "hidden_act": (raw.get("hidden_act", "silu"), "silu"),
        "rope_type": (kind, "default"),
        "attention_bias": (bool(raw.get("attention_bias", False)), False),
        "mlp_bias": (bool(raw.get("mlp_bias", False)), False),
        "router_jitter_noise": (float(raw.get("router_jitter_noise") or 0.0), 0.0),
    }
    for name, (got, want) in must.items():
        if got != want:
            raise ConfigError(f"config.json has {name} = {got!r}, and this decoder has only {want!r}")
    d, f = int(raw["hidden_size"]), int(raw["intermediate_size"])
    context, window = int(raw.get("max_position_embeddings", 2048)), raw.get("sliding_window")
    moe = None
    if family == "mixtral":
        coefficient = {"n_experts": int(raw.get("num_local_experts", 8)), "k": int(raw.get("num_experts_per_tok", 2))}
        moe = presets.mixtral(d_model=d, d_ff=f, **coefficient)
    return LMConfig(
        vocab=int(raw["vocab_size"]),
        context=min(context, int(window)) if window else context,
        d_model=d,
        n_layers=int(raw["num_hidden_layers"]),
        n_heads=int(raw["num_attention_heads"]),
        n_kv_heads=int(raw.get("num_key_value_heads") or raw["num_attention_heads"]),
        head_dim=raw.get("head_dim"),
        d_ff=None if moe is not None else f,
        moe=moe,
        norm_eps=float(raw.get("rms_norm_eps", 1e-6 if family == "llama" else 1e-5)),
        rope_base=float(rope.get("rope_theta", raw.get("rope_theta", 1e6 if family == "mixtral" else 1e4))),
        tie=bool(raw.get("tie_word_embeddings", False)),
        std=float(raw.get("initializer_range", 0.02)),
    )


def to_hf(cfg: LMConfig, like: Mapping[str, Any]) -> dict[str, Any]:
    """config.json for ``cfg``: the fields of ``like``, with what changed written over them.

    Dense becomes mixtral when it has experts, mixtral becomes mistral when it has none.  ConfigError for a router that
    is not Mixtral's (softmax, top-k, weights that sum to 1): no config.json of these families can say another.
    """
    raw = dict(like)
    if cfg.moe is None:
        family = "mistral" if raw.get("model_type") == "mixtral" else str(raw.get("model_type"))
        for name in ("num_local_experts", "num_experts_per_tok", "router_aux_loss_coef", "output_router_logits"):
            raw.pop(name, None)
        raw.pop("router_jitter_noise", None)
        raw["intermediate_size"] = cfg.d_ff
    else:
        moe = mixtral_like(cfg)
        family = "mixtral"
        raw.pop("mlp_bias", None)
        raw.pop("attention_bias", None)
        raw |= {
            "num_local_experts": moe.n_experts, "num_experts_per_tok": moe.k, "intermediate_size": moe.d_ff,
            "router_aux_loss_coef": raw.get("router_aux_loss_coef", 0.001), "router_jitter_noise": 0.0,
        }  # fmt: skip
        # what mixtral does not assume when the field is absent
        raw.setdefault("rms_norm_eps", cfg.norm_eps)
        raw.setdefault("sliding_window", None)
        if "rope_parameters" not in raw and "rope_theta" not in raw:
            raw["rope_theta"] = cfg.rope_base
    return raw | {"model_type": family, "architectures": [FAMILIES[family]]}


def mixtral_like(cfg: LMConfig) -> MoEConfig:
    """The one MoE layer of ``cfg`` as Mixtral has it (a scale goes into the ways down); ConfigError if it is another."""
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
