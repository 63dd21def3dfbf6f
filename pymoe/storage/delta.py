r"""Delta: experts as their mean and a low-rank difference each.

::

    W_e = mean + a_e b_e            mean (F, D), a (E, F, r), b (E, r, D)
    y = x meanᵀ + (x b_eᵀ) a_eᵀ     dx = dy mean + (dy a_e) b_e
    d mean = Σ_e dyᵀ x              over the rows of all experts
    d a_e = dyᵀ (x b_eᵀ)            d b_e = (dy a_e)ᵀ x

Stored: F D + E r (F + D) values for E F D.  With a = 0 the numbers are those of experts that are the mean, bit for bit.
Cost: as dense, and 2 N r (F + D) flops more.  Source: the low-rank form is LoRA's, Hu et al., arXiv:2106.09685, eq. 3;
``sharing.low_rank`` makes one from trained experts by SVD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pymoe.backend import device, namespace
from pymoe.backend.errors import DtypeError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.storage.weight import Weight


@dataclass(frozen=True, eq=False, repr=False)
class Delta(Weight):
    """mean (F, D), a (E, F, r), b (E, r, D): a stack (E, F, D); or a (F, r), b (r, D): one matrix.

    Nothing is zero by structure: ``mask`` is True everywhere.  Other shapes are a ShapeError, parts of different dtypes
    a DtypeError.

    >>> import numpy as np
    >>> w = Delta(np.ones((1, 2)), np.array([[[1.0]], [[2.0]]]), np.array([[[1.0, 0.0]], [[0.0, 1.0]]]))
    >>> w.dense().tolist(), w.nnz
    ([[[2.0, 1.0]], [[1.0, 3.0]]], 8)
    >>> w.grouped(np.array([[1.0, 10.0], [1.0, 10.0]]), np.array([0, 1, 2])).tolist()
    [[12.0], [31.0]]
    """

    PARTS: ClassVar[tuple[str, ...]] = ("mean", "a", "b")

    mean: Array
    a: Array
    b: Array
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        namespace(self.mean, self.a, self.b)
        checks.floating("mean", self.mean)
        check_shape("mean", self.mean, (None, None))
        f, d = (int(n) for n in self.mean.shape)
        if self.a.ndim not in (2, 3):
            raise ShapeError(f"a must have shape (E, {f}, r) or ({f}, r), got {tuple(self.a.shape)}")
        lead, rank = tuple(self.a.shape[:-2]), self.a.shape[-1]
        check_shape("a", self.a, (*lead, f, None))
        check_shape("b", self.b, (*lead, rank, d))
        if not self.mean.dtype == self.a.dtype == self.b.dtype:
            raise DtypeError(f"the parts must share one dtype, got {self.mean.dtype}, {self.a.dtype}, {self.b.dtype}")
        object.__setattr__(self, "shape", (*lead, f, d))

    def expert(self, e: int) -> Delta:
        e = self._index(e)
        return self._replaced(a=self.a[e, :, :], b=self.b[e, :, :], shape=self.shape[1:])

    def dense(self) -> Array:
        return self.mean + self.a @ self.b

    def mask(self) -> Array:
        xp = namespace(self.mean)
        return xp.ones(self.shape, dtype=xp.bool, device=device(self.mean))

    def _linear(self, x: Array) -> Array:
        return x @ self.mean.T + (x @ self.b.T) @ self.a.T

    def _linear_dx(self, dy: Array) -> Array:
        return dy @ self.mean + (dy @ self.a) @ self.b

    def _dparts(self, dy: Array, x: Array) -> dict[str, Array]:
        return {"mean": dy.T @ x, "a": dy.T @ (x @ self.b.T), "b": (dy @ self.a).T @ x}

    def _joined(self, each: list[Mapping[str, Array]]) -> dict[str, Array]:
        """a and b of the experts one behind the other; the mean has all of them as readers: the sum, ascending."""
        xp = namespace(self.mean)
        first, *rest = (one["mean"] for one in each)
        return {"mean": sum(rest, first)} | {k: xp.stack([one[k] for one in each]) for k in ("a", "b")}
