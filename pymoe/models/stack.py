r"""A stack of blocks and a last norm: the trunk that all models share.

::

    x_0 = dropout(embedded tokens),     x_{l+1} = block_l(x_l),     y = N(x_L)

Backward goes through the blocks from last to first.  A memory that every block reads gets the sum of their gradients,
and so does the table of distances (``nn.relative_positions``), which stands once and is read by every block (T5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.models import block
from pymoe.models.block import BlockConfig
from pymoe.moe import MoEConfig
from pymoe.nn import norm
from pymoe.nn.norm import NormConfig
from pymoe.nn.self_attention import KV
from pymoe.ops import dropout

TABLE = "relative_bias"


@dataclass(frozen=True)
class StackConfig:
    """The blocks from first to last, and the norm after them."""

    blocks: tuple[BlockConfig, ...]
    norm: NormConfig

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ConfigError("a stack needs at least one block, got none")
        if len({getattr(self.blocks[i].attention, "relative", None) for i in self.with_distances}) > 1:
            raise ConfigError("the blocks of a stack share one table of distances: give them one RelativePositions")

    @property
    def with_distances(self) -> tuple[int, ...]:
        """The numbers of the blocks that read the table of distances."""
        return tuple(i for i, b in enumerate(self.blocks) if getattr(b.attention, "relative", None) is not None)

    def moe_of(self, i: int) -> MoEConfig | None:
        """The settings of the MoE layer of block i; None where it is dense."""
        found = self.blocks[i].feed_forward
        return found if isinstance(found, MoEConfig) else None


class Draws(NamedTuple):
    """The random draws of a stack as values."""

    embedding: Array | None  # (B, S, D) bool, True = kept by dropout
    blocks: tuple[block.Draws | None, ...]


class Output(NamedTuple):
    y: Array  # (B, S, D)
    layer_losses: tuple[dict[str, Array], ...]  # one dict a block, empty where it is dense
    routing: tuple[Any, ...]  # one a block, None where it is dense
    kv: tuple[KV, ...]  # one a block


class Cache(NamedTuple):
    c_drop: dropout.Cache | None
    c_blocks: tuple[block.Cache, ...]
    c_norm: norm.Cache


def init(rng: np.random.Generator, cfg: StackConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """{"layers": {"0": ..., "1": ...}, "norm": ...[, "relative_bias": {"weight"}]}."""
    layers = {str(i): block.init(rng, b, dtype) for i, b in enumerate(cfg.blocks)}
    p = {"layers": layers, "norm": norm.init(rng, cfg.norm, dtype)}
    tables = [layers[str(i)]["self_attn"].pop(TABLE) for i in cfg.with_distances]
    return p | ({TABLE: {"weight": tables[0]}} if tables else {})


def draw(rng: np.random.Generator, cfg: StackConfig, batch: int, seq: int) -> Draws | None:
    """The draws of one training step; None if nothing is drawn."""
    first = cfg.blocks[0]
    shape = (batch, seq, first.attention.d_model)
    embedding = block.keep_mask(rng, shape, first.dropout) if first.dropout else None
    blocks = tuple(block.draw(rng, b, batch, seq) for b in cfg.blocks)
    return None if embedding is None and all(b is None for b in blocks) else Draws(embedding, blocks)


def forward(
    x: Array,
    p: dict[str, Any],
    cfg: StackConfig,
    memory: Array | None = None,
    *,
    mask: Array | None = None,
    memory_mask: Array | None = None,
    past: tuple[KV, ...] | None = None,
    memory_kv: tuple[KV, ...] | None = None,
    draws: Draws | None = None,
) -> tuple[Output, Cache]:
    """x (B, S, D) embedded tokens -> Output(y (B, S, D), ...); arguments as in ``block.forward``, one past a block."""
    n = len(cfg.blocks)
    x, c_drop = block.drop(x, None if draws is None else draws.embedding, cfg.blocks[0].dropout)
    outs, caches = [], []
    for i in range(n):
        out, cache = block.forward(
            x,
            _with_table(p, i, cfg),
            cfg.blocks[i],
            memory,
            mask=mask,
            memory_mask=memory_mask,
            past=None if past is None else past[i],
            memory_kv=None if memory_kv is None else memory_kv[i],
            draws=None if draws is None else draws.blocks[i],
        )
        x = out.y
        outs.append(out)
        caches.append(cache)
    y, c_norm = norm.forward(x, p["norm"], cfg.norm)
    output = Output(y, tuple(o.losses for o in outs), tuple(o.routing for o in outs), tuple(o.kv for o in outs))
    return output, Cache(c_drop, tuple(caches), c_norm)


def backward(
    dy: Array, cache: Cache, dlosses: tuple[dict[str, Any], ...] | None = None
) -> tuple[Array, dict[str, Any], Array | None]:
    """dy (B, S, D), dlosses one dict a block -> dx (B, S, D), dp, dmemory = Σ over the blocks that read the memory."""
    c_drop, c_blocks, c_norm = cache
    dx, d_norm = norm.backward(dy, c_norm)
    d_layers: dict[str, Any] = {}
    dmemory = None
    for i in reversed(range(len(c_blocks))):
        dx, d_layers[str(i)], dm = block.backward(dx, c_blocks[i], None if dlosses is None else dlosses[i])
        if dm is not None:
            dmemory = dm if dmemory is None else dmemory + dm
    layers = {str(i): d_layers[str(i)] for i in range(len(c_blocks))}
    tables = [layer["self_attn"].pop(TABLE) for layer in layers.values() if TABLE in layer["self_attn"]]
    dp = {"layers": layers, "norm": d_norm} | ({TABLE: {"weight": sum(tables[1:], tables[0])}} if tables else {})
    return block.drop_backward(dx, c_drop), dp, dmemory


def _with_table(p: dict[str, Any], i: int, cfg: StackConfig) -> dict[str, Any]:
    """The parameters of block i, with the stack's table of distances where the block reads it."""
    own: dict[str, Any] = p["layers"][str(i)]
    if i not in cfg.with_distances:
        return own
    return own | {"self_attn": own["self_attn"] | {TABLE: p[TABLE]["weight"]}}
