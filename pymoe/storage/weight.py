r"""``Weight``: a weight W (..., F, D) that is not one dense array, and what every kind of it can do.

A kind names its differentiable arrays (``parts``) and its integers (``structure``).  Where a layer expects a matrix, or
a stack of them, a Weight may stand: it has ``shape``, ``dtype`` and ``ndim``, and it multiplies::

    linear(x)        y = x Wᵀ               x (..., D) -> (..., F)          one matrix, ndim 2
    linear_dx(dy)    dx = dy W              dy (..., F) -> (..., D)
    dparts(dy, x)    the gradient of each part, at the stored places only

    grouped(x, start), grouped_dx(dy, start), grouped_dparts(dy, x, start)
                     the same for a stack W (E, F, D), one product for each expert that has rows: rows start[e] to
                     start[e+1] are those of expert e; an expert without rows gets a gradient of exact zeros

Its gradient has the same structure, so it is a Weight again: ``like(parts)``.  Weights of one structure add up and take
a number as a factor, so ``tree.add`` and clipping work on trees that hold them.  A Weight is a leaf of a tree; where
arrays are needed as leaves (an optimiser, the gradient check), ``storage.split`` puts its parts in its place.

The arrays of a Weight are those given, not copies; the structure is looked at once, when the Weight is made, so nobody
may write into it afterwards.
"""

from __future__ import annotations

import abc
import math
import numbers
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

from pymoe.backend import device, namespace, to_numpy
from pymoe.backend.errors import ConfigError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops._rows import rows

Kind = TypeVar("Kind", bound="Weight")


class Weight(abc.ABC):
    """The parent of ``CSR``, ``BSR``, ``NM`` and ``Delta``; see the module for what all of them do."""

    PARTS: ClassVar[tuple[str, ...]]  # names of the differentiable arrays
    STRUCTURE: ClassVar[tuple[str, ...]] = ()  # names of the integers
    __array_ufunc__ = None  # an array times a Weight asks the Weight

    shape: tuple[int, ...]  # (..., F, D)

    # --- what a kind has to say --------------------------------------------------------------------------------------

    @abc.abstractmethod
    def expert(self: Kind, e: int) -> Kind:
        """The matrix W[e] (F, D) of a stack, with views of its values."""

    @abc.abstractmethod
    def dense(self) -> Array:
        """W as an array, 0 where nothing is stored."""

    @abc.abstractmethod
    def mask(self) -> Array:
        """Bool like W: the stored places."""

    @abc.abstractmethod
    def _linear(self, x: Array) -> Array:
        """x (N, D) -> (N, F) for one matrix."""

    @abc.abstractmethod
    def _linear_dx(self, dy: Array) -> Array:
        """dy (N, F) -> (N, D) for one matrix."""

    @abc.abstractmethod
    def _dparts(self, dy: Array, x: Array) -> dict[str, Array]:
        """dy (N, F), x (N, D) -> the gradient of each part of one matrix."""

    # --- what follows ------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Array]:
        """{name: array} of what is differentiated."""
        return {name: getattr(self, name) for name in self.PARTS}

    def structure(self) -> dict[str, Any]:
        """{name: integers} of what is decided."""
        return {name: getattr(self, name) for name in self.STRUCTURE}

    def like(self: Kind, parts: Mapping[str, Array]) -> Kind:
        """A Weight with these parts and the structure of this one, which is not looked at again."""
        if parts.keys() != set(self.PARTS):
            raise ShapeError(f"the parts of a {type(self).__name__} are {list(self.PARTS)}, got {sorted(parts)}")
        for name, part in parts.items():
            check_shape(name, part, tuple(getattr(self, name).shape))
            checks.floating(name, part)
        return self._replaced(**parts)

    def _replaced(self: Kind, **fields: Any) -> Kind:
        """A copy with other fields, unchecked."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.__dict__.update(fields)
        return made

    @property
    def dtype(self) -> Any:
        return getattr(self, self.PARTS[0]).dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements of W, stored or not, as for an array."""
        return math.prod(self.shape)

    @property
    def nnz(self) -> int:
        """The number of stored values."""
        return sum(int(part.size) for part in self.parts().values())

    @property
    def nbytes(self) -> int:
        """Bytes of values and structure."""
        return sum(_bytes(a) for a in (*self.parts().values(), *self.structure().values()))

    def linear(self, x: Array) -> Array:
        """y = x Wᵀ: x (..., D) -> (..., F)."""
        f, d = self._matrix()
        _last_axis("x", x, d)
        return namespace(x).reshape(self._linear(rows(x)), (*x.shape[:-1], f))

    def linear_dx(self, dy: Array) -> Array:
        """dx = dy W: dy (..., F) -> (..., D)."""
        f, d = self._matrix()
        _last_axis("dy", dy, f)
        return namespace(dy).reshape(self._linear_dx(rows(dy)), (*dy.shape[:-1], d))

    def dparts(self, dy: Array, x: Array) -> dict[str, Array]:
        """The gradient of each part, Σ over all leading axes of dy (..., F) and x (..., D)."""
        f, d = self._matrix()
        _last_axis("x", x, d)
        check_shape("dy", dy, (*x.shape[:-1], f))
        return self._dparts(rows(dy), rows(x))

    def grouped(self, x: Array, start: Array) -> Array:
        """y[r] = W[e] x[r] for the rows r of each expert e: x (N, D) -> (N, F)."""
        experts, f, d = self._stack()
        check_shape("x", x, (None, d))
        bounds = checks.starts(start, experts, int(x.shape[0]))
        return self._stacked(x, f, [self.expert(e)._linear(x[a:b, :]) for e, a, b in _busy(bounds)])

    def grouped_dx(self, dy: Array, start: Array) -> Array:
        """dx[r] = W[e]ᵀ dy[r]: dy (N, F) -> (N, D)."""
        experts, f, d = self._stack()
        check_shape("dy", dy, (None, f))
        bounds = checks.starts(start, experts, int(dy.shape[0]))
        return self._stacked(dy, d, [self.expert(e)._linear_dx(dy[a:b, :]) for e, a, b in _busy(bounds)])

    def grouped_dparts(self, dy: Array, x: Array, start: Array) -> dict[str, Array]:
        """The gradient of each part, each expert's from its own rows: dy (N, F), x (N, D)."""
        experts, f, d = self._stack()
        check_shape("x", x, (None, d))
        check_shape("dy", dy, (x.shape[0], f))
        bounds = checks.starts(start, experts, int(x.shape[0]))
        each: list[Mapping[str, Array]] = []
        for e in range(experts):
            a, b = bounds[e], bounds[e + 1]
            own = self.expert(e)
            each.append(own._dparts(dy[a:b, :], x[a:b, :]) if b > a else own._zeros(x))
        return self._joined(each) if each else self._zeros(x)

    def _zeros(self, like: Array) -> dict[str, Array]:
        xp = namespace(like)
        return {k: xp.zeros(v.shape, dtype=xp.result_type(v, like), device=device(v)) for k, v in self.parts().items()}

    def _joined(self, each: list[Mapping[str, Array]]) -> dict[str, Array]:
        """The parts of the stack from those of its experts: one behind the other."""
        own, xp = self.parts(), namespace(*self.parts().values())
        return {k: xp.reshape(xp.concat([one[k] for one in each]), own[k].shape) for k in self.PARTS}

    def _stacked(self, like: Array, width: int, pieces: list[Array]) -> Array:
        xp = namespace(like)
        if not pieces:
            dtype = xp.result_type(like, getattr(self, self.PARTS[0]))
            return xp.zeros((0, width), dtype=dtype, device=device(like))
        return pieces[0] if len(pieces) == 1 else xp.concat(pieces)

    def _matrix(self) -> tuple[int, int]:
        if self.ndim != 2:
            raise ShapeError(f"only one matrix (F, D) multiplies, got a stack {self.shape}: take w.expert(e)")
        return self.shape[0], self.shape[1]

    def _stack(self) -> tuple[int, int, int]:
        if self.ndim != 3:
            raise ShapeError(f"only a stack (E, F, D) has experts, got {self.shape}")
        return self.shape[0], self.shape[1], self.shape[2]

    def _index(self, e: int) -> int:
        experts = self._stack()[0]
        if isinstance(e, bool) or not isinstance(e, numbers.Integral) or not 0 <= e < experts:
            raise ConfigError(f"the stack has experts 0 to {experts - 1}, got {e!r}")
        return int(e)

    def __add__(self: Kind, other: Kind) -> Kind:
        if type(other) is not type(self) or self.shape != other.shape:
            raise ShapeError(f"only weights of one kind and structure add up, got {self!r} and {other!r}")
        mine, theirs = self.structure(), other.structure()
        if not all(mine[k] is theirs[k] or _equal(mine[k], theirs[k]) for k in mine):
            raise ShapeError(f"the two weights store different places: {self!r} and {other!r}")
        added = other.parts()
        return self.like({k: v + added[k] for k, v in self.parts().items()})

    def __mul__(self: Kind, factor: Any) -> Kind:
        if getattr(factor, "ndim", 0):
            raise ShapeError(f"a {type(self).__name__} takes a number as a factor, got shape {tuple(factor.shape)}")
        return self.like({k: v * factor for k, v in self.parts().items()})

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, nnz={self.nnz}, dtype={self.dtype})"


def _last_axis(name: str, x: Array, width: int) -> None:
    checks.floating(name, x)
    if x.ndim == 0 or x.shape[-1] != width:
        raise ShapeError(f"{name} must have {width} columns, got shape {tuple(x.shape)}")


def _busy(bounds: list[int]) -> list[tuple[int, int, int]]:
    """(expert, first row, behind the last) of the experts that have rows."""
    return [(e, a, b) for e, (a, b) in enumerate(pairwise(bounds)) if b > a]


def _bytes(a: Any) -> int:
    return 0 if isinstance(a, int) else int(a.nbytes)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return bool(a == b)
    left, right = to_numpy(a), to_numpy(b)
    return left.shape == right.shape and bool((left == right).all())
