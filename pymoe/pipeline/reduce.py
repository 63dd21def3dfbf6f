r"""Fewer features for the same rows, as a scikit-learn transformer: truncated SVD or a random projection.

=========== ================================================ ==================================
method      Z (N, n) of X (N, D)                             ``sharing.reduce``
=========== ================================================ ==================================
svd         X V_n, the n largest singular values of the fit  ``truncated_svd`` (not centred)
gaussian    X R, R ~ N(0, 1/n)                               ``random_projection``
achlioptas  X R, a third of R is ±√(3/n), the rest 0         ``random_projection``
li          X R, 1/√D of R is ±√(√D/n), the rest 0           ``random_projection``
=========== ================================================ ==================================

Linear, so that inside a network it is ``ops.linear`` with a weight that is not trained: dX = dZ V_nᵀ (or dZ Rᵀ).  A
sparse X is never made dense; Z is dense.  Formulas, sources and costs: the docstring of ``sharing.reduce``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from pymoe.backend.errors import ConfigError, check_integer
from pymoe.backend.rng import generator
from pymoe.pipeline import _sklearn as learn
from pymoe.sharing import reduce
from pymoe.sharing.reduce import RandomProjection, TruncatedSVD

METHODS = ("svd", *reduce.KINDS)


class Reduce(learn.ClassNamePrefixFeaturesOutMixin, learn.TransformerMixin, learn.BaseEstimator):  # type: ignore[misc]
    """scikit-learn transformer: X (N, D), dense or scipy.sparse, -> Z (N, n_components), dense.

    method          the table of the module
    n_components    n; for "svd" at most min(N, D), of sparse X less than that
    random_state    the projection's draw; of "svd" on sparse X the start vector, which matters to rounding only

    In a pipeline it stands where the article's flow chart says "reduce", in place of ``Sparsify``.

    >>> x = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    >>> found = Reduce("svd", 2).fit(x)
    >>> found.transform(x).tolist(), round(found.relative_error_, 6)  # 1 / √14
    ([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]], 0.267261)
    """

    def __init__(self, method: str = "svd", n_components: int = 2, *, random_state: Any = None) -> None:
        self.method = method
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Reduce:
        """Find V_n, or draw R."""
        if self.method not in METHODS:
            raise ConfigError(f"method must be one of {METHODS}, got {self.method!r}")
        n = check_integer("n_components", self.n_components)
        X = self._valid(X, reset=True)
        rows, width = X.shape
        rng = generator(learn.seed(self.random_state))
        if self.method != "svd":
            self.reduction_: TruncatedSVD | RandomProjection = reduce.random_projection(X, n, rng=rng, kind=self.method)
            return self
        sparse = scipy.sparse.issparse(X)
        most = min(rows, width) - int(sparse)
        if n > most:
            raise ConfigError(
                f"method 'svd' finds at most {most} components of {'sparse' if sparse else 'dense'} data with "
                f"n_samples = {rows}, n_features = {width}: got n_components={n}; take fewer, or a projection"
            )
        self.reduction_ = reduce.truncated_svd(X, n, rng=rng)
        self.relative_error_ = self.reduction_.relative_error
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Z (N, n), in the dtype of X (integers become float64)."""
        learn.check_is_fitted(self)
        X = self._valid(X, reset=False)
        return self.reduction_.transform(X).astype(X.dtype, copy=False)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """X̂ (N, D): Z V_nᵀ, or the shortest rows whose projection is Z."""
        learn.check_is_fitted(self)
        return self.reduction_.inverse(np.asarray(Z))

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(settings, arrays): all that ``from_state`` needs, without pickle."""
        learn.check_is_fitted(self)
        meta = {"method": self.method, "n_components": self.n_components, "width": int(self.n_features_in_)}
        found = self.reduction_
        if isinstance(found, TruncatedSVD):
            meta |= {"squares": found.squares, "lost": found.lost}
            return meta, {"components": found.components, "singular_values": found.singular_values}
        if not scipy.sparse.issparse(found.matrix):
            return meta, {"matrix": found.matrix}
        r = found.matrix
        return meta, {"data": r.data, "indices": r.indices, "indptr": r.indptr}

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reduce:
        """The fitted transformer that ``state`` described."""
        made = cls(meta["method"], int(meta["n_components"]))
        width = made.n_features_in_ = int(meta["width"])
        if made.method == "svd":
            made.reduction_ = TruncatedSVD(
                arrays["components"], arrays["singular_values"], float(meta["squares"]), float(meta["lost"])
            )
            made.relative_error_ = made.reduction_.relative_error
        elif "matrix" in arrays:
            made.reduction_ = RandomProjection(arrays["matrix"])
        else:
            parts = arrays["data"], arrays["indices"], arrays["indptr"]
            made.reduction_ = RandomProjection(scipy.sparse.csr_array(parts, shape=(width, made.n_components)))
        return made

    @property
    def _n_features_out(self) -> int:
        return self.n_components

    def _valid(self, X: Any, *, reset: bool) -> Any:
        return learn.validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
