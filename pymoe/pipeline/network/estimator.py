"""What ``MoEClassifier`` and ``MoERegressor`` share: settings to network, the training, routes, state.

``fit`` goes from what has one best answer to what has not, each stage on the one before:

============== =====================================================================================================
stage          what is fitted
============== =====================================================================================================
linear part    W and a, to all rows, by L-BFGS, its penalty chosen by folds: ``linear_part``
start          U from the singular vectors of x, the router from a balanced k-means of the rows: ``first``
linear experts W_e and b_e by L-BFGS, with the router as it is, from a strong penalty to weaker ones: ``convex``
passes         router, experts and head by gradient on batches, end to end: ``steps``
============== =====================================================================================================

From the second on a row's answer is y° + what is trained, y° what linear maps fitted without the row say of it: so that
the experts learn what a linear map gets wrong of *new* rows.  A share of the rows is held out from all stages, and the
stage, or pass, of their least loss is kept: at its start all that stands on the linear part adds 0, so the network ends
no worse there than its linear part; then the linear part is fitted again, to all rows.  (Were the held-out rows among
those of the folds, y° of the other rows would know their labels, and what is learnt on it would seem worse than it is:
sentiment, 0.733 on such rows and 0.696 on new ones.)  ``partial_fit`` does passes over what it is given, W too.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DataError, NonFiniteError, check_integer, check_share
from pymoe.backend.rng import generator
from pymoe.pipeline import _sklearn as learn
from pymoe.pipeline import merging
from pymoe.pipeline.network import convex, first, linear_part, model, scaling, steps
from pymoe.pipeline.network.judge import Judge, Progress
from pymoe.pipeline.network.model import NetworkConfig

ROWS = 4096  # of a prediction at a time
PASSES, STEPS = 8, 200  # the least of epochs=None
FEW, JUDGED = 20, 200  # different rows: to fit and test by folds, to hold some out with early_stopping="auto"
EXPERT_L2, EXPERT_ITERATIONS = (4.0, 1.0, 0.25), 40  # penalties of the linear experts; steps of L-BFGS for each


class Rows(NamedTuple):
    """Scaled features, targets as the loss reads them, weights, and what is added to the network's answer."""

    x: Any  # (N, V)
    t: np.ndarray  # (N,) class numbers, or (N, M) values
    weight: np.ndarray  # (N,)
    offset: np.ndarray | None = None  # (N, C)


class NetworkEstimator(learn.SparseRows, learn.BaseEstimator, abc.ABC):  # type: ignore[misc]
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
            "l2": float(self.l2_),
            "epochs": int(self.n_iter_),
            "loss_curve": [float(v) for v in self.loss_curve_],
            **self._facts(),
        }
        arrays = {f"network.{name}": a for name, a in tree.flatten(self.parameters_).items()}
        return meta, arrays

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """The fitted estimator that ``state`` described."""
        made = cls(**meta["parameters"])
        made.n_features_in_ = int(meta["width"])
        made._outputs, made._seed = int(meta["outputs"]), int(meta["parameters"]["random_state"])
        made.scale_, made.l2_ = float(meta["scale"]), float(meta["l2"])
        made.n_iter_, made.loss_curve_ = int(meta["epochs"]), list(meta["loss_curve"])
        flat = {name.removeprefix("network."): a for name, a in arrays.items()}
        made._keep(tree.unflatten(flat))
        made.config_ = made._network()
        made._take_facts(meta)
        return made

    # -- settings

    def _check_settings(self) -> None:
        check_integer("batch_size", self.batch_size)
        for name in ("epochs", "n_iter_no_change"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name))
        if self.early_stopping not in (True, False, "auto"):
            raise ConfigError(f'early_stopping must be True, False or "auto", got {self.early_stopping!r}')
        for name in ("l2", "lr_linear", "lr", "balance", "z", "tol"):
            value: Any = getattr(self, name)
            if name == "l2" and value == "auto":
                continue
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

    def _start(self, x: Any, weight: np.ndarray) -> dict[str, Any]:
        """First parameters for scaled rows x, and an empty record."""
        self.config_ = self._network()
        self.loss_curve_: list[float] = []
        self.validation_loss_: list[float] = []
        self.n_iter_ = 0
        p = model.init(generator(self._seed, 0), self.config_, x.dtype)
        u, bias = first.vectors(x, weight, self.config_.d_model, generator(self._seed, 3))
        p["embed"] = {"weight": u.astype(x.dtype), "bias": bias.astype(x.dtype)}
        return p

    def _merged(
        self, x: Any, labels: np.ndarray, targets: np.ndarray, weight: np.ndarray, *, new: bool
    ) -> tuple[Rows, np.ndarray]:
        """Equal rows as one, in the order of their hashes, scaled; the number of each among the distinct."""
        found = merging.merge(x, labels, weight, self._seed)
        x, targets, weight = x[found.rows], targets[found.rows], found.weight
        if new:
            self.scale_ = scaling.unit(x, weight / weight.sum())
            self._learn_targets(targets, weight)
        return Rows(scaling.apply(x, self.scale_), self._scaled(targets), weight), found.distinct

    def _fit(self, x: Any, labels: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> None:
        """The linear part, then all that stands on it, for rows as the linear part sees new ones."""
        self._seed = learn.seed(self.random_state)
        data, distinct = self._merged(x, labels, targets, weight, new=True)
        p = self._start(data.x, data.weight)
        with Progress(self.verbose, type(self).__name__) as progress:
            train, held, fold = self._parts(data, distinct)
            wide = self._linear(train, linear_part.L2 if self.l2 == "auto" else (float(self.l2),), fold)
            self.l2_ = wide.l2
            train = train._replace(offset=wide.unseen.astype(train.x.dtype))
            judge = Judge(None, 0.0, progress, self.validation_loss_)
            if held is not None:
                held = held._replace(offset=wide.say(held.x).astype(held.x.dtype))
                judge = Judge(self._held_out(held), float(self.tol), progress, self.validation_loss_)
            p = self._above(p, train, judge, progress)
            if held is not None:
                wide = self._linear(data, (wide.l2,), None)
        dtype = data.x.dtype
        head = p["head"] | {"bias": p["head"]["bias"] + wide.bias.astype(dtype)}
        self._keep(p | {"wide": {"weight": wide.weight.astype(dtype)}, "head": head})

    def _parts(self, data: Rows, distinct: np.ndarray) -> tuple[Rows, Rows | None, np.ndarray | None]:
        """(rows to train on, rows to judge by or None, folds of the first or None)."""
        strata = data.t if data.t.ndim == 1 and data.t.dtype.kind == "i" else np.zeros(len(data.t), np.int64)
        rows = len(np.unique(distinct))
        kept, held = np.arange(len(distinct)), None
        if self.early_stopping is True or (self.early_stopping == "auto" and rows >= JUDGED):
            out = merging.held_out(strata, distinct, self.validation_fraction)
            if not out.any() or out.all():
                raise DataError(f"early stopping needs a row to hold out and one to train on, got {len(out)} rows")
            kept, held = np.flatnonzero(~out), _take(data, np.flatnonzero(out))
        number = np.unique(distinct[kept], return_inverse=True)[1]
        fold = merging.folds(strata[kept], number, linear_part.FOLDS) if number.max() + 1 >= FEW else None
        return _take(data, kept), held, fold

    def _linear(self, data: Rows, l2: Sequence[float], fold: np.ndarray | None) -> linear_part.LinearPart:
        return linear_part.fit(data.x, data.t, data.weight, self._loss, l2=l2, fold=fold, outputs=self._outputs)

    def _held_out(self, held: Rows) -> Callable[[dict[str, Any]], np.ndarray]:
        cfg, share = self._above_linear(), held.weight / held.weight.sum()

        def losses(p: dict[str, Any]) -> np.ndarray:
            found = []
            for at in range(0, len(share), ROWS):
                part = _take(held, np.arange(at, min(at + ROWS, len(share))))
                found.append(self._row_losses(model.forward(part.x, p, cfg)[0].y + part.offset, part.t))
            return np.asarray(share * np.concatenate(found))

        return losses

    def _above_linear(self) -> NetworkConfig:
        """The network but for its linear part."""
        return dataclasses.replace(self.config_, wide=False)

    def _above(self, p: dict[str, Any], train: Rows, judge: Judge, progress: Progress) -> dict[str, Any]:
        """Router and linear experts by their own problems, then everything by gradient; the best of all of it."""
        p = {name: part for name, part in p.items() if name != "wide"}
        judge.see(p, "linear part")
        if self.config_.n_experts:
            h = np.asarray(model.times(train.x, p["embed"]["weight"]) + p["embed"]["bias"], np.float64)
            centres = first.router(h, self.config_.n_experts, generator(self._seed, 4))
            if centres is not None:
                p = p | {"mix": p["mix"] | {"router": {"weight": centres.astype(train.x.dtype)}}}
        if "experts" in p:
            before = math.inf
            for one in self._experts(p, train):
                now = judge.see(one, "linear experts")
                if now > before:  # from here on they learn rows by heart
                    break
                before = now
        return self._passes(judge.best, train, judge, progress)

    def _experts(self, p: dict[str, Any], train: Rows) -> Iterator[dict[str, Any]]:
        """The linear experts of a router that stays as it is, from a strong penalty to a weak one."""
        cfg, share = self._above_linear(), train.weight / train.weight.sum()
        g = np.zeros((len(share), cfg.n_experts))
        for at in range(0, len(g), ROWS):
            routing = model.forward(train.x[at : at + ROWS], p, cfg)[0].routing
            np.put_along_axis(g[at : at + ROWS], routing.idx, routing.weight, axis=1)
        start = None
        for penalty in EXPERT_L2:
            start = convex.fit(
                train.x, train.t, share, self._loss, l2=penalty / float(train.weight.sum()),
                outputs=self._outputs, g=g, offset=train.offset, start=start,
                iterations=EXPERT_ITERATIONS,
            )  # fmt: skip
            weight = np.ascontiguousarray(start["weight"].transpose(1, 0, 2), dtype=train.x.dtype)
            yield p | {"experts": {"weight": weight, "bias": start["bias"].astype(train.x.dtype)}}

    def _passes(self, p: dict[str, Any], train: Rows, judge: Judge, progress: Progress) -> dict[str, Any]:
        batches = -(-len(train.weight) // self.batch_size)
        epochs = self.epochs or max(PASSES, -(-STEPS // batches))
        patience = self.n_iter_no_change or max(1, epochs // 4)
        total, state = epochs * batches, steps.start(p)
        judge.waited = 0
        for epoch in progress.passes(epochs):
            state = self._pass(state, train, self._above_linear(), epoch, lambda step: max(0.0, 1 - (step - 1) / total))
            judge.see(tree.unflatten(state.p), f"pass {epoch + 1}")
            if judge.waited >= patience:
                break
        return judge.best

    def _pass(self, state: steps.State, data: Rows, cfg: NetworkConfig, key: int, rate: Any) -> steps.State:
        """One pass over the rows; batch (seed, key, ...) of the draws."""
        n, total = len(data.weight), float(data.weight.sum())
        rates = steps.Rates(self.lr_linear, self.lr, self.l2_ / total)
        dropout = self._dropout(data.x)
        cotangents = {"balance": self.balance, "z": self.z} if cfg.n_experts else None

        def objective(p: dict[str, Any], rows: np.ndarray, step: int) -> tuple[float, dict[str, Any]]:
            part = data if len(rows) == n else _take(data, rows)
            share = (part.weight / total * (n / len(rows))).astype(data.x.dtype)  # Σ over the batches: each its weight
            x = steps.drop(part.x, dropout, generator(self._seed, 2, step))
            out, cache = model.forward(x, p, cfg, share=share)
            loss, dy = self._loss(out.y if part.offset is None else out.y + part.offset, part.t, share)
            _, dp = model.backward(dy, cache, cotangents, below=False)
            return loss, dp

        state, loss = steps.one_pass(state, objective, rates, generator(self._seed, 1, key), n, self.batch_size, rate)
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss of pass {key} is {loss}: scale the features, or take a smaller lr_linear")
        self.loss_curve_.append(loss)
        self.n_iter_ += 1
        return state

    def _dropout(self, x: Any) -> float:
        """ "auto": 0.5 where at most half of x is not 0."""
        if self.dropout != "auto":
            return float(self.dropout)
        stored = x.data if scipy.sparse.issparse(x) else x
        return 0.5 if 2 * np.count_nonzero(stored) <= x.shape[0] * x.shape[1] else 0.0

    def _partial(self, x: Any, labels: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> None:
        """One pass over these rows, with the rate falling as 1 / √steps."""
        new = not hasattr(self, "_descent")
        if new:
            self._seed = learn.seed(self.random_state)
        data, _ = self._merged(x, labels, targets, weight, new=new)
        if new:
            self._descent = steps.start(self._start(data.x, data.weight))
            self.l2_ = linear_part.L2[1] if self.l2 == "auto" else float(self.l2)
        self._descent = self._pass(
            self._descent, data, self.config_, self.n_iter_, lambda step: (1 + step / STEPS) ** -0.5
        )  # fmt: skip
        self.parameters_ = tree.unflatten(self._descent.p)

    def _keep(self, p: dict[str, Any]) -> None:
        """The parameters, from which ``partial_fit`` may go on."""
        self.parameters_ = p
        self._descent = steps.start(p)

    # -- rows in, numbers out

    def _answers(self, x: Any) -> Iterator[model.Output]:
        dtype = self.parameters_["head"]["weight"].dtype
        x = x if x.dtype == dtype else x.astype(dtype)
        for at in range(0, x.shape[0], ROWS):
            yield model.forward(scaling.apply(x[at : at + ROWS], self.scale_), self.parameters_, self.config_)[0]

    def _y(self, X: Any) -> np.ndarray:
        learn.check_is_fitted(self)
        return np.concatenate([out.y for out in self._answers(_canonical(self._valid(X)))])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "parameters_")

    def _learn_targets(self, targets: np.ndarray, weight: np.ndarray) -> None:
        """What the first rows say of the scale of the targets."""

    def _scaled(self, targets: np.ndarray) -> np.ndarray:
        return targets

    @abc.abstractmethod
    def _row_losses(self, y: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The loss of each row (N,) at the network's answers y (N, C)."""

    @abc.abstractmethod
    def _loss(self, y: np.ndarray, t: np.ndarray, share: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss of all rows, each with its share (N,), and its gradient in y."""

    def _facts(self) -> dict[str, Any]:
        return {}

    def _take_facts(self, meta: dict[str, Any]) -> None:
        """What ``_facts`` wrote."""


def _canonical(x: Any) -> Any:
    """CSR with sorted columns and no duplicates; the caller's object stays as it is."""
    if scipy.sparse.issparse(x) and not x.has_canonical_format:
        x = x.copy()
        x.sum_duplicates()
    return x


def _take(data: Rows, rows: np.ndarray) -> Rows:
    return Rows(data.x[rows], data.t[rows], data.weight[rows], None if data.offset is None else data.offset[rows])
