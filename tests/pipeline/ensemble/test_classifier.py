"""``SparseExpertClassifier``: scikit-learn's contract, what is shared, order and weights of rows, states."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from pymoe.backend.errors import CheckpointError, ConfigError, DataError
from pymoe.pipeline import merging, sub_models
from pymoe.pipeline.ensemble import rules
from pymoe.pipeline.ensemble.classifier import SparseExpertClassifier
from pymoe.pipeline.reduce import Reduce
from pymoe.pipeline.sparsify import Sparsify

CHECKED = [
    SparseExpertClassifier(),
    SparseExpertClassifier(2, subsets="cluster", sharing="separate", integration="distance"),
    SparseExpertClassifier(3, sharing="fused", k=1, sparsifier=Sparsify("top-k", 5)),
]
SLOWER = [
    SparseExpertClassifier(integration="gate", k=2, early_stopping=True),
    SparseExpertClassifier(2, subsets="label", overlap=0.5, integration="stacking"),
    SparseExpertClassifier(3, sharing="average", integration="validation", solver="adam", max_rounds=40),
]


@parametrize_with_checks(CHECKED)
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(SLOWER)
def test_scikit_learns_contract_of_more_settings(estimator: Any, check: Any) -> None:
    check(estimator)


def data(seed: int = 0, n: int = 300, d: int = 12, c: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of two groups whose classes depend on the features in another way."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.7)
    g = np.array(["film", "news"])[rng.integers(0, 2, n)]
    x[:, 0] = np.where(g == "film", 1.0, -1.0)
    w = np.random.default_rng(99).standard_normal((2, d, c))
    z = np.where((g == "film")[:, None], x @ w[0], x @ w[1])
    y = np.array(["bad", "fair", "good"])[(z + 0.3 * rng.standard_normal((n, c))).argmax(1)]
    x.setflags(write=False)
    return x, y, g


SHARED = ("separate", "trunk", "average", "fused")


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("kind", ["random", "label", "group", "cluster"])
def test_sparse_is_dense_and_a_state_brings_back_the_same_bits(sharing: str, kind: str) -> None:
    x, y, g = data()
    more = {"groups": g} if kind == "group" else {}
    model = SparseExpertClassifier(3, subsets=kind, sharing=sharing, random_state=1)
    model.fit(x, y, **more)
    p = model.predict_proba(x)
    assert np.abs(p.sum(1) - 1).max() <= 1e-14 and model.score(x, y) > 0.6
    stored = clone(model).fit(scipy.sparse.csr_array(x), y, **more)
    q = stored.predict_proba(scipy.sparse.csc_matrix(x))
    if sharing == "fused":  # not convex: the last bits of a product may lead elsewhere, to about as good an end
        assert (q.argmax(1) == p.argmax(1)).mean() > 0.9
    else:
        assert np.abs(q - p).max() <= 1e-6
    facts, arrays = model.state()
    again = SparseExpertClassifier.from_state(json.loads(json.dumps(facts)), arrays)
    assert (again.predict_proba(x) == p).all() and (again.route(x) == model.route(x)).all()
    assert (again.predict(x) == model.predict(x)).all()
    assert (pickle.loads(pickle.dumps(model)).predict_proba(x) == p).all()
    lam = model.route(x)
    experts = 1 if sharing == "average" else 2 if kind == "group" else 3
    assert lam.shape == (300, experts) and np.abs(lam.sum(1) - 1).max() <= 1e-14
    if sharing != "fused":
        mixed = sum(lam[:, i, None] * q for i, q in enumerate(model.expert_proba(x)))
        assert np.abs(mixed - p).max() <= 1e-14
    seen = np.concatenate(model.subsets_)
    assert sorted(seen.tolist()) == list(range(300))


@pytest.mark.parametrize("integration", rules.RULES)
def test_every_integration_trains_and_comes_back(integration: str) -> None:
    x, y, g = data()
    weights = [0.7, 0.3] if integration == "weights" else None
    model = SparseExpertClassifier(subsets="group", integration=integration, weights=weights, random_state=0)
    model.fit(x, y, groups=g)
    facts, arrays = model.state()
    again = SparseExpertClassifier.from_state(json.loads(json.dumps(facts)), arrays)
    assert (again.predict_proba(x) == model.predict_proba(x)).all()
    if integration == "stacking":
        with pytest.raises(ConfigError, match="no route"):
            model.route(x)
    else:
        assert model.route(x).shape == (300, 2)


def test_the_order_of_rows_and_a_weight_in_place_of_a_repetition_change_no_bit() -> None:
    x, y, _ = data(3, 60)
    rng = np.random.default_rng(0)
    s = rng.integers(0, 4, 60).astype(float)
    many = rng.permutation(np.repeat(np.arange(60), s.astype(int)))
    for model in (
        SparseExpertClassifier(3, random_state=5),
        SparseExpertClassifier(3, subsets="cluster", integration="gate", random_state=5),
        SparseExpertClassifier(2, subsets="label", integration="stacking", overlap=0.3, random_state=5),
        SparseExpertClassifier(2, sharing="fused", early_stopping=True, random_state=5),
    ):
        one = clone(model).fit(x, y, sample_weight=s).predict_proba(x)
        two = clone(model).fit(x[many], y[many]).predict_proba(x)
        assert (one == two).all()
        other = clone(model).set_params(random_state=6).fit(x, y, sample_weight=s).predict_proba(x)
        assert (one != other).any()  # control: another draw is another model


def test_merged_rows_are_the_rows() -> None:
    x = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 1.0], [-0.0, 1.0], [2.0, 0.0]])
    found = merging.merge(x, np.array([[0], [0], [0], [1], [0]]), np.array([1.0, 2.0, 3.0, 4.0, 0.5]), 7)
    kept = {tuple(x[r]) + (w,) for r, w in zip(found.rows, found.weight, strict=True)}
    assert kept == {(0.0, 1.0, 4.0), (2.0, 0.0, 2.5)} and sorted(found.weight) == [2.5, 4.0, 4.0]
    assert len(set(found.distinct)) == 2 and found.place[0] == found.place[2] != found.place[3]
    sparse = merging.merge(scipy.sparse.csr_array(x), np.zeros((5, 1), int), np.ones(5), 7)
    dense = merging.merge(x.astype(np.float32), np.zeros((5, 1), int), np.ones(5), 7)
    assert (sparse.rows == dense.rows).all()


def test_held_out_rows_leave_a_row_of_each_class() -> None:
    y = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])
    out = merging.held_out(y, np.arange(113), 0.2)
    assert [int(out[y == c].sum()) for c in range(4)] == [20, 2, 0, 0]
    few = merging.held_out(np.array([0, 1, 1]), np.arange(3), 0.1)
    assert few.tolist() == [False, False, True]


def test_experts_of_groups_beat_their_dense_twin_where_the_groups_differ_and_a_known_group_is_used() -> None:
    x, y, g = data(0, 600)
    test = data(1, 600)
    model = SparseExpertClassifier(subsets="group", sharing="separate", integration="gate", random_state=0)
    model.fit(x, y, groups=g)
    twin = model.dense_twin().fit(x, y)
    assert twin.weight_.shape == (1, 3, 12)
    learnt, known, dense = (
        model.score(*test[:2]),
        float((model.predict(test[0], groups=test[2]) == test[1]).mean()),
        twin.score(*test[:2]),
    )
    assert learnt > dense + 0.1 and known > dense + 0.1
    lam = model.route(test[0], groups=np.where(np.arange(600) < 300, test[2], "a group never seen"))
    assert ((lam[:300] == 0) | (lam[:300] == 1)).all()
    assert (lam[300:] == model.route(test[0])[300:]).all()
    assert (lam[:300].argmax(1) == (test[2][:300] == "news")).all()


def test_the_posterior_is_the_law_of_total_probability() -> None:
    x, y, g = data(0, 600)
    test = data(1, 600)
    model = SparseExpertClassifier(subsets="group", integration="posterior", random_state=0).fit(x, y, groups=g)
    lam = model.route(test[0])
    film = LogisticRegression(tol=1e-8).fit(x, g == "film").predict_proba(test[0])[:, 1]
    assert np.abs(lam[:, 0] - film).max() < 0.1 and ((lam[:, 0] > 0.5) == (test[2] == "film")).mean() > 0.95
    assert model.score(*test[:2]) > model.dense_twin().fit(x, y).score(*test[:2]) + 0.1


def test_the_dense_twin_is_one_logistic_regression() -> None:
    x, y, _ = data()
    twin = SparseExpertClassifier(5, l2=0.5, tol=1e-9).dense_twin().fit(x, y)
    wide = np.hstack([x, np.ones((300, 1))])
    theirs = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=2000).fit(wide, y)
    assert np.abs(twin.predict_proba(x) - theirs.predict_proba(wide)).max() <= 1e-5


def test_what_sharing_means() -> None:
    x, y, g = data()
    far = SparseExpertClassifier(subsets="group", l2=1e6, l2_trunk=1.0, random_state=0).fit(x, y, groups=g)
    twin = far.dense_twin().fit(x, y)
    assert np.abs(far.weight_ - twin.weight_).max() < 1e-3  # Δ_i = 0: the trunk
    near = SparseExpertClassifier(subsets="group", random_state=0).fit(x, y, groups=g)
    assert np.abs(near.weight_ - twin.weight_).max() > 0.1
    mean = SparseExpertClassifier(subsets="group", sharing="average", random_state=0).fit(x, y, groups=g)
    assert np.abs(mean.weight_[0] - near.weight_.mean(0)).max() <= 1e-15
    fused = SparseExpertClassifier(subsets="group", sharing="fused", random_state=0).fit(x, y, groups=g)
    assert set(fused.router_) == {"router", "router_bias"} and (fused.weight_ != near.weight_).any()
    right = fused.route(x).argmax(1) == (g == "news")  # the new router finds the groups by itself
    assert max(right.mean(), 1 - right.mean()) > 0.8


def test_stages_before_the_experts() -> None:
    x, y, _ = data()
    for stage in ({"sparsifier": Sparsify("top-k", 4)}, {"reducer": Reduce("svd", 5)}):
        model = SparseExpertClassifier(2, random_state=0, **stage).fit(x, y)
        facts, arrays = model.state()
        again = SparseExpertClassifier.from_state(json.loads(json.dumps(facts)), arrays)
        assert (again.predict_proba(x) == model.predict_proba(x)).all()
    assert model.weight_.shape == (2, 3, 5)
    with pytest.raises(ConfigError, match="not both"):
        SparseExpertClassifier(sparsifier=Sparsify(), reducer=Reduce()).fit(x, y)


def test_in_scikit_learns_company() -> None:
    texts = [f"{a} {b}" for a in ("fine", "good", "nice") for b in ("film", "book", "day")]
    texts += [f"{a} {b}" for a in ("bad", "poor", "sad") for b in ("film", "book", "day")]
    y = [1] * 9 + [0] * 9
    pipe = make_pipeline(TfidfVectorizer(), SparseExpertClassifier(2, random_state=0))
    assert pipe.fit(texts, y).score(texts, y) == 1.0
    assert cross_val_score(pipe, texts, y, cv=3).mean() > 0.4
    grid = GridSearchCV(pipe, {"sparseexpertclassifier__l2": [0.1, 10.0]}, cv=3).fit(texts, y)
    assert grid.best_params_["sparseexpertclassifier__l2"] in (0.1, 10.0)


@pytest.mark.parametrize("sharing", ["trunk", "fused"])
def test_a_stopped_fit_goes_on_to_the_same_bits(sharing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, g = data()
    model = SparseExpertClassifier(
        subsets="group", sharing=sharing, integration="gate", folder=str(tmp_path), random_state=0, tol=1e-9
    )
    whole = clone(model).set_params(folder=None).fit(x, y, groups=g)

    class Stop(Exception):
        pass

    store, left = sub_models.store, [0]

    def stopping(*args: Any) -> None:
        store(*args)
        left[0] -= 1
        if left[0] == 0:
            raise Stop

    monkeypatch.setattr(sub_models, "store", stopping)
    stops = 0
    for _ in range(100):
        left[0] = 2  # two rounds a life
        try:
            found = clone(model).fit(x, y, groups=g)
            break
        except Stop:
            stops += 1
    assert stops >= 2
    assert (found.weight_ == whole.weight_).all() and (found.predict_proba(x) == whole.predict_proba(x)).all()
    with pytest.raises(CheckpointError, match="other data or settings"):
        clone(model).set_params(l2=3.0).fit(x, y, groups=g)


def test_processes_change_no_bit() -> None:
    x, y, g = data()
    model = SparseExpertClassifier(3, random_state=0)
    one, two = clone(model).fit(x, y), clone(model).set_params(n_jobs=2).fit(x, y)
    assert (one.predict_proba(x) == two.predict_proba(x)).all()


X, Y, G = data(4, 40)


@pytest.mark.parametrize(
    "settings, fit, error, says",
    [
        ({"subsets": "topic"}, (X, Y), ConfigError, "subsets must be one of"),
        ({"sharing": "all"}, (X, Y), ConfigError, "sharing must be one of"),
        ({"integration": "mean"}, (X, Y), ConfigError, "integration must be one of"),
        ({"subsets": "group"}, (X, Y), ConfigError, "needs fit\\(X, y, groups"),
        ({}, (X, Y, G), ConfigError, "leave groups out"),
        ({"subsets": "group"}, (X, Y, G[:3]), DataError, "each of the 40 rows, got 3"),
        ({"n_experts": 0}, (X, Y), ConfigError, "n_experts must be"),
        ({"n_experts": 41}, (X, Y), DataError, "n_samples = 40"),
        ({"subsets": "label"}, (X, Y), ConfigError, "as many classes, got 3"),
        ({"k": 5}, (X, Y), ConfigError, "k must lie in 1..4"),
        ({"integration": "weights"}, (X, Y), ConfigError, "needs weights"),
        ({"integration": "weights", "weights": [1.0, 1.0]}, (X, Y), ConfigError, "each of the 4 experts, got 2"),
        ({"validation_fraction": 1.0}, (X, Y), ConfigError, "validation_fraction"),
        ({"solver": "sgd"}, (X, Y), ConfigError, "solver must be"),
        ({}, (X, np.zeros(40)), DataError, "only one class"),
        ({}, (X, np.random.default_rng(0).standard_normal(40)), ValueError, "Unknown label type"),
        ({}, (X, Y, None, np.zeros(40)), DataError, "sample_weight is zero for every row"),
        ({}, (X, Y, None, -np.ones(40)), ValueError, "[Nn]egative"),
        ({}, (np.full((40, 2), np.nan), Y), ValueError, "NaN"),
    ],
)
def test_bad_input_says_what_to_do(settings: dict[str, Any], fit: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SparseExpertClassifier(**settings).fit(*fit)


def test_groups_at_prediction_need_experts_of_groups() -> None:
    model = SparseExpertClassifier(2, random_state=0).fit(X, Y)
    with pytest.raises(ConfigError, match='need subsets="group"'):
        model.predict(X, groups=G)


def test_plot_routing_names_the_groups(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 3))
    group, y = np.where(x[:, 0] > 0, "film", "news"), np.where(x[:, 0] > 0, "high", "low")
    model = SparseExpertClassifier(subsets="group", random_state=0).fit(x, y, groups=group)
    axes = model.plot_routing(x, y, groups=group).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["film", "news"]
    shown = np.asarray(axes.images[0].get_array())
    assert (shown == 100 * np.eye(2)).all()  # each class is of one group, whose expert alone answers
    mixed = np.asarray(model.plot_routing(x, y).axes[0].images[0].get_array())
    assert np.abs(mixed - shown).max() > 1  # control: without the groups all experts answer
