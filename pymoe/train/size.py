"""The dense model that costs a token as much as a sparse one, and one line about either."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

from pymoe.models.block import BlockConfig
from pymoe.models.lm import LMConfig
from pymoe.models.seq2seq import Seq2SeqConfig
from pymoe.moe import MoEConfig

C = TypeVar("C", LMConfig, Seq2SeqConfig)


def dense_twin(cfg: C) -> C:
    """The dense model a token pays as much for: d_ff = k F + shared width, rounded up to pay for the router as well.

    Where only some layers are sparse, the width is the mean over the layers, of an encoder-decoder over all of both.
    """
    widths = [_active_width(b, cfg.d_model) for b in blocks(cfg)]
    d_ff = math.ceil(sum(widths) / len(widths))
    form = cfg.moe_settings[0] if cfg.moe_settings else cfg
    changes: dict[str, Any] = {"moe": None, "moe_layers": "all", "d_ff": d_ff}
    changes |= {"gated": form.gated, "activation": form.activation}
    if isinstance(cfg, Seq2SeqConfig):
        changes["decoder_moe_layers"] = None
    return dataclasses.replace(cfg, **changes)


def blocks(cfg: LMConfig | Seq2SeqConfig) -> tuple[BlockConfig, ...]:
    """All blocks of a model, an encoder's before a decoder's."""
    return cfg.encoder.blocks + cfg.decoder.blocks if isinstance(cfg, Seq2SeqConfig) else cfg.stack.blocks


def _active_width(block: BlockConfig, d_model: int) -> float:
    ff = block.feed_forward
    if not isinstance(ff, MoEConfig):
        return ff.d_ff
    matrices = 3 if ff.gated else 2
    return ff.k * ff.d_ff + ff.d_shared + ff.n_experts / matrices  # the router has E D = (E / matrices) units' worth


def describe(cfg: LMConfig | Seq2SeqConfig) -> str:
    """One line for a reader."""
    sparse = [b.feed_forward for b in blocks(cfg) if isinstance(b.feed_forward, MoEConfig)]
    layers = f"{cfg.n_layers} layers"
    if isinstance(cfg, Seq2SeqConfig):
        layers = f"{len(cfg.encoder.blocks)} + {len(cfg.decoder.blocks)} layers (encoder + decoder)"
    text = f"{layers}, width {cfg.d_model}, {cfg.n_heads} heads, {cfg.vocab} tokens, context {cfg.context}"
    if not sparse:
        return f"dense transformer: {text}, feed-forward {cfg.d_ff}"
    experts = dict.fromkeys(_experts(m) for m in sparse)
    found = f"{len(sparse)} MoE layer{'s' if len(sparse) > 1 else ''}"
    return f"sparse transformer: {text}; {found}, each token goes to {', or '.join(experts)}"


def _experts(m: MoEConfig) -> str:
    shared = f" + 1 shared of {m.d_shared}" if m.d_shared else ""
    tied = f" ({m.n_stored} stored)" if m.n_stored < m.n_experts else ""
    return f"{m.k} of {m.n_experts} experts{tied} of {m.d_ff}{shared}"
