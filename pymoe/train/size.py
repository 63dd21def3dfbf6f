"""The dense model that costs a token as much as a sparse one, and one line about either."""

from __future__ import annotations

import dataclasses
import math

from pymoe.models.block import BlockConfig
from pymoe.models.lm import LMConfig
from pymoe.moe import MoEConfig


def dense_twin(cfg: LMConfig) -> LMConfig:
    """The dense model a token pays as much for: d_ff = k F + shared width, rounded up to pay for the router as well.

    Where only some layers are sparse, the width is the mean over the layers.
    """
    widths = [_active_width(b, cfg.d_model) for b in cfg.stack.blocks]
    d_ff = math.ceil(sum(widths) / len(widths))
    moe = cfg.moe
    form = cfg if moe is None else moe
    return dataclasses.replace(cfg, moe=None, moe_layers="all", d_ff=d_ff, gated=form.gated, activation=form.activation)


def _active_width(block: BlockConfig, d_model: int) -> float:
    ff = block.feed_forward
    if not isinstance(ff, MoEConfig):
        return ff.d_ff
    matrices = 3 if ff.gated else 2
    return ff.k * ff.d_ff + ff.d_shared + ff.n_experts / matrices  # the router has E D = (E / matrices) units' worth


def describe(cfg: LMConfig) -> str:
    """One line for a reader."""
    sparse = [b.feed_forward for b in cfg.stack.blocks if isinstance(b.feed_forward, MoEConfig)]
    text = f"{cfg.n_layers} layers, width {cfg.d_model}, {cfg.n_heads} heads, {cfg.vocab} tokens, context {cfg.context}"
    if not sparse:
        return f"dense transformer: {text}, feed-forward {cfg.d_ff}"
    m = sparse[0]
    shared = f" + 1 shared of {m.d_shared}" if m.d_shared else ""
    return (
        f"sparse transformer: {text}; {len(sparse)} MoE layer{'s' if len(sparse) > 1 else ''}, each token "
        f"goes to {m.k} of {m.n_experts} experts of {m.d_ff}{shared}"
    )
