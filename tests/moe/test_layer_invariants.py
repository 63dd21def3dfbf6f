"""What must hold whatever the numbers: invariants F1-F16, G1-G13 of a sparse layer, with the exactness each can have.

``same`` is bitwise.  Where a matrix product of another shape decides the bits (BLAS), the bound is 64 roundings of the
tensor's maximum, derived from √(terms) ≤ 8 with a factor 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe import moe
from pymoe.backend import tree
from pymoe.kernels.activations import ACTIVATIONS
from pymoe.moe import Capacity

from .frames import ALL, U64, Frame, bits, config, frozen, make, relative

quick = settings(derandomize=True, deadline=None, max_examples=30)
SEEDS = st.integers(0, 1 << 20)
CLOSE = 64 * U64
PLAIN = {"losses": ()}


def same(a: Any, b: Any) -> bool:
    return bits(a) == bits(b)


def with_leaf(f: Frame, name: str, a: np.ndarray) -> Frame:
    return f._replace(p=tree.unflatten({**tree.flatten(f.p), name: frozen(a)}))


def whole(f: Frame, top: int = 3, seed: int = 1) -> Frame:
    """Integer-valued experts, tokens and cotangents; the router sends every token by exact weights of 1/2."""
    rng = np.random.default_rng(seed)

    def integers(a: np.ndarray) -> np.ndarray:
        return frozen(rng.integers(-top, top + 1, a.shape).astype(a.dtype))

    p = {n: a if n.startswith("router") else integers(a) for n, a in tree.flatten(f.p).items()}
    p["router.weight"] = frozen(np.zeros_like(p["router.weight"]))
    return f._replace(x=integers(f.x), p=tree.unflatten(p), dy=integers(f.dy))


# ---- forward ----


@quick
@given(SEEDS)
def test_f1_tokens_in_another_order(seed: int) -> None:
    """F1, R5, G7: rows follow, sums over tokens agree to rounding."""
    f = make(config(norm="l1", losses=ALL, bias=True, d_shared=9), seed=seed)
    order = np.random.default_rng(seed).permutation(7)
    out, dx, dp = f.both()
    moved, moved_dx, moved_dp = f.both(x=frozen(f.x[order]), dy=frozen(f.dy[order]))
    assert same(moved.routing.idx, out.routing.idx[order]) and same(moved.routing.load, out.routing.load)
    assert relative(moved.y, out.y[order]) <= CLOSE and relative(moved_dx, dx[order]) <= CLOSE
    for n in dp:
        assert relative(moved_dp[n], dp[n]) <= CLOSE, n
    for n in ALL:
        assert relative(moved.losses[n], out.losses[n]) <= CLOSE, n


@quick
@given(SEEDS)
def test_f2_experts_under_other_names(seed: int) -> None:
    """F2, R6, L4: relabelled experts give the same y, losses and dx; their gradients move with them."""
    settings_ = {"norm": "l1", "losses": ALL, "bias": True, "noise": "learned", "router_bias": True, "k": 3}
    f = make(config(**settings_), seed=seed)
    order = np.random.default_rng(seed).permutation(6)  # new expert e is old expert order[e]
    p = tree.map(lambda a: frozen(a[order]), f.p)
    draws = f.draws._replace(noise=frozen(f.draws.noise[:, order]))
    out, dx, dp = f.both()
    moved, moved_dx, moved_dp = f.both(p=p, draws=draws)
    assert same(order[moved.routing.idx], out.routing.idx) and same(moved.routing.load, out.routing.load[order])
    assert relative(moved.y, out.y) <= CLOSE and relative(moved_dx, dx) <= CLOSE
    for n in dp:
        assert relative(moved_dp[n], dp[n][order]) <= CLOSE, n
    for n in ALL:
        assert relative(moved.losses[n], out.losses[n]) <= CLOSE, n


@quick
@given(SEEDS, st.integers(1, 6))
def test_f3_g8_a_batch_in_two_pieces(seed: int, at: int) -> None:
    """Dropless without losses: y and dx row by row, parameter gradients add up."""
    f = make(config(norm="l1", bias=True, d_shared=9, **PLAIN), seed=seed)
    out, dx, dp = f.both()
    parts = [f.both(x=frozen(f.x[s]), dy=frozen(f.dy[s])) for s in (slice(0, at), slice(at, 7))]
    assert relative(np.concatenate([o.y for o, _, _ in parts]), out.y) <= CLOSE
    assert relative(np.concatenate([d for _, d, _ in parts]), dx) <= CLOSE
    for n in dp:
        assert relative(parts[0][2][n] + parts[1][2][n], dp[n]) <= CLOSE, n


def test_g8_the_balance_loss_is_not_additive() -> None:
    """Control of the above: two halves with opposite crowds are each unbalanced, together balanced."""
    f = make(config(n_experts=2, k=1, losses=("balance",)), 8)
    weight = np.array([[4.0, 0, 0], [-4.0, 0, 0]])
    x = np.zeros((8, 3))
    x[:, 0] = [1, 1, 1, 1, -1, -1, -1, -1]
    f = with_leaf(f._replace(x=frozen(x)), "router.weight", weight)
    together = float(f.forward()[0].losses["balance"])
    halves = [float(f.forward(x=frozen(h))[0].losses["balance"]) for h in (x[:4], x[4:])]
    assert together == pytest.approx(1.0, abs=1e-15) and min(halves) > 1.99


@quick
@given(SEEDS)
def test_f4_l4_every_token_twice(seed: int) -> None:
    f = make(config(norm="l1", **{"losses": ("balance", "z", "importance")}), seed=seed)
    out, _ = f.forward()
    twice, _ = f.forward(x=frozen(np.concatenate([f.x, f.x])))
    assert relative(twice.y[:7], out.y) <= CLOSE and relative(twice.y[7:], out.y) <= CLOSE
    assert np.array_equal(twice.routing.load, 2 * out.routing.load)
    for n in f.cfg.router.losses:
        assert relative(twice.losses[n], out.losses[n]) <= CLOSE, n


def dense(x: np.ndarray, p: dict[str, np.ndarray], e: int, act: str, gated: bool = True) -> np.ndarray:
    f, _ = ACTIVATIONS[act]
    up = "gate_up_proj" if gated else "up_proj"
    a = x @ p[up][e].T
    h = f(a[:, : a.shape[1] // 2]) * a[:, a.shape[1] // 2 :] if gated else f(a)
    return h @ p["down_proj"][e].T


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
@pytest.mark.parametrize("gated", [True, False])
def test_f5_one_expert_is_its_network(act: str, gated: bool) -> None:
    """E = 1: p = 1 exactly, y = FFN(x), the router gets exactly no gradient."""
    f = make(config(n_experts=1, k=1, activation=act, gated=gated, **PLAIN))
    out, _, dp = f.both()
    assert (out.routing.weight == 1.0).all()
    assert relative(out.y, dense(f.x, f.p["experts"], 0, act, gated)) <= CLOSE
    assert not dp["router.weight"].any()


@pytest.mark.parametrize("norm", ["none", "l1"])
def test_f6_all_experts_are_the_dense_mixture(norm: str) -> None:
    f = make(config(k=6, norm=norm, **PLAIN))
    z = f.x @ f.p["router"]["weight"].T
    s = np.exp(z - z.max(1, keepdims=True))
    s /= s.sum(1, keepdims=True)
    wanted = sum(s[:, e : e + 1] * dense(f.x, f.p["experts"], e, "silu") for e in range(6))
    assert relative(f.forward()[0].y, wanted) <= CLOSE


@quick
@given(SEEDS, st.sampled_from([("softmax", "l1", 3), ("sigmoid", "l1", 2), ("softmax", "none", 6)]))
def test_f7_g12_identical_experts_hide_the_router(seed: int, rule: tuple[str, str, int]) -> None:
    """Σ w = 1: y = FFN(x) whoever is chosen, the router's gradient cancels, Σ_e dW_e is the dense gradient."""
    score, norm, k = rule
    f = make(config(score=score, norm=norm, k=k, **PLAIN), seed=seed)
    tied = {n: frozen(np.repeat(a[:1], 6, axis=0)) for n, a in f.p["experts"].items()}
    f = f._replace(p={**f.p, "experts": tied})
    out, dx, dp = f.both()
    assert relative(out.y, dense(f.x, tied, 0, "silu")) <= CLOSE
    assert np.abs(dp["router.weight"]).max() <= CLOSE * np.abs(dp["experts.down_proj"]).max()
    one = config(n_experts=1, k=1, **PLAIN)
    single = {"router": {"weight": f.p["router"]["weight"][:1]}, "experts": {n: a[:1] for n, a in tied.items()}}
    _, one_dx, one_dp = f.both(cfg=one, p=single)
    assert relative(dx, one_dx) <= CLOSE
    for n in ("experts.gate_up_proj", "experts.down_proj"):
        assert relative(dp[n].sum(0), one_dp[n][0]) <= CLOSE, n


@quick
@given(SEEDS, st.integers(-8, 8))
def test_f8_scaling_by_a_power_of_two_is_exact(seed: int, m: int) -> None:
    """y is linear in W_d and in the up half of a GLU: 2^m comes out bitwise."""
    f = make(config(norm="l1", **PLAIN), seed=seed)
    y = f.forward()[0].y
    assert same(with_leaf(f, "experts.down_proj", f.p["experts"]["down_proj"] * 2.0**m).forward()[0].y, y * 2.0**m)
    up = f.p["experts"]["gate_up_proj"].copy()
    up[:, 4:] *= 2.0**m
    assert same(with_leaf(f, "experts.gate_up_proj", up).forward()[0].y, y * 2.0**m)


def test_f9_zero_tokens_give_zero() -> None:
    """x = 0, no biases: every logit ties, experts 0 and 1 are chosen, y is exactly 0."""
    f = make(config(norm="l1", d_shared=9, **PLAIN))
    out, _ = f.forward(x=frozen(np.zeros((7, 3))))
    assert not out.y.any() and (out.routing.idx == [0, 1]).all() and (out.routing.weight == 0.5).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_f10_weights_of_an_expert_nobody_chose_do_not_matter(poison: float) -> None:
    f = make(config(norm="l1", router_bias=True, bias=True, losses=ALL))
    f = with_leaf(f, "router.bias", np.array([0.0, 0, 0, -50.0, 0, 0]))
    out, dx, dp = f.both()
    assert out.routing.load[3] == 0
    p = tree.flatten(f.p)
    for n in [n for n in p if n.startswith("experts")]:
        sick = p[n].copy()
        sick[3] = poison
        p[n] = frozen(sick)
    sick_out, sick_dx, sick_dp = f.both(p=tree.unflatten(p))
    assert same(sick_out.y, out.y) and same(sick_dx, dx)
    for n, g in dp.items():
        assert same(sick_dp[n], g), n
        if n.startswith("experts"):
            assert not g[3].any(), n


@quick
@given(SEEDS)
def test_f15_the_shared_expert_is_added(seed: int) -> None:
    f = make(config(norm="l1", d_shared=9, bias=True, **PLAIN), seed=seed)
    routed, _ = f.forward(cfg=config(norm="l1", bias=True, **PLAIN), p={n: f.p[n] for n in ("router", "experts")})
    silent = tree.unflatten(
        {n: frozen(np.zeros_like(a)) if n.startswith("experts") else a for n, a in tree.flatten(f.p).items()}
    )
    common, _ = f.forward(p=silent)
    assert relative(f.forward()[0].y, routed.y + common.y) <= 2 * U64


def test_f16_hidden_units_in_another_order() -> None:
    """Z: exact on integers, where every partial sum is exact."""
    f = whole(make(config(norm="l1", gated=False, activation="relu", bias=True, **PLAIN)))
    order = np.random.default_rng(0).permutation(4)
    p = dict(f.p["experts"])
    p["up_proj"], p["up_proj_bias"] = p["up_proj"][:, order], p["up_proj_bias"][:, order]
    p["down_proj"] = p["down_proj"][:, :, order]
    out, dx, dp = f.both()
    moved, moved_dx, moved_dp = f.both(p={**f.p, "experts": p})
    assert np.abs(out.y).max() > 0 and np.array_equal(moved.y, out.y) and np.array_equal(moved_dx, dx)
    assert np.array_equal(moved_dp["experts.up_proj"], dp["experts.up_proj"][:, order])
    assert np.array_equal(moved_dp["experts.down_proj"], dp["experts.down_proj"][:, :, order])


# ---- backward ----

RULES: dict[str, dict[str, Any]] = {
    "softmax": {"norm": "l1"},
    "sigmoid": {"score": "sigmoid", "norm": "l1", "eps": 0.25, "scale": 2.5, "bias": True},
    "capacity": {"capacity": Capacity(factor=0.9, order="choice", renorm="after"), "norm": "l1"},
    "noise": {"noise": "learned", "jitter": 0.25, "norm": "l1"},
    "expert choice": {"select": "expert_choice"},
    "shared": {"d_shared": 9, "bias": True, "router_bias": True},
}


@pytest.mark.parametrize("rule", RULES)
def test_g1_homogeneous_in_the_cotangents(rule: str) -> None:
    """backward(0) = 0, backward(-G) = -backward(G), backward(2^m G) = 2^m backward(G), all bitwise, losses included."""
    f = make(config(losses=ALL, **RULES[rule]))
    _, dx, dp = f.both()
    for factor in (0.0, -1.0, 2.0**-7, 2.0**9):
        scaled = {n: factor * d for n, d in f.dlosses.items()}
        _, found_dx, found = f.both(dy=frozen(factor * f.dy), dlosses=scaled)
        assert np.array_equal(found_dx, factor * dx)
        for n, g in dp.items():
            assert np.array_equal(found[n], factor * g), n


@pytest.mark.parametrize("rule", RULES)
def test_g2_additive_in_the_cotangents(rule: str) -> None:
    f = make(config(losses=ALL, **RULES[rule]))
    other = frozen(np.random.default_rng(9).standard_normal(f.dy.shape))
    parts = [f.both(dlosses={}), f.both(dy=other)]
    _, dx, dp = f.both(dy=frozen(f.dy + other))
    assert relative(parts[0][1] + parts[1][1], dx) <= CLOSE
    for n, g in dp.items():
        assert relative(parts[0][2][n] + parts[1][2][n], g) <= CLOSE, n


@quick
@given(SEEDS)
def test_g3_euler(seed: int) -> None:
    """⟨W_d, dW_d⟩ = ⟨W_up, dW_up⟩ = ⟨y, G⟩, and ⟨w, dw⟩ = ⟨y, G⟩ for weights that are not renormalised."""
    f = make(config(losses=(), scale=1.5, score="sigmoid"), seed=seed)
    out, cache = f.forward()
    _, dp = moe.backward(f.dy, cache)
    work = float(np.sum(out.y * f.dy))
    size = float(np.sum(np.abs(out.y * f.dy)))
    down, up = f.p["experts"]["down_proj"], f.p["experts"]["gate_up_proj"][:, 4:]
    assert abs(np.sum(down * dp["experts"]["down_proj"]) - work) <= CLOSE * size
    assert abs(np.sum(up * dp["experts"]["gate_up_proj"][:, 4:]) - work) <= CLOSE * size
    from pymoe.moe import experts

    dw = experts.backward(f.dy, cache.experts)[1]["g"]
    assert abs(np.sum(out.routing.weight * dw) - work) <= CLOSE * size


@quick
@given(SEEDS, st.sampled_from(["none", "l1"]))
def test_g4_g5_the_routers_trace_and_shift(seed: int, norm: str) -> None:
    """⟨W_r, dW_r⟩ = ⟨x, dx of the router⟩; with softmax scores Σ_e db_e = 0 without z-loss, 2 Σ lse dL / T with it."""
    from pymoe.moe import router

    f = make(config(norm=norm, router_bias=True, losses=("balance", "z")), seed=seed)
    (routing, losses), cache = router.forward(f.x, f.p["router"], f.cfg.router)
    dg = np.random.default_rng(seed).standard_normal(routing.weight.shape)
    dx, dp = router.backward(dg, {"balance": 0.7, "z": 0.3}, cache)
    trace = np.sum(f.p["router"]["weight"] * dp["weight"])
    assert abs(trace - np.sum(f.x * dx)) <= CLOSE * np.sum(np.abs(f.x * dx))
    z = f.x @ f.p["router"]["weight"].T + f.p["router"]["bias"]
    lse = np.log(np.exp(z).sum(1))
    wanted = 2 * 0.3 / 7 * lse.sum()
    assert abs(dp["bias"].sum() - wanted) <= CLOSE * np.abs(dp["bias"]).sum()
    _, dp = router.backward(dg, {"balance": 0.7}, cache)
    assert abs(dp["bias"].sum()) <= CLOSE * np.abs(dp["bias"]).max()


@quick
@given(SEEDS)
def test_g6_renormalised_softmax_moves_only_the_chosen(seed: int) -> None:
    """dz of experts not chosen is 0 to rounding (ε = 0), and leaks at order ε when ε > 0: ε is part of the formula."""
    f = make(config(norm="l1", router_bias=True, **PLAIN), 1, seed=seed)
    out, _, dp = f.both()
    others = np.setdiff1d(np.arange(6), out.routing.idx[0])
    top = np.abs(dp["router.bias"]).max()
    assert np.abs(dp["router.bias"][others]).max() <= CLOSE * max(top, 1e-3)
    _, _, leaking = f.both(cfg=config(norm="l1", eps=0.25, router_bias=True, **PLAIN))
    assert np.abs(leaking["router.bias"][others]).max() > 1e-6


@quick
@given(SEEDS)
def test_g9_an_experts_gradient_is_that_of_its_tokens(seed: int) -> None:
    """Changing tokens that did not choose e moves no bit of dW_e: its rows are the same rows in the same product."""
    f = make(config(norm="l1", k=1, bias=True, **PLAIN), seed=seed)
    out, _, dp = f.both()
    e = int(np.argmax(out.routing.load))
    mine = out.routing.idx[:, 0] == e
    dy = f.dy.copy()
    dy[~mine] = np.random.default_rng(seed).standard_normal(dy[~mine].shape)
    _, _, found = f.both(dy=frozen(dy))
    for n in dp:
        if n.startswith("experts"):
            assert same(found[n][e], dp[n][e]), n


@pytest.mark.parametrize("renorm", ["before", "after"])
@pytest.mark.parametrize("order", ["token", "choice", "score", "probability"])
def test_d9_g10_a_dropped_choice_contributes_exactly_nothing(order: str, renorm: str) -> None:
    """The expert of a dropped pair may compute anything: swap its weights for NaN when all its pairs are dropped."""
    f = make(config(norm="l1", capacity=Capacity(factor=0.0, order=order, renorm=renorm), bias=True, **PLAIN))
    out, dx, dp = f.both()
    assert not out.routing.kept.any() and not out.routing.weight.any()
    assert not out.y.any() and not dx.any() and not any(g.any() for g in dp.values())
    one = f._replace(cfg=config(norm="l1", capacity=Capacity(0.0, 1, order=order, renorm=renorm), bias=True, **PLAIN))
    out, dx, dp = one.both()
    dead = ~out.routing.kept.any(1)
    assert dead.any() and not out.y[dead].any() and not dx[dead].any()
    dy = one.dy.copy()
    dy[dead] = 7.0
    _, _, other = one.both(dy=frozen(dy))
    for n in dp:
        assert np.array_equal(other[n], dp[n]), n


def test_d7_enough_places_are_dropless() -> None:
    f = make(config(norm="l1", losses=ALL, bias=True))
    wanted = f.both()
    for order in ("token", "choice", "score", "probability"):
        for renorm in ("before", "after"):
            capacity = Capacity(factor=100.0, order=order, renorm=renorm)
            out, dx, dp = f.both(cfg=config(norm="l1", losses=ALL, bias=True, capacity=capacity))
            assert out.routing.kept.all() and same(out.y, wanted[0].y) and same(dx, wanted[1])
            for n, g in dp.items():
                assert same(g, wanted[2][n]), n


def test_l8_a_coefficient_of_zero_is_no_loss_at_all() -> None:
    f = make(config(norm="l1", noise="learned", losses=ALL, router_bias=True))
    without = f.both(dlosses={})
    for coefficients in (dict.fromkeys(ALL, 0.0), {"z": 0.0}):
        _, dx, dp = f.both(dlosses=coefficients)
        assert np.array_equal(dx, without[1])
        for n, g in dp.items():
            assert np.array_equal(g, without[2][n]), n
    plain = f._replace(cfg=config(norm="l1", noise="learned", losses=(), router_bias=True), dlosses={}).both()
    assert same(plain[0].y, without[0].y) and same(plain[1], without[1])
