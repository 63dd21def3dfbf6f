"""Scores of the chosen -> combine weights: closed forms, the drop before and after, the complex step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import verify
from pymoe.moe import weigh

from .frames import U64, frozen

S = frozen(np.random.default_rng(0).uniform(0.05, 0.9, (7, 6)))
IDX = frozen(np.array([np.random.default_rng(t).permutation(6)[:3] for t in range(7)]))
KEPT = frozen(np.random.default_rng(5).random((7, 3)) < 0.6)
V = np.take_along_axis(S, IDX, 1)


def test_values() -> None:
    assert np.array_equal(weigh.forward(S, IDX, scale=-2.0)[0], -2.0 * V)
    n = V.sum(1, keepdims=True)
    assert np.allclose(
        weigh.forward(S, IDX, norm="l1", eps=0.5, scale=3.0)[0], 3.0 * V / (n + 0.5), rtol=4 * U64, atol=0
    )
    before = weigh.forward(S, IDX, KEPT, norm="l1")[0]
    assert np.allclose(before, KEPT * V / n, rtol=4 * U64, atol=0)
    live = (KEPT * V).sum(1, keepdims=True)
    after = weigh.forward(S, IDX, KEPT, norm="l1", counted=KEPT)[0]
    assert np.allclose(after, KEPT * V / np.where(live, live, 1), rtol=4 * U64, atol=0)


def test_the_survivor_of_a_half_dropped_token_gets_1_only_after_the_drop() -> None:
    s, idx, kept = np.array([[0.5, 0.3, 0.2]]), np.array([[0, 1]]), np.array([[True, False]])
    assert weigh.forward(s, idx, kept, norm="l1", counted=kept)[0].tolist() == [[1.0, 0.0]]
    assert weigh.forward(s, idx, kept, norm="l1")[0].tolist() == [[0.625, 0.0]]


def test_nothing_to_share_out_is_zero_and_has_no_gradient() -> None:
    """All chosen scores underflowed, or all choices were dropped: 0, never 0/0."""
    g, cache = weigh.forward(np.zeros((2, 4)), np.array([[0, 1], [2, 3]]), norm="l1")
    assert not g.any() and not weigh.backward(np.ones((2, 2)), cache)[0].any()
    g, cache = weigh.forward(S, IDX, np.zeros((7, 3), bool), norm="l1", counted=np.zeros((7, 3), bool))
    assert not g.any() and not weigh.backward(np.ones((7, 3)), cache)[0].any()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kept", [None, KEPT], ids=["all", "dropped"])
@pytest.mark.parametrize("norm", [{}, {"norm": "l1"}, {"norm": "l1", "eps": 0.125}, {"norm": "l1", "scale": -2.5}])
def test_gradcheck_with_controls(norm: dict[str, Any], kept: Any, after: bool) -> None:
    assert verify.gradcheck(weigh, S, IDX, kept, counted=kept if after else None, controls=True, **norm).error <= 1e-13


def test_a_sum_of_exactly_epsilon_is_not_clamped() -> None:
    """torch's clamp passes the gradient at the limit: g = v / Σ, with the mixing term."""
    g, cache = weigh.forward(np.array([[0.25, 0.25, 0.5]]), np.array([[0, 1]]), norm="clamp", eps=0.5)
    assert g.tolist() == [[0.5, 0.5]]
    assert weigh.backward(np.array([[1.0, 0.0]]), cache)[0].tolist() == [[1.0, -1.0, 0.0]]


def test_g6_the_weighted_gradients_of_a_renormalised_row_cancel() -> None:
    """Σ_j v_j dv_j = 0 at ε = 0; with ε it is not (2.8e-7 at ε = 1e-6: ε is part of the formula)."""
    dg = np.random.default_rng(1).standard_normal((7, 3))
    for eps, low, high in ((0.0, 0.0, 64 * U64), (0.125, 1e-3, 10.0)):
        _, cache = weigh.forward(S, IDX, norm="l1", eps=eps)
        dv = np.take_along_axis(weigh.backward(dg, cache)[0], IDX, 1)
        assert low <= np.abs((V * dv).sum(1)).max() <= high


def test_a_gradient_of_ones_proves_nothing() -> None:
    """Σ_j w is constant under renormalisation: TransformerEngine's probs.sum().backward() tested zero against zero."""
    _, cache = weigh.forward(S, IDX, norm="l1")
    assert np.abs(weigh.backward(np.ones((7, 3)), cache)[0]).max() <= 8 * U64 / V.sum(1).min()


def test_a_dropped_choice_still_shares_in_the_sum_before_the_drop() -> None:
    _, cache = weigh.forward(S, IDX, KEPT, norm="l1")
    ds = np.take_along_axis(weigh.backward(np.random.default_rng(0).standard_normal((7, 3)), cache)[0], IDX, 1)
    mixed = KEPT.any(1) & ~KEPT.all(1)
    assert mixed.any() and (ds[mixed][~KEPT[mixed]] != 0).all()
    _, cache = weigh.forward(S, IDX, KEPT, norm="l1", counted=KEPT)
    ds = np.take_along_axis(weigh.backward(np.ones((7, 3)), cache)[0], IDX, 1)
    assert not ds[~KEPT].any()
