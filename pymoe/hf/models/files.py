"""Where the files of a decoder keep the tensors of its MoE blocks, and how transformers has them in memory.

Files ("hub") may have one tensor for each expert and matrix; in memory ("native") the experts are stacked, and the
names are those that ``hf.blocks`` reads.  For a native tensor of the block, ``hub`` has the patterns of the tensors
that it is made of: ``{}`` is the number of the expert, several patterns are one below the other.  A folder may hold
either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class Files:
    """block, hub_block: the block's place in a layer, native and in the files; hub: patterns by native name;
    neighbours: do neighbouring rotary channels turn together (``layouts``)?"""

    block: str = "mlp"
    hub_block: str = "mlp"
    hub: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    neighbours: bool = False


STACKED = Files(
    hub={
        "experts.gate_up_proj": ("experts.{}.gate_proj.weight", "experts.{}.up_proj.weight"),
        "experts.down_proj": ("experts.{}.down_proj.weight",),
    }
)
MIXTRAL = Files(
    hub_block="block_sparse_moe",
    hub={
        "gate.weight": ("gate.weight",),
        "experts.gate_up_proj": ("experts.{}.w1.weight", "experts.{}.w3.weight"),
        "experts.down_proj": ("experts.{}.w2.weight",),
    },
)
GRANITE = Files(
    "block_sparse_moe",
    "block_sparse_moe",
    hub={
        "router.weight": ("router.layer.weight",),
        "experts.gate_up_proj": ("input_linear.weight",),
        "experts.down_proj": ("output_linear.weight",),
    },
)


class Stacked:
    """The matrices of E experts, each one or several tensors one below the other, seen as one array (E, F, D)."""

    def __init__(self, pieces: tuple[tuple[Any, ...], ...]) -> None:
        self.pieces = pieces
        first = pieces[0]
        self.shape = (len(pieces), sum(a.shape[0] for a in first), *first[0].shape[1:])
        self.dtype = first[0].dtype

    def __getitem__(self, e: int) -> np.ndarray:
        """The matrix of expert e, (F, D)."""
        return self.pieces[e][0] if len(self.pieces[e]) == 1 else np.concatenate(self.pieces[e])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        made = np.stack([self[e] for e in range(self.shape[0])])
        return made if dtype is None else made.astype(dtype)


def native(given: Mapping[str, Any], files: Files, layer: str, n_experts: int) -> tuple[dict[str, Any], set[str]]:
    """The native tensors of the block of a layer ("model.layers.3"), and the names of those they were made of."""
    own, hub = f"{layer}.{files.block}.", f"{layer}.{files.hub_block}."
    pieces = {n: _pieces(hub, patterns, n_experts) for n, patterns in files.hub.items() if own + n not in given}
    parts = {n for each in pieces.values() for one in each for n in one}
    found = {n: a for n, a in given.items() if n.startswith(own) and n not in parts}
    for name, each in pieces.items():
        first = [_there(given, n) for n in each[0]]
        for one in each:
            for n, like in zip(one, first, strict=True):
                if tuple(_there(given, n).shape) != tuple(like.shape):
                    raise CheckpointError(f"tensor {n!r} has shape {tuple(given[n].shape)}, and {each[0]} another")
        stacked = "{}" in files.hub[name][0]
        found[own + name] = Stacked(tuple(tuple(given[n] for n in one) for one in each)) if stacked else first[0]
    return found, set(found) & set(given) | parts


def _there(given: Mapping[str, Any], name: str) -> Any:
    if name not in given:
        raise CheckpointError(f"the folder has no tensor {name!r}: its files are incomplete, or of another family")
    a = given[name]
    if a.dtype.kind != "f" and a.dtype.name != "bfloat16":
        raise CheckpointError(f"tensor {name!r} holds {a.dtype}, no floating-point numbers: quantised?")
    return a


def _pieces(hub: str, patterns: tuple[str, ...], n_experts: int) -> list[list[str]]:
    each = range(n_experts) if "{}" in patterns[0] else (0,)
    return [[hub + pattern.format(e) for pattern in patterns] for e in each]


def to_hub(files: Files, layer: str, name: str, a: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of the files that hold the native tensor ``name`` of the block."""
    hub = f"{layer}.{files.hub_block}."
    patterns = files.hub.get(name, (name,))
    if "{}" not in patterns[0]:
        return {hub + patterns[0]: a}
    each = (zip(patterns, np.split(a[e], len(patterns)), strict=True) for e in range(a.shape[0]))
    return {hub + pattern.format(e): part for e, one in enumerate(each) for pattern, part in one}
