"""What the sparse forms share: one array of stored values, each at a place of W, zeros elsewhere."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, TypeVar

from pymoe.backend import namespace, tolist
from pymoe.backend.namespace import Array
from pymoe.storage.weight import Weight

Kind = TypeVar("Kind", bound="Compressed")


class Sparse(Weight):
    """The parent of ``CSR``, ``BSR`` and ``NM``: data at places of W, and zero by structure elsewhere."""

    PARTS: ClassVar[tuple[str, ...]] = ("data",)

    data: Array

    @abc.abstractmethod
    def _spread(self, data: Array) -> Array:
        """``data`` at the stored places, zeros elsewhere, in the shape of W."""

    def dense(self) -> Array:
        return self._spread(self.data)

    def mask(self) -> Array:
        xp = namespace(self.data)
        return self._spread(xp.ones_like(self.data, dtype=xp.bool))


class Compressed(Sparse):
    """The parent of ``CSR`` and ``BSR``: row (of blocks) i has the entries indptr[i] <= e < indptr[i+1]."""

    STRUCTURE: ClassVar[tuple[str, ...]] = ("indices", "indptr")

    indices: Array
    indptr: Array

    def expert(self: Kind, e: int) -> Kind:
        e = self._index(e)
        lo, hi, indices, indptr = self.__dict__["_pieces"][e]
        return self._replaced(data=self.data[lo:hi, ...], indices=indices, indptr=indptr, shape=self.shape[1:])

    def _cut(self) -> None:
        """Cut the structure of a stack into those of its matrices, once."""
        if len(self.shape) == 3:
            object.__setattr__(self, "_pieces", _pieces(self.indices, self.indptr, self.shape[0]))


def _pieces(indices: Array, indptr: Array, experts: int) -> tuple[tuple[int, int, Array, Array], ...]:
    """(first entry, behind the last, indices, indptr) of each matrix of a stack; the offsets start at 0 again."""
    rows = (int(indptr.shape[0]) - 1) // experts if experts else 0
    edges: list[Any] = tolist(indptr[::rows]) if rows else [0] * (experts + 1)
    found = []
    for e in range(experts):
        lo, hi = int(edges[e]), int(edges[e + 1])
        found.append((lo, hi, indices[lo:hi], indptr[e * rows : (e + 1) * rows + 1] - indptr[e * rows]))
    return tuple(found)
