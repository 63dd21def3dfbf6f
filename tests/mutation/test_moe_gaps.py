"""Inputs that mutation testing found to be missing in the tests of the layer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pymoe import moe, verify
from pymoe.backend.errors import PymoeError
from pymoe.moe import Capacity, RouterConfig, capacity, nulls, parameters, router
from pymoe.moe.attention_experts import switch_head
from pymoe.moe.losses import balance, cv_squared, importance, l1, load

from ..moe.frames import config, make

RNG = np.random.default_rng
MASK = np.array([True, False, True, True, False, True, True])


@pytest.mark.parametrize("capacity", [None, Capacity(factor=1.0)])
def test_padding_is_not_routed_where_the_second_choice_is_drawn(capacity: Capacity | None) -> None:
    f = make(config(norm="l1", second_threshold=0.7, capacity=capacity), mask=MASK)
    out, _ = f.forward()
    assert out.routing.kept is not None
    assert not out.routing.kept[~MASK].any() and not out.y[~MASK].any()
    survives = f.draws.second < out_second(f) / 0.7
    assert 0 < survives.sum() < len(survives), "the draw decides something here"
    if capacity is None:
        assert np.array_equal(out.routing.kept, MASK[:, None] & np.stack([np.ones(7, bool), survives], axis=1))


def out_second(f: Any, eps: float = 0.0) -> np.ndarray:
    """The renormalised weight of each second choice, from the logits."""
    z = f.x @ f.p["router"]["weight"].T
    p = np.exp(z - z.max(1, keepdims=True))
    p = np.sort(p / p.sum(1, keepdims=True), axis=1)[:, ::-1]
    return np.asarray(p[:, 1] / (p[:, 0] + p[:, 1] + eps))


def test_the_epsilon_of_the_normaliser_takes_part_in_the_draw() -> None:
    f = make(config(norm="l1", eps=3.0, second_threshold=0.2))
    with_eps, without = (out_second(f, eps) / 0.2 for eps in (3.0, 0.0))
    draw = np.clip((with_eps + without) / 2, 0, 0.999)
    assert np.all(with_eps < draw) and np.any(draw < without)
    out, _ = f.forward(draws=f.draws._replace(second=draw))
    assert not out.routing.kept[:, 1].any()


def test_the_load_without_noise_has_its_epsilon() -> None:
    f = make(config(losses=("load",), cv_eps=5.0, cv_ddof=1))
    out, _ = f.forward()
    count = np.bincount(out.routing.idx.reshape(-1), minlength=6).astype(float)
    assert np.isclose(out.losses["load"], count.var(ddof=1) / (count.mean() ** 2 + 5.0), rtol=1e-14, atol=0)


def test_a_rule_that_keeps_everything_still_routes_no_padding() -> None:
    def select(c: np.ndarray, cfg: Any, mask: Any) -> Any:
        return np.argsort(-c, axis=1, kind="stable")[:, :2], np.ones((len(c), 2), bool)

    f = make(config(select=SimpleNamespace(select=select, __name__="everything")), mask=MASK)
    out, _ = f.forward()
    assert np.array_equal(out.routing.kept, np.stack([MASK, MASK], axis=1))
    assert not out.y[~MASK].any()


def test_a_token_without_any_score_counts_for_nothing_also_under_a_mask() -> None:
    s, fractions = np.array([[0.0, 0.0], [0.5, 0.25]]), np.array([0.5, 0.5])
    for mask in (None, np.ones(2, bool)):
        loss, cache = balance.forward(s, fractions, mask)
        assert np.isclose(loss, 0.5, rtol=1e-14, atol=0)  # 2 Σ f q / 2 tokens with q = 0 for the first
        ds, _ = balance.backward(np.array(1.0), cache)
        assert np.all(np.isfinite(ds)) and not ds[0].any()


def test_the_balance_of_many_tokens_is_summed_in_double_precision() -> None:
    s = RNG(0).random((100_000, 3)).astype(np.float32)
    f = np.array([0.7, 0.2, 0.1])
    assert abs(balance.forward(s, f)[0] / balance.forward(s.astype(np.float64), f)[0] - 1) < 1e-8


def test_the_variances_are_the_papers_by_default() -> None:
    i = np.array([1.0, 4.0, 2.5])
    want = i.var() / i.mean() ** 2
    assert np.isclose(cv_squared.forward(i)[0], want, rtol=1e-14, atol=0)
    idx = np.array([[0], [1], [2]])
    assert np.isclose(importance.forward(i[:, None], idx, 3)[0], want, rtol=1e-14, atol=0)
    z = RNG(1).standard_normal((5, 4))
    sigma = np.ones((5, 4))
    plain, explicit = load.forward(z, z, sigma, 2)[0], load.forward(z, z, sigma, 2, ddof=0, eps=0.0)[0]
    assert plain == explicit


def test_the_importance_gives_a_dropped_choice_no_gradient() -> None:
    g, idx = np.array([[0.5, 0.25], [1.0, 0.5]]), np.array([[0, 1], [2, 0]])
    kept = np.array([[True, False], [True, True]])
    _, cache = importance.forward(np.where(kept, g, 0.0), idx, 3, kept)
    dg, _ = importance.backward(np.array(1.0), cache)
    assert dg[0, 1] == 0.0 and np.all(dg[kept] != 0.0)


def test_the_padding_of_a_router_with_a_drawn_second_choice_has_no_gradient() -> None:
    f = make(config(norm="l1", second_threshold=0.7), mask=MASK)
    assert verify.gradcheck(moe, f.x, f.p, f.cfg, mask=f.mask, draws=f.draws).error < 1e-13
    _, dx, _ = f.both()
    assert not dx[~MASK].any()


def test_a_complex_cotangent_keeps_its_imaginary_part() -> None:
    """backward is linear, so its complex step is backward itself: what a second derivative would go through."""
    f = make(config(norm="l1", bias=True, d_shared=5))
    _, cache = f.forward()
    v = RNG(3).standard_normal(f.dy.shape)
    dx, _ = moe.backward(f.dy + 1e-200j * v, cache)
    assert np.allclose(np.imag(dx) / 1e-200, moe.backward(v, cache)[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name, shape", [("noise", (7, 6)), ("jitter", (7, 3)), ("second", (7,))])
def test_a_draw_that_the_settings_do_not_ask_for_is_refused(name: str, shape: tuple[int, ...]) -> None:
    f = make(config(norm="l1"))
    with pytest.raises(PymoeError, match=name):
        f.forward(draws=moe.Draws(**{name: np.full(shape, 0.5)}))


def test_a_draw_equal_to_the_probability_is_a_rejection() -> None:
    """Both experts have weight 1/2, so the second choice is kept with probability 1/2: u < 1/2."""
    f = make(config(norm="l1", n_experts=2, second_threshold=1.0))
    u = np.array([0.5, np.nextafter(0.5, 0), 0.0, 0.75, 0.5, 0.25, 0.999])
    out, _ = f.forward(x=np.zeros_like(f.x), draws=moe.Draws(second=u))
    assert np.array_equal(out.routing.kept[:, 1], u < 0.5)


def mixture(f: Any) -> np.ndarray:
    z = f.x @ f.p["router"]["weight"].T
    p = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))


def test_the_balance_of_expert_choice_counts_what_the_experts_took() -> None:
    f = make(config(select="expert_choice", losses=("balance",)))
    out, _ = f.forward()
    load_ = out.routing.load
    for e in range(6):
        assert load_[e] == np.sum((out.routing.idx == e) & out.routing.kept)
    f64 = load_ / load_.sum()
    assert np.isclose(out.losses["balance"], 6 * np.sum(f64 * mixture(f).mean(0)), rtol=1e-13, atol=0)


def test_the_first_choices_of_limited_groups_are_those_of_the_chosen_groups() -> None:
    settings = {"select": "group_limited", "n_group": 3, "topk_group": 1, "group_score": "top2"}
    differs = False
    for seed in range(20):
        f = make(config(**settings, losses=("balance",), balance_choices="first"), seed=seed)
        out, _ = f.forward()
        first = np.bincount(out.routing.idx[:, 0], minlength=6) / 7
        assert np.isclose(out.losses["balance"], 6 * np.sum(first * mixture(f).mean(0)), rtol=1e-13, atol=0)
        differs |= bool(np.any(out.routing.idx[:, 0] != np.argmax(mixture(f), axis=1)))
    assert differs, "in some sample the best expert is not in the best group"


def test_padding_has_no_weight_in_what_attention_experts_show() -> None:
    cfg = switch_head.Config(d_model=5, n_heads=2, d_head=4, n_experts=3, k=2)
    x, mask = RNG(0).standard_normal((1, 7, 5)), MASK[None]
    out, _ = switch_head.forward(x, switch_head.init(RNG(1), cfg), cfg, mask)
    for side in cfg.sides:
        shown = out.routing[side].weight
        assert not shown[~MASK].any() and shown[MASK].all()


def test_a_loss_of_sequences_needs_as_many_tokens_in_each() -> None:
    with pytest.raises(PymoeError, match="f must have shape"):
        balance.forward(np.ones((3, 4)), np.ones((2, 4)))


def test_draws_are_of_mean_1_and_in_their_range() -> None:
    """U(1 - j, 1 + j); and dropout: 0 with probability j, else 1 / (1 - j)."""
    uniform = moe.draw(RNG(0), config(jitter=0.25), 2000).jitter
    assert uniform is not None and 0.75 <= uniform.min() < 0.76 and 1.24 < uniform.max() <= 1.25
    dropout = moe.draw(RNG(0), config(jitter=0.25, jitter_form="dropout"), 2000).jitter
    assert dropout is not None and set(np.unique(dropout)) == {0.0, 1 / 0.75}
    assert abs(np.mean(dropout == 0) - 0.25) < 0.02


def test_the_l1_loss_of_one_token() -> None:
    """f = E / (k T) = 2 for both experts, L = Σ f s / (T E)."""
    loss, cache = l1.forward(np.array([[1.0, 2.0]]), 1)
    assert float(loss) == 3.0
    assert l1.backward(np.ones(()), cache)[0].tolist() == [[1.0, 1.0]]
    assert float(l1.forward(np.array([[1.0, 2.0], [7.0, 7.0]]), 1, np.array([True, False]))[0]) == 3.0


def test_a_choice_without_matrices_stands_at_id_0() -> None:
    cfg = config(null_experts=("zero", "copy")).router
    idx, kept = nulls.experts_only(np.array([[1, 6], [7, 5]]), np.array([[True, True], [True, False]]), cfg)
    assert idx.tolist() == [[1, 0], [0, 5]] and kept.tolist() == [[True, False], [False, False]]


def test_the_biases_of_a_latent_space_are_parameters() -> None:
    without, found = (parameters.shapes(config(d_latent=5, latent_bias=bias)) for bias in (False, True))
    assert {n: s for n, s in found.items() if n not in without} == {
        "latent.pre_proj_bias": (5,),
        "latent.post_proj_bias": (3,),
    }


def test_logits_that_are_shown_send_their_cotangent_to_real_tokens_only() -> None:
    f = make(config(losses=()), mask=True)
    _, cache = f.forward()
    dlogits = RNG(3).standard_normal((len(f.x), f.cfg.n_experts))
    without, (dx, _) = moe.backward(f.dy, cache)[0], moe.backward(f.dy, cache, dlogits=dlogits)
    wanted = np.where(f.mask[:, None], without + dlogits @ f.p["router"]["weight"], 0.0)
    assert np.allclose(dx, wanted, rtol=1e-13, atol=1e-15) and without[f.mask].any()


def test_places_are_rounded_to_the_nearest() -> None:
    found = [capacity.places(Capacity(1.0, rounding=r), tokens=11, experts=4, k=1) for r in ("floor", "round", "ceil")]
    assert found == [2, 3, 3]
    assert capacity.places(Capacity(1.0, rounding="round"), tokens=9, experts=4, k=1) == 2


def test_attention_experts_are_causal_and_name_their_sides_in_one_order() -> None:
    cfg = switch_head.Config(5, 2, 4, 3, 2, experts_on=("o", "k"))
    assert cfg.causal and cfg == switch_head.Config(5, 2, 4, 3, 2, experts_on=("k", "o"))


def test_the_first_values_of_a_router() -> None:
    p = moe.init(RNG(0), config(d_model=400, expert_scale=True, router_bias=True, input_norm="rms"))["router"]
    assert 0.95 < np.std(p["weight"]) * 20 < 1.05
    assert (p["expert_scale"] == 1).all() and (p["input_scale"] == 1).all() and not p["bias"].any()


def test_shared_weights_that_nobody_used_have_no_gradient() -> None:
    cfg = RouterConfig(4, 2, score="sigmoid", norm="joint", n_shared_logits=2, losses=())
    rng = RNG(0)
    (routing, _), cache = router.forward(rng.standard_normal((5, 3)), {"weight": rng.standard_normal((6, 3))}, cfg)
    dg = rng.standard_normal(routing.weight.shape)
    alone, wanted = router.backward(dg, {}, cache), router.backward(dg, {}, cache, dshared=np.zeros((5, 2)))
    assert np.array_equal(alone[0], wanted[0]) and np.array_equal(alone[1]["weight"], wanted[1]["weight"])
