"""How one parameter of pymoe lies in the tensors of a state dict: a class for each way, which reads and writes.

============== =========================================== ==================================================== =======
layout         tensors                                     read                                                 copies
============== =========================================== ==================================================== =======
Same           one, of this shape                          as it is                                             no
Transposed     one, the last two axes swapped              swapped back                                         no
Reshaped       one, of a shape with the same numbers       reshaped (then transposed, where so stored)          no
Leading        one, with more rows than are used           the first rows; written with 0 in the others         no
Centred        w, where the formula has 1 + w              1 + w; a gradient is the same                        yes
Squeezed       one, without an axis of length 1            with it                                              no
Pair           gate, up                                    gate over up                                         yes
Interleaved    one: gate 0, up 0, gate 1, up 1, ...        gate over up                                         yes
Each           one for each expert                         stacked                                              yes
EachPair       gate and up for each expert                 gate over up, stacked                                yes
Mixed          (E, 2F, D), rows gate 0, up 0, gate 1, ...  gate over up                                         yes
Blocks         (n, D, F) of n shared experts               (D, n F), side by side                               yes
============== =========================================== ==================================================== =======

``shapes(shape)`` are those of the tensors for a parameter of ``shape``, ``read(parts)`` makes the parameter of them and
``write(a)`` the tensors of a value or a gradient; ``write(read(parts)) == parts``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Shape = tuple[int, ...]


class Layout(Protocol):
    def names(self, shape: Shape) -> list[str]: ...

    def shapes(self, shape: Shape) -> list[Shape]: ...

    def read(self, parts: Sequence[Any], shape: Shape) -> Any: ...

    def write(self, a: Any) -> list[Any]: ...


@dataclasses.dataclass(frozen=True)
class Same:
    name: str

    def names(self, shape: Shape) -> list[str]:
        return [self.name]

    def shapes(self, shape: Shape) -> list[Shape]:
        return [shape]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        return parts[0]

    def write(self, a: Any) -> list[Any]:
        return [a]


@dataclasses.dataclass(frozen=True)
class Transposed(Same):
    """(..., n, m) stored for (..., m, n): the experts of Aria, GPT-OSS and Llama 4, which multiply from the right."""

    def shapes(self, shape: Shape) -> list[Shape]:
        return [(*shape[:-2], shape[-1], shape[-2])]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        return np.swapaxes(parts[0], -1, -2)

    def write(self, a: Any) -> list[Any]:
        return [np.swapaxes(a, -1, -2)]


@dataclasses.dataclass(frozen=True)
class Reshaped(Same):
    """The same numbers in the same order under another shape; ``flat`` joins the first two axes (DBRX)."""

    stored: Shape | None = None  # None: the first two axes joined
    transposed: bool = False  # and the last two swapped before

    def shapes(self, shape: Shape) -> list[Shape]:
        if self.stored is not None:
            return [self.stored if -1 not in self.stored else _filled(self.stored, math.prod(shape))]
        shape = (*shape[:-2], shape[-1], shape[-2]) if self.transposed else shape
        return [(shape[0] * shape[1], *shape[2:])]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        if not self.transposed:
            return np.reshape(parts[0], shape)
        return np.swapaxes(np.reshape(parts[0], (*shape[:-2], shape[-1], shape[-2])), -1, -2)

    def write(self, a: Any) -> list[Any]:
        shape = self.shapes(tuple(a.shape))[0]
        return [np.reshape(np.swapaxes(a, -1, -2) if self.transposed else a, shape)]


def _filled(shape: Shape, n: int) -> Shape:
    known = math.prod(s for s in shape if s != -1)
    return tuple(n // known if s == -1 else s for s in shape)


@dataclasses.dataclass(frozen=True)
class Leading(Same):
    """The first rows of a tensor whose last ``unused`` rows no formula reads (LongCat's identity experts)."""

    unused: int = 0

    def shapes(self, shape: Shape) -> list[Shape]:
        return [(shape[0] + self.unused, *shape[1:])]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        return parts[0][: shape[0]]

    def write(self, a: Any) -> list[Any]:
        return [np.concatenate([a, np.zeros((self.unused, *a.shape[1:]), a.dtype)])]


@dataclasses.dataclass(frozen=True)
class Centred(Same):
    """A norm's weight around 0: the tensor is w, the parameter 1 + w (MuseSpark)."""

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        return 1 + parts[0]

    def write(self, a: Any) -> list[Any]:
        return [a - 1]


@dataclasses.dataclass(frozen=True)
class Squeezed(Same):
    """An axis of length 1 that the tensor has not: experts of one neuron each (Doge)."""

    axis: int = 1

    def shapes(self, shape: Shape) -> list[Shape]:
        return [tuple(n for i, n in enumerate(shape) if i != self.axis)]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        return np.expand_dims(parts[0], self.axis)

    def write(self, a: Any) -> list[Any]:
        return [np.squeeze(a, self.axis)]


@dataclasses.dataclass(frozen=True)
class Blocks(Same):
    """(n, D, F), the ways down of n shared experts, for (D, n F)."""

    n: int = 1

    def shapes(self, shape: Shape) -> list[Shape]:
        return [(self.n, shape[0], shape[1] // self.n)]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        return np.reshape(np.moveaxis(parts[0], 0, 1), shape)

    def write(self, a: Any) -> list[Any]:
        return [np.moveaxis(np.reshape(a, (a.shape[0], self.n, -1)), 1, 0)]


@dataclasses.dataclass(frozen=True)
class Pair:
    """gate (..., F, D) and up (..., F, D) for (..., 2F, D); biases (..., F) for (..., 2F).

    ``flat``: (E F, D) each, for (E, 2F, D) (DBRX); ``n``: (n, F, D) each, for (2 n F, D), the gates of all first.
    """

    gate: str
    up: str
    bias: bool = False
    flat: bool = False
    n: int | None = None

    def names(self, shape: Shape) -> list[str]:
        return [self.gate, self.up]

    def shapes(self, shape: Shape) -> list[Shape]:
        axis = len(shape) - (1 if self.bias else 2)
        half = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
        if self.n is not None:
            return [(self.n, half[0] // self.n, half[1])] * 2
        return [(half[0] * half[1], *half[2:]) if self.flat else half] * 2

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        axis = -1 if self.bias else -2
        if self.flat:
            parts = [np.reshape(a, (shape[0], -1, shape[-1])) for a in parts]
        if self.n is not None:
            parts = [np.reshape(a, (-1, shape[-1])) for a in parts]
        return np.concatenate(parts, axis=axis)

    def write(self, a: Any) -> list[Any]:
        halves = np.split(a, 2, axis=-1 if self.bias else -2)
        if self.n is not None:
            return [np.reshape(h, (self.n, -1, h.shape[-1])) for h in halves]
        return [np.reshape(h, (-1, h.shape[-1])) for h in halves] if self.flat else list(halves)


@dataclasses.dataclass(frozen=True)
class Interleaved(Same):
    """gate and up take turns along the last axis of (E, D, 2F), or of a bias (E, 2F): GPT-OSS."""

    bias: bool = False

    def shapes(self, shape: Shape) -> list[Shape]:
        return [shape] if self.bias else [(*shape[:-2], shape[-1], shape[-2])]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        a = parts[0]
        both = np.concatenate([a[..., ::2], a[..., 1::2]], axis=-1)
        return both if self.bias else np.swapaxes(both, -1, -2)

    def write(self, a: Any) -> list[Any]:
        a = a if self.bias else np.swapaxes(a, -1, -2)
        return [np.reshape(np.stack(np.split(a, 2, axis=-1), axis=-1), a.shape)]


@dataclasses.dataclass(frozen=True)
class Each:
    """One tensor for each expert; ``{}`` in the pattern is its number, which begins at ``first``."""

    pattern: str
    first: int = 0

    def names(self, shape: Shape) -> list[str]:
        return [self.pattern.format(e + self.first) for e in range(shape[0])]

    def shapes(self, shape: Shape) -> list[Shape]:
        return [shape[1:]] * shape[0]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        return np.stack(parts)

    def write(self, a: Any) -> list[Any]:
        return list(a)


@dataclasses.dataclass(frozen=True)
class EachPair:
    """gate and up, (F, D) each, of each expert, for (E, 2F, D)."""

    gate: str
    up: str
    first: int = 0

    def names(self, shape: Shape) -> list[str]:
        return [n.format(e + self.first) for e in range(shape[0]) for n in (self.gate, self.up)]

    def shapes(self, shape: Shape) -> list[Shape]:
        return [(shape[1] // 2, *shape[2:])] * (2 * shape[0])

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        return np.stack([np.concatenate(parts[i : i + 2]) for i in range(0, len(parts), 2)])

    def write(self, a: Any) -> list[Any]:
        return [half for expert in a for half in np.split(expert, 2)]


@dataclasses.dataclass(frozen=True)
class Mixed(Same):
    """(E, 2F, D) whose rows take turns, gate 0, up 0, gate 1, ...; ``joint``: of n shared experts, for (2 n F, D)."""

    joint: bool = False
    n: int = 1

    def shapes(self, shape: Shape) -> list[Shape]:
        return [(self.n, shape[0] // self.n, shape[1]) if self.joint else shape]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        halves = [parts[0][:, i::2] for i in (0, 1)]
        if self.joint:
            return np.concatenate([np.reshape(h, (-1, shape[-1])) for h in halves])
        return np.concatenate(halves, axis=1)

    def write(self, a: Any) -> list[Any]:
        if self.joint:
            halves = [np.reshape(h, (self.n, -1, a.shape[-1])) for h in np.split(a, 2)]
        else:
            halves = list(np.split(a, 2, axis=1))
        return [np.reshape(np.stack(halves, axis=2), (halves[0].shape[0], -1, a.shape[-1]))]
