"""The settings that language model, classifier and seq2seq share, and how a stack of blocks is made from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pymoe.backend.errors import ConfigError
from pymoe.models.block import AttentionConfig, BlockConfig
from pymoe.models.stack import StackConfig
from pymoe.moe import MoEConfig
from pymoe.nn import initial, rotary
from pymoe.nn.cross_attention import CrossAttentionConfig
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.nn.latent_attention import LatentAttentionConfig
from pymoe.nn.norm import NormConfig
from pymoe.nn.relative_positions import RelativePositions
from pymoe.nn.self_attention import SelfAttentionConfig, Temperature

C = TypeVar("C", bound="TransformerConfig")
MoELayers = tuple[int, ...] | str
MoE = MoEConfig | tuple[MoEConfig, ...] | None
Attention = AttentionConfig | tuple[AttentionConfig, ...] | None


@dataclass(frozen=True)
class Multipliers:
    """Constant factors on the embedded tokens, on what each part adds to the stream, on the logits (Granite, T5)."""

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0

    def __post_init__(self) -> None:
        initial.check_std("Multipliers", **dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """What every transformer here is told.

    vocab, context        ids lie in [0, vocab); a sequence has at most ``context`` tokens
    d_model, n_layers     D and L
    n_heads, n_kv_heads   H and G (None: H); head_dim: None is D / H
    d_ff                  width of the dense feed-forward; needed unless every layer is sparse
    gated, activation     of the dense feed-forward: GLU or MLP, and its activation
    moe, moe_layers       the MoE layer and which layers have it: "all", or their numbers from 0 (moe=None: none);
                          a tuple of settings has one for each sparse layer, in order (an encoder's before a decoder's)
    norm, norm_eps        "rms" | "layer"
    rope_base             base of the rotary frequencies; None: no rotary positions
    attention_scale       of the scores; None: 1/√head_dim
    relative              a bias by distance on the scores, one table for all blocks of a stack (T5)
    bias                  biases in attention and in the dense feed-forward
    dropout               rate of dropout on the embedded tokens and on what each part adds to the stream
    std                   matrices start at N(0, std²), those that write to the residual stream smaller (``nn.initial``)
    label_smoothing       of the cross-entropy
    multipliers           constant factors on the embedded tokens, the parts and the logits
    """

    vocab: int
    d_model: int
    n_layers: int
    n_heads: int
    context: int
    n_kv_heads: int | None = None
    head_dim: int | None = None
    d_ff: int | None = None
    gated: bool = True
    activation: str = "silu"
    moe: MoE = None
    moe_layers: MoELayers = "all"
    norm: str = "rms"
    norm_eps: float = 1e-5
    rope_base: float | None = 10000.0
    attention_scale: float | None = None
    relative: RelativePositions | None = None
    bias: bool = False
    dropout: float = 0.0
    std: float = 0.02
    label_smoothing: float = 0.0
    multipliers: Multipliers = Multipliers()

    def __post_init__(self) -> None:
        where = type(self).__name__
        initial.check_sizes(where, vocab=self.vocab, n_layers=self.n_layers, context=self.context)
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"{where}.label_smoothing must lie in [0, 1), got {self.label_smoothing!r}")
        if isinstance(self.moe, list):
            object.__setattr__(self, "moe", tuple(self.moe))
        for moe in self.moe_settings:
            if moe.d_model != self.d_model:
                raise ConfigError(f"{where}: the MoE layer must have d_model={self.d_model}, got {moe.d_model}")

    @property
    def moe_settings(self) -> tuple[MoEConfig, ...]:
        """The settings of the MoE layers: one for all, one for each, or none."""
        if self.moe is None:
            return ()
        return self.moe if isinstance(self.moe, tuple) else (self.moe,)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = dataclasses.asdict(self)
        each = [moe.to_dict() for moe in self.moe_settings]
        return values | {"moe": each if isinstance(self.moe, tuple) else each[0] if each else None}

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
        """The inverse of ``to_dict``; a setting that does not exist is a ConfigError."""
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(f"{cls.__name__} has no settings {unknown}")
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for name, made in _PARTS.items():
            if given.get(name) is not None:
                given[name] = tuple(map(made, given[name])) if isinstance(given[name], tuple) else made(given[name])
        if isinstance(given.get("moe"), tuple):
            given["moe"] = tuple(MoEConfig.from_dict(moe) for moe in given["moe"])
        elif given.get("moe") is not None:
            given["moe"] = MoEConfig.from_dict(given["moe"])
        return cls(**given)


def _one_of(kinds: tuple[Any, ...], values: Mapping[str, Any]) -> Any:
    """The kind whose fields these are, made of them."""
    for kind in kinds:
        if {f.name for f in dataclasses.fields(kind)} == set(values):
            return kind(**values)
    raise ConfigError(f"no {' or '.join(kind.__name__ for kind in kinds)} has the settings {sorted(values)}")


def _attention(values: Mapping[str, Any]) -> Any:
    own = {"rope_stretch": rotary.STRETCHES, "temperature": (Temperature,), "relative": (RelativePositions,)}
    parts = {name: _one_of(own[name], v) if name in own and v is not None else v for name, v in values.items()}
    return _one_of((SelfAttentionConfig, LatentAttentionConfig), parts)


# settings that are settings themselves, and how each is made of plain values
_PARTS: dict[str, Any] = {
    "multipliers": lambda values: Multipliers(**values),
    "relative": lambda values: RelativePositions(**values),
    "attention": _attention,
}


def sparse_layers(where: str, n_layers: int, moe: MoE, moe_layers: MoELayers) -> tuple[int, ...]:
    """The numbers of the layers that are sparse, ascending.

    >>> sparse_layers("LMConfig", 4, None, "all")
    ()
    """
    if isinstance(moe_layers, str):
        initial.check_one_of(f"{where}.moe_layers", moe_layers, ("all",))
        return tuple(range(n_layers)) if moe is not None else ()
    bad = [i for i in moe_layers if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < n_layers]
    if bad or len(set(moe_layers)) != len(moe_layers):
        raise ConfigError(f"{where}.moe_layers must be distinct numbers from 0 to {n_layers - 1}, got {moe_layers}")
    return tuple(sorted(moe_layers)) if moe is not None else ()


def make_stack(
    cfg: TransformerConfig,
    n_layers: int,
    moe_layers: MoELayers,
    *,
    moe: MoE,
    causal: bool,
    cross: bool = False,
    attention: Attention = None,
) -> StackConfig:
    """The stack of ``n_layers`` blocks that ``cfg`` describes; with ``cross`` each block also reads a memory.

    ``attention``: that of all blocks or of each, in the place of the one that the heads of ``cfg`` describe.
    """
    where = type(cfg).__name__
    sparse = sparse_layers(where, n_layers, moe, moe_layers)
    if isinstance(moe, tuple) and len(moe) != len(sparse):
        raise ConfigError(f"{where}.moe must have one setting for each of {len(sparse)} sparse layers, got {len(moe)}")
    each = dict(zip(sparse, moe if isinstance(moe, tuple) else (moe,) * len(sparse), strict=True))
    if len(sparse) < n_layers and cfg.d_ff is None:
        dense = [i for i in range(n_layers) if i not in sparse]
        raise ConfigError(f"{where}.d_ff is needed: the layers {dense} have a dense feed-forward")
    scale = 1 / math.sqrt((3 if cross else 2) * n_layers)  # additions to the residual stream
    std, out_std = cfg.std, cfg.std * scale
    heads = (cfg.d_model, cfg.n_heads, cfg.n_kv_heads, cfg.head_dim)
    scores = cfg.attention_scale
    if attention is None:
        usual = SelfAttentionConfig(*heads, causal, cfg.rope_base, cfg.bias, std, out_std, scale=scores)
        attention = dataclasses.replace(usual, relative=cfg.relative)
    attentions = attention if isinstance(attention, tuple) else (attention,) * n_layers
    if len(attentions) != n_layers:
        raise ConfigError(
            f"{where}.attention must have one setting for each of {n_layers} layers, got {len(attentions)}"
        )
    to_memory = CrossAttentionConfig(*heads, bias=cfg.bias, std=std, out_std=out_std, scale=scores) if cross else None
    norm, residual = NormConfig(cfg.d_model, cfg.norm, cfg.norm_eps), cfg.multipliers.residual

    def block(i: int) -> BlockConfig:
        own = each.get(i)
        if own is not None:
            return BlockConfig(attentions[i], own, norm, to_memory, cfg.dropout, std, out_std, residual)
        assert cfg.d_ff is not None
        dense = FeedForwardConfig(cfg.d_model, cfg.d_ff, cfg.gated, cfg.activation, cfg.bias, std, out_std)
        return BlockConfig(attentions[i], dense, norm, to_memory, cfg.dropout, residual=residual)

    return StackConfig(tuple(block(i) for i in range(n_layers)), norm)
