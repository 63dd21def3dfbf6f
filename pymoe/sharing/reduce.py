r"""Fewer dimensions for the same rows: the truncated SVD and the random projection, dense or scipy.sparse data.

Truncated SVD of X (N, M), singular values σ descending, V their right vectors::

    X ≈ U_n S_n V_nᵀ        Z = X V_n (N, n)        X̂ = Z V_nᵀ
    ‖X - X̂‖_F² = Σ_{i > n} σ_i² = ‖X‖_F² - Σ_{i <= n} σ_i²          the least of all of rank n (Eckart and Young, 1936)

Nothing is centred (latent semantic analysis; centred dense data give principal components): a sparse X stays sparse.

Random projection: R (M, n) is drawn without a look at X::

    Z = X R,     E ‖x R‖² = ‖x‖²
    gaussian      R_jl ~ N(0, 1/n)
    sparse        R_jl = ±√(s/n) with probability 1/(2s) each, else 0      s = 3: Achlioptas; s = √M: Li, Hastie, Church
    X̂ = Z R⁺                                                               least squares: the shortest x with that z

Distances between N points change by at most a factor 1 ± ε (squared), with probability that is not small, from
n >= 4 ln N / (ε²/2 - ε³/3) on: of M this says nothing (``johnson_lindenstrauss``).

Equal rng, equal bits on one machine.  Sources: Deerwester et al., JASIS 41, 1990; Dasgupta and Gupta, Random Structures
and Algorithms 22, 2003, theorem 2.1; Achlioptas, JCSS 66, 2003; Li, Hastie, Church, KDD 2006.  Cost: SVD, O(N M
min(N, M)) dense, by Lanczos steps of a sparse X about 2 nnz each; projection, N M n, or nnz n / s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from pymoe.backend.errors import ConfigError, DtypeError, ShapeError, check_integer
from pymoe.sharing import inputs
from pymoe.sharing.low_rank import signed

KINDS = ("gaussian", "achlioptas", "li")


@dataclass(frozen=True, eq=False)
class TruncatedSVD:
    """What ``truncated_svd`` found: components (n, M) = V_nᵀ, singular_values (n,), ‖X‖_F² and what of it is lost."""

    components: np.ndarray
    singular_values: np.ndarray
    squares: float
    lost: float

    def transform(self, x: Any) -> np.ndarray:
        """Z = X V_n (N, n) of dense or sparse X (N, M), of these rows or of new ones."""
        return _times(x, self.components.T)

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """X̂ = Z V_nᵀ (N, M), dense."""
        return _times(z, self.components)

    @property
    def relative_error(self) -> float:
        """‖X - X̂‖_F / ‖X‖_F of the data it was made of; of sparse data a difference of squares, good to √u."""
        return math.sqrt(self.lost / self.squares) if self.squares else 0.0


@dataclass(frozen=True, eq=False)
class RandomProjection:
    """What ``random_projection`` drew: matrix R (M, n), dense, or scipy.sparse CSR."""

    matrix: Any

    def transform(self, x: Any) -> np.ndarray:
        """Z = X R (N, n), dense, of dense or sparse X (N, M)."""
        return _times(x, self.matrix)

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """X̂ = Z R⁺ (N, M): of all x with x R = z the shortest; its own projection is z again."""
        r = self.matrix.toarray() if scipy.sparse.issparse(self.matrix) else self.matrix
        return _times(z, scipy.linalg.pinv(r))


def truncated_svd(x: Any, n: int, *, rng: np.random.Generator | None = None) -> TruncatedSVD:
    """The n largest singular values of x (N, M) and their right vectors, each with its first largest entry positive.

    Dense x: LAPACK, n <= min(N, M).  Sparse x: Lanczos (ARPACK), never made dense, n < min(N, M); the start vector is
    ``rng``'s (None: seed 0), and the result depends on it only to rounding.

    >>> x = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    >>> found = truncated_svd(x, 2)
    >>> found.singular_values.tolist(), found.transform(x).tolist()
    ([3.0, 2.0], [[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> round(found.relative_error, 6), round(relative_error(x, found), 6)  # 1 / √14
    (0.267261, 0.267261)
    """
    x = _checked("x", x)
    sparse = scipy.sparse.issparse(x)
    most = min(x.shape) - int(sparse)
    if check_integer("n", n) > most:
        more = " of a sparse matrix (all of them: x.toarray())" if sparse else ""
        raise ConfigError(f"n must be at most {most}, the singular values there are{more}; got {n}")
    if sparse:
        start = (np.random.default_rng(0) if rng is None else rng).standard_normal(min(x.shape))
        wide = x.astype(np.float64)  # ARPACK works on XᵀX, which has the square of the condition
        u, s, vt = (a.astype(x.dtype) for a in scipy.sparse.linalg.svds(wide, k=n, v0=start, solver="arpack"))
        u, s, vt = u[:, ::-1], s[::-1], vt[::-1]
        squares = math.fsum((x.data.astype(np.float64) ** 2).tolist())
        lost = max(0.0, squares - math.fsum((s.astype(np.float64) ** 2).tolist()))
    else:
        u, s, vt = scipy.linalg.svd(x, full_matrices=False)
        each = s.astype(np.float64) ** 2
        squares, lost = math.fsum(each.tolist()), math.fsum(each[n:].tolist())
    v, _ = signed(vt[:n].T, u[:, :n].T)
    return TruncatedSVD(np.ascontiguousarray(v.T), np.ascontiguousarray(s[:n]), squares, lost)


def random_projection(
    x: Any, n: int, *, rng: np.random.Generator, kind: str = "gaussian", density: float | None = None
) -> RandomProjection:
    """A projection to n dimensions for data like x (N, M): of x only the width and the dtype count.

    kind: "gaussian"; "achlioptas" (a third of R is not 0); "li" (1/√M is not 0, or ``density``).

    >>> x = np.ones((2, 60))
    >>> projection = random_projection(x, 3, rng=np.random.default_rng(0), kind="achlioptas")
    >>> projection.matrix.shape, sorted(set(projection.matrix.data.tolist())), projection.matrix.nnz  # of 180 places
    ((60, 3), [-1.0, 1.0], 61)
    """
    x = _checked("x", x)
    width = check_integer("the width of x", x.shape[1])
    check_integer("n", n)
    if kind not in KINDS:
        raise ConfigError(f"kind must be one of {KINDS}, got {kind!r}")
    if density is not None and (kind != "li" or not 0 < density <= 1):
        raise ConfigError(f"density is for kind='li' and in (0, 1], got {density!r} with {kind!r}")
    if kind == "gaussian":
        return RandomProjection((rng.standard_normal((width, n)) / math.sqrt(n)).astype(x.dtype))
    if density is None:
        density = 1 / 3 if kind == "achlioptas" else 1 / math.sqrt(width)
    filled = rng.binomial(n, density, size=width)  # a row of R at a time: never dense
    columns = [np.sort(rng.choice(n, size=count, replace=False)) for count in filled]
    sign = rng.integers(0, 2, size=int(filled.sum())) * 2 - 1
    data = (sign / math.sqrt(density * n)).astype(x.dtype)
    indptr = np.concatenate([[0], np.cumsum(filled)])
    return RandomProjection(scipy.sparse.csr_array((data, np.concatenate(columns), indptr), shape=(width, n)))


def johnson_lindenstrauss(points: int, eps: float) -> int:
    """Least n = ⌈4 ln N / (ε²/2 - ε³/3)⌉ that keeps the squared distances of N points within 1 ± ε, 0 < ε < 1.

    >>> johnson_lindenstrauss(1000, 0.5), johnson_lindenstrauss(1_000_000, 0.1)
    (332, 11842)
    """
    check_integer("points", points)
    if not (isinstance(eps, (int, float)) and 0 < eps < 1):
        raise ConfigError(f"eps must lie in (0, 1), got {eps!r}")
    return max(1, math.ceil(4 * math.log(points) / (eps**2 / 2 - eps**3 / 3)))


def relative_error(x: Any, reduction: TruncatedSVD | RandomProjection) -> float:
    """‖X - X̂‖_F / ‖X‖_F with X̂ = inverse(transform(X)), a block of rows at a time; 0 for X = 0."""
    x = _checked("x", x)
    lost = whole = 0.0
    for start in range(0, x.shape[0], 1024):
        rows = x[start : start + 1024]
        rows = rows.toarray() if scipy.sparse.issparse(rows) else rows
        gap = (rows - reduction.inverse(reduction.transform(rows))).astype(np.float64)
        lost += float(np.vdot(gap, gap))
        whole += float(np.vdot(rows.astype(np.float64), rows))
    return math.sqrt(lost / whole) if whole else 0.0


def _checked(name: str, x: Any) -> Any:
    """A finite floating-point matrix: a NumPy array, or scipy.sparse as CSR."""
    if scipy.sparse.issparse(x):
        if x.dtype.kind != "f":
            raise DtypeError(f"{name} must be floating point, got {x.dtype}: cast it explicitly")
        x = scipy.sparse.csr_array(x)
        inputs.finite(f"the stored values of {name}", x.data)
    elif not isinstance(x, np.ndarray):
        raise DtypeError(f"{name} must be a NumPy array or a scipy.sparse matrix, got {type(x).__name__}")
    else:
        inputs.finite(name, x)
    if x.ndim != 2:
        raise ShapeError(f"{name} must have shape (N, M), got {tuple(x.shape)}")
    return x


def _times(x: Any, r: Any) -> np.ndarray:
    """x r as a dense array; widths that differ are a ShapeError."""
    if x.ndim != 2 or x.shape[1] != r.shape[0]:
        raise ShapeError(f"rows must have width {r.shape[0]}, got shape {tuple(x.shape)}")
    y = x @ r
    return y.toarray() if scipy.sparse.issparse(y) else np.asarray(y)
