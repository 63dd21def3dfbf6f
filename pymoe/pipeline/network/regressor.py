r"""``MoERegressor``: a sparse Mixture-of-Experts on rows of features, as a scikit-learn regressor.

The network is ``network.model``; how it is trained is the docstring of ``network.estimator``.  The loss over the rows,
s_n their shares of the weight, t scaled to mean 0 and variance 1::

    Σ_n s_n ‖y_n - t_n‖² / 2                                dy_n = s_n (y_n - t_n)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.errors import DataError
from pymoe.pipeline import _sklearn as learn
from pymoe.pipeline.network.estimator import NetworkEstimator, _canonical


class MoERegressor(learn.RegressorMixin, NetworkEstimator):  # type: ignore[misc]
    """A sparse Mixture-of-Experts on dense or scipy.sparse rows, as a scikit-learn regressor of one value or several.

    The settings are those of ``MoEClassifier``.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((200, 5))
    >>> model = MoERegressor(random_state=0).fit(x, 3 * x[:, 0] + 7)
    >>> bool(model.score(x, 3 * x[:, 0] + 7) > 0.95)
    True
    """

    def __init__(
        self,
        n_experts: int = 4,
        *,
        k: int = 2,
        d_model: int = 32,
        d_ff: int = 32,
        d_shared: int = 0,
        linear_experts: bool = True,
        dense: bool = False,
        l2: float | str = "auto",
        dropout: float | str = "auto",
        balance: float = 0.01,
        z: float = 0.0001,
        epochs: int | None = None,
        batch_size: int = 256,
        lr_linear: float = 1.0,
        lr: float = 0.001,
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.2,
        n_iter_no_change: int | None = None,
        tol: float = 0.0,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_experts = n_experts
        self.k = k
        self.d_model = d_model
        self.d_ff = d_ff
        self.d_shared = d_shared
        self.linear_experts = linear_experts
        self.dense = dense
        self.l2 = l2
        self.dropout = dropout
        self.balance = balance
        self.z = z
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr_linear = lr_linear
        self.lr = lr
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> MoERegressor:
        """X (N, V), y (N,) or (N, M) numbers, sample_weight (N,) >= 0."""
        X, values, weight = self._checked(X, y, sample_weight, reset=True)
        self._outputs = values.shape[1]
        self._check_settings()
        self._fit(X, values.view(np.int64), values, weight)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MoERegressor:
        """One more pass over these rows; the first call sets the scale of the features and of y."""
        first = not hasattr(self, "_descent")
        X, values, weight = self._checked(X, y, sample_weight, reset=first)
        if first:
            self._outputs = values.shape[1]
            self._check_settings()
        elif values.shape[1] != self._outputs:
            raise DataError(f"y has {values.shape[1]} columns, but had {self._outputs} in the first call")
        self._partial(X, values.view(np.int64), values, weight)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,), or (N, M) where y had two axes."""
        y = self._y(X)
        y = np.asarray(y * self.std_.astype(y.dtype) + self.mean_.astype(y.dtype))
        return y if self._two_axes else y[:, 0]

    def _learn_targets(self, targets: np.ndarray, weight: np.ndarray) -> None:
        share = weight / weight.sum()
        self.mean_ = share @ targets
        std = np.sqrt(share @ np.square(targets - self.mean_))
        self.std_ = np.where(std > 0, std, 1.0)

    def _scaled(self, targets: np.ndarray) -> np.ndarray:
        return np.asarray((targets - self.mean_) / self.std_)

    def _checked(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> tuple[Any, np.ndarray, np.ndarray]:
        X, y = self._valid(X, y, reset=reset, multi_output=True, y_numeric=True)
        if reset:
            self._two_axes = y.ndim == 2
        values = np.array(y, np.float64).reshape(len(y), -1)
        weight = learn.row_weights(sample_weight, X)
        (alive,) = np.nonzero(weight > 0)
        if len(alive) < len(weight):
            X, values, weight = X[alive], np.ascontiguousarray(values[alive]), weight[alive]
        return _canonical(X), values, weight

    def _row_losses(self, y: np.ndarray, t: np.ndarray) -> np.ndarray:
        apart = y - t
        return np.asarray(0.5 * np.einsum("nm,nm->n", apart, apart))

    def _loss(self, y: np.ndarray, t: np.ndarray, share: np.ndarray) -> tuple[float, np.ndarray]:
        apart = y - t.astype(y.dtype)
        loss = 0.5 * float(share @ np.einsum("nm,nm->n", apart, apart))
        return loss, apart * share[:, None].astype(y.dtype)

    def _facts(self) -> dict[str, Any]:
        return {"mean": self.mean_.tolist(), "std": self.std_.tolist(), "two_axes": self._two_axes}

    def _take_facts(self, meta: dict[str, Any]) -> None:
        self.mean_, self.std_ = np.array(meta["mean"]), np.array(meta["std"])
        self._two_axes = bool(meta["two_axes"])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
