"""Tensors under the names of the published checkpoints <-> the parameter tree of ``pymoe.models.lm``.

============================================================ ==========================================================
published                                                    here
============================================================ ==========================================================
model.embed_tokens.weight, model.norm.weight, lm_head.weight embed_tokens.weight, norm.weight, lm_head.weight
model.layers.i.<...>layernorm.weight                         layers.i.<...>layernorm.weight
....self_attn.q_proj, k_proj, v_proj (.weight)               layers.i.self_attn.qkv_proj, one below the other
....self_attn.o_proj.weight                                  layers.i.self_attn.o_proj
....mlp.gate_proj, up_proj (.weight)                         layers.i.mlp.gate_up_proj, one below the other
....mlp.down_proj.weight                                     layers.i.mlp.down_proj
....block_sparse_moe.gate.weight                             layers.i.mlp.router.weight
....block_sparse_moe.experts.e.w1, w3 (.weight)              layers.i.mlp.experts.gate_up_proj[e], gate over up
....block_sparse_moe.experts.e.w2.weight                     layers.i.mlp.experts.down_proj[e]
============================================================ ==========================================================

transformers 5 also has the experts stacked in memory (mlp.gate.weight, mlp.experts.gate_up_proj and down_proj): read,
never written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import CheckpointError
from pymoe.hf.model_config import mixtral_like
from pymoe.models.lm import LMConfig

Take = Callable[[str, tuple[int, ...]], np.ndarray]


def from_hf(tensors: Mapping[str, np.ndarray], cfg: LMConfig, dtype: Any) -> dict[str, Any]:
    """The tree of ``cfg`` in ``dtype``; a missing, surplus or misshapen tensor is a CheckpointError that names it."""
    left = set(tensors)

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in tensors:
            raise CheckpointError(f"the folder has no tensor {name!r}: its files are incomplete, or of another family")
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(f"tensor {name!r} has shape {tuple(tensors[name].shape)}, config.json says {shape}")
        if tensors[name].dtype.kind != "f" and tensors[name].dtype.name != "bfloat16":
            raise CheckpointError(f"tensor {name!r} holds {tensors[name].dtype}, no floating-point numbers: quantised?")
        left.discard(name)
        return np.asarray(tensors[name]).astype(dtype, copy=False)

    d, v = cfg.d_model, cfg.vocab
    flat = {"embed_tokens.weight": take("model.embed_tokens.weight", (v, d))}
    for i in range(cfg.n_layers):
        flat |= _layer(take, tensors, cfg, i)
    flat["norm.weight"] = take("model.norm.weight", (d,))
    if not cfg.tie:
        flat["lm_head.weight"] = take("lm_head.weight", (v, d))
    left -= {"lm_head.weight"} if cfg.tie else set()  # some writers store a tied head twice
    left = {name for name in left if not name.endswith("rotary_emb.inv_freq")}  # a buffer that follows from rope_theta
    if left:
        raise CheckpointError(f"the folder has a tensor that this family does not: {sorted(left)[0]!r}")
    return tree.unflatten(flat)


def _layer(take: Take, tensors: Mapping[str, np.ndarray], cfg: LMConfig, i: int) -> dict[str, np.ndarray]:
    d, at, own = cfg.d_model, f"model.layers.{i}.", f"layers.{i}."
    attention = cfg.stack.blocks[i].attention
    q, kv = attention.n_heads * attention.d_head, attention.kv_heads * attention.d_head
    heads = [take(f"{at}self_attn.{n}_proj.weight", (width, d)) for n, width in (("q", q), ("k", kv), ("v", kv))]
    flat = {
        f"{own}input_layernorm.weight": take(f"{at}input_layernorm.weight", (d,)),
        f"{own}self_attn.qkv_proj": np.concatenate(heads),
        f"{own}self_attn.o_proj": take(f"{at}self_attn.o_proj.weight", (d, q)),
        f"{own}post_attention_layernorm.weight": take(f"{at}post_attention_layernorm.weight", (d,)),
    }
    if cfg.moe is None:
        assert cfg.d_ff is not None
        halves = [take(f"{at}mlp.{n}_proj.weight", (cfg.d_ff, d)) for n in ("gate", "up")]
        down = take(f"{at}mlp.down_proj.weight", (d, cfg.d_ff))
        return flat | {f"{own}mlp.gate_up_proj": np.concatenate(halves), f"{own}mlp.down_proj": down}
    moe = mixtral_like(cfg)
    e, f = moe.n_experts, moe.d_ff
    if f"{at}mlp.experts.gate_up_proj" in tensors:
        return flat | {
            f"{own}mlp.router.weight": take(f"{at}mlp.gate.weight", (e, d)),
            f"{own}mlp.experts.gate_up_proj": take(f"{at}mlp.experts.gate_up_proj", (e, 2 * f, d)),
            f"{own}mlp.experts.down_proj": take(f"{at}mlp.experts.down_proj", (e, d, f)),
        }
    sparse = f"{at}block_sparse_moe."
    up = [
        np.concatenate([take(f"{sparse}experts.{j}.{n}.weight", (f, d)) for n in ("w1", "w3")]) for j in range(e)
    ]  # fmt: skip
    return flat | {
        f"{own}mlp.router.weight": take(f"{sparse}gate.weight", (e, d)),
        f"{own}mlp.experts.gate_up_proj": np.stack(up),
        f"{own}mlp.experts.down_proj": np.stack([take(f"{sparse}experts.{j}.w2.weight", (d, f)) for j in range(e)]),
    }


def to_hf(p: tree.Tree, cfg: LMConfig) -> dict[str, np.ndarray]:
    """The inverse, for values or gradients: the hub's names and layout, one tensor for each expert's matrix.

    Tied experts are written once for each id; the router's scale is multiplied into the ways down.
    """
    flat = {name: to_numpy(leaf) for name, leaf in tree.flatten(p).items()}
    made = {"model.embed_tokens.weight": flat["embed_tokens.weight"], "model.norm.weight": flat["norm.weight"]}
    if not cfg.tie:
        made["lm_head.weight"] = flat["lm_head.weight"]
    for i in range(cfg.n_layers):
        at, own = f"model.layers.{i}.", f"layers.{i}."
        attention = cfg.stack.blocks[i].attention
        q, kv = attention.n_heads * attention.d_head, attention.kv_heads * attention.d_head
        parts = np.split(flat[f"{own}self_attn.qkv_proj"], [q, q + kv])
        made |= {f"{at}self_attn.{n}_proj.weight": a for n, a in zip("qkv", parts, strict=True)}
        made[f"{at}self_attn.o_proj.weight"] = flat[f"{own}self_attn.o_proj"]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            made[f"{at}{norm}.weight"] = flat[f"{own}{norm}.weight"]
        if cfg.moe is None:
            gate, up = np.split(flat[f"{own}mlp.gate_up_proj"], 2)
            made |= {f"{at}mlp.gate_proj.weight": gate, f"{at}mlp.up_proj.weight": up}
            made[f"{at}mlp.down_proj.weight"] = flat[f"{own}mlp.down_proj"]
            continue
        moe = mixtral_like(cfg)
        sparse = f"{at}block_sparse_moe."
        made[f"{sparse}gate.weight"] = flat[f"{own}mlp.router.weight"]
        for j, e in enumerate(range(moe.n_experts) if moe.tied is None else moe.tied):
            gate, up = np.split(flat[f"{own}mlp.experts.gate_up_proj"][e], 2)
            down = flat[f"{own}mlp.experts.down_proj"][e]
            made[f"{sparse}experts.{j}.w1.weight"], made[f"{sparse}experts.{j}.w3.weight"] = gate, up
            scale = moe.router.scale
            made[f"{sparse}experts.{j}.w2.weight"] = down if scale == 1 else down * down.dtype.type(scale)
    return made
