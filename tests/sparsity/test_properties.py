"""P1 to P8 of the invariants of pruning, for every rule that makes a mask from weights (P9: test_sparsegpt.py)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymoe.sparsity import masks, scores

from .given import PROPERTY, SHARES, frozen, weights

# rule(w, s) -> mask; "pool": how many entries of w, or groups of how many, share one count
RULES = {
    "tensor": lambda w, s: masks.magnitude(w, s),
    "matrix": lambda w, s: masks.magnitude(w, s, by="matrix"),
    "row": lambda w, s: masks.magnitude(w, s, by="row"),
    "score": lambda w, s: masks.by_score(scores.magnitude(w), s),
    "model": lambda w, s: masks.over_model({"w": scores.magnitude(w)}, s)["w"],
    "rows, L1": lambda w, s: masks.rows(w, s, ord=1),
    "rows, L2": lambda w, s: masks.rows(w, s),
    "columns, max": lambda w, s: masks.columns(w, s, ord=math.inf),
    "heads": lambda w, s: masks.heads(w, s, w.shape[0]),
    "blocks": lambda w, s: masks.blocks(w, s, (w.shape[0], 1), ord=1),
}
ENTRIES = ("tensor", "matrix", "row", "score", "model")
EVERY = pytest.mark.parametrize("rule", RULES)


def n_m(w: np.ndarray, n: int) -> np.ndarray:
    return masks.nm(scores.magnitude(w), n, w.shape[1])


def zeros(rule: str, w: np.ndarray, s: float) -> int:
    f, d = w.shape
    if rule == "row":
        return f * masks.count(s, d)
    if rule.startswith(("rows", "heads")):
        return d * masks.count(s, f)
    if rule.startswith(("columns", "blocks")):
        return f * masks.count(s, d)
    return masks.count(s, f * d)


@EVERY
@given(w=weights(), s=SHARES)
@PROPERTY
def test_p1_p2_p7_ends_exact_counts_and_kept_bits(rule: str, w: Any, s: float) -> None:
    mask = RULES[rule](w, s)
    assert mask.shape == w.shape and mask.dtype == bool
    assert np.count_nonzero(~mask) == zeros(rule, w, s)
    pruned = np.where(mask, w, np.zeros((), w.dtype))
    assert np.array_equal(pruned[mask].view(np.uint8), w[mask].view(np.uint8))
    if s == 0:
        assert pruned.tobytes() == w.tobytes()
    if s == 1:
        assert not pruned.any()


@EVERY
@given(w=weights(), s=SHARES)
@PROPERTY
def test_p3_pruning_twice_is_pruning_once(rule: str, w: Any, s: float) -> None:
    mask = RULES[rule](w, s)
    assert np.array_equal(RULES[rule](np.where(mask, w, np.zeros((), w.dtype)), s), mask)


@EVERY
@given(w=weights(), s=SHARES, more=SHARES)
@PROPERTY
def test_p4_masks_are_nested(rule: str, w: Any, s: float, more: float) -> None:
    s, more = sorted((s, more))
    assert np.all(RULES[rule](w, s) >= RULES[rule](w, more))


@EVERY
@given(w=weights(), s=SHARES, power=st.sampled_from([-20, -1, 3, 17]), seed=st.integers(0, 99))
@PROPERTY
def test_p5_powers_of_two_and_signs_change_nothing(rule: str, w: Any, s: float, power: int, seed: int) -> None:
    mask = RULES[rule](w, s)
    sign = np.random.default_rng(seed).choice(np.array([-1.0, 1.0], w.dtype), w.shape)
    assert np.array_equal(RULES[rule](w * w.dtype.type(2.0**power), s), mask)
    assert np.array_equal(RULES[rule](-w, s), mask) and np.array_equal(RULES[rule](w * sign, s), mask)


@EVERY
@given(w=weights(tied=False), s=SHARES, seed=st.integers(0, 99))
@PROPERTY
def test_p6_rows_and_columns_can_be_permuted(rule: str, w: Any, s: float, seed: int) -> None:
    if rule not in ENTRIES:  # sums over entries may tie, and round differently in another order: make them distinct
        w = frozen(np.exp2(np.arange(w.size, dtype=np.float64)).reshape(w.shape) / w.size)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(w.shape[0]), rng.permutation(w.shape[1])
    moved = np.ascontiguousarray(w[rows][:, columns])
    assert np.array_equal(RULES[rule](moved, s), RULES[rule](w, s)[rows][:, columns])


@given(w=weights(), s=SHARES, norm=st.sampled_from([0.25, 1.0, 8.0]))
@PROPERTY
def test_p8_wanda_of_equal_columns_is_magnitude_by_row(w: Any, s: float, norm: float) -> None:
    """B: norms that are powers of two make no ties by rounding."""
    score = scores.wanda(w, np.full(w.shape[1], norm * norm))
    assert np.array_equal(masks.by_score(score, s, by="row"), masks.magnitude(w, s, by="row"))


@given(w=weights(), data=st.data())
@PROPERTY
def test_n_of_m(w: Any, data: Any) -> None:
    """P2, P3, P4 (in n), P5, P7 for a group as wide as the row."""
    d = w.shape[1]
    n, more = sorted((data.draw(st.integers(1, d)), data.draw(st.integers(1, d))))
    mask = n_m(w, n)
    assert np.all(mask.sum(axis=1) == n)
    pruned = np.where(mask, w, np.zeros((), w.dtype))
    assert np.array_equal(n_m(pruned, n), mask)
    assert np.all(n_m(w, more) >= mask)
    assert np.array_equal(n_m(-w * w.dtype.type(8), n), mask)
    if n == d:
        assert pruned.tobytes() == w.tobytes()


@given(w=weights(tied=False), data=st.data())
@PROPERTY
def test_n_of_m_permuted_within_a_group(w: Any, data: Any) -> None:
    n = data.draw(st.integers(1, w.shape[1]))
    rng = np.random.default_rng(n)
    rows, columns = rng.permutation(w.shape[0]), rng.permutation(w.shape[1])
    assert np.array_equal(n_m(np.ascontiguousarray(w[rows][:, columns]), n), n_m(w, n)[rows][:, columns])


@given(w=weights(), q=SHARES)
@PROPERTY
def test_thresholds_by_quantile(w: Any, q: float) -> None:
    """P2 as it holds here: at most ⌊q N⌋, with ties less; P4; what goes is what magnitude takes first."""
    mask = masks.threshold(w, masks.quantile(w, q))
    n = masks.count(q, w.size)
    assert np.count_nonzero(~mask) <= n
    assert np.all(mask >= masks.magnitude(w, q))
    if len(np.unique(np.abs(w))) == w.size:
        assert np.count_nonzero(~mask) == n
    assert np.all(masks.threshold(w, masks.quantile(w, q / 2)) >= mask)


def test_control_rules_that_break_the_properties() -> None:
    """Pruning all ties (as published code does) breaks P2, another tie order P4, a share of what is left P3."""
    w = frozen([[1.0, 1.0, 1.0, 2.0]])
    all_ties = np.abs(w) > np.sort(np.abs(w).reshape(-1))[masks.count(0.5, w.size)]
    assert np.count_nonzero(~all_ties) == 3 != zeros("tensor", w, 0.5)
    last_first = masks.magnitude(w[:, ::-1], 0.25)[:, ::-1]
    assert not np.all(last_first >= masks.magnitude(w, 0.5))

    def of_what_is_left(a: np.ndarray) -> np.ndarray:
        left = int(np.count_nonzero(a))
        return masks.magnitude(a, (a.size - left + masks.count(0.5, left)) / a.size)

    once = of_what_is_left(w)
    assert not np.array_equal(of_what_is_left(np.where(once, w, 0.0)), once)
