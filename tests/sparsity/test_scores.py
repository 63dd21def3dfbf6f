"""The scores by hand and by a loop; Wanda's experts without tokens; precisions; refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from pymoe.sparsity import masks, scores

from .given import frozen, normal

W = frozen([[-2.0, 1.0, 0.5], [4.0, -0.25, 3.0]])
G = frozen([[3.0, -0.5, 2.0], [-1.0, -8.0, 0.0]])


def test_by_hand():
    assert scores.magnitude(W).tolist() == [[2.0, 1.0, 0.5], [4.0, 0.25, 3.0]]
    assert scores.snip(W, G).tolist() == [[6.0, 0.5, 1.0], [4.0, 2.0, 0.0]]
    assert scores.taylor(W, G).tolist() == [[36.0, 0.25, 1.0], [16.0, 4.0, 0.0]]
    assert scores.movement(W, G).tolist() == [[6.0, 0.5, -1.0], [4.0, -2.0, -0.0]]
    assert scores.wanda(W, frozen([4.0, 0.0, 9.0])).tolist() == [[4.0, 0.0, 1.5], [8.0, 0.0, 9.0]]


def test_movement_is_what_descent_does_to_the_magnitude():
    """-w g > 0 where a step w - lr g moves away from 0."""
    w, g = normal(5, 6), normal(5, 6, seed=1)
    grows = np.abs(w - 1e-6 * g) > np.abs(w)
    assert np.array_equal(scores.movement(w, g) > 0, grows)


def test_wanda_is_the_magnitude_of_what_an_input_brings():
    """|w_ij| ‖x_j‖₂ = ‖w_ij x_j‖₂ over the tokens, expert by expert."""
    w, x = normal(3, 4, 5), normal(7, 5)
    routed = [[0, 2, 6], [1], [3, 4, 5, 6]]
    sumsq = frozen([[math.fsum(x[t, j] ** 2 for t in ts) for j in range(5)] for ts in routed])
    found = scores.wanda(w, sumsq)
    for e, i, j in np.ndindex(w.shape):
        want = math.sqrt(math.fsum((w[e, i, j] * x[t, j]) ** 2 for t in routed[e]))
        assert math.isclose(found[e, i, j], want, rel_tol=1e-14)
    other = scores.wanda(w, sumsq / 7)  # the normaliser of the published code changes no order
    assert np.array_equal(masks.by_score(found, 0.6, by="row"), masks.by_score(other, 0.6, by="row"))


def test_an_expert_without_tokens():
    w = frozen([[[1.0, -3.0, 2.0]], [[1.0, -3.0, 2.0]]])
    sumsq = frozen([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    tied = scores.wanda(w, sumsq)
    assert tied.tolist() == scores.wanda(w, sumsq, unrouted="tie").tolist()
    assert tied.tolist() == [[[1.0, 0.0, 2.0]], [[0.0, 0.0, 0.0]]]
    assert masks.by_score(tied, 0.67, by="row")[1].tolist() == [[False, False, True]]  # the first columns go
    kept = scores.wanda(w, sumsq, unrouted="magnitude")
    assert kept.tolist() == [[[1.0, 0.0, 2.0]], [[1.0, 3.0, 2.0]]]  # expert 0's dead input stays worthless
    assert scores.wanda(w[0], sumsq[1], unrouted="magnitude").tolist() == [[1.0, 3.0, 2.0]]


def test_precisions():
    w, g = normal(3, 4, dtype="f4"), normal(3, 4, seed=1, dtype="f4")
    for rule in (scores.snip, scores.taylor, scores.movement):
        assert rule(w, g).dtype == np.float32
        assert rule(w, g.astype("f8")).dtype == np.float64
    assert scores.magnitude(w).dtype == np.float32
    assert scores.wanda(w, frozen(np.ones(4))).dtype == np.float64
    assert scores.wanda(w, np.ones(4, "f4")).dtype == np.float32


def test_the_real_part_decides():
    w, g = frozen([[1.0 + 9j, -2.0]]), frozen([[3.0 - 7j, 1.0 + 1j]])
    assert scores.magnitude(w).tolist() == [[1.0, 2.0]]
    assert scores.snip(w, g).tolist() == [[3.0, 2.0]] and scores.taylor(w, g).tolist() == [[9.0, 4.0]]
    assert scores.movement(w, g).tolist() == [[-3.0, 2.0]]
    assert scores.wanda(w, frozen([4.0, 1.0])).tolist() == [[2.0, 2.0]]


def test_refusals():
    nan = frozen([[1.0, np.nan]])
    one = np.ones((1, 2))
    with pytest.raises(NonFiniteError, match=r"w is NaN at \(0, 1\)"):
        scores.magnitude(nan)
    for rule in (scores.snip, scores.taylor, scores.movement):
        with pytest.raises(NonFiniteError, match=r"w is NaN at \(0, 1\)"):
            rule(nan, one)
        with pytest.raises(NonFiniteError, match=r"dw is NaN at \(0, 1\)"):
            rule(one, nan)
        with pytest.raises(ShapeError, match=r"dw must have shape \(1, 2\), got \(2,\)"):
            rule(one, np.ones(2))
        with pytest.raises(DtypeError):
            rule(np.ones((1, 2), int), one)
        with np.errstate(invalid="ignore"), pytest.raises(NonFiniteError, match="w dw is NaN"):
            rule(np.zeros((1, 2)), np.full((1, 2), np.inf))
    with pytest.raises(NonFiniteError, match=r"sumsq is NaN at \(1,\)"):
        scores.wanda(one, np.array([1.0, np.nan]))
    with pytest.raises(ConfigError, match="an entry is negative"):
        scores.wanda(one, np.array([1.0, -1e-300]))
    with pytest.raises(ShapeError, match=r"sumsq must have shape \(2,\).*got \(1, 2\)"):
        scores.wanda(one, np.ones((1, 2)))
    with pytest.raises(ShapeError, match=r"sumsq must have shape \(3, 2\).*got \(2,\)"):
        scores.wanda(np.ones((3, 4, 2)), np.ones(2))
    with pytest.raises(ShapeError):
        scores.wanda(np.ones(2), np.ones(2))
    with pytest.raises(ConfigError, match="unrouted must be one of"):
        scores.wanda(one, np.ones(2), unrouted="zero")
