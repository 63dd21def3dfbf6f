"""Selection rules against their definition in loops: ties, groups, expert choice, orders beyond sixteen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe.moe import RouterConfig
from pymoe.moe.select import expert_choice, group_limited, topk

from ...oracles.loops import complete, select_experts
from ...oracles.loops import expert_choice as expert_choice_loop

quick = settings(derandomize=True, deadline=None, max_examples=80)


@st.composite
def scores(draw: Any, multiple: int = 1) -> np.ndarray:
    """Few distinct values, so that ties are everywhere; up to 40 experts, so that a sort must be stable."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    shape = (draw(st.integers(0, 20)), multiple * draw(st.integers(1, 40 // multiple)))
    return rng.integers(-3, 4, shape) / draw(st.sampled_from([1.0, 2.0, 8.0]))


@quick
@given(scores(), st.data())
def test_topk(c: np.ndarray, data: Any) -> None:
    k = data.draw(st.integers(1, c.shape[1]))
    idx, kept = topk.select(c, RouterConfig(c.shape[1], k))
    assert kept is None and idx.dtype == np.int64 and idx.shape == (len(c), k)
    for t, row in enumerate(idx.tolist()):
        assert row == select_experts(c[t].tolist(), None, complete({"k": k}))


@quick
@given(scores(4), st.sampled_from([1, 2, 4]), st.sampled_from(["max", "top2"]), st.data())
def test_group_limited(c: np.ndarray, groups: int, how: str, data: Any) -> None:
    open_groups = data.draw(st.integers(1, groups))
    k = data.draw(st.integers(1, open_groups * (c.shape[1] // groups)))
    cfg = RouterConfig(
        c.shape[1], k, select="group_limited", n_group=groups, topk_group=open_groups, group_score=how
    )  # fmt: skip
    idx, _ = group_limited.select(c, cfg)
    rule = complete({"k": k, "n_groups": groups, "topk_groups": open_groups, "group_score": how})
    for t, row in enumerate(idx.tolist()):
        assert row == select_experts(c[t].tolist(), None, rule)


@quick
@given(scores(), st.data())
def test_r19_expert_choice_is_token_choice_on_the_transpose(c: np.ndarray, data: Any) -> None:
    tokens, experts = c.shape
    k = data.draw(st.integers(1, experts))
    mask = np.random.default_rng(experts).random(tokens) < data.draw(st.sampled_from([0.0, 0.6, 1.0]))
    idx, kept = expert_choice.select(c, RouterConfig(experts, k, select="expert_choice"), mask)
    n = int(mask.sum())
    count = min(n, k * n // experts)
    chosen = expert_choice_loop(c.T.tolist(), count, mask.tolist())
    assert (idx == np.arange(experts)).all() and idx.shape == (tokens, experts)
    for e in range(experts):
        assert np.flatnonzero(kept[:, e]).tolist() == sorted(chosen[e])
    assert (kept.sum(0) == count).all() and not kept[~mask].any()
    if mask.all() and count:
        assert np.array_equal(np.sort(topk.select(c.T, RouterConfig(tokens, count))[0], 1), [sorted(r) for r in chosen])


def test_ties_at_twenty_and_three_hundred_experts_go_to_the_lowest_id() -> None:
    """torch.topk gives [12, 14, 13] and worse: selection must not depend on a library's partition."""
    for n in (3, 17, 20, 64, 300):
        assert topk.select(np.zeros((2, n)), RouterConfig(n, 3))[0].tolist() == [[0, 1, 2]] * 2
    z = np.zeros((1, 20))
    z[0, 1::2] = -0.0
    assert topk.select(z, RouterConfig(20, 4))[0].tolist() == [[0, 1, 2, 3]], "-0 equals +0"


@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_groups_left_out_are_minus_infinity_not_zero(shift: float) -> None:
    """HF #45441: a mask of 0 lets experts of closed groups in as soon as kept scores are negative."""
    c = np.array([[-0.1, -0.2, -0.9, -0.3, -0.25, -0.95]]) + shift
    cfg = RouterConfig(6, 3, select="group_limited", n_group=2, topk_group=1)
    assert group_limited.select(c, cfg)[0].tolist() == [[0, 1, 2]]
