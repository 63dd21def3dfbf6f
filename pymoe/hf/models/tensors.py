"""The tensors of a whole decoder <-> the parameter tree of ``pymoe.models.lm``, as files and as memory have them.

Outside the MoE blocks both are the same (``layouts``); inside, ``hf.blocks`` knows how transformers has a block in
memory and ``hf.blocks.hub`` how the published files have it.  ``load`` takes either, tensor by tensor, ``dump`` writes
either, for values and for gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import CheckpointError
from pymoe.hf.blocks import hub
from pymoe.hf.blocks.families import FAMILIES as BLOCKS
from pymoe.hf.blocks.family import BlockConfig
from pymoe.hf.blocks.layouts import Layout, Same, Shape
from pymoe.hf.models import layouts
from pymoe.hf.models.layouts import Entries
from pymoe.models import LMConfig
from pymoe.moe import parameters
from pymoe.nn import FeedForwardConfig, SelfAttentionConfig


class Form(NamedTuple):
    """block: where a layer in memory has its feed-forward; neighbours: do neighbouring channels turn together?
    unread_layers: how many layers behind the last the files may hold, to predict tokens further on (DeepSeek-V3)."""

    block: str = "mlp"
    neighbours: bool = False
    unread_layers: int = 0


class Entry(NamedTuple):
    """How one parameter lies: in memory (or there alone), and in the files where that is another way."""

    shape: Shape
    layout: Layout
    prefix: str = ""  # what stands before the names of the layout
    hub: Layout | None = None
    hub_prefix: str = ""

    def names(self, in_files: bool = False) -> list[str]:
        """The tensors that hold it."""
        if in_files and self.hub is not None:
            return [self.hub_prefix + name for name in self.hub.names(self.shape)]
        return [self.prefix + name for name in self.layout.names(self.shape)]

    def found(self, given: Mapping[str, Any]) -> Entry:
        """The way in which ``given`` has it, as the only one; that of the files where it has neither."""
        if self.hub is None or self.names()[0] in given:
            return Entry(self.shape, self.layout, self.prefix)
        return Entry(self.shape, self.hub, self.hub_prefix)


Stack = Callable[[str, Entry, Mapping[str, Any], Any], Any]  # (name, its entry, the tensors, dtype) -> a stack


def entries(cfg: LMConfig, form: Form) -> dict[str, Entry]:
    """{name in the tree: how it lies} of every parameter."""
    d = cfg.d_model
    found: Entries = {"embed_tokens.weight": (Same("model.embed_tokens.weight"), (cfg.vocab, d))}
    experts: dict[str, Entry] = {}
    for i, b in enumerate(cfg.stack.blocks):
        at = f"model.layers.{i}"
        own: Entries = {
            f"{norm}.weight": (Same(f"{at}.{norm}.weight"), (d,))
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
        if isinstance(b.attention, SelfAttentionConfig):
            own |= layouts.self_attention(b.attention, form.neighbours, f"{at}.self_attn")
        else:
            own |= layouts.latent_attention(b.attention, form.neighbours, f"{at}.self_attn")
        if isinstance(b.feed_forward, BlockConfig):
            experts |= of_block(b.feed_forward, f"layers.{i}.mlp.", f"{at}.{form.block}.", f"{at}.")
        elif isinstance(b.feed_forward, FeedForwardConfig):
            own |= layouts.feed_forward(b.feed_forward, f"{at}.{form.block}")
        found |= {f"layers.{i}.{name}": entry for name, entry in own.items()}
    found["norm.weight"] = (Same("model.norm.weight"), (d,))
    if not cfg.tie:
        found["lm_head.weight"] = (Same("lm_head.weight"), (cfg.vocab, d))
    return plain(found) | experts


def plain(found: Entries) -> dict[str, Entry]:
    """Entries of what lies one way only."""
    return {own: Entry(shape, layout) for own, (layout, shape) in found.items()}


def of_block(cfg: BlockConfig, own: str, prefix: str, hub_prefix: str | None = None) -> dict[str, Entry]:
    """The entries of an MoE block; without ``hub_prefix`` the files have it as it is in memory."""
    memory = BLOCKS[cfg.family].layouts(cfg)
    files: Mapping[str, Layout | None] = dict.fromkeys(memory) if hub_prefix is None else hub.layouts(cfg)
    return {
        own + name: Entry(shape, memory[name], prefix, files[name], hub_prefix or "")
        for name, shape in parameters.shapes(cfg).items()
    }


def load(
    given: Mapping[str, Any], cfg: LMConfig, form: Form, dtype: Any = None, stack: Stack | None = None
) -> dict[str, Any]:
    """The tree of ``cfg``; a missing, surplus or misshapen tensor is a CheckpointError that names it.

    The settings of the MoE layers are those of ``hf.config``; ``stack``: what stands for the matrices of all experts.
    """
    unread = {"lm_head.weight"} if cfg.tie else set()  # some writers store a tied head twice
    behind = tuple(f"model.layers.{cfg.n_layers + i}." for i in range(form.unread_layers))
    unread |= {name for name in given if name.startswith(behind)}
    return read(given, entries(cfg, form), dtype, stack, unread)


def read(
    given: Mapping[str, Any], found: dict[str, Entry], dtype: Any, stack: Stack | None, unread: set[str]
) -> dict[str, Any]:
    """The tree that the entries describe; what else is given, except ``unread``, is an error."""
    left = set(given) - unread
    flat: dict[str, Any] = {}
    for own, entry in found.items():
        entry = entry.found(given)
        left -= set(entry.names())
        if stack is not None and ".experts." in own and len(entry.shape) == 3:
            flat[own] = stack(own, entry, given, dtype)
            continue
        wanted = zip(entry.names(), entry.layout.shapes(entry.shape), strict=True)
        flat[own] = entry.layout.read([checked(given, name, want, dtype) for name, want in wanted], entry.shape)
    surplus = sorted(n for n in left if not n.endswith("rotary_emb.inv_freq"))  # a buffer that follows from the base
    if surplus:
        raise CheckpointError(f"the folder has a tensor that this family does not: {surplus[0]!r}")
    return tree.unflatten(flat)


def dump(p: tree.Tree, cfg: LMConfig, form: Form, *, hub: bool = True) -> dict[str, Any]:
    """The inverse, for values or gradients: as the files have it, or, not ``hub``, as transformers has it in memory."""
    return written(p, entries(cfg, form), hub=hub)


def written(p: tree.Tree, found: dict[str, Entry], *, hub: bool) -> dict[str, Any]:
    """The inverse of ``read``."""
    flat, made = tree.flatten(p), dict[str, Any]()
    for own, entry in found.items():
        layout = entry.hub if hub and entry.hub is not None else entry.layout
        made |= dict(zip(entry.names(hub), layout.write(to_numpy(flat[own])), strict=True))
    return made


def checked(given: Mapping[str, Any], name: str, want: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The tensor of this name in the model's dtype; CheckpointError unless it is there, of the shape, and a number."""
    fits(given, name, want)
    a = np.asarray(given[name])
    if dtype is None:
        return a if a.dtype in (np.float32, np.float64) else a.astype(np.float32)
    return a.astype(dtype, copy=False)


def fits(given: Mapping[str, Any], name: str, want: tuple[int, ...]) -> None:
    """CheckpointError unless the tensor is there, of this shape, and of floating-point numbers."""
    if name not in given:
        raise CheckpointError(f"the folder has no tensor {name!r}: its files are incomplete, or of another family")
    a = given[name]
    if tuple(a.shape) != tuple(want):
        raise CheckpointError(f"tensor {name!r} has shape {tuple(a.shape)}, config.json says {tuple(want)}")
    if a.dtype.kind != "f" and a.dtype.name != "bfloat16":
        raise CheckpointError(f"tensor {name!r} holds {a.dtype}, no floating-point numbers: quantised?")
