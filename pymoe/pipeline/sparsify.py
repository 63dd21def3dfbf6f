r"""Activations made sparse: which entries of x (N, D), rows are samples, stay; the others become 0.

Forward, m = 1 where an entry stays::

    y = m ⊙ x

Backward, m is a decision and has no gradient::

    dx = m ⊙ dy

=========== ============================ =================================================== =========================
method      ``amount``                   what stays                                          of equal ones
=========== ============================ =================================================== =========================
random      share s in [0, 1]            D - ⌊s D⌋ columns, drawn once, for all rows alike   (no ties)
threshold   t                            |x| >= t                                            one fate
magnitude   share s in [0, 1]            of each row the D - ⌊s D⌋ largest |x|               the highest column stays
n:m         "n:m", e.g. "2:4"            of each m neighbours the n largest |x|              the lowest column stays
top-k       k >= 1                       of each row the k largest x, with their sign        the lowest column stays
=========== ============================ =================================================== =========================

Counts and ties are those of ``sparsity.masks``.  n:m: of a last group of r < m columns min(n, r) stay.  Of a sparse x
the places that are not stored count as zeros, so that a sparse and a dense x give equal values; where a row has fewer
nonzeros than would stay, all of them stay.  ``random`` is the article's random sparsification, of features.

Sources: Makhzani and Frey, *k-Sparse Autoencoders*, arXiv:1312.5663 (top-k); Mishra et al., arXiv:2104.08378 (n:m);
Kurtz et al., ICML 2020 (threshold on activations).  Cost: one pass, and a sort of each row for magnitude and top-k; of
a sparse x of its stored entries only.
"""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from pymoe.backend.errors import ConfigError, ShapeError, check_integer, check_shape, check_share
from pymoe.backend.rng import generator
from pymoe.ops import masked
from pymoe.pipeline import _sklearn as learn
from pymoe.sparsity import masks
from pymoe.sparsity.masks import pools
from pymoe.sparsity.masks.amount import count

METHODS = ("random", "threshold", "magnitude", "n:m", "top-k")
OUTPUTS = ("same", "csr", "dense")


class Cache(NamedTuple):
    mask: np.ndarray  # (N, D) of a dense x; (nnz,) of a sparse one
    indices: np.ndarray | None  # (nnz,) the columns of x's stored entries; None: x was dense
    indptr: np.ndarray | None  # (N+1,)
    shape: tuple[int, int]


def forward(x: Any, *, method: str, amount: Any, columns: np.ndarray | None = None) -> tuple[Any, Cache]:
    """y = m ⊙ x of x (N, D), dense, or scipy.sparse CSR without duplicates; columns (D,) bool: the draw of "random".

    >>> forward(np.array([[3.0, -4.0, 1.0], [0.0, 2.0, 2.0]]), method="top-k", amount=1)[0]
    array([[3., 0., 0.],
           [0., 2., 0.]])
    >>> forward(scipy.sparse.csr_array([[3.0, -4.0, 1.0, 0.0]]), method="magnitude", amount=0.5)[0].toarray()
    array([[ 3., -4.,  0.,  0.]])
    """
    amount = checked(method, amount)
    if method == "random":
        if columns is None:
            raise ConfigError("method='random' needs columns, the draw: sparsity.masks.random(rng, (D,), share)")
        masks.check(_Width(x), columns, "columns")
    if not scipy.sparse.issparse(x):
        check_shape("x", x, (None, None))
        mask = _dense(x.real, method, amount, columns)
        return masked.forward(x, mask=mask)[0], Cache(mask, None, None, (int(x.shape[0]), int(x.shape[1])))
    x = scipy.sparse.csr_array(x)
    mask = _stored(x, method, amount, columns)
    before = np.concatenate([[0], np.cumsum(mask)])
    y = scipy.sparse.csr_array((x.data[mask], x.indices[mask], before[x.indptr]), shape=x.shape)
    return y, Cache(mask, x.indices, x.indptr, (int(x.shape[0]), int(x.shape[1])))


def backward(dy: Any, cache: Cache) -> tuple[Any, dict[str, Any]]:
    """dx = m ⊙ dy.  Of a sparse x: CSR with x's stored places, the only ones that may change; dy dense or sparse.

    >>> _, cache = forward(np.array([[3.0, -4.0, 1.0]]), method="threshold", amount=2.0)
    >>> backward(np.array([[5.0, 6.0, 7.0]]), cache)[0]
    array([[5., 6., 0.]])
    """
    mask, indices, indptr, shape = cache
    if tuple(dy.shape) != shape:
        raise ShapeError(f"dy must have shape {shape}, that of x, got {tuple(dy.shape)}")
    if indices is None or indptr is None:
        return masked.backward(dy, masked.Cache(mask))
    row = np.repeat(np.arange(shape[0]), np.diff(indptr))
    at = np.asarray(scipy.sparse.csr_array(dy)[row, indices] if scipy.sparse.issparse(dy) else dy[row, indices])
    data = np.where(mask, at.reshape(-1), np.zeros(1, dy.dtype))
    return scipy.sparse.csr_array((data, indices, indptr), shape=shape), {}


class Sparsify(learn.OneToOneFeatureMixin, learn.TransformerMixin, learn.BaseEstimator):  # type: ignore[misc]
    """scikit-learn transformer: X (N, D), dense or scipy.sparse, what the method does not keep set to 0.

    method, amount   the table of the module
    output           "same": CSR for sparse X, an array for a dense one; "csr" or "dense" whatever came
    random_state     of method "random": the columns are drawn in ``fit`` and stay

    In a pipeline it stands where the article's flow chart says "sparsify, or else reduce": ``Reduce`` is the other way.
    ``mask`` says what stays; ``forward`` and ``backward`` of this module are the same inside a network.

    >>> Sparsify("n:m", "1:2").fit_transform(np.array([[1.0, -3.0, 2.0, 2.0]]))
    array([[ 0., -3.,  2.,  0.]])
    >>> Sparsify("random", 0.5, random_state=0).fit(np.ones((3, 6))).columns_.sum()
    np.int64(3)
    """

    def __init__(
        self, method: str = "magnitude", amount: Any = 0.5, *, output: str = "same", random_state: Any = None
    ) -> None:
        self.method = method
        self.amount = amount
        self.output = output
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Sparsify:
        """Check the settings, and draw the columns of method "random"; X is looked at for its width only."""
        checked(self.method, self.amount)
        if self.output not in OUTPUTS:
            raise ConfigError(f"output must be one of {OUTPUTS}, got {self.output!r}")
        X = self._valid(X, reset=True)
        self.columns_ = None
        if self.method == "random":
            rng = generator(learn.seed(self.random_state))
            self.columns_ = masks.random(rng, (X.shape[1],), self.amount)
        return self

    def transform(self, X: Any) -> Any:
        """y = m ⊙ x, in the dtype of X (integers become float64)."""
        learn.check_is_fitted(self)
        X = self._valid(X, reset=False)
        y = forward(X, method=self.method, amount=self.amount, columns=self.columns_)[0]
        if scipy.sparse.issparse(y):
            return y.toarray() if self.output == "dense" else _like(y, X)
        return scipy.sparse.csr_array(y) if self.output == "csr" else y

    def mask(self, X: Any) -> np.ndarray:
        """(N, D) bool of dense X, (nnz,) of sparse X's stored entries: True where an entry stays."""
        learn.check_is_fitted(self)
        X = self._valid(X, reset=False)
        return forward(X, method=self.method, amount=self.amount, columns=self.columns_)[1].mask

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(settings, arrays): all that ``from_state`` needs, without pickle."""
        learn.check_is_fitted(self)
        amount = self.amount.item() if isinstance(self.amount, np.generic) else self.amount
        meta = {"method": self.method, "amount": amount, "output": self.output, "width": int(self.n_features_in_)}
        return meta, {} if self.columns_ is None else {"columns": self.columns_}

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Sparsify:
        """The fitted transformer that ``state`` described."""
        made = cls(meta["method"], meta["amount"], output=meta["output"])
        made.n_features_in_ = int(meta["width"])
        made.columns_ = arrays.get("columns")
        return made

    def _valid(self, X: Any, *, reset: bool) -> Any:
        X = learn.validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset)
        if scipy.sparse.issparse(X) and not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        return X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def checked(method: str, amount: Any) -> Any:
    """``amount`` as this method reads it, else ConfigError.

    >>> checked("n:m", "2:4"), checked("magnitude", 1), checked("top-k", 3)
    ((2, 4), 1.0, 3)
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {METHODS}, got {method!r}")
    if method in ("random", "magnitude"):
        return check_share(f"amount, the share that method {method!r} sets to 0,", amount)
    if method == "top-k":
        return check_integer("amount, how many entries of a row method 'top-k' keeps,", amount)
    if method == "threshold":
        if isinstance(amount, bool) or not isinstance(amount, numbers.Real) or amount != amount:
            raise ConfigError(f"amount, the least |x| that method 'threshold' keeps, must be a number, got {amount!r}")
        return float(amount)
    parts = amount.split(":") if isinstance(amount, str) else ()
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or not 0 < int(parts[0]) <= int(parts[1]):
        raise ConfigError(f"amount of method 'n:m' must read like '2:4', 2 of each 4 neighbours stay, got {amount!r}")
    return int(parts[0]), int(parts[1])


def _dense(x: np.ndarray, method: str, amount: Any, columns: np.ndarray | None) -> np.ndarray:
    """(N, D) bool."""
    if method == "random":
        return np.array(np.broadcast_to(np.asarray(columns), x.shape))
    if method == "threshold":
        return np.asarray(masks.threshold(x, amount))
    if method == "magnitude":
        return np.asarray(masks.magnitude(x, amount, by="row"))
    if method == "top-k":
        return np.asarray(pools.keep_highest(x, amount)) if amount < x.shape[1] else np.ones(x.shape, bool)
    n, m = amount
    size = np.full((x.shape[0], -(-x.shape[1] // m) * m), -1.0, x.dtype)  # below every magnitude: the tail's padding
    size[:, : x.shape[1]] = np.abs(x)
    kept: np.ndarray = masks.nm(size, n, m)[:, : x.shape[1]]
    return kept


def _stored(x: Any, method: str, amount: Any, columns: np.ndarray | None) -> np.ndarray:
    """(nnz,) bool of the stored entries of CSR x: as ``_dense`` with zeros elsewhere, wherever an entry is not 0."""
    row = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    width = x.shape[1]
    kept: np.ndarray
    zeros = width - np.diff(x.indptr)  # of each row: the places that are not stored
    if method == "random":
        kept = np.asarray(columns)[x.indices]
    elif method == "threshold":
        kept = np.asarray(masks.threshold(x.data, amount))
    elif method == "magnitude":  # those zeros go first
        kept = _rank(x, row, np.abs(x.data)) >= np.maximum(0, count(amount, width) - zeros)[row]
    elif method == "n:m":
        n, m = amount
        kept = _rank(x, row * (width // m + 1) + x.indices // m, -np.abs(x.data)) < n
    else:  # what is below 0 ranks after them
        rank = _rank(x, row, -x.data)
        kept = np.where(x.data < 0, rank + zeros[row], rank) < amount
    return kept


def _rank(x: Any, pool: np.ndarray, key: np.ndarray) -> np.ndarray:
    """(nnz,) the place of each stored entry in its pool by ascending key, of equal keys the lowest column first."""
    order = np.lexsort((x.indices, key, pool))
    first = np.searchsorted(pool[order], pool[order], side="left")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - first
    return rank


def _like(y: Any, x: Any) -> Any:
    """The csr_matrix of a caller who came with one."""
    return y if isinstance(x, scipy.sparse.sparray) else scipy.sparse.csr_matrix(y)


class _Width:
    """Something with the shape of one row."""

    def __init__(self, x: Any) -> None:
        self.shape = (int(x.shape[-1]),)
