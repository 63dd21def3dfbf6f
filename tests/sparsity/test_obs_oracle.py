"""SparseGPT and Optimal Brain Surgeon against exact rationals with every inverse made anew."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.sparsity import obs, sparsegpt

from .oracles import mask_loops, obs_loops
from .oracles.judge import agree, close, locked, numbers, same

BOTH = pytest.mark.parametrize("rule", [sparsegpt.prune, sparsegpt.reference], ids=["prune", "reference"])


def problem(seed: int, f: int, d: int, t: int):
    """w (F, D) and the Hessian of T correlated inputs: without correlation there is nothing to compensate."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((t, d)) @ (np.eye(d) + 0.4 * rng.standard_normal((d, d)))
    w = rng.standard_normal((f, d))
    h = numbers(obs_loops.hessian(x))
    return locked(x, w, h)


def test_the_hessian_is_that_of_the_squared_error():
    for seed, (t, d) in enumerate([(1, 1), (9, 4), (3, 5)]):
        x, _, h = problem(seed, 1, d, t)
        agree(sparsegpt.hessian(x), h)
        assert not close(sparsegpt.hessian(x), h / 2, 1e-3)  # control: without the 2


@BOTH
@pytest.mark.parametrize("block", [128, 4, 3, 1])
@pytest.mark.parametrize("s", [0.0, 0.3, 0.57, 1.0])
def test_unstructured(rule, block, s):
    for seed, (f, d) in enumerate([(3, 7), (1, 5), (4, 8)]):
        _, w, h = problem(seed, f, d, 4 * d)
        want, mask = obs_loops.sparsegpt(w, h, s, block=block)
        got = rule(w, h, s, block=block)
        same(got.mask, mask)
        agree(got.w, want)
        agree(np.array([got.error]), np.array([float(obs_loops.layer_error(w, numbers(want), h))]))
        assert np.all(np.asarray(got.w)[~np.array(mask)] == 0)


@BOTH
def test_controls_of_the_unstructured_rule(rule):
    """What a wrong reading would give: the block as the pool, the scores at its start, and the damping all matter."""
    _, w, h = problem(3, 4, 8, 30)
    got = rule(w, h, 0.57, block=4)
    assert not np.array_equal(got.mask, obs_loops.sparsegpt(w, h, 0.57, block=8)[1])
    assert not close(got.w, numbers(obs_loops.sparsegpt(w, h, 0.57, block=4, damp=0.02)[0]), 1e-6)
    wrong = h.copy()
    wrong[0, 0] *= 1.001
    assert not close(got.w, numbers(obs_loops.sparsegpt(w, wrong, 0.57, block=4)[0]), 1e-9)
    assert not np.array_equal(got.mask, mask_loops.magnitude(w, 0.57))


@BOTH
@pytest.mark.parametrize("nm", [(1, 2), (2, 4), (1, 4), (4, 8), (3, 4)])
def test_n_of_m(rule, nm):
    for seed, f in enumerate((1, 3)):
        d = 8 if nm[1] < 8 else 16
        _, w, h = problem(10 + seed, f, d, 3 * d)
        for block in (8, 128) if d == 8 else (8,):
            want, mask = obs_loops.sparsegpt(w, h, nm=nm, block=block)
            got = rule(w, h, nm=nm, block=block)
            same(got.mask, mask)
            agree(got.w, want)
            kept = np.asarray(got.mask).reshape(f, d // nm[1], nm[1]).sum(-1)
            assert np.all(kept == nm[0])
        start = mask_loops.nm(w**2, *nm)  # control: a mask from the weights before any compensation
        if f == 3 and nm != (3, 4):
            assert not np.array_equal(got.mask, start)


@BOTH
def test_a_dead_column_gets_no_weight_and_moves_nothing(rule):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((20, 6)) @ (np.eye(6) + 0.4 * rng.standard_normal((6, 6)))
    x[:, 2] = 0
    h, w = locked(numbers(obs_loops.hessian(x)), rng.standard_normal((3, 6)))
    for s in (0.3, 0.57):
        want, mask = obs_loops.sparsegpt(w, h, s)
        got = rule(w, h, s)
        assert np.all(np.asarray(got.w)[:, 2] == 0)
        same(got.mask, mask)
        agree(got.w, want)


@BOTH
def test_what_is_kept_stands_where_least_squares_puts_it(rule):
    """The algorithm without its steps: a kept weight is the answer of one least-squares problem given its left."""
    for seed, s in enumerate((0.3, 0.57, 0.8)):
        _, w, h = problem(20 + seed, 3, 7, 25)
        got = rule(w, h, s, block=4)
        hd, _ = obs_loops.damped(obs_loops.exact(h), obs_loops.exact(w), 0.01)
        old, now = obs_loops.exact(w), obs_loops.exact(np.asarray(got.w))
        want = numbers(obs_loops.frozen_left(old, now, np.asarray(got.mask).tolist(), hd))
        agree(got.w, want)
        plain = numbers(obs_loops.frozen_left(old, now, np.asarray(got.mask).tolist(), obs_loops.exact(h)))
        assert not close(got.w, plain, 1e-9)  # control: the undamped Hessian


@BOTH
def test_a_diagonal_hessian_leaves_nothing_to_compensate(rule):
    rng = np.random.default_rng(0)
    w, h = locked(rng.standard_normal((5, 6)), 3.0 * np.eye(6))
    got = rule(w, h, 0.57)
    same(got.mask, mask_loops.magnitude(w, 0.57))
    assert np.array_equal(np.asarray(got.w)[got.mask], w[got.mask])


@BOTH
def test_ties_go_in_flat_order(rule):
    w, h = locked(np.ones((3, 4)), np.eye(4))
    got = rule(w, h, 0.5)
    same(got.mask, mask_loops.by_score(w, 0.5))
    assert not np.array_equal(got.mask, mask_loops.by_score(w[::-1], 0.5)[::-1])
    got = rule(w, h, nm=(1, 4))
    same(got.mask, mask_loops.nm(w, 1, 4))


@pytest.mark.parametrize("n", [0, 1, 2, 4, 5])
def test_greedy_brain_surgeon(n):
    for seed in range(3):
        _, w, h = problem(30 + seed, 3, 5, 17)
        want, mask = obs_loops.greedy(w, h, n)
        got = obs.greedy(w, h, n)
        same(got.mask, mask)
        agree(got.w, want)
        agree(np.array([got.error]), np.array([float(obs_loops.layer_error(w, numbers(want), h))]))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_the_best_of_all_supports(n):
    for seed in range(3):
        _, w, h = problem(40 + seed, 2, 5, 17)
        want, mask, errors = obs_loops.optimal(w, h, n)
        got = obs.optimal(w, h, n)
        same(got.mask, mask)
        agree(got.w, want)
        agree(np.array([got.error]), np.array([float(sum(errors))]))
        greedy = obs.greedy(w, h, n)
        assert greedy.error >= got.error * (1 - 1e-12)


def test_refit_is_least_squares_on_the_mask():
    for seed in range(4):
        _, w, h = problem(50 + seed, 4, 6, 19)
        for s in (0.0, 0.3, 0.57, 1.0):
            mask = locked(mask_loops.magnitude(w, s))
            want = numbers(obs_loops.refit(w, h, mask))
            got = obs.refit(w, h, mask)
            got = got.w if hasattr(got, "w") else got
            agree(got, want)
            assert np.all(got[~mask] == 0)
    flipped = mask.copy()
    flipped[0, 0] = ~flipped[0, 0]
    assert not close(got, numbers(obs_loops.refit(w, h, flipped)), 1e-6)  # control: one bit of the mask


def test_greedy_and_optimal_agree_on_the_first_weight():
    _, w, h = problem(60, 4, 6, 19)
    same(obs.greedy(w, h, 1).mask, obs.optimal(w, h, 1).mask)


@BOTH
def test_one_number(rule):
    w, h = locked(np.array([[-3.0]]), np.array([[2.0]]))
    for s, kept in ((0.0, True), (0.5, True), (1.0, False)):
        got = rule(w, h, s)
        assert got.mask.tolist() == [[kept]] and got.w.tolist() == [[-3.0 if kept else 0.0]]
        assert got.error == (0.0 if kept else 18.0)


@BOTH
def test_single_precision_weights(rule):
    for seed in range(3):
        _, w, h = problem(70 + seed, 4, 8, 33)
        w = locked(w.astype("f4"))
        want, mask = obs_loops.sparsegpt(w, h, 0.57, block=4)
        got = rule(w, h, 0.57, block=4)
        assert got.w.dtype == np.float32
        same(got.mask, mask)
        agree(got.w, want, "float32")


def test_the_default_block_of_128_columns():
    """Wide enough for two blocks and a ragged third; columns behind a block are updated lazily by ``prune``."""
    rng = np.random.default_rng(80)
    x = rng.standard_normal((1500, 300)) @ (np.eye(300) + 0.02 * rng.standard_normal((300, 300)))
    w, h = locked(rng.standard_normal((5, 300)), x.T @ x * (2 / 1500))
    for s in (0.5, 0.83):
        want, mask = obs_loops.sparsegpt_floats(w, h, s, 128)
        got = sparsegpt.prune(w, h, s)
        same(got.mask, mask)
        agree(got.w, want)
        assert int((~mask).sum()) == sum(int(np.floor(s * 5 * b)) for b in (128, 128, 44))
        assert not np.array_equal(got.mask, obs_loops.sparsegpt_floats(w, h, s, 64)[1])  # control: smaller blocks


def test_the_float_oracle_is_the_exact_one():
    _, w, h = problem(81, 3, 8, 40)
    exact, mask = obs_loops.sparsegpt(w, h, 0.57, block=3)
    floats, other = obs_loops.sparsegpt_floats(w, h, 0.57, 3)
    same(np.array(mask), other)
    agree(floats, exact)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ties_of_brain_surgery_go_to_the_lowest_columns(n):
    w, h = locked(np.array([[1.0, -1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 2.0]]), 2.0 * np.eye(4))
    for rule, oracle in ((obs.greedy, obs_loops.greedy), (obs.optimal, obs_loops.optimal)):
        got = rule(w, h, n)
        same(got.mask, np.array(oracle(w, h, n)[1]))
        assert np.asarray(got.mask)[0].tolist() == [j >= n for j in range(4)]


@BOTH
def test_the_block_of_an_n_of_m_run_changes_nothing(rule):
    _, w, h = problem(82, 3, 16, 50)
    want, mask = obs_loops.sparsegpt(w, h, nm=(2, 4))
    for block in (1, 4, 6, 7, 128):
        got = rule(w, h, nm=(2, 4), block=block)
        same(got.mask, mask)
        agree(got.w, want)
