"""The tensors of a whole decoder <-> the parameter tree of ``pymoe.models.lm``, in the layout of the files and in memory.

Files ("hub") may keep one tensor for each expert and matrix; transformers' state dict ("native") has them stacked.
``load`` takes either, ``dump`` writes either, for values and for gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import CheckpointError
from pymoe.hf import blocks
from pymoe.hf.blocks.family import BlockConfig
from pymoe.hf.blocks.layouts import Same
from pymoe.hf.models import layouts
from pymoe.hf.models.family import FAMILIES, ModelFamily, turns_neighbours
from pymoe.hf.models.layouts import Entries
from pymoe.models import LMConfig
from pymoe.moe import MoEConfig
from pymoe.nn import LatentAttentionConfig, SelfAttentionConfig

LoadBlock = Callable[[dict[str, Any], BlockConfig, Any], dict[str, Any]]


def entries(cfg: LMConfig, raw: Mapping[str, Any]) -> Entries:
    """{name in the tree: (layout with full names, shape)} of all that is not in an MoE block."""
    family, neighbours = FAMILIES[raw["model_type"]], turns_neighbours(raw)
    d = cfg.d_model
    found: Entries = {"embed_tokens.weight": (Same("model.embed_tokens.weight"), (cfg.vocab, d))}
    for i, b in enumerate(cfg.stack.blocks):
        own: Entries = {}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            own[f"{norm}.weight"] = (Same(f"{norm}.weight"), (d,))
        if isinstance(b.attention, SelfAttentionConfig):
            own |= layouts.self_attention(b.attention, neighbours)
        elif isinstance(b.attention, LatentAttentionConfig):
            own |= layouts.latent_attention(b.attention, neighbours)
        if not isinstance(b.feed_forward, MoEConfig):
            own |= layouts.feed_forward(b.feed_forward, family.block)
        found |= {f"layers.{i}.{name}": (_Under(f"model.layers.{i}.", l), shape) for name, (l, shape) in own.items()}
    found["norm.weight"] = (Same("model.norm.weight"), (d,))
    if not cfg.tie:
        found["lm_head.weight"] = (Same("lm_head.weight"), (cfg.vocab, d))
    return found


class _Under:
    """A layout whose tensors stand under a prefix."""

    def __init__(self, prefix: str, layout: Any) -> None:
        self.prefix, self.shapes, self.read, self.write = prefix, layout.shapes, layout.read, layout.write
        self._names = layout.names

    def names(self, shape: tuple[int, ...]) -> list[str]:
        return [self.prefix + name for name in self._names(shape)]


def load(
    given: Mapping[str, Any], cfg: LMConfig, raw: Mapping[str, Any], dtype: Any = None, load_block: Any = None
) -> tree.Tree:
    """The tree of ``cfg``; a missing, surplus or misshapen tensor is a CheckpointError that names it.

    ``load_block``: what reads a block from its native tensors (``blocks.load``).
    """
    family = FAMILIES[raw["model_type"]]
    load_block = blocks.load if load_block is None else load_block
    left = set(given)
    flat: dict[str, Any] = {}
    for own, (layout, shape) in entries(cfg, raw).items():
        parts = [
            _checked(given, name, want, dtype)
            for name, want in zip(layout.names(shape), layout.shapes(shape), strict=True)
        ]
        left -= set(layout.names(shape))
        flat[own] = layout.read(parts, shape)
    made = tree.unflatten(flat)
    for i, b in enumerate(cfg.stack.blocks):
        if isinstance(b.feed_forward, BlockConfig):
            native, used = block_tensors(given, b.feed_forward, family, f"model.layers.{i}.")
            left -= used
            made["layers"][str(i)]["mlp"] = load_block(native, b.feed_forward, dtype=dtype)
    left -= {"lm_head.weight"} if cfg.tie else set()  # some writers store a tied head twice
    surplus = sorted(
        n for n in left if not n.endswith("rotary_emb.inv_freq") and not n.startswith(_unread(family, cfg))
    )
    if surplus:
        raise CheckpointError(f"the folder has a tensor that this family does not: {surplus[0]!r}")
    return made


def dump(p: tree.Tree, cfg: LMConfig, raw: Mapping[str, Any], *, hub: bool = True) -> dict[str, Any]:
    """The inverse, for values or gradients: as the files have it, or (``hub=False``) as transformers has it in memory."""
    family = FAMILIES[raw["model_type"]]
    flat = {name: to_numpy(leaf) for name, leaf in tree.flatten(p).items() if ".mlp.router" not in name}
    found: dict[str, Any] = {}
    for own, (layout, shape) in entries(cfg, raw).items():
        found |= dict(zip(layout.names(shape), layout.write(flat[own]), strict=True))
    for i, b in enumerate(cfg.stack.blocks):
        if isinstance(b.feed_forward, BlockConfig):
            native = blocks.dump(p["layers"][str(i)]["mlp"], b.feed_forward)
            for name, a in native.items():
                at = f"model.layers.{i}."
                found |= _to_hub(family, at, name, a) if hub else {f"{at}{family.block}.{name}": a}
    return found


def block_tensors(
    given: Mapping[str, Any], cfg: BlockConfig, family: ModelFamily, at: str
) -> tuple[dict[str, Any], set[str]]:
    """The native tensors of the block of the layer ``at``, and the names of the tensors they were made of."""
    native: dict[str, Any] = {}
    used: set[str] = set()
    for name, a in given.items():  # what stands there under its own name
        if name.startswith(f"{at}{family.block}.") and "{" not in name:
            native[name[len(f"{at}{family.block}.") :]] = a
            used.add(name)
    for name, patterns in family.hub.items():
        if name in native:
            continue
        hub = f"{at}{family.hub_block}."
        if "{}" not in patterns[0]:
            if hub + patterns[0] in given:
                native[name] = given[hub + patterns[0]]
                native.pop(patterns[0], None)
                used.add(hub + patterns[0])
            continue
        pieces = [[hub + pattern.format(e) for pattern in patterns] for e in range(cfg.n_experts)]
        missing = [n for each in pieces for n in each if n not in given]
        if missing:
            raise CheckpointError(f"the folder has no tensor {missing[0]!r}: its files are incomplete")
        native[name] = Stacked(tuple(tuple(given[n] for n in each) for each in pieces))
        for each in pieces:
            used |= set(each)
            for n in each:
                native.pop(n[len(f"{at}{family.block}.") :], None)
    return native, used


class Stacked:
    """The matrices of E experts, each one or several tensors one below the other, seen as one array (E, F, D)."""

    def __init__(self, pieces: tuple[tuple[Any, ...], ...]) -> None:
        self.pieces = pieces
        first = pieces[0]
        self.shape = (len(pieces), sum(a.shape[0] for a in first), *first[0].shape[1:])
        self.dtype = first[0].dtype

    def __getitem__(self, e: int) -> np.ndarray:
        return self.pieces[e][0] if len(self.pieces[e]) == 1 else np.concatenate(self.pieces[e])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        made = np.stack([self[e] for e in range(self.shape[0])])
        return made if dtype is None else made.astype(dtype)


def _to_hub(family: ModelFamily, at: str, name: str, a: np.ndarray) -> dict[str, np.ndarray]:
    hub = f"{at}{family.hub_block}."
    if name not in family.hub:
        return {hub + name: a}
    patterns = family.hub[name]
    if "{}" not in patterns[0]:
        return {hub + patterns[0]: a}
    return {
        hub + pattern.format(e): part
        for e in range(a.shape[0])
        for pattern, part in zip(patterns, np.split(a[e], len(patterns)), strict=True)
    }


def _unread(family: ModelFamily, cfg: LMConfig) -> tuple[str, ...]:
    return tuple(name.format(cfg.n_layers) for name in family.unread)


def _checked(given: Mapping[str, Any], name: str, want: tuple[int, ...], dtype: Any) -> np.ndarray:
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
