"""The auxiliary losses: closed forms L1-L9, padding, the complex step of each module, planted faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe import verify
from pymoe.moe.losses import balance, cv_squared, importance, load, z

from ..frames import U64, frozen

quick = settings(derandomize=True, deadline=None, max_examples=60)
RNG = np.random.default_rng(0)
Z = frozen(RNG.standard_normal((7, 6)))
S = frozen(np.exp(Z) / np.exp(Z).sum(1, keepdims=True))
F = frozen(np.array([3, 1, 0, 5, 4, 1]) / 14)
MASK = frozen(np.array([1, 0, 1, 1, 0, 1, 1], bool))
IDX = frozen(np.array([RNG.permutation(6)[:2] for _ in range(7)]))
MASKS = pytest.mark.parametrize("mask", [None, MASK], ids=["all", "padding"])


def check(forward: Any, backward: Any, *args: Any) -> None:
    class Sliced:
        pass

    Sliced.forward, Sliced.backward = staticmethod(forward), staticmethod(backward)
    assert verify.gradcheck(Sliced, *args, controls=True).error <= 1e-13


@MASKS
@pytest.mark.parametrize("s", [S, frozen(1 / (1 + np.exp(-Z)))], ids=["softmax", "sigmoid"])
def test_gradcheck_balance(mask: Any, s: np.ndarray) -> None:
    check(lambda s: balance.forward(s, F, mask), balance.backward, s)


@MASKS
def test_gradcheck_z(mask: Any) -> None:
    check(lambda x: z.forward(x, mask), z.backward, Z)


@pytest.mark.parametrize("kept", [None, np.random.default_rng(3).random((7, 2)) < 0.6], ids=["all", "dropped"])
def test_gradcheck_importance(kept: Any) -> None:
    def forward(g: Any) -> Any:
        return importance.forward(g if kept is None else np.where(kept, g, 0), IDX, 6, kept, ddof=1, eps=1e-3)

    check(forward, importance.backward, RNG.uniform(0.1, 1.0, (7, 2)))


@MASKS
@pytest.mark.parametrize("k", [1, 2, 5])
def test_gradcheck_load(mask: Any, k: int) -> None:
    sigma = frozen(np.random.default_rng(1).uniform(0.3, 2.0, (7, 6)))
    h = frozen(Z + sigma * np.random.default_rng(2).standard_normal((7, 6)))
    check(lambda c, h, sigma: load.forward(c, h, sigma, k, mask), load.backward, Z, h, sigma)


@pytest.mark.parametrize("keywords", [{}, {"ddof": 1, "eps": 1e-10}])
def test_gradcheck_cv_squared(keywords: Any) -> None:
    check(lambda i: cv_squared.forward(i, **keywords), cv_squared.backward, RNG.uniform(0.5, 3.0, 6))


# ---- closed forms ----


@quick
@given(st.integers(0, 1 << 20))
def test_l1_uniform_f_or_uniform_p_give_1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(6), 7)
    f = rng.dirichlet(np.ones(6))
    value, cache = balance.forward(p, np.full(6, 1 / 6))
    assert abs(float(value) - 1) <= 6 * 4 * U64
    dz = p * (ds := balance.backward(np.asarray(1.0), cache)[0]) - p * (p * ds).sum(1, keepdims=True)
    assert np.abs(dz).max() <= 8 * U64, "with uniform f the loss is constant"
    assert abs(float(balance.forward(np.full((7, 6), 1 / 6), f)[0]) - 1) <= 6 * 4 * U64


def test_l2_a_collapsed_router_costs_e() -> None:
    one = np.eye(6)[np.full(7, 4)]
    assert float(balance.forward(one, np.eye(6)[4])[0]) == 6.0


def test_l3_one_is_not_the_minimum() -> None:
    """Top-1 over two experts: three sure tokens for 0, four barely for 1.  f and P disagree: below 1."""
    p = np.array([[0.99, 0.01]] * 3 + [[0.49, 0.51]] * 4)
    assert float(balance.forward(p, np.array([3, 4]) / 7)[0]) < 0.98


@quick
@given(st.integers(0, 1 << 20), st.floats(-40, 40))
def test_l5_the_z_loss(seed: int, shift: float) -> None:
    x = np.random.default_rng(seed).standard_normal((7, 6))
    lse = np.log(np.exp(x).sum(1))
    value, cache = z.forward(x + shift)
    assert float(value) == pytest.approx(np.mean((lse + shift) ** 2), rel=1e-13, abs=1e-13)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    wanted = 2 * (lse + shift)[:, None] * p / 7
    assert np.abs(z.backward(np.asarray(1.0), cache)[0] - wanted).max() <= 1e-14 * (1 + abs(shift))


def test_l5_logits_of_zero_cost_the_square_of_ln_e() -> None:
    """On the logits: computed on probabilities (Megatron c656553315, HF #48293) it would be ln(Σ e^p)² instead."""
    assert float(z.forward(np.zeros((5, 6)))[0]) == pytest.approx(np.log(6) ** 2, rel=4 * U64)
    assert float(z.forward(np.full((5, 6), 1000.0))[0]) == pytest.approx((1000 + np.log(6)) ** 2, rel=4 * U64)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_coefficient_is_what_a_uniform_router_pays(k: int) -> None:
    """Megatron 5c8eb08f66, HF Mixtral: a loss without /k is balanced at k, not at 1."""
    from pymoe.moe import RouterConfig, router

    cfg = RouterConfig(6, k, losses=("balance",))
    value = router.forward(np.ones((5, 3)), {"weight": np.zeros((6, 3))}, cfg)[0][1]["balance"]
    assert float(value) == pytest.approx(1.0, abs=8 * U64)


def test_l7_equal_importance_costs_nothing_and_has_a_gradient() -> None:
    """vmoe #218: (std / mean)² has a NaN gradient at perfect balance; Var / mean² has 0."""
    for i in (np.full(6, 3.0), np.full(1, 2.0), np.zeros(6)):
        value, cache = cv_squared.forward(i)
        assert float(value) == 0.0 and not cv_squared.backward(np.asarray(1.0), cache)[0].any()
    assert float(cv_squared.forward(np.array([0.0, 4.0]))[0]) == 1.0
    assert float(cv_squared.forward(np.array([0.0, 4.0]), ddof=1)[0]) == 2.0


@quick
@given(st.integers(0, 1 << 20))
def test_l9_the_smooth_load_sums_to_k_in_the_mean(seed: int) -> None:
    """Σ_e P(e among the k) estimates k: davidmrau's moe.py summed to 175 where 123.9 was right."""
    rng = np.random.default_rng(seed)
    c, sigma = rng.standard_normal((400, 6)), np.full((400, 6), 1.0)
    h = c + sigma * rng.standard_normal((400, 6))
    _, cache = load.forward(c, h, sigma, 2)
    assert float(cache.cv.i.sum()) == pytest.approx(800, rel=0.1)


@MASKS
def test_padding_leaves_every_loss_as_if_it_were_not_there(mask: Any) -> None:
    """HF #28505, Megatron #1984: value and gradient equal those of the real tokens alone."""
    real = np.ones(7, bool) if mask is None else mask
    sick = np.where(real[:, None], Z, 7.0)
    for forward, backward, args, small in (
        (balance.forward, balance.backward, (np.where(real[:, None], S, 0.5), F, mask), (S[real], F)),
        (z.forward, z.backward, (sick, mask), (Z[real],)),
    ):
        value, cache = forward(*args)
        wanted, small_cache = forward(*small)
        assert abs(float(value - wanted)) <= 8 * U64 * float(wanted)
        d, want = backward(np.asarray(0.7), cache)[0], backward(np.asarray(0.7), small_cache)[0]
        assert not d[~real].any() and np.abs(d[real] - want).max() <= 8 * U64 * np.abs(want).max()


def test_no_tokens_cost_nothing() -> None:
    none = np.zeros((0, 6))
    off = np.zeros(7, bool)
    assert float(balance.forward(none, np.zeros(6))[0]) == float(z.forward(none)[0]) == 0.0
    assert float(balance.forward(S, np.zeros(6), off)[0]) == float(z.forward(Z, off)[0]) == 0.0
    assert float(importance.forward(np.zeros((0, 2)), np.zeros((0, 2), np.int64), 6)[0]) == 0.0
    assert float(load.forward(Z, Z, np.ones((7, 6)), 2, off)[0]) == 0.0


def test_statistics_accumulate_in_double() -> None:
    """2^25 ones in float32 have mean 0.5 under NumPy's own sum; here 3e5 tokens of float32, relative error 1e-7."""
    s = np.full((1 << 19, 2), np.float32(0.1)) + np.float32([0.4, 0.0])
    f = np.array([0.75, 0.25])
    value, cache = balance.forward(s, f)
    exact = 2 * (0.75 * (a := float(s[0, 0])) + 0.25 * (b := float(s[0, 1]))) / (a + b)
    assert value.dtype == np.float64 and float(value) == pytest.approx(exact, rel=3e-7)
    assert balance.backward(np.asarray(1.0), cache)[0].dtype == np.float32
    assert z.forward(s)[0].dtype == np.float64
