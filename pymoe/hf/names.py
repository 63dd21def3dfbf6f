"""Tensors under the names of the published checkpoints <-> the parameter tree of ``pymoe.models.lm``: Llama to Mixtral.

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
never written.  The work is that of ``hf.models``; here is what a model that pymoe changed may have besides: tied
experts, a scale of the router.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.hf.blocks import BlockConfig
from pymoe.hf.model_config import mixtral_like
from pymoe.hf.models import tensors
from pymoe.hf.models.tensors import Form, Stack
from pymoe.models.lm import LMConfig


def from_hf(given: Mapping[str, np.ndarray], cfg: LMConfig, dtype: Any, stack: Stack | None = None) -> dict[str, Any]:
    """The tree of ``cfg`` in ``dtype``; a missing, surplus or misshapen tensor is a CheckpointError that names it."""
    return tensors.load(given, _as_mixtral(cfg), Form(), dtype, stack)


def to_hf(p: tree.Tree, cfg: LMConfig, *, hub: bool = True) -> dict[str, np.ndarray]:
    """The inverse, for values or gradients: the hub's names and layout, one tensor for each expert's matrix.

    Not ``hub``: as transformers has it in memory.  Tied experts are written once for each id; the router's scale is
    multiplied into the ways down.
    """
    plain = _as_mixtral(cfg)
    if cfg.moe is not None:
        moe = mixtral_like(cfg)
        own = list(range(moe.n_experts) if moe.tied is None else moe.tied)
        flat = tree.flatten(p)
        for name in [n for n in flat if ".experts." in n]:
            a = to_numpy(flat[name])[own]
            flat[name] = (
                a * a.dtype.type(moe.router.scale) if name.endswith("down_proj") and moe.router.scale != 1 else a
            )
        p = tree.unflatten(flat)
    return tensors.dump(p, plain, Form(), hub=hub)


def _as_mixtral(cfg: LMConfig) -> LMConfig:
    """The same model with the settings of ``hf.config``, every expert stored and nothing scaled."""
    if cfg.moe is None:
        return cfg
    moe = mixtral_like(cfg)
    kept = {f.name: getattr(moe, f.name) for f in dataclasses.fields(moe)}
    return dataclasses.replace(cfg, moe=BlockConfig(**(kept | {"tied": None}), family="mixtral"))
