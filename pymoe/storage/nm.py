"""N:M: of every m columns of a row n are stored, with their position in the group; the form that hardware knows as 2:4.

Entry q of row f is W[f, (q // n) m + position[f, q]] = data[f, q], and positions ascend within a group.  One byte of
structure for each value (m <= 256), and every row has the same number of entries.

Source: Mishra et al., arXiv:2104.08378, sec. 3.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, ClassVar

from pymoe import kernels
from pymoe.backend import namespace, to_numpy
from pymoe.backend.errors import ConfigError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.storage._make import chosen, lengths, scatter
from pymoe.storage.sparse import Sparse


@dataclass(frozen=True, eq=False, repr=False)
class NM(Sparse):
    """data and position (..., F, D/m · n), m, shape (..., F, D); n is data.shape[-1] · m / D.

    A width that is no multiple of m is a ConfigError, positions out of order a ShapeError, one outside [0, m) an
    IndexRangeError.  NaN may be stored.

    >>> import numpy as np
    >>> w = NM(np.array([[5.0, 7.0]]), np.array([[1, 0]], np.uint8), 2, (1, 4))
    >>> w.dense(), w.linear(np.array([1.0, 2.0, 3.0, 4.0]))
    (array([[0., 5., 7., 0.]]), array([31.]))
    """

    STRUCTURE: ClassVar[tuple[str, ...]] = ("position", "m")

    data: Array
    position: Array
    m: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", lengths(self.shape))
        xp = namespace(self.data, self.position)
        checks.floating("data", self.data)
        object.__setattr__(self, "m", ragged(self.m, self.shape[-1]))
        check_shape("data", self.data, (*self.shape[:-1], None))
        check_shape("position", self.position, tuple(self.data.shape))
        checks.nm(xp.reshape(self.position, self._flat()), self.m, self.shape[-1])

    def _flat(self) -> tuple[int, int]:
        """(rows, stored in a row) with the leading axes folded into the rows."""
        return math.prod(self.shape[:-1]), int(self.data.shape[-1])

    @property
    def n(self) -> int:
        """How many of every m are stored."""
        groups = self.shape[-1] // self.m
        return int(self.data.shape[-1]) // groups if groups else 0

    def expert(self, e: int) -> NM:
        e = self._index(e)
        return self._replaced(data=self.data[e, :, :], position=self.position[e, :, :], shape=self.shape[1:])

    def _spread(self, data: Array) -> Array:
        xp, flat = namespace(data), self._flat()
        places = checks.nm(xp.reshape(self.position, flat), self.m, self.shape[-1])
        return xp.reshape(scatter(xp.reshape(data, (-1,)), places, self.size), self.shape)

    def _linear(self, x: Array) -> Array:
        return kernels.of(x).nm_linear(x, self.data, self.position, self.m)

    def _linear_dx(self, dy: Array) -> Array:
        return kernels.of(dy).nm_linear_dx(dy, self.data, self.position, self.m, self.shape[-1])

    def _dparts(self, dy: Array, x: Array) -> dict[str, Array]:
        return {"data": kernels.of(x).nm_linear_ddata(dy, x, self.position, self.m)}

    def to_scipy(self) -> Any:
        """A ``scipy.sparse.csr_array`` with the stored entries; scipy has no N:M form.  One matrix only.

        >>> import numpy as np
        >>> from_dense(np.array([[0.0, 2.0, 0.0, 3.0]]), 1, 2).to_scipy().toarray()
        array([[0., 2., 0., 3.]])
        """
        from scipy.sparse import csr_array

        rows, columns = self._matrix()
        data, position = to_numpy(self.data), to_numpy(self.position)
        places = checks.nm(position, self.m, columns).reshape(data.shape)
        indptr = [data.shape[1] * f for f in range(rows + 1)]
        return csr_array((data.reshape(-1), (places % max(columns, 1)).reshape(-1), indptr), shape=self.shape)


def ragged(m: Any, columns: int) -> int:
    """``m`` as an integer that divides the width."""
    whole = check_integer("m", m)
    if columns % whole:
        raise ConfigError(
            f"N:M needs a width that is a multiple of m = {m}, got {columns}: the last group would have {columns % m}"
        )
    return whole


def from_dense(w: Array, n: int, m: int, mask: Array | None = None) -> NM:
    """The entries of w (..., F, D) where ``mask`` is True, without a mask those that are not 0: at most n of every m.

    More than n in a group is a ConfigError that says where: nothing is dropped here (``sparsity.masks.nm`` chooses).  A
    group with fewer is filled up with its lowest free columns, stored as 0; they are stored places like the others and
    get a gradient.

    >>> import numpy as np
    >>> w = from_dense(np.array([[0.0, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 1.0]]), 2, 4)
    >>> w.position.tolist(), w.data.tolist()
    ([[1, 3], [0, 3]], [[2.0, 3.0], [0.0, 1.0]])
    """
    xp = namespace(w, mask)
    stays = chosen(w, mask)
    shape = lengths(w.shape)
    m = ragged(m, shape[-1])
    if isinstance(n, bool) or not isinstance(n, numbers.Integral) or not 0 <= n <= m:
        raise ConfigError(f"n must be an integer from 0 to m = {m}, got {n!r}")
    groups = xp.reshape(stays, (math.prod(shape) // m, m))
    count = xp.sum(xp.astype(groups, xp.int64), axis=1)
    if bool(xp.any(count > n)):
        at = int(xp.argmax(xp.astype(count > n, xp.int64)))
        across = shape[-1] // m
        raise ConfigError(
            f"at most {n} of every {m} columns may stay, but group {at % across} of row {at // across} has "
            f"{int(count[at])}: choose them first, e.g. with pymoe.sparsity.masks.nm"
        )
    first = xp.argsort(xp.astype(groups, xp.int8), axis=1, descending=True, stable=True)[:, :n]  # ties: lowest column
    position = xp.sort(first, axis=1)
    values = xp.reshape(xp.where(stays, w, xp.zeros_like(w)), groups.shape)
    data = xp.take_along_axis(values, position, axis=1)
    stored = (*shape[:-1], shape[-1] // m * n)
    small = xp.uint8 if m <= 256 else xp.int32
    return NM(xp.reshape(data, stored), xp.reshape(xp.astype(position, small), stored), m, shape)


def from_scipy(matrix: Any, n: int, m: int) -> NM:
    """A sparse matrix or array of scipy that stores at most n of every m columns of each row.

    >>> from scipy.sparse import csr_array
    >>> from_scipy(csr_array([[0.0, 2.0, 0.0, 3.0]]), 1, 2).position
    array([[1, 1]], dtype=uint8)
    """
    from pymoe.storage import csr

    stored = csr.from_scipy(matrix)
    return from_dense(stored.dense(), n, m, stored.mask())
