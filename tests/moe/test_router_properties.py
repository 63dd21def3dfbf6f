"""What the settings of a router say about each other: identities, limits, and the distributions of what is drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pymoe import moe, presets
from pymoe.backend.errors import ConfigError, IndexRangeError, ShapeError
from pymoe.moe import Draws, Given, RouterConfig, router
from pymoe.moe.select import top_p

from .frames import U64, bits, config, frozen, make
from .test_router import route

quick = settings(derandomize=True, deadline=None, max_examples=40)
HALVES = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 7), st.integers(2, 12)), elements=st.integers(-12, 12).map(lambda i: i / 4)
)


def weights(z: np.ndarray, **setting: Any) -> np.ndarray:
    return route(z, **setting).weight


# ---- identities ----


@quick
@given(HALVES, st.data())
def test_softmax_over_the_chosen_is_softmax_over_all_renormalised(z: np.ndarray, data: Any) -> None:
    k = data.draw(st.integers(1, z.shape[1]))
    after, before = route(z, k=k, score_at="chosen"), route(z, k=k, norm="l1")
    assert np.array_equal(after.idx, before.idx)
    assert np.allclose(after.weight, before.weight, rtol=32 * U64, atol=0)


@quick
@given(HALVES)
def test_norms_that_coincide(z: np.ndarray) -> None:
    """The 1-norm of what is not negative is its sum; a clamp below the sum does nothing; none of them is the 2-norm."""
    l1 = weights(z, norm="l1")
    assert np.allclose(weights(z, norm="lp", norm_p=1.0), l1, rtol=8 * U64, atol=0)
    assert bits(weights(z, norm="clamp", eps=1e-12)) == bits(l1)
    two = weights(z, norm="lp")
    assert np.allclose((two**2).sum(1), 1.0, rtol=32 * U64, atol=0)


def test_where_the_clamp_acts_the_sum_has_no_gradient() -> None:
    """Σ v = 0.05 < ε: g = v / ε and dv = dg / ε, without the mixing term (Ernie, fairscale)."""
    z = np.log(np.array([[0.02, 0.03, 0.95]]))
    cfg = RouterConfig(3, 2, norm="clamp", eps=0.5, losses=(), select="given")
    p = {"weight": np.eye(3)}
    (r, _), cache = router.forward(z, p, cfg, given=Given(idx=np.array([[0, 1]])))
    assert np.allclose(r.weight, [[0.04, 0.06]], rtol=1e-14)
    dx, _ = router.backward(np.array([[1.0, 0.0]]), {}, cache)
    s = np.array([0.02, 0.03, 0.95])
    assert np.allclose(dx, s * (np.array([2.0, 0, 0]) - 2.0 * 0.02), rtol=1e-13)


@quick
@given(HALVES, st.sampled_from([0.5, 4.0]))
def test_a_cap_keeps_the_order_and_a_scale_at_the_output_the_weights(z: np.ndarray, cap: float) -> None:
    capped, plain = route(z, soft_cap=cap), route(z)
    assert np.array_equal(capped.idx, plain.idx)
    assert bits(weights(z, scale=2.5, scale_at="output")) == bits(plain.weight)


@quick
@given(HALVES, st.sampled_from(["softmax", "sigmoid", "sqrtsoftplus", "relu", "identity"]))
def test_a_bias_on_the_logits_does_not_leak_into_the_weights(z: np.ndarray, score: str) -> None:
    """Kolibri: the weights are scores of the unbiased logits; so are those of a bias on the scores."""
    e = z.shape[1]
    bias = np.random.default_rng(e).integers(-4, 5, e) / 2.0
    for how in ({"select_on": "logits"}, {"score_at": "chosen", "select_on": "logits"}, {}):
        if how.get("score_at") and score == "softmax":
            continue  # the softmax of the chosen depends on who was chosen
        r = route(z, score=score, selection_bias=bias, **how)
        free = route(z, score=score, k=e)
        table = np.empty_like(z)
        np.put_along_axis(table, free.idx, free.weight, axis=1)
        assert np.allclose(r.weight, np.take_along_axis(table, r.idx, 1), rtol=4 * U64, atol=0)
        if how:
            c = z + bias
            assert r.idx.tolist() == [sorted(range(e), key=lambda i: (-c[t, i], i))[: min(2, e)] for t in range(len(z))]


def test_joint_weights_sum_to_the_scale_and_survive_scores_that_round_to_zero() -> None:
    cfg = RouterConfig(3, 2, score="sigmoid", norm="joint", n_shared_logits=2, scale=2.5, losses=())
    for shift in (0.0, -900.0):
        z = np.random.default_rng(0).standard_normal((6, 5)) + shift
        (r, _), cache = router.forward(z, {"weight": np.eye(5)}, cfg)
        assert np.allclose(r.weight.sum(1) + r.shared_weight.sum(1), 2.5, rtol=1e-14)
        dx, _ = router.backward(np.ones((6, 2)), {}, cache)
        assert np.isfinite(dx).all() and dx.any()


def test_square_root_of_softplus_has_no_nan_where_e_to_the_z_rounds_to_zero() -> None:
    """transformers 5.23, deepseek_v4: one logit of -104 in float32 is NaN in x.grad, even of an expert not chosen."""
    for dtype, low in ((np.float32, -104.0), (np.float64, -750.0)):
        z = np.array([[1.0, 0.5, low], [low, low, low]], dtype)
        cfg = presets.deepseek_v4(d_model=3, d_ff=2, n_experts=3, k=2, losses=()).router
        p = {"weight": np.eye(3, dtype=dtype), "selection_bias": np.zeros(3, dtype)}
        (r, _), cache = router.forward(z, p, cfg)
        dx, dp = router.backward(np.array([[1.0, -2.0], [0.5, 1.0]], dtype), {}, cache)
        assert all(np.isfinite(a).all() for a in (r.weight, dx, dp["weight"]))


# ---- top-p ----


@quick
@given(HALVES, st.sampled_from([0.125, 0.5, 0.9, 1.0]))
def test_top_p_takes_the_fewest_that_hold_the_share(z: np.ndarray, share: float) -> None:
    e = z.shape[1]
    r = route(z, select="top_p", top_p=share, k=e)
    p = np.exp(z - z.max(1, keepdims=True))
    p = p / p.sum(1, keepdims=True)
    for t, (idx, kept) in enumerate(zip(r.idx, r.kept, strict=True)):
        n = int(kept.sum())
        assert n >= 1 and kept[:n].all()
        held = p[t, idx[:n]].sum()
        assert held >= share - 8 * U64 and held - p[t, idx[n - 1]] < share + 8 * U64
    fewer = route(z, select="top_p", top_p=share / 2, k=e)
    assert not (fewer.kept & ~r.kept).any(), "a smaller share takes a subset"
    assert np.abs(route(z, select="top_p", top_p=share, k=e, norm="l1").weight.sum(1) - 1).max() <= 16 * U64


def test_top_p_stops_where_the_share_is_reached_and_is_of_the_sum() -> None:
    """Exactly half is enough for half; scores that do not sum to 1 are compared with their sum."""
    cfg = RouterConfig(3, 3, select="top_p", top_p=0.5)
    for c in ([0.5, 0.25, 0.25], [2.0, 1.0, 1.0], [0.25, 0.125, 0.125]):
        assert top_p.select(np.array([c]), cfg)[1].tolist() == [[True, False, False]]
    assert top_p.select(np.zeros((1, 3)), cfg)[1].tolist() == [[False] * 3], "nothing to share out"


# ---- null experts ----


def test_null_experts_in_the_norm() -> None:
    z = np.random.default_rng(0).standard_normal((200, 7))
    kinds = {"null_experts": ("zero", "zero", "copy", "skip"), "losses": ()}
    p = {"weight": np.eye(7)}
    found = {}
    for which in ("all", "true", "nonzero"):
        cfg = RouterConfig(3, 3, norm="l1", null_norm=which, **kinds)
        found[which] = router.forward(z, p, cfg)[0][0]
    idx = found["all"].idx
    assert all(np.array_equal(r.idx, idx) for r in found.values())
    assert np.allclose(found["all"].weight.sum(1), 1.0, rtol=1e-14)
    for which, counts in (("true", idx < 3), ("nonzero", (idx < 3) | (idx == 5))):
        r = found[which]
        assert not r.weight[~counts].any()
        assert np.allclose(r.weight.sum(1), counts.any(1), rtol=1e-14), "a token of null experts only gets 0"
        assert (~counts.any(1)).any()


# ---- draws ----


def test_sampled_choices_have_the_probabilities_of_the_softmax() -> None:
    """Gumbel-max: the first is drawn from p, the second from p without the first."""
    n, z = 20000, np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    x = np.broadcast_to(z, (n, 4))
    gumbel = np.random.default_rng(0).gumbel(size=(n, 4))
    p = {"weight": np.eye(4)}
    cfg = RouterConfig(4, 2, sample="all", losses=())
    idx = router.forward(x, p, cfg, draws=Draws(gumbel=gumbel))[0][0].idx
    share = np.bincount(idx[:, 0], minlength=4) / n
    assert np.abs(share - np.exp(z)).max() < 4 * np.sqrt(0.25 / n)
    second = router.forward(x, p, dataclasses.replace(cfg, sample="second"), draws=Draws(gumbel=gumbel))[0][0]
    assert (second.idx[:, 0] == 0).all() and np.allclose(second.weight[:, 0], 0.5, rtol=1e-14)
    share = np.bincount(second.idx[:, 1], minlength=4)[1:] / n
    assert np.abs(share - np.array([0.6, 0.3, 0.1])).max() < 4 * np.sqrt(0.25 / n)
    still = router.forward(x[:5], p, cfg)[0][0]
    assert (still.idx == [0, 1]).all(), "without draws: the best"


def test_policies_of_the_second_choice() -> None:
    f = make(config(norm="l1", losses=()), 400)
    gate = f.forward()[0].routing.weight[:, 1]

    def kept(**setting: Any) -> np.ndarray:
        g = f._replace(cfg=config(norm="l1", losses=(), **setting), draws=setting.pop("draws", Draws()))
        return g.forward()[0].routing.kept[:, 1]

    assert not kept(second_policy="none").any()
    assert np.array_equal(kept(second_policy="threshold", second_threshold=0.3), gate > 0.3)
    p = np.exp(f.x @ f.p["router"]["weight"].T)
    raw = np.sort(p / p.sum(1, keepdims=True), axis=1)[:, -2]
    assert np.array_equal(kept(second_policy="threshold", second_threshold=0.2, second_gate="score"), raw > 0.2)
    assert 0.1 < (gate > 0.3).mean() < 0.9 and not np.array_equal(gate > 0.2, raw > 0.2)


def test_the_forms_of_jitter_and_the_gaussian_noise() -> None:
    rng = np.random.default_rng(0)
    drop = moe.draw(rng, config(jitter=0.25, jitter_form="dropout"), 4000).jitter
    assert set(np.unique(drop)) == {0.0, 1 / 0.75} and abs(drop.mean() - 1) < 0.03
    f = make(config(noise="gaussian", noise_std=3.0, losses=()), 4000, seed=2)
    r, still = f.forward()[0].routing, f.forward(draws=Draws())[0].routing
    assert bits(r.logits) == bits(still.logits), "the logits that are given back are the clean ones"
    assert not np.array_equal(r.idx, still.idx)
    d = moe.draw(rng, config(sample="all", capacity=moe.Capacity(order="random")), 5, np.float32)
    assert d.gumbel.shape == (5, 6) and d.places.shape == (5, 2) and d.noise is None
    assert d.gumbel.dtype == d.places.dtype == np.float32


# ---- what is told ----


def test_tables_and_given_choices() -> None:
    f = make(presets.hash_layer(3, 4, 6, 2, table_size=5), (2, 7))
    ids = np.random.default_rng(0).integers(0, 5, (2, 7))
    out, _ = f.forward(given=Given(token_ids=ids))
    assert np.array_equal(out.routing.idx, f.p["router"]["table"][ids.reshape(-1)])
    assert all(len(set(row)) == 2 for row in f.p["router"]["table"].tolist()), "distinct experts in a row"
    _, _, dp = f.both(given=Given(token_ids=ids))
    assert dp["router.weight"].any() and not dp["router.table"].any() and dp["router.table"].dtype == np.int64
    with pytest.raises(ConfigError, match=r"give Given\(token_ids=...\)"):
        f.forward(given=None)
    with pytest.raises(IndexRangeError, match="token_ids"):
        f.forward(given=Given(token_ids=ids + 5))
    with pytest.raises(ShapeError, match="token_ids must have shape"):
        f.forward(given=Given(token_ids=ids[0]))
    g = make(config(select="given", losses=()), 7)
    with pytest.raises(ConfigError, match=r"give Given\(idx=...\)"):
        g.forward()
    with pytest.raises(IndexRangeError, match=r"given.idx"):
        g.forward(given=Given(idx=np.full((7, 2), 6)))


def test_a_choice_named_twice_is_the_sum_of_its_two_weights() -> None:
    """Two slots of one expert: y and the gradients are those of one slot with twice the score's weight."""
    f = make(config(select="given", losses=()), 7)
    one = make(config(select="given", losses=(), k=1), 7)
    idx = np.random.default_rng(0).integers(0, 6, (7, 1))
    a = f.both(given=Given(idx=np.repeat(idx, 2, axis=1)), p=one.p, x=one.x)
    b = one.both(given=Given(idx=idx), dy=2 * f.dy)
    assert np.allclose(a[0].y, 2 * one.forward(given=Given(idx=idx))[0].y, rtol=1e-13)
    assert np.allclose(a[1], b[1], rtol=1e-12, atol=1e-13)
    for name in a[2]:
        assert np.allclose(a[2][name], b[2][name], rtol=1e-12, atol=1e-13), name


def test_parameters_are_read_only_and_logits_have_a_cotangent() -> None:
    f = make(config(norm="l1", losses=()), 7)
    out, cache = f.forward()
    dlogits = frozen(np.random.default_rng(0).standard_normal(out.routing.logits.shape))
    dx, dp = moe.backward(np.zeros_like(f.dy), cache, dlogits=dlogits)
    assert np.allclose(dp["router"]["weight"], dlogits.T @ f.x, rtol=1e-13, atol=1e-14)
    assert np.allclose(dx, dlogits @ f.p["router"]["weight"], rtol=1e-13, atol=1e-14)
