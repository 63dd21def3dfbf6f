"""The tensors of a whole decoder <-> the parameter tree of ``pymoe.models.lm``, as files and as memory have them.

``load`` takes either layout (``files``), ``dump`` writes either, for values and for gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import CheckpointError
from pymoe.hf import blocks
from pymoe.hf.blocks.family import BlockConfig
from pymoe.hf.blocks.layouts import Same
from pymoe.hf.models import layouts
from pymoe.hf.models.files import Files, native, to_hub
from pymoe.hf.models.layouts import Entries
from pymoe.models import LMConfig
from pymoe.nn import FeedForwardConfig, SelfAttentionConfig


def entries(cfg: LMConfig, files: Files) -> Entries:
    """{name in the tree: (layout with full names, shape)} of all that is not in an MoE block."""
    d = cfg.d_model
    found: Entries = {"embed_tokens.weight": (Same("model.embed_tokens.weight"), (cfg.vocab, d))}
    for i, b in enumerate(cfg.stack.blocks):
        at = f"model.layers.{i}"
        own: Entries = {
            f"{norm}.weight": (Same(f"{at}.{norm}.weight"), (d,))
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
        if isinstance(b.attention, SelfAttentionConfig):
            own |= layouts.self_attention(b.attention, files.neighbours, f"{at}.self_attn")
        else:
            own |= layouts.latent_attention(b.attention, files.neighbours, f"{at}.self_attn")
        if isinstance(b.feed_forward, FeedForwardConfig):
            own |= layouts.feed_forward(b.feed_forward, f"{at}.{files.block}")
        found |= {f"layers.{i}.{name}": entry for name, entry in own.items()}
    found["norm.weight"] = (Same("model.norm.weight"), (d,))
    if not cfg.tie:
        found["lm_head.weight"] = (Same("lm_head.weight"), (cfg.vocab, d))
    return found


class Place(NamedTuple):
    """One MoE block: its settings, the way to its parameters in the tree, and its layer in the state dict."""

    cfg: BlockConfig
    way: tuple[str, ...]
    layer: str


def places(cfg: LMConfig) -> list[Place]:
    """The MoE blocks of a decoder."""
    found = [(i, b.feed_forward) for i, b in enumerate(cfg.stack.blocks)]
    return [Place(b, ("layers", str(i), "mlp"), f"model.layers.{i}") for i, b in found if isinstance(b, BlockConfig)]


def load(
    given: Mapping[str, Any], cfg: LMConfig, files: Files, dtype: Any = None, load_block: Any = blocks.load
) -> dict[str, Any]:
    """The tree of ``cfg``; a missing, surplus or misshapen tensor is a CheckpointError that names it.

    The settings of the MoE layers are those of ``hf.config``; ``load_block`` reads a block from its native tensors.
    """
    unread = {"lm_head.weight"} if cfg.tie else set()  # some writers store a tied head twice
    return read(given, entries(cfg, files), places(cfg), files, dtype, load_block, unread)


def read(
    given: Mapping[str, Any],
    entries: Entries,
    places: list[Place],
    files: Files,
    dtype: Any,
    load_block: Any,
    unread: set[str],
) -> dict[str, Any]:
    """The tree that ``entries`` and ``places`` describe; what else is given, except ``unread``, is an error."""
    left = set(given) - unread
    flat: dict[str, Any] = {}
    for own, (layout, shape) in entries.items():
        names = layout.names(shape)
        parts = [checked(given, n, want, dtype) for n, want in zip(names, layout.shapes(shape), strict=True)]
        left -= set(names)
        flat[own] = layout.read(parts, shape)
    for block in places:
        found, used = native(given, files, block.layer, block.cfg.n_experts)
        left -= used
        one = load_block(found, block.cfg, prefix=f"{block.layer}.{files.block}.", dtype=dtype)
        flat |= {".".join((*block.way, name)): leaf for name, leaf in tree.flatten(one).items()}
    surplus = sorted(n for n in left if not n.endswith("rotary_emb.inv_freq"))  # a buffer that follows from the base
    if surplus:
        raise CheckpointError(f"the folder has a tensor that this family does not: {surplus[0]!r}")
    return tree.unflatten(flat)


def dump(p: tree.Tree, cfg: LMConfig, files: Files, *, hub: bool = True) -> dict[str, Any]:
    """The inverse, for values or gradients: as the files have it, or, not ``hub``, as transformers has it in memory."""
    return written(p, entries(cfg, files), places(cfg), files, hub=hub)


def written(p: tree.Tree, entries: Entries, places: list[Place], files: Files, *, hub: bool) -> dict[str, Any]:
    """The inverse of ``read``."""
    flat = tree.flatten(p)
    found: dict[str, Any] = {}
    for own, (layout, shape) in entries.items():
        found |= dict(zip(layout.names(shape), layout.write(to_numpy(flat[own])), strict=True))
    for block in places:
        one: Any = p
        for step in block.way:
            one = one[step]
        for name, a in blocks.dump(one, block.cfg).items():
            found |= to_hub(files, block.layer, name, a) if hub else {f"{block.layer}.{files.block}.{name}": a}
    return found


def checked(given: Mapping[str, Any], name: str, want: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The tensor of this name in the model's dtype; CheckpointError unless it is there, of the shape, and a number."""
    if name not in given:
        raise CheckpointError(f"the folder has no tensor {name!r}: its files are incomplete, or of another family")
    a = np.asarray(given[name])
    if tuple(a.shape) != tuple(want):
        raise CheckpointError(f"tensor {name!r} has shape {tuple(a.shape)}, config.json says {tuple(want)}")
    if a.dtype.kind != "f" and a.dtype.name != "bfloat16":
        raise CheckpointError(f"tensor {name!r} holds {a.dtype}, no floating-point numbers: quantised?")
    if dtype is None:
        return a if a.dtype in (np.float32, np.float64) else a.astype(np.float32)
    return a.astype(dtype, copy=False)
