"""Votes, averages and mixtures against one token and one class at a time, with 50 digits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from pymoe.ops import mixture_nll
from pymoe.sharing import integrate

from ..sparsity.oracles.judge import agree, close, locked, same
from .oracles import integrate_loops

RNG = np.random.default_rng
WEIGHTS = pytest.mark.parametrize("kind", ["none", "models", "rows"])


def drawn(seed: int, n: int, t: int, c: int, kind: str, dtype: str = "f8", spread: float = 2.0):
    rng = RNG(seed)
    z = locked((spread * rng.standard_normal((n, t, c))).astype(dtype))
    weights = {"none": None, "models": locked(rng.random(n) + 0.1), "rows": locked(rng.random((n, t)) + 0.1)}[kind]
    return z, weights


@WEIGHTS
@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 7, 5), (2, 4, 2), (4, 1, 1)])
def test_votes_and_averages(kind, shape):
    for seed in range(4):
        z, weights = drawn(seed, *shape, kind)
        p = locked(integrate_loops.probabilities(z))
        n, t, c = shape
        own = [[integrate_loops.argmax(z[i, s].tolist()) for s in range(t)] for i in range(n)]
        at = [None if weights is None else (weights if kind == "models" else weights[:, s]) for s in range(t)]
        want = [integrate_loops.hard_vote(np.array(own)[:, s : s + 1], c, at[s])[0] for s in range(t)]
        agree(integrate.votes(z, weights), want)
        same(integrate.hard_vote(z, weights), np.array([integrate_loops.argmax(row) for row in want]))
        mean = integrate_loops.mean_of(p, weights)
        agree(integrate.weighted_average(p, weights), mean)
        same(integrate.soft_vote(p, weights), np.array([integrate_loops.argmax(row) for row in mean.tolist()]))
        pooled = integrate_loops.probabilities(integrate_loops.mean_of(z, weights))
        agree(integrate.logit_average(z, weights), pooled)
        if n > 1 and c > 1:  # control: averages of logits are no averages of probabilities
            assert not close(integrate.logit_average(z, weights), mean, 1e-3)


def test_ties_of_votes_go_to_the_lowest_class():
    z = locked(np.array([[[1.0, 1.0, 0.0]], [[0.0, 0.0, 2.0]]]))  # the first model itself is in two minds
    assert integrate.votes(z).tolist() == [[1.0, 0.0, 1.0]]
    assert integrate.hard_vote(z).tolist() == [0]
    assert integrate.hard_vote(z, [1, 1.5]).tolist() == [2]
    assert integrate.soft_vote(locked(np.array([[[0.25, 0.75]], [[0.75, 0.25]]]))).tolist() == [0]


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("k", [None, 1, 2, 4])
def test_weights_of_clusters(temperature, k):
    for seed in range(4):
        for squared in (
            RNG(seed).random((6, 4)),
            RNG(seed).integers(0, 3, (6, 4)) / 4,
            1000 + RNG(seed).random((6, 4)),
        ):
            want = integrate_loops.cluster_weights(squared, temperature, k).T
            agree(
                integrate.cluster_weights(locked(np.ascontiguousarray(squared.T)), temperature=temperature, k=k), want
            )
    d = locked(np.array([[0.0], [0.1], [0.3]]))
    got = integrate.cluster_weights(d, temperature=0.1, k=2)
    assert not close(got, integrate_loops.cluster_weights(np.sqrt(d.T), 0.1, 2).T, 1e-3)  # control: d instead of d²
    assert not close(got, integrate_loops.cluster_weights(d.T, 0.1, None).T, 1e-3)  # control: without the k nearest


@pytest.mark.parametrize("kind", ["models", "rows"])
@pytest.mark.parametrize("spread", [2.0, 400.0])
def test_mixtures_of_probabilities(kind, spread):
    for seed, shape in enumerate([(1, 2, 3), (3, 6, 5), (2, 5, 4)]):
        z, weights = drawn(seed, *shape, kind, spread=spread)
        targets = locked(RNG(seed).integers(0, shape[2], shape[1]))
        agree(integrate.log_mixture(z, weights), integrate_loops.log_mixture(z, weights))
        loss, dz, dw, r = integrate_loops.mixture_loss(z, weights, targets)
        agree(integrate.responsibilities(z, weights, targets), r)
        got, cache = mixture_nll.forward(z, weights, targets)
        agree(np.array([float(got)]), np.array([loss]))
        got_dz, d = mixture_nll.backward(1.0, cache)
        agree(got_dz, dz)
        agree(d["weight"], dw)
        if shape[0] > 1 and spread == 2.0:  # control: the mixture of logits
            pooled = np.log(integrate_loops.probabilities(integrate_loops.mean_of(z, weights)))
            assert not close(integrate.log_mixture(z, weights), pooled, 1e-3)
    agree(integrate.log_mixture(z), integrate_loops.log_mixture(z, np.full(shape[0], 1 / shape[0])))


def test_the_oracle_gradient_is_the_derivative_of_the_oracle_loss():
    z, weights = drawn(5, 2, 3, 4, "models")
    targets = np.array([0, 3, 1])
    _, dz, dw, _ = integrate_loops.mixture_loss(z, weights, targets)

    def loss_at(i, s, j, step):
        moved = z.copy()
        moved[i, s, j] += step
        return integrate_loops.mixture_loss(moved, weights, targets)[0]

    for i, s, j in [(0, 0, 0), (1, 1, 3), (0, 2, 2)]:
        assert abs((loss_at(i, s, j, 1e-5) - loss_at(i, s, j, -1e-5)) / 2e-5 - dz[i, s, j]) < 1e-9
    with mpmath.workdps(30):
        moved = weights.copy()
        moved[1] += 1e-5
        up = integrate_loops.mixture_loss(z, moved, targets)[0]
        moved[1] -= 2e-5
        assert abs((up - integrate_loops.mixture_loss(z, moved, targets)[0]) / 2e-5 - dw[1]) < 1e-9


def test_stacked_weights_are_the_best_on_a_grid():
    """Two models: the likelihood at no λ = i / 2000 is better; and where both are needed the gradient vanishes."""
    for seed in range(4):
        z, _ = drawn(seed, 2, 40, 3, "none")
        targets = locked(RNG(seed).integers(0, 3, 40))
        got = integrate.stacked_weights(z, targets, rounds=100_000)
        assert abs(got.sum() - 1) <= 1e-12 and np.all(got >= 0)
        p = integrate_loops.probabilities(z)[:, np.arange(40), targets]

        def likelihood(a, p=p):
            return float(np.sum(np.log(a * p[0] + (1 - a) * p[1])))

        best = max(likelihood(i / 2000) for i in range(2001))
        assert likelihood(got[0]) >= best - 1e-6
        assert likelihood(min(1.0, got[0] + 0.05)) < likelihood(got[0]) or likelihood(got[0] - 0.05) < likelihood(
            got[0]
        )
        inside = 0.01 < got[0] < 0.99
        if inside:
            mixed = got[0] * p[0] + got[1] * p[1]
            assert abs(np.sum((p[0] - p[1]) / mixed)) < 1e-5
