"""Routing invariants R1-R18, and the router as a module of its own under the complex step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pymoe import verify
from pymoe.backend.errors import ConfigError
from pymoe.moe import Draws, RouterConfig, router

from .frames import ALL, U64, bits, frozen

quick = settings(derandomize=True, deadline=None, max_examples=60)
HALVES = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 9), st.integers(2, 20)), elements=st.integers(-12, 12).map(lambda i: i / 4)
)


def route(z: np.ndarray, **setting: Any) -> router.Routing:
    """The decisions for given logits: x = z and the identity as router weight."""
    e = z.shape[1]
    p = {"weight": frozen(np.eye(e))}
    if "selection_bias" in setting:
        p["selection_bias"] = frozen(setting.pop("selection_bias"))
        setting["selection_bias"] = True
    cfg = RouterConfig(e, setting.pop("k", min(2, e)), losses=(), **setting)
    return router.forward(frozen(z), p, cfg)[0][0]


@quick
@given(HALVES, st.sampled_from(["softmax", "sigmoid"]), st.data())
def test_r1_to_r4_r11_the_chosen(z: np.ndarray, score: str, data: Any) -> None:
    """Distinct, in range, the best, in descending order, ties to the lowest id; k + 1 begins with the choices of k."""
    k = data.draw(st.integers(1, z.shape[1]))
    idx = route(z, k=k, score=score).idx
    for t, row in enumerate(idx.tolist()):
        order = sorted(range(z.shape[1]), key=lambda e: (-z[t, e], e))
        assert row == order[:k]
    assert np.array_equal(route(z, k=1, score=score).idx, idx[:, :1])


@quick
@given(HALVES)
def test_r5_tokens_and_r10_raising_a_chosen_logit(z: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(len(z))
    r = route(z)
    assert np.array_equal(route(z[order]).idx, r.idx[order]) and bits(route(z[order]).weight) == bits(r.weight[order])
    raised = z.copy()
    raised[np.arange(len(z)), r.idx[:, -1]] += 0.75
    assert all(set(r.idx[t, -1:]) <= set(route(raised).idx[t]) for t in range(len(z)))


@quick
@given(HALVES, st.sampled_from([16.0, -16.0, 1e6, 2.0**30]))
def test_r7_a_shift_of_all_logits_of_a_token_changes_no_bit(z: np.ndarray, c: float) -> None:
    """Dyadic logits: z + c is exact, and softmax subtracts the maximum first."""
    a, b = route(z, norm="l1"), route(z + c, norm="l1")
    assert bits(a.idx, a.weight) == bits(b.idx, b.weight)


@quick
@given(HALVES)
def test_r8_r9_scaling_and_increasing_maps_keep_the_choice(z: np.ndarray) -> None:
    idx = route(z).idx
    assert np.array_equal(route(z * 2.0**5).idx, idx) and np.array_equal(route(z * 2.0**-5).idx, idx)
    assert np.array_equal(route(z, score="sigmoid").idx, idx)


@quick
@given(HALVES)
def test_r12_an_expert_of_minus_infinity_changes_nothing(z: np.ndarray) -> None:
    wide = np.concatenate([z, np.full((len(z), 1), -800.0)], axis=1)
    a, b = route(z), route(wide)
    assert np.array_equal(a.idx, b.idx) and np.allclose(a.weight, b.weight, rtol=4 * U64, atol=0)


@quick
@given(HALVES, st.data())
def test_r13_r15_renormalised_weights(z: np.ndarray, data: Any) -> None:
    """Σ w = 1, and renormalised softmax is the softmax over the chosen logits."""
    k = data.draw(st.integers(1, z.shape[1]))
    r = route(z, k=k, norm="l1")
    assert np.abs(r.weight.sum(1) - 1).max() <= (k + 1) * U64
    v = np.exp(np.take_along_axis(z, r.idx, 1) - z.max(1, keepdims=True))
    assert np.abs(r.weight / (v / v.sum(1, keepdims=True)) - 1).max() <= 16 * U64
    if k == 1:
        assert (r.weight == 1.0).all(), "k = 1 renormalised: exactly 1"


def test_r13_k1_renormalised_gives_the_router_exactly_no_gradient() -> None:
    """Megatron 5153efea0b, minimind #859: such a router does not learn from the output."""
    rng = np.random.default_rng(0)
    x, p = rng.standard_normal((7, 3)), {"weight": rng.standard_normal((6, 3))}
    _, cache = router.forward(x, p, RouterConfig(6, 1, norm="l1", losses=("z",)))
    dx, dp = router.backward(rng.standard_normal((7, 1)), {}, cache)
    assert not dx.any() and not dp["weight"].any()
    _, dp = router.backward(rng.standard_normal((7, 1)), {"z": 0.5}, cache)
    assert dp["weight"].any()


@quick
@given(HALVES)
def test_r14_softmax_weights_of_all_experts(z: np.ndarray) -> None:
    e = z.shape[1]
    assert np.abs(route(z, k=e).weight.sum(1) - 1).max() <= e * U64
    assert (route(z[:, :1], k=1).weight == 1.0).all()


@quick
@given(HALVES, st.sampled_from(["softmax", "sigmoid"]))
def test_r16_the_selection_bias_only_selects(z: np.ndarray, score: str) -> None:
    """The weight of a chosen expert is its own score, bias or not; a bias with a constant added chooses the same."""
    e = z.shape[1]
    bias = np.random.default_rng(e).integers(-4, 5, e) / 2.0
    biased, free = route(z, score=score, selection_bias=bias), route(z, score=score, k=e)
    table = np.empty_like(z)
    np.put_along_axis(table, free.idx, free.weight, axis=1)
    assert bits(biased.weight) == bits(np.take_along_axis(table, biased.idx, 1))
    constant = route(z, score=score, selection_bias=np.zeros(e) + 0.0)
    assert np.array_equal(constant.idx, route(z, score=score).idx)


def test_r16_a_constant_bias_of_64_changes_neither_choice_nor_weight() -> None:
    """Megatron eec34ff3ae leaked the bias into the weights; FlashInfer #3875 lost s in (s + b) - b."""
    z = np.random.default_rng(0).standard_normal((50, 8))
    a = route(z, score="sigmoid", norm="l1", selection_bias=np.zeros(8))
    b = route(z, score="sigmoid", norm="l1", selection_bias=np.full(8, 64.0))
    assert np.array_equal(a.idx, b.idx) and bits(a.weight) == bits(b.weight)


@quick
@given(HALVES)
def test_r17_sigmoid_weights_do_not_see_the_other_experts(z: np.ndarray) -> None:
    r = route(z, score="sigmoid", k=1)
    other = z.copy()
    rest = np.arange(z.shape[1]) != r.idx
    other[rest] -= 3.0
    assert bits(route(other, score="sigmoid", k=1).weight) == bits(r.weight)


def test_r18_no_noise_is_the_noiseless_router_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    x, p = (
        rng.standard_normal((7, 3)),
        {"weight": rng.standard_normal((6, 3)), "noise_weight": rng.standard_normal((6, 3))},
    )
    cfg = RouterConfig(6, 2, noise="learned", jitter=0.25, losses=("importance",))
    still = Draws(noise=np.zeros((7, 6)), jitter=np.ones((7, 3)))
    (a, la), _ = router.forward(x, p, cfg, draws=still)
    (b, lb), _ = router.forward(x, p, cfg)
    assert bits(a.idx, a.weight, la["importance"]) == bits(b.idx, b.weight, lb["importance"])


@quick
@given(HALVES)
def test_r20_one_group_or_all_groups_are_plain(z: np.ndarray) -> None:
    e = z.shape[1] - z.shape[1] % 2
    z, k = z[:, :e], min(2, e)
    plain = route(z, k=k)
    for n_group in (1, 2):
        for how in ("max", "top2"):
            r = route(z, k=k, select="group_limited", n_group=n_group, topk_group=n_group, group_score=how)
            assert bits(r.idx, r.weight) == bits(plain.idx, plain.weight)


# ---- extreme scores ----


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("norm", ["none", "l1"])
def test_logits_of_minus_800_give_no_nan(score: str, norm: str) -> None:
    """FlashInfer #3803, vllm-ascend #9676: 0/0 when every chosen score underflows."""
    z = np.full((3, 6), -800.0)
    z[1] = 800.0
    z[2, 3] = 0.0
    cfg = RouterConfig(6, 2, score=score, norm=norm, losses=())
    (r, _), cache = router.forward(z, {"weight": np.eye(6)}, cfg)
    dx, dp = router.backward(np.ones((3, 2)), {}, cache)
    assert np.isfinite(r.weight).all() and np.isfinite(dx).all() and np.isfinite(dp["weight"]).all()


def test_scores_of_1e_18_are_not_swallowed_by_an_epsilon() -> None:
    """Megatron #1545: with ε = 1e-20 in the denominator the weights of tiny scores must stay exact to 1 %."""
    z = np.full((1, 6), -41.4)
    assert route(z, score="sigmoid", norm="l1").weight.sum() == pytest.approx(1.0, abs=1e-15)
    assert route(z, score="sigmoid", norm="l1", eps=1e-20).weight.sum() == pytest.approx(1.0, abs=0.02)
    assert route(z, score="sigmoid", norm="l1", eps=1e-9).weight.sum() < 1e-8


# ---- the module under the complex step: out is a tuple, so a thin wrapper names its outputs ----


def as_subject(cfg: RouterConfig, mask: Any = None, draws: Draws | None = None) -> Any:
    def forward(x: np.ndarray, p: dict) -> Any:
        (routing, losses), cache = router.forward(x, p, cfg, mask, draws)
        return SimpleNamespace(y=routing.weight, losses=losses), cache

    def backward(dy: np.ndarray, cache: Any, dlosses: Any = None) -> Any:
        return router.backward(dy, dlosses or {}, cache)

    return SimpleNamespace(__name__="router", forward=forward, backward=backward)


@pytest.mark.parametrize(
    "settings_",
    [
        {"norm": "l1", "bias": True},
        {"score": "sigmoid", "norm": "l1", "eps": 0.125, "scale": -2.5, "selection_bias": True},
        {"noise": "learned", "jitter": 0.25, "bias": True},
        {"select": "expert_choice", "score": "sigmoid"},
    ],
)
@pytest.mark.parametrize("padded", [False, True])
def test_gradcheck_with_controls(settings_: dict[str, Any], padded: bool) -> None:
    cfg = RouterConfig(6, 2, losses=ALL, **settings_)
    rng = np.random.default_rng(2)
    p = {"weight": rng.standard_normal((6, 3))}
    p |= {n: rng.standard_normal(6) for n in ("bias", "selection_bias") if settings_.get(n)}
    noisy = "noise" in settings_
    p |= {"noise_weight": rng.standard_normal((6, 3))} if noisy else {}
    draws = Draws(rng.standard_normal((7, 6)), rng.uniform(0.75, 1.25, (7, 3))) if noisy else None
    mask = frozen(np.array([1, 1, 0, 1, 0, 1, 1], bool)) if padded else None
    x = rng.standard_normal((7, 3)) * (1 if mask is None else mask[:, None])  # the layer zeroes padding
    subject = as_subject(cfg, mask, draws)
    assert verify.gradcheck(subject, x, p, mode="gradient", controls=True).error <= 1e-13


def test_a_rule_of_the_callers_own() -> None:
    """A score and a selection from outside, verified by the same check: a new rule is a file, not an edit."""

    def forward(z: np.ndarray) -> Any:
        return z * z + 1.0, z

    def backward(ds: np.ndarray, z: np.ndarray) -> Any:
        return 2 * z * ds, {}

    def select(c: np.ndarray, cfg: RouterConfig, real_token: Any = None) -> Any:
        return np.tile(np.arange(cfg.k), (len(c), 1)), None  # always the first k

    cfg = RouterConfig(
        6, 2, score=SimpleNamespace(forward=forward, backward=backward), select=SimpleNamespace(select=select),
        losses=("z",), norm="l1",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x, p = rng.standard_normal((7, 3)), {"weight": rng.standard_normal((6, 3))}
    assert verify.gradcheck(as_subject(cfg), x, p, controls=True, mode="gradient").error <= 1e-13
    assert (router.forward(x, p, cfg)[0][0].idx == [0, 1]).all()


def test_a_rule_that_chooses_an_expert_twice_is_refused() -> None:
    """Its gradient would reach the score once, not twice."""
    twice = SimpleNamespace(select=lambda c, cfg, real_token: (np.zeros((len(c), cfg.k), np.int64), None))
    with pytest.raises(ConfigError, match="must choose distinct experts"):
        router.forward(np.ones((2, 3)), {"weight": np.ones((6, 3))}, RouterConfig(6, 2, select=twice))
