r"""``SparseExpertClassifier``: sub-models on subsets of the rows, with shared parameters, integrated into one answer.

::

    X -> sparsify, or else reduce -> subsets -> a sub-model each -> shared parameters -> ŷ(x) = Σ_i w_i f_i(x)

========== ============================================================================================================
sharing    the experts (W_i, b_i)
========== ============================================================================================================
separate   each trained from 0, pulled to 0
trunk      W_i = W_0 + Δ_i: W_0 trained on all rows, W_i trained from W_0, with an L2 penalty on Δ_i only
average    one expert: the mean of the trunk's branches (a soup; ``sharing.btx.mean``)
fused      the trunk's branches as the experts of a MoE layer with a new router, all trained on (``ensemble.fused``)
========== ============================================================================================================

Sources: Li et al., *Branch-Train-Merge*, arXiv:2208.03306 (trunk, average); Sukhbaatar et al., arXiv:2403.07816
(fused); Daumé III, *Frustratingly easy domain adaptation*, ACL 2007, and Evgeniou and Pontil, KDD 2004 (W_0 + Δ_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from pymoe.backend.errors import ConfigError, DataError, check_integer, check_share
from pymoe.backend.rng import generator
from pymoe.ops import log_softmax
from pymoe.pipeline import _sklearn as learn
from pymoe.pipeline import descent, merging, subsets
from pymoe.pipeline.descent import Settings
from pymoe.pipeline.ensemble import fused, rules, training
from pymoe.pipeline.ensemble.rules import Rule
from pymoe.pipeline.reduce import Reduce
from pymoe.pipeline.report.routing import PlotsRouting
from pymoe.pipeline.sparsify import Sparsify

SUBSETS = ("random", "label", "group", "cluster")
STAGES: dict[str, Any] = {"sparsify": Sparsify, "reduce": Reduce}


class SparseExpertClassifier(PlotsRouting, learn.ClassifierMixin, learn.SparseRows, learn.BaseEstimator):  # type: ignore[misc]
    """An ensemble of linear softmax experts on dense or scipy.sparse rows, as a scikit-learn classifier.

    n_experts            E (subsets="group": one for each group, whatever E)
    subsets              "random", "label", "cluster", or "group": ``fit(X, y, groups=...)``; ``pipeline.subsets``
    overlap              the share of the other rows that each subset (random, label) also gets
    sharing              the table of the module
    integration, weights, temperature, k    ``pipeline.ensemble.rules``; k: experts for a row (distance, gate, fused)
    balance              what it costs the fused layer to use its experts unevenly: ``pipeline.ensemble.fused``
    sparsifier, reducer  a ``Sparsify`` or a ``Reduce``, never both: the article's flow chart takes one of them
    l2, l2_trunk         the penalty against the sum of the rows' losses, 1 / C of scikit-learn; None: as l2
    solver, tol, max_rounds    ``pipeline.descent``
    early_stopping       stop a sub-model when the loss of its held-out rows has not fallen for ``patience`` rounds
    validation_fraction  the share of the rows held out, where stopping or a learnt integration needs it
    refit                train again on all rows once the integration is learnt (not with early stopping)
    n_jobs, folder       processes; where sub-models keep their states, so that a killed fit goes on: ``sub_models``

    There is no ``partial_fit``: clusters and even subsets are of all the rows, and the sub-models are the best there
    are on theirs; ``MoEClassifier`` learns from a stream.  Equal rows are merged and taken in an order of their own:
    neither their order nor a weight in place of a repetition changes a bit.

    After fit: ``classes_``, ``weight_`` (E, C, D), ``bias_`` (E, C), ``rule_``, ``subsets_`` (index arrays into X),
    ``group_names_``, ``clusters_``, ``stage_`` (the fitted Sparsify or Reduce), ``n_iter_`` rounds of each sub-model.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((200, 5))
    >>> y = np.where(x[:, 0] > 0, "good", "bad")
    >>> model = SparseExpertClassifier(n_experts=3, random_state=0).fit(x, y)
    >>> model.score(x, y) > 0.95, model.route(x[:2]).round(3).tolist()
    (True, [[0.333, 0.333, 0.333], [0.333, 0.333, 0.333]])
    """

    def __init__(
        self,
        n_experts: int = 4,
        *,
        subsets: str = "random",
        overlap: float = 0.0,
        sharing: str = "trunk",
        integration: str = "average",
        weights: Sequence[float] | None = None,
        temperature: float = 0.1,
        k: int | None = None,
        balance: float = 0.1,
        sparsifier: Sparsify | None = None,
        reducer: Reduce | None = None,
        l2: float = 1.0,
        l2_trunk: float | None = None,
        solver: str = "lbfgs",
        tol: float = 1e-4,
        max_rounds: int = 10,
        early_stopping: bool = False,
        patience: int = 3,
        validation_fraction: float = 0.2,
        refit: bool = True,
        n_jobs: int | None = None,
        folder: str | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_experts = n_experts
        self.subsets = subsets
        self.overlap = overlap
        self.sharing = sharing
        self.integration = integration
        self.weights = weights
        self.temperature = temperature
        self.k = k
        self.balance = balance
        self.sparsifier = sparsifier
        self.reducer = reducer
        self.l2 = l2
        self.l2_trunk = l2_trunk
        self.solver = solver
        self.tol = tol
        self.max_rounds = max_rounds
        self.early_stopping = early_stopping
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.refit = refit
        self.n_jobs = n_jobs
        self.folder = folder
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> SparseExpertClassifier:
        """X (N, D), y (N,) classes, groups (N,) of subsets="group", sample_weight (N,) >= 0."""
        self._check_settings(groups)
        X, y = self._valid(X, y, reset=True)
        learn.check_classification_targets(y)
        weight = learn.row_weights(sample_weight, X)
        used = y[weight > 0]
        self.classes_ = learn.two_classes(used)
        label = np.searchsorted(self.classes_, np.where(weight > 0, y, used[0]))
        seed = learn.seed(self.random_state)
        names, group = self._groups(groups, len(y))
        merged = merging.merge(X, np.stack([label, group], axis=1), weight, seed)
        rows = X[merged.rows]
        self.stage_ = self._stage(rows, seed)
        rows = rows if self.stage_ is None else self.stage_.transform(rows)
        rows = scipy.sparse.csr_array(rows) if scipy.sparse.issparse(rows) else rows
        data = training.Data(rows, label[merged.rows], merged.weight, len(self.classes_))
        parts = self._parts(data, merged.distinct, group[merged.rows], names, generator(seed, 1))
        made = training.train(self._plan(seed), data, parts, merged.distinct)
        self.weight_, self.bias_, self.router_ = made.weight, made.bias, made.router
        self.rule_: Rule = made.rule
        self.n_iter_ = made.rounds
        self.subsets_ = [np.flatnonzero(np.isin(merged.place, own)) for own in parts]
        return self

    def predict_proba(self, X: Any, groups: Any = None) -> np.ndarray:
        """(N, C) ŷ(x) = Σ_i w_i p_i(x); groups (N,): where a row's group has an expert, that one alone answers."""
        X = self._rows(X)
        if self.router_ is not None:
            y, _, _ = fused.mixed(X, self._fused(), k=self.k)
            return np.asarray(np.exp(log_softmax.forward(y)[0]))
        log_p = self._log_p(X)
        p = self.rule_.combine(log_p, X)
        if groups is None:
            return p
        own, known = self._own(groups, len(p))
        return np.asarray(np.where(known[:, None], np.exp(log_p)[own, np.arange(len(p))], p))

    def predict(self, X: Any, groups: Any = None) -> np.ndarray:
        """(N,) the class of the largest probability; of equals the first."""
        best = self.predict_proba(X, groups).argmax(axis=1)
        found: np.ndarray = self.classes_[best]
        return found

    def route(self, X: Any, groups: Any = None) -> np.ndarray:
        """(N, E) the weight w_i(x) of each expert in each row's answer; ConfigError for stacking, which has none."""
        X = self._rows(X)
        if self.router_ is not None:
            _, routes, mix = fused.mixed(X, self._fused(), k=self.k)
            return np.asarray(mix.weight.T)
        lam = self.rule_.weights(X, len(self.weight_)).T
        if groups is None:
            return np.ascontiguousarray(lam)
        own, known = self._own(groups, len(lam))
        return np.asarray(np.where(known[:, None], np.eye(len(self.weight_))[own], lam))

    def expert_proba(self, X: Any) -> np.ndarray:
        """(E, N, C) what each expert says by itself: f_i(x)."""
        return np.asarray(np.exp(self._log_p(self._rows(X))))

    def dense_twin(self) -> SparseExpertClassifier:
        """The baseline of equal active size, not fitted: one linear model on all rows, else the same settings."""
        twin = learn.clone(self)
        l2 = self.l2 if self.l2_trunk is None else self.l2_trunk
        made: SparseExpertClassifier = twin.set_params(
            n_experts=1, subsets="random", sharing="separate", integration="average", l2=l2, k=None, folder=None
        )
        return made

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(settings and facts for JSON, arrays): all that ``from_state`` needs to predict the same bits, no pickle."""
        learn.check_is_fitted(self)
        parameters = {n: v.item() if isinstance(v, np.generic) else v for n, v in self.get_params(deep=False).items()}
        for name in ("sparsifier", "reducer", "folder", "random_state"):
            parameters.pop(name)
        if parameters["weights"] is not None:
            parameters["weights"] = [float(w) for w in parameters["weights"]]
        arrays = {"weight": self.weight_, "bias": self.bias_}
        arrays |= {f"rule.{name}": a for name, a in self.rule_.arrays.items()}
        arrays |= {f"router.{name}": a for name, a in (self.router_ or {}).items()}
        stage = None
        if self.stage_ is not None:
            meta, held = self.stage_.state()
            stage = {"kind": "sparsify" if isinstance(self.stage_, Sparsify) else "reduce", "meta": meta}
            arrays |= {f"stage.{name}": a for name, a in held.items()}
        rule = {"name": self.rule_.name, "k": self.rule_.k, "temperature": self.rule_.temperature}
        facts = {
            "parameters": parameters,
            "classes": self.classes_.tolist(),
            "classes_dtype": self.classes_.dtype.str if self.classes_.dtype.kind != "O" else "O",
            "groups": None if self.group_names_ is None else [n.item() if hasattr(n, "item") else n
                                                              for n in self.group_names_],
            "rule": rule,
            "stage": stage,
            "width": int(self.n_features_in_),
            "rounds": [int(n) for n in self.n_iter_],
        }  # fmt: skip
        return facts, arrays

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> SparseExpertClassifier:
        """The fitted classifier that ``state`` described (without ``subsets_``, which is of the training rows)."""

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name[len(prefix) + 1 :]: a for name, a in arrays.items() if name.startswith(prefix + ".")}

        made = cls(**meta["parameters"])
        made.classes_ = np.array(meta["classes"], dtype=meta["classes_dtype"])
        made.group_names_ = meta["groups"]
        made.n_features_in_ = int(meta["width"])
        made.n_iter_ = list(meta["rounds"])
        made.weight_, made.bias_ = arrays["weight"], arrays["bias"]
        made.router_ = part("router") or None
        made.rule_ = Rule(meta["rule"]["name"], meta["rule"]["k"], meta["rule"]["temperature"], part("rule"))
        made.stage_ = None
        if meta["stage"] is not None:
            made.stage_ = STAGES[meta["stage"]["kind"]].from_state(meta["stage"]["meta"], part("stage"))
        return made

    def _check_settings(self, groups: Any) -> None:
        check_integer("n_experts", self.n_experts)
        check_share("overlap", self.overlap)
        if self.subsets not in SUBSETS:
            raise ConfigError(f"subsets must be one of {SUBSETS}, got {self.subsets!r}")
        if self.sharing not in training.SHARING:
            raise ConfigError(f"sharing must be one of {training.SHARING}, got {self.sharing!r}")
        rules.checked(self.integration)
        if self.sparsifier is not None and self.reducer is not None:
            raise ConfigError("give sparsifier or reducer, not both: two stages before the classifier make a Pipeline")
        if (groups is None) == (self.subsets == "group"):
            raise ConfigError(
                'subsets="group" needs fit(X, y, groups=...), a value for each row'
                if groups is None
                else f'groups came, but subsets={self.subsets!r}: take subsets="group", or leave groups out'
            )
        if not 0 <= self.balance < float("inf"):
            raise ConfigError(f"balance must be a finite number >= 0, got {self.balance!r}")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(f"validation_fraction must lie in (0, 1), got {self.validation_fraction!r}")

    def _plan(self, seed: int) -> training.Plan:
        length = 10 if self.early_stopping else 50
        settings = Settings(
            solver=self.solver, rounds=check_integer("max_rounds", self.max_rounds) * (50 // length), length=length,
            tol=self.tol, patience=check_integer("patience", self.patience), seed=seed,
        )  # fmt: skip
        return training.Plan(
            sharing=self.sharing, integration=self.integration, weights=self.weights, temperature=self.temperature,
            k=self.k, balance=self.balance, l2=self.l2,
            l2_trunk=self.l2 if self.l2_trunk is None else self.l2_trunk, settings=settings,
            early_stopping=self.early_stopping, validation_fraction=self.validation_fraction, refit=self.refit,
            n_jobs=self.n_jobs, folder=self.folder, seed=seed,
        )  # fmt: skip

    def _groups(self, groups: Any, n: int) -> tuple[list[Any] | None, np.ndarray]:
        """(names or None, the group's number of each row)."""
        self.group_names_: list[Any] | None = None
        if groups is None:
            return None, np.zeros(n, np.int64)
        values = learn.column_or_1d(np.asarray(groups))
        if len(values) != n:
            raise DataError(f"groups must have a value for each of the {n} rows, got {len(values)}")
        names, number = np.unique(values, return_inverse=True)
        self.group_names_ = names.tolist()
        return self.group_names_, number

    def _stage(self, rows: Any, seed: int) -> Any:
        stage = self.sparsifier if self.sparsifier is not None else self.reducer
        if stage is None:
            return None
        stage = learn.clone(stage)
        if stage.random_state is None:
            stage.set_params(random_state=seed)
        return stage.fit(rows)

    def _parts(
        self, data: training.Data, distinct: np.ndarray, group: np.ndarray, names: list[Any] | None, rng: Any
    ) -> list[np.ndarray]:
        """The subsets as ascending index arrays into the merged rows."""
        self.clusters_ = None
        if names is not None:
            found = [np.flatnonzero(group == i) for i in range(len(names))]
            return [own for own in found if len(own)]
        if self.subsets == "label":
            return subsets.by_label(data.y, self.n_experts, rng, overlap=self.overlap)
        first = np.unique(distinct, return_index=True)[1]
        if self.subsets == "cluster":
            self.clusters_ = subsets.by_cluster(data.x[first], self.n_experts, rng)
            of_rows = self.clusters_.rows
        else:
            of_rows = subsets.random(len(first), self.n_experts, rng, overlap=self.overlap)
        return [np.flatnonzero(np.isin(distinct, own)) for own in of_rows]

    def _rows(self, X: Any) -> Any:
        learn.check_is_fitted(self)
        X = self._valid(X)
        X = X if self.stage_ is None else self.stage_.transform(X)
        return scipy.sparse.csr_array(X) if scipy.sparse.issparse(X) else X

    def _log_p(self, rows: Any) -> np.ndarray:
        return np.asarray(log_softmax.forward(fused.expert_logits(rows, self.weight_, self.bias_))[0])

    def _fused(self) -> descent.Parameters:
        assert self.router_ is not None
        return {"weight": self.weight_, "bias": self.bias_, **self.router_}

    def _own(self, groups: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(the expert of each row's group, whether there is one)."""
        if self.group_names_ is None or len(self.weight_) != len(self.group_names_):
            raise ConfigError('groups at prediction need subsets="group" and an expert for each of them')
        values = learn.column_or_1d(np.asarray(groups))
        if len(values) != n:
            raise DataError(f"groups must have a value for each of the {n} rows, got {len(values)}")
        names = np.asarray(self.group_names_)
        at = np.minimum(np.searchsorted(names, values), len(names) - 1)
        return at, names[at] == values
