"""Every weight score against one weight at a time; Wanda's norms from one routed token at a time."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.sparsity import masks, scores

from .oracles import mask_loops, score_loops
from .oracles.judge import agree, locked, same

RNG = np.random.default_rng
DTYPES = pytest.mark.parametrize("dtype", ["f4", "f8"])


def drawn(seed, shape, dtype):
    rng = RNG(seed)
    return locked(rng.standard_normal(shape).astype(dtype))


@DTYPES
@pytest.mark.parametrize("shape", [(1,), (5, 7), (3, 4, 6)])
def test_scores_of_weights_and_gradients(dtype, shape):
    for seed in range(3):
        w, dw = drawn(seed, shape, dtype), drawn(100 + seed, shape, dtype)
        agree(scores.magnitude(w), score_loops.magnitude(w))
        for name in ("snip", "taylor", "movement"):
            got = getattr(scores, name)(w, dw)
            assert got.dtype == w.dtype
            agree(got, getattr(score_loops, name)(w, dw))
        if w.size > 1:  # control: the sign of movement is the direction away from zero
            assert np.any(np.sign(scores.movement(w, dw)) != np.sign(w * dw))


@DTYPES
def test_wanda_of_one_matrix_and_of_experts(dtype):
    for seed in range(3):
        w, sumsq = drawn(seed, (5, 7), dtype), locked(RNG(seed).random(7) * 9)
        agree(scores.wanda(w, sumsq), score_loops.wanda(w, sumsq), str(w.dtype))
        w, sumsq = drawn(seed, (3, 4, 6), dtype), locked(RNG(seed).random((3, 6)) * 9)
        agree(scores.wanda(w, sumsq), score_loops.wanda(w, sumsq), str(w.dtype))
        other = score_loops.wanda(w, sumsq[::-1])  # control: another expert's tokens
        assert np.max(np.abs(scores.wanda(w, sumsq) - other)) > 1e-3


def test_wanda_prunes_within_each_row_by_the_tokens_of_the_expert_only():
    """Wanda's comparison group is the output row (2306.11695, section 3); an unrouted expert has only zero scores, so
    that ties decide: its first columns go."""
    rng = RNG(0)
    x, w = locked(rng.standard_normal((9, 6)), rng.standard_normal((4, 5, 6)))
    chosen = [[0, 2], [2, 0], [1, 2], [0, 1], [1, 0], [2, 1], [0, 2], [2, 1], [1, 0]]  # nobody asks expert 3
    sumsq = score_loops.routed_sumsq(x, chosen, 4)
    want = mask_loops.by_score(score_loops.wanda(w, sumsq), 0.5, "row")
    got = masks.by_score(scores.wanda(w, sumsq), 0.5, by="row")
    same(got, want)
    assert np.array_equal(got[3], np.tile([False, False, False, True, True, True], (5, 1)))
    everyone = score_loops.routed_sumsq(x, [[0, 1, 2, 3]] * 9, 4)  # control: norms over all tokens
    assert not np.array_equal(got, mask_loops.by_score(score_loops.wanda(w, everyone), 0.5, "row"))
