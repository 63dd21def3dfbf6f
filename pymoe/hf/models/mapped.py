"""Experts that stay in their files: read when a token asks for one, with a count of the bytes.

``Meter.stack`` makes what ``tensors.load`` puts in the place of the matrices of all experts: an ``OnDemand``, whose
expert e is brought into the layout and dtype of the model when rows come for it.  Nothing is kept: the pages that were
read stay in the system's cache as long as there is room.  Nothing here has a gradient: ``hf.read`` loads a model to
train.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.hf.blocks import hub
from pymoe.hf.models.tensors import Entry, fits
from pymoe.storage import Weight


@dataclasses.dataclass
class Meter:
    """How many bytes the files hold, and how many of them were read; an expert counts once for each of its stacks."""

    stored: int  # bytes of all tensors
    stacked: int = 0  # of these, in stacks of experts' matrices: the others are read at once
    matrices: int = 0  # in those stacks
    experts: dict[tuple[str, int], int] = dataclasses.field(default_factory=dict)  # bytes by (stack, expert)

    @property
    def plain(self) -> int:
        """Bytes that were read at once."""
        return self.stored - self.stacked

    @property
    def read(self) -> int:
        """All bytes that were read."""
        return self.plain + sum(self.experts.values())

    def stack(self, own: str, entry: Entry, given: Mapping[str, Any], dtype: Any) -> OnDemand:
        """The parameter ``own`` (E, F, D), left where it is; its headers are looked at now."""
        names = entry.names()
        for name, want in zip(names, entry.layout.shapes(entry.shape), strict=True):
            fits(given, name, want)
        self.stacked += sum(given[name].nbytes for name in names)
        self.matrices += entry.shape[0]
        return OnDemand(own, entry, given, dtype, self)

    def __str__(self) -> str:
        return (
            f"read {self.read:,} of {self.stored:,} bytes: {self.plain:,} at once, "
            f"{len(self.experts):,} of {self.matrices:,} experts' matrices when a token asked"
        )


class OnDemand(Weight):
    """A stack (E, F, D) whose matrices are read from their files one at a time."""

    PARTS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, own: str, entry: Entry, given: Mapping[str, Any], dtype: Any, meter: Meter) -> None:
        self.shape, self._own, self._entry, self._given = tuple(entry.shape), own, entry, given
        self._dtype, self._meter, self._one = np.dtype(dtype), meter, np.zeros((0, 0))

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def nnz(self) -> int:
        return self.size

    def expert(self, e: int) -> OnDemand:
        """The matrix of one expert, read now."""
        e = self._index(e)
        layout, shape = hub.one(self._entry.layout, self._entry.shape, e)
        parts = [self._given[self._entry.prefix + name] for name in layout.names(shape)]
        self._meter.experts[self._own, e] = math.prod(shape) * parts[0].dtype.itemsize
        matrix = np.asarray(layout.read(parts, shape))[0]
        return self._replaced(shape=self.shape[1:], _one=matrix.astype(self._dtype, copy=False))

    def dense(self) -> np.ndarray:
        """All experts: reads everything."""
        if self.ndim == 2:
            return self._one
        return np.stack([self.expert(e).dense() for e in range(self.shape[0])])

    def mask(self) -> np.ndarray:
        """Every place is stored."""
        return np.ones(self.shape, bool)

    def _linear(self, x: Any) -> Any:
        return x @ self._one.T

    def _linear_dx(self, dy: Any) -> Any:
        return dy @ self._one

    def _dparts(self, dy: Any, x: Any) -> dict[str, Any]:
        raise ConfigError("experts that stay in their files have no gradient: hf.read loads a model to train")

    def _stacked(self, like: Any, width: int, pieces: list[Any]) -> Any:
        if pieces:
            return super()._stacked(like, width, pieces)
        return np.zeros((0, width), np.result_type(like.dtype, self._dtype))
