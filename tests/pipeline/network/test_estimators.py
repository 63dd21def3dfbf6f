"""``MoEClassifier`` and ``MoERegressor``: each promise of scikit-learn's contract and of their own, with a control."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline import MoEClassifier, MoERegressor

SMALL: dict[str, Any] = {"d_model": 5, "d_ff": 4, "epochs": 2, "random_state": 3}


def rows(n: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which of two rules holds depends on the first feature: a linear map cannot, experts can."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 4))
    x[:, 0] = np.sign(x[:, 0]) * (2 + np.abs(x[:, 0]))
    y = np.where(np.where(x[:, 0] > 0, x[:, 1], -x[:, 1]) > 0, "yes", "no")
    return x, y


def made(kind: str, **settings: Any) -> Any:
    return (MoEClassifier if kind == "classes" else MoERegressor)(**(SMALL | settings))


def targets(kind: str, y: np.ndarray) -> np.ndarray:
    return y if kind == "classes" else np.where(y == "yes", 3.0, -1.0)


def said(model: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict_proba(x) if isinstance(model, MoEClassifier) else model.predict(x))


KINDS = pytest.mark.parametrize("kind", ["classes", "values"])


def test_experts_learn_what_a_linear_map_cannot() -> None:
    x, y = rows(300)
    new, truth = rows(300, seed=1)
    model = MoEClassifier(n_experts=2, k=1, random_state=0).fit(x, y)
    assert model.score(new, truth) > 0.9
    without = model.parameters_ | {"experts": {n: 0 * a for n, a in model.parameters_["experts"].items()}}
    without["head"] = {n: 0 * a for n, a in without["head"].items()}
    model.parameters_ = without  # control: its linear part alone
    assert model.score(new, truth) < 0.65


@KINDS
def test_a_weight_of_two_is_the_row_twice(kind: str) -> None:
    x, y = rows(60)
    t = targets(kind, y)
    times = np.random.default_rng(4).integers(0, 4, 60)
    repeated = np.repeat(np.arange(60), times)
    one = said(made(kind).fit(x, t, sample_weight=times), x)
    many = said(made(kind).fit(x[repeated], t[repeated]), x)
    assert (one == many).all()
    assert (one != said(made(kind).fit(x, t), x)).any()  # control: without weights


@KINDS
def test_random_state_decides_and_the_order_of_the_rows_does_not(kind: str) -> None:
    x, y = rows(60)
    t = targets(kind, y)
    order = np.random.default_rng(5).permutation(60)
    one = said(made(kind).fit(x, t), x)
    assert (one == said(made(kind).fit(x[order], t[order]), x)).all()
    assert (one != said(made(kind, random_state=4).fit(x, t), x)).any()  # control


@KINDS
def test_partial_fit_learns_from_a_stream(kind: str) -> None:
    x, y = rows(200)
    t = x[:, 1] > 0 if kind == "classes" else 2 * x[:, 1] + 1
    model = made(kind, lr=0.01)
    more = {"classes": [False, True]} if kind == "classes" else {}
    scores = []
    for _ in range(12):
        for part in (slice(0, 100), slice(100, 200)):
            model.partial_fit(x[part], t[part], **more)
        scores.append(model.score(x, t))
    assert scores[-1] > 0.8 and scores[-1] > scores[0] - 0.05 and model.n_iter_ == 24
    wrong = made(kind, lr=0.01)
    for _ in range(12):
        wrong.partial_fit(x, np.random.default_rng(6).permutation(t), **more)
    assert wrong.score(x, t) < 0.8  # control: labels that say nothing


@KINDS
def test_partial_fit_goes_on_from_fit_and_from_a_state(kind: str) -> None:
    x, y = rows(60)
    t = targets(kind, y)
    model = made(kind).fit(x, t)
    before = said(model, x)
    again = type(model).from_state(*model.state())
    assert (said(again, x) == before).all()
    other = t[::-1]
    one, two = said(model.partial_fit(x, other), x), said(again.partial_fit(x, other), x)
    assert (one == two).all() and (one != before).any()
    fresh = made(kind)
    more = {"classes": np.unique(t)} if kind == "classes" else {}
    assert (said(fresh.partial_fit(x, other, **more), x) != one).any()  # control: from nothing


def test_partial_fit_says_what_it_cannot_take() -> None:
    x, y = rows(30)
    with pytest.raises(DataError, match="classes must be passed"):
        made("classes").partial_fit(x, y)
    model = made("classes").partial_fit(x, y, classes=["no", "yes"])
    with pytest.raises(DataError, match="not named on the first call"):
        model.partial_fit(x[:1], ["maybe"])
    with pytest.raises(DataError, match="are not those of the first call"):
        model.partial_fit(x, y, classes=["no", "yes", "maybe"])
    with pytest.raises(ConfigError, match="balanced"):
        made("classes", class_weight="balanced").partial_fit(x, y, classes=["no", "yes"])


@pytest.mark.parametrize("k", [1, 2])
def test_route_is_the_weights_of_the_answer(k: int) -> None:
    x, y = rows(60)
    model = made("classes", k=k, n_experts=3).fit(x, y)
    weight = model.route(x)
    assert weight.shape == (60, 3) and set((weight > 0).sum(axis=1)) == {k}
    assert np.abs(weight.sum(axis=1) - 1).max() < 1e-12 if k > 1 else (weight.max(axis=1) <= 1).all()
    idx, best = model.choices(x)
    assert (weight.argmax(axis=1) == idx[:, 0]).all() and (np.take_along_axis(weight, idx, axis=1) == best).all()
    assert (model.route(x[::-1])[::-1].argmax(axis=1) == idx[:, 0]).all()  # of each row by itself
    model.parameters_["mix"]["router"]["weight"] = -model.parameters_["mix"]["router"]["weight"]
    assert (model.route(x).argmax(axis=1) != idx[:, 0]).any()  # control: another router
    with pytest.raises(ConfigError, match="no experts to route to"):
        model.dense_twin().fit(x, y).route(x)


@KINDS
def test_state_has_all_that_prediction_needs(kind: str) -> None:
    x, y = rows(60)
    model = made(kind).fit(scipy.sparse.csr_array(x), targets(kind, y))
    meta, arrays = model.state()
    again = type(model).from_state(meta, arrays)
    assert (said(again, x) == said(model, x)).all() and (again.route(x) == model.route(x)).all()
    assert again.get_params()["epochs"] == 2 and clone(again).get_params() == again.get_params()
    for name in arrays:
        if "norm" in name or arrays[name].size == 0 or not arrays[name].any():
            continue
        broken = type(model).from_state(meta, arrays | {name: 1.5 * arrays[name] + 0.1})
        assert (said(broken, x) != said(model, x)).any(), name  # control: each array matters


def test_early_stopping_keeps_the_best_stage_and_stops() -> None:
    x, _ = rows(300)
    fast = {"d_model": 5, "epochs": 40, "lr": 0.05, "lr_linear": 30.0}
    noise = np.random.default_rng(7).integers(0, 2, 300)  # nothing to learn: every pass makes it worse
    model = MoEClassifier(**fast, n_iter_no_change=3, random_state=0).fit(x, noise)
    assert model.n_iter_ < 40 and len(model.validation_loss_) >= 3
    assert model.validation_loss_[-1] > min(model.validation_loss_)
    all_passes = clone(model).set_params(early_stopping=False, epochs=model.n_iter_).fit(x, noise)
    assert all_passes.validation_loss_ == [] and all_passes.n_iter_ == model.n_iter_

    def loss(m: Any) -> float:
        new = np.random.default_rng(8).standard_normal((500, 4)) * 2
        return float(-m.predict_log_proba(new).mean())  # of labels that are as likely as not

    assert loss(model) < loss(all_passes)  # control: what all passes would have made of it


def test_early_stopping_is_for_rows_that_can_be_spared() -> None:
    x, y = rows(60)
    assert made("classes").fit(x, y).validation_loss_ == []
    assert len(made("classes", early_stopping=True).fit(x, y).validation_loss_) >= 3
    with pytest.raises(ConfigError, match="early_stopping must be"):
        made("classes", early_stopping="maybe").fit(x, y)
    with pytest.raises(DataError, match="early stopping needs a row"):
        made("values", early_stopping=True).fit(np.ones((5, 2)), np.ones(5))


def test_the_penalty_is_chosen_or_given() -> None:
    x, y = rows(60)
    assert made("classes", l2=0.7).fit(x, y).l2_ == 0.7 != made("classes").fit(x, y).l2_
    for wrong in (-1.0, "much", float("nan")):
        with pytest.raises(ConfigError, match="l2 must be"):
            made("classes", l2=wrong).fit(x, y)


def test_plot_routing_shows_the_mean_weight_of_each_expert_on_each_class(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    x, y = rows(60)
    model = made("classes", n_experts=3).fit(x, y)
    figure = model.plot_routing(x, y, str(tmp_path / "routing.png"))
    assert (tmp_path / "routing.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    shown = np.asarray(figure.axes[0].images[0].get_array())
    want = np.stack([[100 * model.route(x)[y == c][:, e].mean() for e in range(3)] for c in ("no", "yes")])
    assert np.abs(shown - want).max() < 1e-12 and np.abs(shown - want[::-1]).max() > 1e-3  # control: classes swapped
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["no", "yes"]
    with pytest.raises(DataError, match="a class for each of the 60 rows"):
        model.plot_routing(x, y[:5])
    with pytest.raises(ConfigError, match="no experts"):
        model.dense_twin().fit(x, y).plot_routing(x, y)
