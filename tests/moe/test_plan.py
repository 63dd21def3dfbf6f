"""Dispatch and combine: D1-D6, D10 of the invariants, bitwise on integers, adjoint exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe import kernels
from pymoe.backend.errors import IndexRangeError
from pymoe.moe import plan

from .frames import frozen

quick = settings(derandomize=True, deadline=None, max_examples=80)


@st.composite
def routings(draw: Any) -> tuple[np.ndarray, np.ndarray | None, int]:
    """(idx with distinct ids in a row, kept or None, E)."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    experts = draw(st.integers(1, 70))
    tokens, k = draw(st.integers(0, 40)), draw(st.integers(1, min(experts, 5)))
    idx = np.array([rng.permutation(experts)[:k] for _ in range(tokens)], np.int64).reshape(tokens, k)
    kept = draw(st.sampled_from([None, rng.random((tokens, k)) < 0.6, np.zeros((tokens, k), bool)]))
    return frozen(idx), None if kept is None else frozen(kept), experts


@quick
@given(routings())
def test_d1_d2_rows_are_the_kept_pairs_sorted_by_expert_then_token(routing: Any) -> None:
    idx, kept, experts = routing
    tokens, k = idx.shape
    pairs = [(int(idx[t, j]), t, j) for t in range(tokens) for j in range(k) if kept is None or kept[t, j]]
    pairs.sort()
    found = plan.make(idx, kept, experts)
    assert found.token.tolist() == [t for _, t, _ in pairs]
    assert found.pair.tolist() == [t * k + j for _, t, j in pairs]
    assert found.start.tolist() == [sum(e < b for e, _, _ in pairs) for b in range(experts + 1)]
    slot = np.full((tokens, k), -1)
    for row, (_, t, j) in enumerate(pairs):
        slot[t, j] = row
    assert np.array_equal(found.slot, slot)
    assert all(a.dtype == np.int64 for a in found)


@quick
@given(routings(), st.integers(0, 1 << 20))
def test_d3_to_d6_dispatch_and_combine(routing: Any, seed: int) -> None:
    """combine(dispatch(x), 1) = kept · x; both are each other's adjoint, exactly; equal to the one-hot einsum."""
    idx, kept, experts = routing
    tokens, k = idx.shape
    rng = np.random.default_rng(seed)
    x = frozen(rng.integers(-9, 10, (tokens, 3)).astype(np.float64))
    p = plan.make(idx, kept, experts)
    kernel = kernels.of(x)
    rows = kernel.gather(x, p.token)
    live = np.full(tokens, k) if kept is None else kept.sum(1)
    assert np.array_equal(kernel.combine(rows, None, p.slot), live[:, None] * x)
    g = frozen(rng.integers(-4, 5, (tokens, k)).astype(np.float64))
    y = frozen(rng.integers(-9, 10, rows.shape).astype(np.float64))
    # <dispatch x, y> = <x, dispatchᵀ y>
    assert np.sum(rows * y) == np.sum(x * kernel.combine(y, None, p.slot))
    # <combine_g y, x> = <y, combine_gᵀ x>, with combine_gᵀ = g_r dispatch
    weight = g.reshape(-1)[p.pair]
    assert np.sum(kernel.combine(y, g, p.slot) * x) == np.sum(y * (weight[:, None] * rows))
    # GShard's form: a one-hot (row, token) matrix
    hot = np.zeros((len(p.token), tokens))
    hot[np.arange(len(p.token)), p.token] = 1.0
    assert np.array_equal(hot @ x, rows)
    assert np.array_equal((hot * weight[:, None]).T @ y, kernel.combine(y, g, p.slot))


def test_stable_beyond_sixteen_rows() -> None:
    """Below 16 elements every sort is stable; 300 tokens of one expert must stay in order."""
    found = plan.make(np.zeros((300, 1), np.int64), None, 2)
    assert found.token.tolist() == list(range(300)) and found.start.tolist() == [0, 300, 300]


@pytest.mark.parametrize("kept", [None, np.array([[True, False]])])
@pytest.mark.parametrize("bad", [-2, -1, 6, 7])
def test_an_id_out_of_range_is_refused(bad: int, kept: Any) -> None:
    """-1 and E mean "dropped" inside; an idx that holds them must not lose a choice in silence."""
    with pytest.raises(
        IndexRangeError, match=rf"idx must lie in \[0, 6\), got values from {min(bad, 0)} to {max(bad, 0)}"
    ):
        plan.make(np.array([[0, bad]]), kept, 6)
