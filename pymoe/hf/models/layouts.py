"""Where the parameters of a decoder layer outside its MoE block lie in a state dict: attention, norms, a dense network.

Each function gives {name in pymoe's tree, relative to the layer: (``Layout``, shape)}, the tensors under ``at``.
``Rows`` is the layout that the blocks do not need: several tensors one below the other, with the rows of rotary
neighbours brought to halves.

Rotary channels: pymoe, like Llama's checkpoints, turns channel i with channel i + r/2 of a head (``ops.rope``); the
checkpoints of DeepSeek and Llama 4 turn neighbours 2i and 2i + 1.  Both are one rotation when the rows of the matrices
that make these channels change places, in q and in k alike: their product does not see the order.  So the rows are
ordered when they are read, ordered back when they are written, and no other code knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pymoe.hf.blocks.layouts import Layout, Pair, Same, Shape
from pymoe.nn import FeedForwardConfig, LatentAttentionConfig, SelfAttentionConfig

Entries = dict[str, tuple[Layout, Shape]]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Tensors one below the other; ``turned``: of each how many heads it has, their width, how many channels turn.

    >>> layout = Rows(("k.weight",), (4,), ((1, 4, 4),))
    >>> layout.read([np.arange(4)[:, None]], (4, 1))[:, 0].tolist()
    [0, 2, 1, 3]
    """

    tensors: tuple[str, ...]
    rows: tuple[int, ...]
    turned: tuple[tuple[int, int, int] | None, ...]

    def names(self, shape: Shape) -> list[str]:
        return list(self.tensors)

    def shapes(self, shape: Shape) -> list[Shape]:
        return [(n, *shape[1:]) for n in self.rows]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        ordered = [a if t is None else a[_halves(*t)] for a, t in zip(parts, self.turned, strict=True)]
        return ordered[0] if len(ordered) == 1 else np.concatenate(ordered)

    def write(self, a: Any) -> list[Any]:
        parts = np.split(a, np.cumsum(self.rows)[:-1])
        back = [None if t is None else np.argsort(_halves(*t)) for t in self.turned]
        return [part if order is None else part[order] for part, order in zip(parts, back, strict=True)]


def _halves(heads: int, width: int, r: int) -> np.ndarray:
    """The rows of ``heads`` heads with the last r of each, neighbours that turn together, brought to halves."""
    own = np.arange(width)
    last = own[width - r :]
    one = np.concatenate([own[: width - r], last[::2], last[1::2]])
    rows: np.ndarray = np.arange(heads)[:, None] * width + one[None, :]
    return rows.reshape(-1)


def _linear(own: str, name: str, shape: tuple[int, int], bias: bool) -> Entries:
    found: Entries = {own: (Same(f"{name}.weight"), shape)}
    return found | ({f"{own}_bias": (Same(f"{name}.bias"), shape[:1])} if bias else {})


def self_attention(cfg: SelfAttentionConfig, neighbours: bool, at: str) -> Entries:
    """q_proj, k_proj, v_proj, o_proj; q_norm, k_norm; sinks."""
    h, g, d, model = cfg.n_heads, cfg.kv_heads, cfg.d_head, cfg.d_model
    rows = (h * d, g * d, g * d)
    turn = neighbours and cfg.rope_base is not None
    turned = ((h, d, d), (g, d, d), None) if turn else (None, None, None)
    kinds = ("weight", "bias") if cfg.bias else ("weight",)
    found: Entries = {}
    for kind in kinds:
        own = "self_attn.qkv_proj" + ("_bias" if kind == "bias" else "")
        names = tuple(f"{at}.{n}_proj.{kind}" for n in "qkv")
        found[own] = (Rows(names, rows, turned), (sum(rows), model) if kind == "weight" else (sum(rows),))
    if cfg.qk_norm in ("head", "width"):
        for n, width in (("q", h * d), ("k", g * d)):
            found[f"self_attn.{n}_norm"] = (Same(f"{at}.{n}_norm.weight"), (d if cfg.qk_norm == "head" else width,))
    if cfg.sinks:
        found["self_attn.sinks"] = (Same(f"{at}.sinks"), (h,))
    return found | _linear("self_attn.o_proj", f"{at}.o_proj", (model, h * d), cfg.has_out_bias)


def latent_attention(cfg: LatentAttentionConfig, neighbours: bool, at: str) -> Entries:
    """q_proj or q_a_proj, q_a_layernorm, q_b_proj; kv_a_proj_with_mqa, kv_a_layernorm, kv_b_proj; o_proj."""
    h, n, r, v, d = cfg.n_heads, cfg.nope_dim, cfg.rope_dim, cfg.v_dim, cfg.d_model
    queries = ((h, n + r, r),) if neighbours else (None,)
    width, low = h * (n + r), cfg.kv_rank + r
    found: Entries = {}
    if cfg.q_rank is None:
        found["self_attn.q_proj"] = (Rows((f"{at}.q_proj.weight",), (width,), queries), (width, d))
    else:
        found |= _linear("self_attn.q_a_proj", f"{at}.q_a_proj", (cfg.q_rank, d), cfg.bias)
        found["self_attn.q_a_norm"] = (Same(f"{at}.q_a_layernorm.weight"), (cfg.q_rank,))
        found["self_attn.q_b_proj"] = (Rows((f"{at}.q_b_proj.weight",), (width,), queries), (width, cfg.q_rank))
    for kind in ("weight", "bias") if cfg.bias else ("weight",):
        own = "self_attn.kv_a_proj" + ("_bias" if kind == "bias" else "")
        one = ((1, low, r),) if neighbours else (None,)
        layout = Rows((f"{at}.kv_a_proj_with_mqa.{kind}",), (low,), one)
        found[own] = (layout, (low, d) if kind == "weight" else (low,))
    found["self_attn.kv_a_norm"] = (Same(f"{at}.kv_a_layernorm.weight"), (cfg.kv_rank,))
    found |= _linear("self_attn.kv_b_proj", f"{at}.kv_b_proj", (h * (n + v), cfg.kv_rank), False)
    return found | _linear("self_attn.o_proj", f"{at}.o_proj", (d, h * v), cfg.bias)


def feed_forward(cfg: FeedForwardConfig, at: str) -> Entries:
    """gate_proj, up_proj, down_proj of a GLU."""
    d, f = cfg.d_model, cfg.d_ff
    found: Entries = {
        "mlp.gate_up_proj": (Pair(f"{at}.gate_proj.weight", f"{at}.up_proj.weight"), (2 * f, d)),
        "mlp.down_proj": (Same(f"{at}.down_proj.weight"), (d, f)),
    }
    if not cfg.bias:
        return found
    return found | {
        "mlp.gate_up_proj_bias": (Pair(f"{at}.gate_proj.bias", f"{at}.up_proj.bias", bias=True), (2 * f,)),
        "mlp.down_proj_bias": (Same(f"{at}.down_proj.bias"), (d,)),
    }
