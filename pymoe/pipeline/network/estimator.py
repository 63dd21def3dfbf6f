"""What ``MoEClassifier`` and ``MoERegressor`` share: settings to network, the training loop, routes, state."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DataError, NonFiniteError, check_integer, check_share
from pymoe.backend.rng import generator
from pymoe.pipeline import _sklearn as learn
from pymoe.pipeline import merging
from pymoe.pipeline.network import model, scaling, steps
from pymoe.pipeline.network.model import NetworkConfig

ROWS = 4096  # of a prediction at a time
PASSES, STEPS = 8, 400  # the least of epochs=None


class Rows(NamedTuple):
    """Scaled features, targets as the loss reads them, and weights."""

    x: Any  # (N, V)
    t: np.ndarray  # (N,) class numbers, or (N, M) values
    weight: np.ndarray  # (N,)


class NetworkEstimator(learn.SparseRows, learn.BaseEstimator):  # type: ignore[misc]
    """The part of both estimators that is the same; a subclass has the targets and the loss."""

    _outputs: int

    def route(self, X: Any) -> np.ndarray:
        """(N, E) the weight of each expert in each row's answer: k of them are not 0.  ConfigError where dense."""
        idx, weight = self.choices(X)
        out = np.zeros((len(idx), self.config_.n_experts), weight.dtype)
        np.put_along_axis(out, idx, weight, axis=1)
        return out

    def choices(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """(idx (N, K) the experts of each row, best first, weight (N, K)).  ConfigError where dense."""
        learn.check_is_fitted(self)
        if not self.config_.n_experts:
            raise ConfigError("a dense network has no experts to route to: take dense=False")
        found = [out.routing for out in self._answers(_canonical(self._valid(X)))]
        return np.concatenate([r.idx for r in found]), np.concatenate([r.weight for r in found])

    def dense_twin(self) -> Any:
        """The baseline of equal active size, not fitted: the same settings with ``dense=True``."""
        return learn.clone(self).set_params(dense=True)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(settings and facts for JSON, arrays): all that ``from_state`` needs to predict the same bits, no pickle."""
        learn.check_is_fitted(self)
        parameters = self.get_params(deep=False)
        parameters["random_state"] = self._seed
        if isinstance(parameters.get("class_weight"), dict):
            del parameters["class_weight"]
        meta = {
            "parameters": parameters,
            "width": int(self.n_features_in_),
            "outputs": self._outputs,
            "scale": float(self.scale_),
            "epochs": int(self.n_iter_),
            "loss_curve": [float(v) for v in self.loss_curve_],
            **self._facts(),
        }
        arrays = {f"network.{name}": a for name, a in tree.flatten(self.parameters_).items()}
        if self.ratio_ is not None:
            arrays["ratio"] = self.ratio_
        return meta, arrays

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """The fitted estimator that ``state`` described."""
        made = cls(**meta["parameters"])
        made.n_features_in_ = int(meta["width"])
        made._outputs, made._seed = int(meta["outputs"]), int(meta["parameters"]["random_state"])
        made.scale_, made.ratio_ = float(meta["scale"]), arrays.get("ratio")
        made.n_iter_, made.loss_curve_ = int(meta["epochs"]), list(meta["loss_curve"])
        flat = {name[8:]: a for name, a in arrays.items() if name.startswith("network.")}
        made.parameters_ = tree.unflatten(flat)
        made.config_ = made._network()
        made._take_facts(meta)
        return made

    # -- settings

    def _check_settings(self) -> None:
        for name in ("batch_size", "n_iter_no_change"):
            check_integer(name, getattr(self, name))
        if self.epochs is not None:
            check_integer("epochs", self.epochs)
        for name in ("l2", "lr_linear", "lr", "lr_embed", "balance", "z", "tol"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
                raise ConfigError(f"{name} must be a finite number >= 0, got {value!r}")
        if self.dropout != "auto" and not (check_share("dropout", self.dropout) < 1):
            raise ConfigError("dropout must be below 1: nothing would be left")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(f"validation_fraction must lie in (0, 1), got {self.validation_fraction!r}")
        self._network()

    def _network(self) -> NetworkConfig:
        sparse = NetworkConfig(
            n_features=self.n_features_in_, n_outputs=self._outputs, d_model=self.d_model, n_experts=self.n_experts,
            k=self.k, d_ff=self.d_ff, d_shared=self.d_shared, experts=self.linear_experts,
        )  # fmt: skip
        return sparse.twin() if self.dense else sparse

    # -- training

    def _start(self, x: Any, t: np.ndarray, weight: np.ndarray) -> None:
        """Scale, first parameters, an empty record."""
        self._seed = learn.seed(self.random_state)
        self.ratio_ = self._ratio(x, t, weight)
        self.scale_ = 1.0 if self.ratio_ is not None else scaling.unit(x, weight / weight.sum())
        self.config_ = self._network()
        p = model.init(generator(self._seed, 0), self.config_, x.dtype)
        self._descent = steps.start(p)
        self._spent = np.random.SeedSequence([self._seed, 1])
        self.loss_curve_: list[float] = []
        self.validation_loss_: list[float] = []
        self.n_iter_ = 0

    def _merged(self, x: Any, labels: np.ndarray, t: np.ndarray, weight: np.ndarray) -> tuple[Rows, np.ndarray]:
        """Equal rows as one, in the order of their hashes, and the number of each among the distinct."""
        found = merging.merge(x, labels, weight, self._seed)
        rows = scaling.apply(x[found.rows], self.ratio_, self.scale_)
        return Rows(rows, t[found.rows], found.weight), found.distinct

    def _train(self, data: Rows, distinct: np.ndarray) -> None:
        """All passes, with a held-out part where it stops early."""
        train, held = data, None
        if self.early_stopping:
            strata = data.t if data.t.ndim == 1 and data.t.dtype.kind == "i" else np.zeros(len(data.t), np.int64)
            out = merging.held_out(strata, distinct, self.validation_fraction)
            if not out.any() or out.all():
                raise DataError(f"early stopping needs a row to hold out and one to train on, got {len(out)} rows")
            train, held = _take(data, np.flatnonzero(~out)), _take(data, np.flatnonzero(out))
        n = len(train.weight)
        batches = -(-n // self.batch_size)
        epochs = self.epochs or max(PASSES, -(-STEPS // batches))
        total = epochs * batches
        best, best_p, waited = math.inf, None, 0
        with _Progress(self.verbose, type(self).__name__, epochs) as bar:
            for epoch in range(epochs):
                self._pass(train, epoch, lambda step: max(0.0, 1 - (step - 1) / total))
                note = {"loss": self.loss_curve_[-1]}
                if held is not None:
                    now = self._held_out(held)
                    self.validation_loss_.append(now)
                    note["held out"] = now
                    if now < best - self.tol:
                        best, best_p, waited = now, self._descent.p, 0
                    else:
                        waited += 1
                bar.step(note)
                if held is not None and waited >= self.n_iter_no_change:
                    break
        self.parameters_ = tree.unflatten(self._descent.p if best_p is None else best_p)

    def _pass(self, data: Rows, key: int, rate: Any) -> None:
        """One pass over the rows; batch (seed, key, ...) of the draws."""
        n, total = len(data.weight), float(data.weight.sum())
        rates = steps.Rates(self.lr_linear, self.lr_embed, self.lr, self.l2 / total)
        dropout = self._dropout(data.x)
        cotangents = {"balance": self.balance, "z": self.z} if self.config_.n_experts else None

        def objective(p: dict[str, Any], rows: np.ndarray, step: int) -> tuple[float, dict[str, Any]]:
            whole = len(rows) == n
            x = data.x if whole else data.x[rows]
            part = data.weight[rows] / total * (n / len(rows))  # Σ over the batches of a pass: each row as its weight
            x = steps.drop(x, dropout, generator(self._seed, 2, step))
            share = part.astype(x.dtype)
            out, cache = model.forward(x, p, self.config_, share=share)
            loss, dy = self._loss(out.y, data.t if whole else data.t[rows], share)
            _, dp = model.backward(dy, cache, cotangents)
            return loss, dp

        self._descent, loss = steps.one_pass(
            self._descent, objective, rates, generator(self._seed, 1, key), n, self.batch_size, rate
        )
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss of pass {key} is {loss}: scale the features, or take a smaller lr_linear")
        self.loss_curve_.append(loss)
        self.n_iter_ += 1

    def _held_out(self, held: Rows) -> float:
        p, total, loss = tree.unflatten(self._descent.p), float(held.weight.sum()), 0.0
        for at in range(0, len(held.weight), ROWS):
            part = slice(at, at + ROWS)
            y = model.forward(held.x[part], p, self.config_)[0].y
            loss += self._loss(y, held.t[part], held.weight[part] / total)[0]
        return loss

    def _dropout(self, x: Any) -> float:
        """ "auto": 0.5 where at most half of x is not 0."""
        if self.dropout != "auto":
            return float(self.dropout)
        stored = x.data if scipy.sparse.issparse(x) else x
        return 0.5 if 2 * np.count_nonzero(stored) <= x.shape[0] * x.shape[1] else 0.0

    def _fit(self, x: Any, labels: np.ndarray, t: np.ndarray, weight: np.ndarray) -> None:
        self._start(x, t, weight)
        data, distinct = self._merged(x, labels, t, weight)
        self._train(data, distinct)

    def _partial(self, x: Any, labels: np.ndarray, t: np.ndarray, weight: np.ndarray) -> None:
        """One pass over these rows, with the rate falling as 1 / √steps."""
        data, _ = self._merged(x, labels, t, weight)
        self._pass(data, self.n_iter_, lambda step: (1 + step / STEPS) ** -0.5)
        self.parameters_ = tree.unflatten(self._descent.p)

    # -- rows in, numbers out

    def _answers(self, x: Any) -> Iterator[model.Output]:
        dtype = self.parameters_["head"]["weight"].dtype
        x = x if x.dtype == dtype else x.astype(dtype)
        for at in range(0, x.shape[0], ROWS):
            rows = scaling.apply(x[at : at + ROWS], self.ratio_, self.scale_)
            yield model.forward(rows, self.parameters_, self.config_)[0]

    def _y(self, X: Any) -> np.ndarray:
        learn.check_is_fitted(self)
        return np.concatenate([out.y for out in self._answers(_canonical(self._valid(X)))])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "parameters_")

    def _ratio(self, x: Any, t: np.ndarray, weight: np.ndarray) -> np.ndarray | None:
        return None

    def _loss(self, y: np.ndarray, t: np.ndarray, share: np.ndarray) -> tuple[float, np.ndarray]:
        raise NotImplementedError

    def _facts(self) -> dict[str, Any]:
        return {}

    def _take_facts(self, meta: dict[str, Any]) -> None:
        """What ``_facts`` wrote."""


class _Progress:
    """A bar on a terminal, or a line for each pass; nothing unless ``verbose``."""

    def __init__(self, verbose: bool, name: str, total: int) -> None:
        self._on, self._name, self._total, self._bar, self._done = bool(verbose), name, total, None, 0

    def __enter__(self) -> _Progress:
        if self._on:
            import sys

            if sys.stderr.isatty():
                from tqdm import tqdm

                self._bar = tqdm(total=self._total, desc=self._name, unit="pass", dynamic_ncols=True)
        return self

    def step(self, note: dict[str, float]) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4f}" for name, value in note.items()})
            self._bar.update(1)
        elif self._on:
            said = ", ".join(f"{name} {value:.4f}" for name, value in note.items())
            print(f"{self._name}: pass {self._done}/{self._total}, {said}", flush=True)

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()


def _canonical(x: Any) -> Any:
    """CSR with sorted columns and no duplicates; the caller's object stays as it is."""
    if scipy.sparse.issparse(x) and not x.has_canonical_format:
        x = x.copy()
        x.sum_duplicates()
    return x


def _take(data: Rows, rows: np.ndarray) -> Rows:
    return Rows(data.x[rows], data.t[rows], data.weight[rows])
