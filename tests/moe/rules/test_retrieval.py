"""Product keys against all n² sums: the same best, ties to the lowest id; the gradient of both halves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend.errors import ConfigError
from pymoe.moe.rules import retrieval

from ..frames import relative


@pytest.mark.parametrize("n, k", [(1, 1), (2, 1), (3, 3), (5, 2), (7, 7), (4, 3)])
def test_the_best_of_all_sums_with_ties(n: int, k: int) -> None:
    s = np.random.default_rng(n).integers(0, 3, (200, 2, n)) * 0.25
    (idx, g), _ = retrieval.forward(s, k)
    for r in range(200):
        sums = {i * n + j: s[r, 0, i] + s[r, 1, j] for i in range(n) for j in range(n)}
        best = sorted(sums, key=lambda e: (-sums[e], e))[:k]
        assert idx[r].tolist() == best
        raised = [math.exp(sums[e]) for e in best]
        assert relative(g[r], np.array(raised) / math.fsum(raised)) <= 1e-15
    (again, free), _ = retrieval.forward(s, k, competing=False)
    assert np.array_equal(again, idx)
    v = np.take_along_axis((s[:, 0, :, None] + s[:, 1, None, :]).reshape(200, -1), idx, 1)
    assert relative(free, 1 / (1 + np.exp(-v))) <= 1e-15


@pytest.mark.parametrize("competing", [True, False])
@pytest.mark.parametrize("n, k", [(5, 3), (3, 3), (4, 1)])
def test_gradients(n: int, k: int, competing: bool) -> None:
    class Weights:
        @staticmethod
        def forward(s):
            (idx, g), cache = retrieval.forward(s, k, competing=competing)
            return g, cache

        backward = staticmethod(retrieval.backward)

    s = np.random.default_rng(3).standard_normal((6, 2, n))
    assert verify.gradcheck(Weights, s, controls=True).error <= 1e-13


def test_two_choices_with_one_half_add_up() -> None:
    s = np.array([[[9.0, 0.0], [1.0, 1.0]]])
    (idx, _), cache = retrieval.forward(s, 2, competing=False)
    assert idx.tolist() == [[0, 1]]
    ds, _ = retrieval.backward(np.array([[1.0, 10.0]]), cache)
    slope = math.exp(-10.0) / (1 + math.exp(-10.0)) ** 2  # as v (1 - v) its last digits cancel: u e^10 = 2.4e-12
    assert relative(ds, [[[11 * slope, 0], [slope, 10 * slope]]]) <= 2 * 2.0**-53 * math.exp(10.0)


def test_more_choices_than_keys_of_a_half_are_refused() -> None:
    with pytest.raises(ConfigError, match="k, the number of chosen experts"):
        retrieval.forward(np.zeros((1, 2, 3)), 4)
