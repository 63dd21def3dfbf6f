"""Experts that stay in their files: read when a token asks for one, with a count of the bytes.

``tensors(paths, meter)`` maps the files into memory and gives views; ``load_block(..., meter=)`` reads router, shared
network and biases at once, and puts an ``OnDemand`` in the place of each stack of matrices.  Its expert e is brought
into the layout and dtype of the model when rows come for it, and nothing is kept: the pages that were read stay in the
system's cache as long as there is room.  Nothing here has a gradient: ``hf.read`` loads a model to train.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from pymoe.backend.errors import CheckpointError, ConfigError, MissingExtraError, install
from pymoe.hf.blocks.families import FAMILIES
from pymoe.hf.blocks.family import BlockConfig
from pymoe.hf.blocks.layouts import Each, Layout, Same, Shape
from pymoe.hf.models.files import Stacked
from pymoe.hf.models.tensors import checked
from pymoe.io.tensors import RESERVED
from pymoe.moe import parameters
from pymoe.storage import Weight

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
LONGEST_HEADER = 100_000_000  # bytes; what the format allows


@dataclasses.dataclass
class Meter:
    """How many bytes the files hold, and how many of them were read; an expert counts once for each of its stacks."""

    stored: int = 0
    blocks: int = 0  # of these, in MoE blocks
    plain: int = 0  # read at once
    stacks: int = 0  # experts in files, counted in each stack
    experts: dict[tuple[str, int], int] = dataclasses.field(default_factory=dict)  # bytes by (stack, expert)

    @property
    def read(self) -> int:
        """All bytes that were read."""
        return self.plain + sum(self.experts.values())

    def __str__(self) -> str:
        return (
            f"read {self.read:,} of {self.stored:,} bytes: {self.plain:,} at once, "
            f"{len(self.experts):,} of {self.stacks:,} experts' matrices when a token asked"
        )


def tensors(paths: Iterable[str], meter: Meter) -> dict[str, np.ndarray]:
    """{name: view} of all tensors of safetensors files; a damaged header or a foreign dtype is a CheckpointError."""
    found: dict[str, np.ndarray] = {}
    for path in paths:
        try:
            size = os.path.getsize(path)
            with open(path, "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, LONGEST_HEADER)))
            raw = np.memmap(path, np.uint8, "r")
            for name, entry in header.items():
                if name != RESERVED:
                    found[name] = _view(raw, name, entry, 8 + length, size)
        except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged or no safetensors file ({error}): fetch it again") from None
    meter.stored = sum(a.nbytes for a in found.values())
    return found


def _view(raw: np.ndarray, name: str, entry: Mapping[str, Any], start: int, size: int) -> np.ndarray:
    shape, kind = tuple(entry["shape"]), DTYPES.get(entry["dtype"])
    if kind is None:
        raise ValueError(f"tensor {name!r} holds {entry['dtype']}")
    dtype = np.dtype(_bfloat16() if kind == "bfloat16" else kind)
    a, b = entry["data_offsets"]
    if b - a != math.prod(shape) * dtype.itemsize or not 0 <= a <= b <= size - start:
        raise ValueError(f"tensor {name!r} lies outside the file")
    return raw[start + a : start + b].view(dtype).reshape(shape)


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise MissingExtraError(f"the files store bfloat16, which needs ml_dtypes: {install('io')}") from None
    return ml_dtypes.bfloat16


class OnDemand(Weight):
    """A stack (E, F, D) whose matrices are read from their files one at a time."""

    PARTS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, shape: Shape, parts: list[Any], layout: Layout, dtype: Any, name: str, meter: Meter) -> None:
        self.shape, self._parts, self._layout, self._dtype = tuple(shape), parts, layout, np.dtype(dtype)
        self._name, self._meter = name, meter
        meter.stacks += self.shape[0] if self.ndim == 3 else 0

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def nnz(self) -> int:
        return self.size

    def expert(self, e: int) -> OnDemand:
        """The matrix of one expert, read now."""
        e = self._index(e)
        pieces = [a[e] for a in self._parts]
        self._meter.experts[self._name, e] = sum(a.nbytes for a in pieces)
        matrix = self._layout.read([np.asarray(a)[None] for a in pieces], (1, *self.shape[1:]))[0]
        return self._replaced(shape=self.shape[1:], _parts=[matrix.astype(self._dtype, copy=False)])

    def dense(self) -> np.ndarray:
        """All experts: reads everything."""
        if self.ndim == 2:
            matrix: np.ndarray = self._parts[0]
            return matrix
        return np.stack([self.expert(e).dense() for e in range(self.shape[0])])

    def mask(self) -> np.ndarray:
        """Every place is stored."""
        return np.ones(self.shape, bool)

    def _linear(self, x: Any) -> Any:
        return x @ self._parts[0].T

    def _linear_dx(self, dy: Any) -> Any:
        return dy @ self._parts[0]

    def _dparts(self, dy: Any, x: Any) -> dict[str, Any]:
        raise ConfigError("experts that stay in their files have no gradient: hf.read loads a model to train")

    def _stacked(self, like: Any, width: int, pieces: list[Any]) -> Any:
        if pieces:
            return super()._stacked(like, width, pieces)
        return np.zeros((0, width), np.result_type(like.dtype, self._dtype))


def load_block(given: Mapping[str, Any], cfg: BlockConfig, *, prefix: str, dtype: Any, meter: Meter) -> dict[str, Any]:
    """``blocks.load`` of one block's native tensors, the experts' matrices left where they are."""
    layouts: Mapping[str, Layout] = FAMILIES[cfg.family].layouts(cfg)
    meter.blocks += sum(_nbytes(a) for a in given.values())
    found: dict[str, dict[str, Any]] = {}
    for own, shape in parameters.shapes(cfg).items():
        layout = layouts[own]
        branch, _, leaf = own.partition(".")
        names = [prefix + name for name in layout.names(shape)]
        wanted = list(zip(names, layout.shapes(shape), strict=True))
        if branch == "experts" and len(shape) == 3:
            parts = [_stack(given, name, want) for name, want in wanted]
            if isinstance(layout, Each):
                parts, layout = [Stacked(tuple((a,) for a in parts))], Same(own)
            made: Any = OnDemand(shape, parts, layout, dtype, prefix + own, meter)
        else:
            made = layout.read([checked(given, name, want, dtype) for name, want in wanted], shape)
            meter.plain += sum(given[name].nbytes for name in names)
        found.setdefault(branch, {})[leaf] = made
    return found


def _nbytes(a: Any) -> int:
    return sum(part.nbytes for one in a.pieces for part in one) if isinstance(a, Stacked) else int(a.nbytes)


def _stack(given: Mapping[str, Any], name: str, want: Shape) -> Any:
    """A stack in memory or in files, by its header alone."""
    a = given.get(name)
    if a is None or tuple(a.shape) != tuple(want):
        checked(given, name, want, None)  # says what is wrong
    assert isinstance(a, (np.ndarray, Stacked))
    return a
