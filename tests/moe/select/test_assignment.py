"""Balanced assignment against all assignments there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.moe import MoEConfig, RouterConfig
from pymoe.moe.select import assignment

from ..frames import frozen


@pytest.mark.parametrize("tokens, experts", [(1, 3), (2, 2), (5, 2), (6, 3), (4, 5), (7, 3)])
def test_no_fair_assignment_is_better(tokens: int, experts: int) -> None:
    for seed in range(5):
        c = np.random.default_rng(seed).integers(-3, 4, (tokens, experts)) / 4
        idx, kept = assignment.select(frozen(c), RouterConfig(experts, 1, select="assignment"))
        assert kept is None and idx.dtype == np.int64 and idx.shape == (tokens, 1)
        places = -(-tokens // experts)
        assert np.bincount(idx[:, 0], minlength=experts).max() <= places
        best = max(
            sum(c[t, e] for t, e in enumerate(a))
            for a in itertools.product(range(experts), repeat=tokens)
            if all(a.count(e) <= places for e in range(experts))
        )
        assert np.take_along_axis(c, idx, 1).sum() == best
        assert np.array_equal(assignment.select(c, RouterConfig(experts, 1, select="assignment"))[0], idx)


def test_padding_takes_no_place() -> None:
    c = np.array([[9.0, 0.0], [5.0, 0.0], [9.0, 0.0], [4.0, 0.0]])
    real = np.array([False, True, False, True])
    idx, _ = assignment.select(c, RouterConfig(2, 1, select="assignment"), real)
    assert idx.ravel().tolist() == [0, 0, 0, 1]
    c[~real] = np.nan
    assert np.array_equal(assignment.balanced(c, real), idx)
    assert assignment.balanced(c, np.zeros(4, bool)).tolist() == [[0]] * 4
    assert assignment.balanced(c[:0]).shape == (0, 1)


def test_in_the_layer_the_load_is_even() -> None:
    cfg = MoEConfig(3, 4, RouterConfig(4, 1, score="sigmoid", select="assignment"))
    out, _ = moe.forward(
        np.random.default_rng(0).standard_normal((12, 3)), moe.init(np.random.default_rng(1), cfg), cfg
    )
    assert out.routing.load.tolist() == [3, 3, 3, 3]


def test_refused() -> None:
    with pytest.raises(ConfigError, match="it needs k=1, got k=2"):
        assignment.select(np.zeros((3, 4)), RouterConfig(4, 2, select="assignment"))
    with pytest.raises(NonFiniteError, match="finite preferences"):
        assignment.select(np.array([[0.0, -np.inf]]), RouterConfig(2, 1, select="assignment"))
