"""The oracles themselves against numbers worked out by hand, so that two wrong answers cannot agree."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .oracles import mask_loops, obs_loops, schedule_loops, score_loops
from .oracles.judge import close, numbers
from .oracles.rational import exact, inverse, solve


def test_counts_and_ties():
    assert [mask_loops.count(s, 100) for s in (0.29, 0.57, 0.58, 0.07, 1.0)] == [29, 57, 58, 7, 100]
    a = np.array([[2.0, 1.0], [1.0, 1.0]])
    assert mask_loops.by_score(a, 0.5).tolist() == [[True, False], [False, True]]
    assert mask_loops.by_score(a, 0.5, "row").tolist() == [[True, False], [False, True]]
    assert mask_loops.nm(np.array([[1.0, 3.0, 3.0, 3.0]]), 2, 4).tolist() == [[False, True, True, False]]
    assert mask_loops.quantile(np.array([3.0, -1.0, 2.0]), 0.34) == 2.0


def test_wanda_by_hand():
    """Two outputs, the norms of four inputs, half of each row goes: in neither row is it the smaller half of |w|."""
    w = np.array([[4.0, 0.0, 1.0, -1.0], [3.0, -2.0, -1.0, -3.0]])
    score = score_loops.wanda(w, np.array([1.0, 2.0, 8.0, 3.0]) ** 2)
    assert score.tolist() == [[4.0, 0.0, 8.0, 3.0], [3.0, 4.0, 8.0, 9.0]]
    assert mask_loops.by_score(score, 0.5, "row").tolist() == [[True, False, True, False], [False, False, True, True]]


def test_elimination():
    h = [[Fraction(2), Fraction(1)], [Fraction(1), Fraction(2)]]
    assert inverse(h) == [[Fraction(2, 3), Fraction(-1, 3)], [Fraction(-1, 3), Fraction(2, 3)]]
    assert solve([[Fraction(0), Fraction(1)], [Fraction(2), Fraction(0)]], [[Fraction(3)], [Fraction(4)]]) == [[2], [3]]


def test_brain_surgery_by_hand():
    """w = (1, 3), h = [[2, 1], [1, 2]]: h⁻¹ has 2/3 on its diagonal, removing w_0 costs 1/(2/3) = 3/2 and moves w_1 by
    1 · (1/3)/(2/3) = 1/2; removing w_1 would cost 27/2."""
    w, h = np.array([[1.0, 3.0]]), np.array([[2.0, 1.0], [1.0, 2.0]])
    for new in (obs_loops.greedy(w, h, 1)[0], obs_loops.optimal(w, h, 1)[0], obs_loops.sparsegpt(w, h, 0.5, damp=0)[0]):
        assert new == [[0, Fraction(7, 2)]]
    assert obs_loops.layer_error(w, np.array([[0.0, 3.5]]), h) == Fraction(3, 2)
    assert obs_loops.refit(w, h, np.array([[True, False]])) == [[Fraction(5, 2), 0]]
    # SparseGPT may not look left: its d_1² = 1/h_11 = 1/2, and removing w_1 leaves w_0 where it is
    new, mask = obs_loops.sparsegpt(np.array([[3.0, 1.0]]), h, 0.5, damp=0)
    assert new == [[3, 0]] and mask == [[True, False]]


def test_the_trailing_inverses_are_the_cholesky_factor():
    """Both readings of algorithm 1: d_j and the rows of the upper Cholesky factor of h⁻¹, or inverses of the rest."""
    x = np.random.default_rng(0).standard_normal((20, 6))
    h = x.T @ x
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    for j in range(6):
        rest = numbers(inverse(exact(h[j:, j:])))
        assert close(upper[j, j:] ** 2 * 0 + upper[j, j:] / upper[j, j], rest[0] / rest[0, 0], 1e-13)
        assert close(np.array([upper[j, j] ** 2]), np.array([rest[0, 0]]), 1e-13)


def test_greedy_is_never_better_than_optimal_and_refit_never_worse_than_nothing():
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((15, 5)), rng.standard_normal((3, 5))
    h = x.T @ x
    for n in range(6):
        best = obs_loops.optimal(w, h, n)
        found = obs_loops.greedy(w, h, n)
        refit = obs_loops.refit(w, h, np.array(found[1]))
        assert refit == found[0]  # exact: surgery step by step ends at the least squares of its own mask
        for r in range(3):
            row, new = w[r : r + 1], numbers(found[0])[r : r + 1]
            masked = row * np.array(found[1][r])
            error = float(obs_loops.layer_error(row, new, h))
            assert float(best[2][r]) <= error * (1 + 1e-13)
            assert error <= float(obs_loops.layer_error(row, masked, h)) * (1 + 1e-13)


def test_schedules_by_hand():
    assert [schedule_loops.cubic(t, 0, 4, 0.0, 0.5) for t in (0, 1, 2, 4, 9)] == [0.0, 0.2890625, 0.4375, 0.5, 0.5]
    assert close(np.array(schedule_loops.lottery(0.75, 2)), np.array([0.5, 0.75]), 1e-15)
    mask = np.array([True, True, True, False, False])
    w, g = np.array([3.0, -0.1, 2.0, 0.0, 0.0]), np.array([0.0, 0.5, 0.0, -4.0, 1.0])
    assert schedule_loops.rigl_update(mask, w, g, 1).tolist() == [True, False, True, True, False]
    # 12 ε + 24 ε = 80 of 160 would keep 26.7 of 32 and 53.3 of 128
    found = schedule_loops.erdos_renyi({"up": (4, 8), "down": (8, 16)}, 0.5)
    assert close(np.array(list(found.values())), np.array([1 / 6, 7 / 12]), 1e-14)
    # one layer full: 1 · 2 ε would be more than its one weight
    found = schedule_loops.erdos_renyi({"tiny": (1, 1), "big": (10, 10)}, 0.5)
    assert found["tiny"] == 0.0 and abs(found["big"] - (1 - 49.5 / 100)) < 1e-14
