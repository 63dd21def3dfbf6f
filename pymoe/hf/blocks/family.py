"""What a family of models is to pymoe: where its settings stand in a config.json, and where its parameters lie.

A family is data: ``settings`` gives for each keyword of ``RouterConfig`` and ``MoEConfig`` a constant or a ``Get``, and
``names`` for each parameter a ``Layout``.  The fields of a config.json have several names for one thing; ``SYNONYMS``
lists them, and one that is said twice with two values is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.hf.blocks.defaults import DEFAULTS
from pymoe.hf.blocks.layouts import Layout
from pymoe.moe.config import MoEConfig
from pymoe.moe.rules import product_keys, sparse_mixer, zaya

SYNONYMS: dict[str, tuple[str, ...]] = {
    "d_model": ("hidden_size", "d_model"),
    "n_experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "k": ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"),
    "norm": ("norm_topk_prob", "moe_renormalize"),
    "n_group": ("n_group", "num_expert_group"),
    "n_shared": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "scale": (
        "routed_scaling_factor", "router_scaling_factor", "route_scale", "moe_router_scaling_factor",
        "moe_routed_scaling_factor",
    ),
    "activation": ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "dense_act_fn"),
    "moe_intermediate_size": ("moe_intermediate_size", "expert_ffn_hidden_size"),
    "only_width": ("moe_intermediate_size", "intermediate_size"),  # of families without a dense network
    "share_expert_dim": ("share_expert_dim", "share_expert_dims"),
}  # fmt: skip
MORE = ""  # the key of a function of the fields that gives several settings at once
ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
    "relu": "relu", "relu2": "relu_squared", "sigmoid": "sigmoid", "linear": "identity",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BlockConfig(MoEConfig):
    """A ``MoEConfig`` that knows which family's names and layouts its parameters have; made by ``hf.config``."""

    family: str = ""


@dataclasses.dataclass(frozen=True)
class SparseMixerBlock(sparse_mixer.Config):
    """The same of a block that is ``moe.rules.sparse_mixer``."""

    family: str = ""


@dataclasses.dataclass(frozen=True)
class ProductKeysBlock(product_keys.Config):
    """The same of a block that is ``moe.rules.product_keys``."""

    family: str = ""


@dataclasses.dataclass(frozen=True)
class ZayaBlock(zaya.Config):
    """The same of a block that is ``moe.rules.zaya``."""

    family: str = ""


AnyBlock = BlockConfig | SparseMixerBlock | ProductKeysBlock | ZayaBlock
OF_RULE: dict[Any, Any] = {sparse_mixer: SparseMixerBlock, product_keys: ProductKeysBlock, zaya: ZayaBlock}


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields of one config.json, by any of their names; what is left out has the family's default."""

    family: str
    raw: Mapping[str, Any]
    layer: int | None = None

    def __call__(self, name: str) -> Any:
        """The value of a field, of a list the layer's entry; CheckpointError where nothing says it."""
        value = self.maybe(name)
        if value is None:
            raise CheckpointError(
                f"the config of {self.family} lacks {' / '.join(SYNONYMS.get(name, (name,)))}, and there is no default"
            )
        return value

    def maybe(self, name: str) -> Any:
        """The same, None where it says None or nothing."""
        names = SYNONYMS.get(name, (name,))
        said = {n: self.raw[n] for n in names if self.raw.get(n) is not None}
        if len({repr(v) for v in said.values()}) > 1:
            raise ConfigError(f"the config of {self.family} says {said}: these are names of one setting; keep one")
        default = DEFAULTS.get(self.family, {})
        nulled = any(n in self.raw for n in names)  # an explicit null is not the default
        value = next(iter(said.values()), None if nulled else next((default[n] for n in names if n in default), None))
        return self.of_layer(name, value) if isinstance(value, (list, tuple)) else value

    def says(self, name: str) -> bool:
        """Does the config itself say it, not a default?"""
        return any(self.raw.get(n) is not None for n in SYNONYMS.get(name, (name,)))

    def pair(self, name: str, default: tuple[int, int]) -> tuple[int, int]:
        """A field that holds two values of its own, not one a layer."""
        value = self.raw.get(name) or default
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise CheckpointError(f"{name} of {self.family} must be a list of two values, got {value!r}")
        return int(value[0]), int(value[1])

    def of_layer(self, name: str, value: Any) -> Any:
        if self.layer is None:
            raise ConfigError(
                f"{name} of {self.family} is a list with one entry a layer: say which, layer=0 for the first"
            )
        if not 0 <= self.layer < len(value):
            raise ConfigError(
                f"layer must be in 0..{len(value) - 1} ({name} has {len(value)} entries), got {self.layer}"
            )
        return value[self.layer]


@dataclasses.dataclass(frozen=True)
class Get:
    """A field of the config, and what becomes of it."""

    name: str
    then: Callable[[Any], Any] | None = None

    def __call__(self, fields: Fields) -> Any:
        value = fields(self.name)
        return value if self.then is None else self.then(value)


@dataclasses.dataclass(frozen=True)
class Family:
    """One row: ``types`` maps each model_type of a config.json to the way down to the fields of the block."""

    name: str
    types: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, Any]
    names: Mapping[str, Layout] | Callable[[Any], Mapping[str, Layout]]
    unread: tuple[str, ...] = ()  # with what the names begin that its formulas never read
    rule: Any = None  # a module of ``moe.rules`` in the place of ``pymoe.moe``

    def keywords(self, fields: Fields, said: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the layer as keywords; those that are None, and single ones ``said`` anyway, are left out."""
        found: dict[str, Any] = {}
        for name, value in self.settings.items():
            if name in said:
                continue
            value = value(fields) if callable(value) else value
            found |= value if name == MORE else {name: value}
        return {n: v for n, v in found.items() if v is not None}

    def layouts(self, cfg: Any) -> Mapping[str, Layout]:
        return self.names(cfg) if callable(self.names) else self.names


def activation(name: Any) -> str:
    """pymoe's name of an activation function of transformers."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"the activation {name!r} is not one that pymoe has: {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]
