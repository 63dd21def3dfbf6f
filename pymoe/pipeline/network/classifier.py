r"""``MoEClassifier``: a sparse Mixture-of-Experts on rows of features, as a scikit-learn classifier.

The network is ``network.model``; how it is trained is the docstring of ``network.estimator``.  The loss over the rows,
s_n their shares of the weight, q = (1 - ε) onehot(t) + ε / C with label smoothing ε::

    Σ_n s_n CE(y_n, q_n)                                    dy_n = s_n (softmax(y_n) - q_n)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, DataError, check_share
from pymoe.ops import log_softmax
from pymoe.pipeline import _sklearn as learn
from pymoe.pipeline.network.estimator import NetworkEstimator, _canonical
from pymoe.pipeline.report.routing import PlotsRouting


class MoEClassifier(PlotsRouting, learn.ClassifierMixin, NetworkEstimator):  # type: ignore[misc]
    """A sparse Mixture-of-Experts on dense or scipy.sparse rows, as a scikit-learn classifier.

    n_experts, k         E experts, K of them for a row
    d_model, d_ff        width of the features' vectors, and of an expert's hidden layer
    d_shared             width of an expert that every row passes (0: none)
    linear_experts       whether each expert also has a linear map of the features themselves
    dense                the dense twin: no experts, as many active parameters
    l2                   the penalty of the linear part against the sum of the rows' losses, 1 / C of scikit-learn;
                         "auto": chosen by folds of the rows, then ``l2_``
    dropout              share of the nonzero features left out in a step; "auto": 0.5 where most of x is 0, else 0
    label_smoothing      ε
    balance, z           coefficients of the losses of the router
    class_weight         None, "balanced", or {class: weight}
    epochs               passes over the rows; None: 8, and at least 200 steps
    batch_size           rows of a step; up to that many rows: all in each step
    lr_linear, lr        first rates of what is linear in x, and of the rest (``steps``); they fall to 0
    early_stopping       hold out ``validation_fraction`` of the rows, keep the stage of training with their least loss,
                         and stop when it has not fallen by ``tol`` for ``n_iter_no_change`` passes (None: a quarter of
                         them); the linear part is then fitted to all rows; "auto": from 200 different rows on
    verbose              a bar on a terminal, else a line for each stage

    Equal rows are merged first and taken in an order of their own: neither their order nor a weight in place of a
    repetition changes a bit.  After fit: ``classes_``, ``config_``, ``parameters_``, ``l2_``, ``n_iter_`` passes,
    ``loss_curve_`` of them, ``validation_loss_`` of each stage: the linear part alone, with linear experts, the passes.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((200, 5))
    >>> y = np.where(x[:, 0] > 0, "good", "bad")
    >>> model = MoEClassifier(random_state=0).fit(x, y)
    >>> bool(model.score(x, y) > 0.95), model.route(x[:2]).shape
    (True, (2, 4))
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
        label_smoothing: float = 0.0,
        balance: float = 0.01,
        z: float = 0.0001,
        class_weight: Any = None,
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
        self.label_smoothing = label_smoothing
        self.balance = balance
        self.z = z
        self.class_weight = class_weight
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> MoEClassifier:
        """X (N, V), y (N,) classes, sample_weight (N,) >= 0."""
        X, y, weight = self._checked(X, y, sample_weight, reset=True)
        self.classes_ = learn.two_classes(y)
        if self.class_weight is not None:
            weight = weight * learn.compute_sample_weight(self.class_weight, y)
        self._begin()
        t = np.searchsorted(self.classes_, y)
        self._fit(X, t[:, None], t, weight)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> MoEClassifier:
        """One more pass over these rows; the first call names all ``classes``, and sets the scale of the features."""
        first = not hasattr(self, "_descent")
        if first and classes is None:
            raise DataError("classes must be passed on the first call to partial_fit.")
        if self.class_weight == "balanced":
            raise ConfigError('class_weight="balanced" counts all rows: give partial_fit sample_weight, or a dict')
        if classes is not None:
            given = np.unique(np.asarray(classes))
            if not first and not np.array_equal(given, self.classes_):
                raise DataError(f"classes={given.tolist()} are not those of the first call, {self.classes_.tolist()}")
            if len(given) < 2:
                raise DataError(f"a classifier needs at least 2 classes, got only one class, {given.tolist()}")
        X, y, weight = self._checked(X, y, sample_weight, reset=first)
        known = given if first else self.classes_
        if not np.isin(y, known).all():
            new = np.setdiff1d(y, known).tolist()
            raise DataError(f"y has classes that were not named on the first call to partial_fit: {new}")
        if self.class_weight is not None:
            weight = weight * learn.compute_sample_weight(self.class_weight, y)
        t = np.searchsorted(known, y)
        if first:
            self.classes_ = known
            self._begin()
        self._partial(X, t[:, None], t, weight)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (N, C); of two classes the second minus the first, (N,)."""
        y = self._y(X)
        return y if len(self.classes_) > 2 else y[:, 1] - y[:, 0]

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """(N, C) log softmax of the logits."""
        log_p: np.ndarray = log_softmax.forward(self._y(X))[0]
        return log_p

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, C) softmax of the logits."""
        return np.asarray(np.exp(self.predict_log_proba(X)))

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the class of the largest logit; of equals the first."""
        best = self._y(X).argmax(axis=1)
        found: np.ndarray = self.classes_[best]
        return found

    def _begin(self) -> None:
        self._outputs = len(self.classes_)
        self._check_settings()
        check_share("label_smoothing", self.label_smoothing)

    def _checked(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> tuple[Any, np.ndarray, np.ndarray]:
        """Rows of weight above 0 only."""
        X, y = self._valid(X, y, reset=reset)
        learn.check_classification_targets(y)
        y = learn.column_or_1d(y, warn=True)
        weight = learn.row_weights(sample_weight, X)
        (alive,) = np.nonzero(weight > 0)
        if len(alive) < len(weight):
            X, y, weight = X[alive], y[alive], weight[alive]
        return _canonical(X), y, weight

    def _row_losses(self, y: np.ndarray, t: np.ndarray) -> np.ndarray:
        log_p = log_softmax.forward(y)[0]
        return np.asarray(-np.einsum("nc,nc->n", self._wanted(y, t), log_p))

    def _loss(self, y: np.ndarray, t: np.ndarray, share: np.ndarray) -> tuple[float, np.ndarray]:
        log_p, q = log_softmax.forward(y)[0], self._wanted(y, t)
        loss = -float(share @ np.einsum("nc,nc->n", q, log_p))
        return loss, (np.exp(log_p) - q) * share[:, None].astype(y.dtype)

    def _wanted(self, y: np.ndarray, t: np.ndarray) -> np.ndarray:
        """q (N, C)."""
        q = np.full_like(y, self.label_smoothing / y.shape[1])
        q[np.arange(len(t)), t] += 1 - self.label_smoothing
        return q

    def _facts(self) -> dict[str, Any]:
        kind = self.classes_.dtype.str if self.classes_.dtype.kind != "O" else "O"
        return {"classes": self.classes_.tolist(), "classes_dtype": kind}

    def _take_facts(self, meta: dict[str, Any]) -> None:
        self.classes_ = np.array(meta["classes"], dtype=meta["classes_dtype"])
