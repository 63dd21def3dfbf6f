"""Votes, averages, mixtures: ties, limits, the best stacked weights, bad input (values: ``test_integrate_oracle``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, DataError, DtypeError, IndexRangeError, NonFiniteError, ShapeError
from pymoe.ops import mixture_nll
from pymoe.sharing import integrate

from .layers import frozen

quick = run(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 1 << 20)


def logits(seed: int, m: int = 4, n: int = 6, c: int = 3) -> np.ndarray:
    return frozen(2 * np.random.default_rng(seed).standard_normal((m, n, c)))


def probabilities(seed: int) -> np.ndarray:
    return frozen(scipy.special.softmax(logits(seed), axis=-1))


def weights(seed: int, by_row: bool) -> np.ndarray:
    return frozen(np.random.default_rng([seed, 1]).random((4, 6) if by_row else (4,)) + 0.1)


def test_the_articles_example() -> None:
    p = [np.array([0.9, 0.1]), np.array([0.8, 0.2])]
    assert np.abs(integrate.weighted_average(p, [0.6, 0.4]) - [0.86, 0.14]).max() <= 2.0**-53


@quick
@given(SEEDS, st.booleans())
def test_averages_are_distributions_between_the_models_and_models_may_come_as_a_list(seed: int, by_row: bool) -> None:
    p, w = probabilities(seed), weights(seed, by_row)
    y = integrate.weighted_average(p, w)
    assert np.abs(y.sum(-1) - 1).max() <= 1e-14
    assert (y <= p.max(0) + 1e-15).all() and (y >= p.min(0) - 1e-15).all()
    assert (integrate.weighted_average(list(p), w) == y).all()
    assert np.abs(integrate.weighted_average(p, w * 3) - y).max() <= 1e-15
    assert (integrate.soft_vote(p, w) == y.argmax(-1)).all()
    z = integrate.logit_average(np.log(p), w)
    lam = w / w.sum(0)
    geometric = np.exp((lam[..., None] * np.log(p)).sum(0) if by_row else np.tensordot(lam, np.log(p), 1))
    assert np.abs(z - geometric / geometric.sum(-1, keepdims=True)).max() <= 1e-13


@quick
@given(SEEDS, st.booleans())
def test_a_log_mixture_is_the_log_of_the_average_and_its_loss_the_ops(seed: int, by_row: bool) -> None:
    z, w = logits(seed), weights(seed, by_row)
    w = frozen(w / w.sum(0))
    mixed = integrate.log_mixture(z, w)
    assert np.abs(np.exp(mixed) - integrate.weighted_average(scipy.special.softmax(z, axis=-1), w)).max() <= 1e-14
    y = frozen(np.random.default_rng(seed).integers(0, 3, 6))
    loss, cache = mixture_nll.forward(z, w, y)
    assert abs(loss + mixed[np.arange(6), y].mean()) <= 1e-14
    r = integrate.responsibilities(z, w, y)
    assert np.abs(r.sum(0) - 1).max() <= 1e-14
    dz, _ = mixture_nll.backward(1.0, cache)
    one_hot = np.eye(3)[y]
    assert np.abs(dz - r[..., None] * (scipy.special.softmax(z, axis=-1) - one_hot) / 6).max() <= 1e-15


def test_ties_go_to_the_lowest_class() -> None:
    p = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    assert integrate.votes(p).tolist() == [1.0, 1.0, 0.0]
    assert integrate.hard_vote(p) == 0 and integrate.soft_vote(p) == 1
    assert integrate.hard_vote(np.array([[0.0, 1.0], [1.0, 0.0]])) == 0
    assert integrate.hard_vote(np.array([[0.0, 1.0], [1.0, 0.0]]), [1.5, 1.0]) == 1
    assert integrate.hard_vote(np.array([[-np.inf, 0.0], [-np.inf, 1.0]])) == 1  # logits do too


def test_one_sure_model_moves_a_mixture_less_than_an_average_of_logits() -> None:
    p = np.array([[1e-9, 1 - 1e-9], [0.9, 0.1]])
    assert abs(integrate.weighted_average(p)[0] - 0.45) < 1e-8
    assert integrate.logit_average(np.log(p))[0] < 1e-4


def test_nothing_overflows_far_out() -> None:
    z = np.array([[2000.0, 0.0], [0.0, 2000.0]])
    assert np.abs(integrate.log_mixture(z) - np.log(0.5)).max() <= 1e-15
    assert integrate.log_mixture(z, np.array([1.0, 0.0])).tolist() == [0.0, -2000.0]


@quick
@given(SEEDS, st.integers(1, 5), st.floats(0.01, 10))
def test_cluster_weights_are_of_the_nearest_and_sum_to_one(seed: int, k: int, temperature: float) -> None:
    d = frozen(np.random.default_rng(seed).random((5, 7)) * 3)
    w = integrate.cluster_weights(d, temperature=temperature, k=k)
    assert np.abs(w.sum(0) - 1).max() <= 1e-15 and ((w > 0).sum(0) <= k).all()
    nearest = np.argsort(d, axis=0, kind="stable")[:k]
    mass = np.exp(-(d - d.min(0)) / temperature)
    kept = np.zeros_like(d)
    np.put_along_axis(kept, nearest, np.take_along_axis(mass, nearest, 0), 0)
    assert np.abs(w - kept / kept.sum(0)).max() <= 1e-15


def test_far_clusters_do_not_divide_zero_by_zero_and_ties_go_to_the_lowest() -> None:
    assert integrate.cluster_weights(np.array([1e6, 1e6 + 1]), temperature=1e-3).tolist() == [1.0, 0.0]
    assert integrate.cluster_weights(np.array([2.0, 1.0, 1.0, 1.0]), k=2).tolist() == [0.0, 0.5, 0.5, 0.0]


@quick
@given(SEEDS)
def test_stacked_weights_are_the_best_there_are(seed: int) -> None:
    z = logits(seed, m=3, n=40)
    y = frozen(np.random.default_rng(seed).integers(0, 3, 40))
    said = np.take_along_axis(scipy.special.softmax(z, axis=-1), y[None, :, None], -1)[..., 0]
    lam = integrate.stacked_weights(z, y, rounds=20_000)
    assert abs(lam.sum() - 1) <= 1e-12 and (lam >= 0).all()
    slope = (said / (lam @ said)).mean(1)  # Karush-Kuhn-Tucker: 1 where λ > 0, at most 1 where λ = 0
    assert slope.max() <= 1 + 1e-4 and np.abs(slope[lam > 1e-3] - 1).max() <= 1e-4
    best = scipy.optimize.minimize(
        lambda v: -np.log(scipy.special.softmax(v) @ said).mean(), np.zeros(3), method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000},
    )  # fmt: skip
    assert -np.log(lam @ said).mean() <= best.fun + 1e-7


def test_a_target_that_no_model_can_say_has_no_say_in_the_weights() -> None:
    z, y = np.random.default_rng(0).standard_normal((3, 9, 4)), np.arange(9) % 4
    wanted = integrate.stacked_weights(z, y)
    more = np.concatenate([z, np.zeros((3, 1, 4))], axis=1)
    more[:, 9, 2] = -np.inf
    assert (integrate.stacked_weights(more, np.append(y, 2)) == wanted).all()
    assert (integrate.stacked_weights(more, np.append(y, 1)) != wanted).any()


P = np.array([[0.9, 0.1], [0.8, 0.2]])
SILENT = np.array([[[0.0, -np.inf]], [[0.0, -np.inf]]])


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: integrate.weighted_average(P, [0.6]), ShapeError, "weights must have shape (2,)"),
        (lambda: integrate.weighted_average(P, [0.6, -0.1]), ConfigError, "at least 0"),
        (lambda: integrate.weighted_average(P, [0.6, np.nan]), ConfigError, "at least 0"),
        (lambda: integrate.weighted_average(P, [0.0, 0.0]), ConfigError, "at least one model"),
        (lambda: integrate.weighted_average(P, np.array([1, 2])), DtypeError, "weights must be floating"),
        (lambda: integrate.weighted_average([]), DataError, "holds no model"),
        (lambda: integrate.weighted_average([P, P[0]]), ShapeError, "p[1] must have shape"),
        (lambda: integrate.weighted_average(P[0]), ShapeError, "(M, ..., C)"),
        (lambda: integrate.weighted_average(np.ones((2, 2), int)), DtypeError, "floating"),
        (lambda: integrate.hard_vote(P * np.nan), NonFiniteError, "p holds NaN"),
        (lambda: integrate.soft_vote(P * np.nan), NonFiniteError, "average of p holds NaN"),
        (lambda: integrate.cluster_weights(np.ones(3), k=4), ConfigError, "k must not exceed"),
        (lambda: integrate.cluster_weights(np.ones(3), k=0), ConfigError, "k must be an integer"),
        (lambda: integrate.cluster_weights(np.ones(3), temperature=0.0), ConfigError, "temperature"),
        (lambda: integrate.cluster_weights(-np.ones(3)), ConfigError, "must not be negative"),
        (lambda: integrate.cluster_weights(np.array([1.0, np.nan])), NonFiniteError, "squared is nan"),
        (lambda: integrate.cluster_weights(np.ones((0, 2))), ConfigError, "number of models"),
        (lambda: integrate.responsibilities(np.log(P), None, np.array(2)), IndexRangeError, "targets"),
        (lambda: integrate.stacked_weights(np.ones((2, 0, 3)), np.zeros(0, int)), DataError, "no held-out"),
        (lambda: integrate.stacked_weights(SILENT, np.array([1])), DataError, "no model can say any"),
    ],
)
def test_what_is_refused(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value)
