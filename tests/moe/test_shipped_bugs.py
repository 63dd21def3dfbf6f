"""Wrong mathematics that shipped in other libraries, each as the case that would have caught it.

A docstring names the thread or commit; the classes are those of the project's list: R routing value, G gradient,
L loss, D dispatch, P padding, B bias update, N numerics, I indices, S scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import moe, presets
from pymoe.moe import Capacity

from .frames import ALL, U64, Frame, bits, config, everything, frozen, make, relative


def router_of(f: Frame, **leaves: Any) -> Frame:
    return f._replace(p={**f.p, "router": {**f.p["router"], **{n: frozen(a) for n, a in leaves.items()}}})


def to_one_expert(f: Frame, e: int = 2) -> Frame:
    """Every token's first choice is e."""
    x, weight = f.x.copy(), f.p["router"]["weight"].copy()
    x[..., 0] = 4.0
    weight[:, 0] = -2.0
    weight[e, 0] = 2.0
    return router_of(f._replace(x=frozen(x)), weight=weight)


def test_l_layers_that_collapse_on_different_experts_are_each_unbalanced() -> None:
    """HF transformers #28255, #31464: pooled over layers, four layers collapsed on four experts read as balanced."""
    losses = [
        float(to_one_expert(make(config(k=1, losses=("balance",))), e).forward()[0].losses["balance"]) for e in range(4)
    ]
    assert min(losses) > 5.9


def test_l_the_balance_loss_is_of_one_softmax() -> None:
    """HF #45120: softmax applied twice to the router's output in ten models; here the closed form on the logits."""
    f = make(config(losses=("balance",)))
    out, _ = f.forward()
    z = f.x @ f.p["router"]["weight"].T
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    counts = np.bincount(out.routing.idx.reshape(-1), minlength=6)
    assert float(out.losses["balance"]) == pytest.approx(6 * np.sum(counts / 14 * p.mean(0)), rel=1e-14)
    twice = np.exp(p) / np.exp(p).sum(1, keepdims=True)
    assert abs(6 * np.sum(counts / 14 * twice.mean(0)) - float(out.losses["balance"])) > 1e-3


@pytest.mark.parametrize("loss", ["balance", "z"])
def test_g_the_losses_reach_the_router(loss: str) -> None:
    """HF #44242, NeMo Automodel #1408: the auxiliary gradient never arrived."""
    f = make(config(norm="l1", k=1))  # from the output alone the router gets exactly nothing
    _, _, dp = f.both(dlosses={})
    assert not dp["router.weight"].any()
    _, dx, dp = f.both(dlosses={loss: 0.01}, dy=frozen(np.zeros((7, 3))))
    assert dp["router.weight"].any() and dx.any() and not dp["experts.down_proj"].any()


@pytest.mark.parametrize("where", ["middle", "left", "right", "row"])
@pytest.mark.parametrize("rule", ["softmax", "sigmoid", "noise", "token", "choice", "score", "probability", "experts"])
def test_p_padding_counts_nowhere(where: str, rule: str) -> None:
    """HF #28505, Megatron #1984, #6114: f, P, lse, counts, capacity queue: as if the padding were not there."""
    rules: dict[str, dict[str, Any]] = {
        "softmax": {"norm": "l1", "d_shared": 5, "bias": True},
        "sigmoid": {"score": "sigmoid", "norm": "l1", "selection_bias": True},
        "noise": {"noise": "learned", "jitter": 0.25},
        "experts": {"select": "expert_choice"},
    }
    settings = rules.get(rule) or {"norm": "l1", "capacity": Capacity(factor=0.9, order=rule)}
    mask = np.ones((3, 5), bool)
    for row in range(3):
        mask[row, {"middle": slice(1, 3), "left": slice(0, 2), "right": slice(3, 5), "row": slice(0, 0)}[where]] = False
    if where == "row":
        mask[1] = False
    f = make(config(losses=ALL, **settings), (3, 5), mask=mask)
    pick = mask.reshape(-1)
    draws = f.draws._replace(**{n: frozen(a[pick]) for n, a in f.draws._asdict().items() if a is not None})
    alone = f._replace(x=frozen(f.x[mask]), dy=frozen(f.dy[mask]), mask=None, draws=draws)
    padded, want = everything(f), everything(alone)
    for n in ("idx", "weight", "kept"):
        if n in want:
            assert relative(padded[n][pick], want[n]) <= 64 * U64, n
    for n in want:
        if n in ("y", "dx"):
            assert relative(padded[n][mask], want[n]) <= 64 * U64 and not padded[n][~mask].any()
        elif n not in ("idx", "weight", "kept"):
            assert relative(padded[n], want[n]) <= 64 * U64, n


def test_d_a_dropped_token_gets_zero_not_itself() -> None:
    """HF Switch #37017: a dropped token came back as p·x."""
    cfg = presets.switch(d_model=3, d_ff=4, n_experts=6, capacity=Capacity(factor=0.0, minimum=1))
    f = to_one_expert(make(cfg, 5))
    out, cache = f.forward()
    assert out.routing.kept[:, 0].tolist() == [True] + [False] * 4 and out.routing.load[2] == 5
    assert out.y[0].any() and not out.y[1:].any()


def test_r_routing_is_not_transposed() -> None:
    """HF #33463, DeepSpeed #2110: E ≠ T and an asymmetric routing."""
    f = make(config(), 4)
    z = f.x @ f.p["router"]["weight"].T
    assert np.array_equal(f.forward()[0].routing.idx, np.argsort(-z, axis=1, kind="stable")[:, :2])


def test_d_capacity_is_not_a_no_op() -> None:
    """HF Switch #48293: from v5.0 the capacity did nothing.  Two places, five tokens on one expert."""
    cfg = presets.switch(d_model=3, d_ff=4, n_experts=6, capacity=Capacity(factor=0.0, minimum=2))
    out, _ = to_one_expert(make(cfg, 5)).forward()
    assert out.routing.kept.sum() == 2 and np.count_nonzero(out.y.any(1)) == 2


def test_r_jitter_stays_in_the_router() -> None:
    """HF #33969: the experts saw the jittered input too.  With k = E = 1 the router decides nothing: y is untouched."""
    f = make(config(n_experts=1, k=1, jitter=0.25, d_shared=5))
    assert bits(f.forward()[0].y) == bits(
        make(config(n_experts=1, k=1, d_shared=5))._replace(p=f.p, x=f.x).forward()[0].y
    )
    many = make(config(k=6, jitter=0.25, losses=("z",)))
    jittered, plain = many.forward()[0], many.forward(draws=moe.Draws())[0]
    assert float(jittered.losses["z"]) != float(plain.losses["z"])


def test_r_groups_are_masked_with_minus_infinity() -> None:
    """HF #45441, FlashInfer #4639, vLLM #13474: masked with 0, wrong as soon as a kept score plus bias is negative."""
    cfg = presets.deepseek_v3(d_model=6, d_ff=4, n_experts=6, k=2, n_group=2, topk_group=1)
    f = make(cfg, 50)
    bias = np.full(6, -3.0) + 0.01 * np.arange(6)
    f = router_of(f, selection_bias=bias)
    idx = f.forward()[0].routing.idx
    preference = 1 / (1 + np.exp(-(f.x @ f.p["router"]["weight"].T))) + bias
    for t, c in enumerate(preference.tolist()):
        group = max((0, 3), key=lambda g: sum(sorted(c[g : g + 3])[1:]))  # noqa: B023
        assert idx[t].tolist() == sorted(range(group, group + 3), key=lambda e: -c[e])[:2]  # noqa: B023


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_g_an_expert_without_tokens_gets_exactly_zero(score: str) -> None:
    """Megatron eef48ef31c, pytorch #172439, tokamax #887: empty groups gave NaN, garbage or no gradient."""
    f = to_one_expert(make(config(k=1, score=score, bias=True, losses=())))
    _, _, dp = f.both()
    for n, g in dp.items():
        if n.startswith("experts"):
            assert g[2].any() and not g[[0, 1, 3, 4, 5]].any() and np.isfinite(g).all(), n


def test_s_the_balance_loss_of_a_uniform_router_is_one_for_every_k() -> None:
    """Megatron 5c8eb08f66: divided by the wrong k."""
    for k in (1, 2, 4, 6):
        f = router_of(make(config(k=k)), weight=np.zeros((6, 3)))
        assert float(f.forward()[0].losses["balance"]) == pytest.approx(1.0, abs=8 * U64)


def test_l_sigmoid_routing_balances_sigmoid_scores() -> None:
    """Megatron #1438, e85385a761: the loss used softmax scores while sigmoid routed."""
    f = make(config(score="sigmoid", norm="l1", losses=("balance",)))
    out, _ = f.forward()
    s = 1 / (1 + np.exp(-(f.x @ f.p["router"]["weight"].T)))
    q = s / s.sum(1, keepdims=True)
    counts = np.bincount(out.routing.idx.reshape(-1), minlength=6)
    assert float(out.losses["balance"]) == pytest.approx(6 * np.sum(counts / 14 * q.mean(0)), rel=1e-14)


def test_r_the_selection_bias_is_not_in_the_weights() -> None:
    """Megatron eec34ff3ae, vLLM #12002: a bias of 1e3 decides who is chosen, and nothing else."""
    f = make(config(score="sigmoid", norm="l1", scale=2.5, selection_bias=True, losses=()))
    f = router_of(f, selection_bias=np.where(np.arange(6) % 3 == 1, 1e3, -1e3))
    out, _, dp = f.both()
    assert (np.sort(out.routing.idx, 1) == [1, 4]).all()
    s = 1 / (1 + np.exp(-(f.x @ f.p["router"]["weight"].T)))
    v = np.take_along_axis(s, out.routing.idx, 1)
    assert relative(out.routing.weight, 2.5 * v / v.sum(1, keepdims=True)) <= 8 * U64
    assert not dp["router.selection_bias"].any() and dp["router.weight"][[1, 4]].any()


def test_n_scores_are_not_recovered_by_subtracting_the_bias() -> None:
    """FlashInfer #3875: with b = 64 and s ≈ 1e-4, (s + b) - b keeps four digits of twelve."""
    f = make(config(score="sigmoid", selection_bias=True, router_bias=True, losses=()))
    f = router_of(f, selection_bias=np.full(6, 64.0), bias=np.full(6, -9.0))
    out, _ = f.forward()
    s = 1 / (1 + np.exp(-(f.x @ f.p["router"]["weight"].T - 9.0)))
    assert relative(out.routing.weight, np.take_along_axis(s, out.routing.idx, 1)) <= 8 * U64


def test_l_the_balance_loss_counts_what_the_scores_choose_not_the_bias() -> None:
    """Megatron cfe7b066c0: the map of the loss was built from the biased routing."""
    f = make(config(score="sigmoid", norm="l1", selection_bias=True, losses=("balance",)), 40)
    zero, huge = router_of(f, selection_bias=np.zeros(6)), router_of(f, selection_bias=np.array([0, 0, 0, 0, 9.0, 9.0]))
    a, b = zero.forward()[0], huge.forward()[0]
    assert not np.array_equal(a.routing.load, b.routing.load)
    assert bits(a.losses["balance"]) == bits(b.losses["balance"])


def test_d_capacity_beyond_the_number_of_tokens() -> None:
    """Megatron ecb948e583: a capacity factor larger than T crashed or misrouted."""
    for tokens in (1, 2, 3):
        f = make(config(norm="l1", capacity=Capacity(factor=50.0, minimum=9, order="probability")), tokens)
        assert f.forward()[0].routing.kept.all()


def test_g_k1_renormalised_teaches_the_router_nothing() -> None:
    """minimind #859, Megatron 5153efea0b: 7e-10 of rounding was taken for a gradient.  Here it is exactly 0."""
    _, _, dp = make(config(k=1, norm="l1", losses=())).both()
    assert not dp["router.weight"].any()
    _, _, dp = make(config(k=1, losses=())).both()
    assert dp["router.weight"].any()


def test_d_all_logits_negative_drop_nobody_by_sign() -> None:
    """DeepSpeed #7986: the drop mask came from the logits, so tokens of negative logits vanished."""
    f = make(config(router_bias=True, norm="l1", capacity=Capacity(factor=50.0, order="probability"), losses=()))
    f = router_of(f, bias=np.full(6, -30.0))
    out, _ = f.forward()
    assert out.routing.kept.all() and out.y.any(1).all()


def test_n_every_chosen_score_underflows() -> None:
    """FlashInfer #3803, SGLang #34459, vllm-ascend #9676: 0/0 at z = -800; also in float32 at z = -200."""
    for dtype, z in ((np.float64, -800.0), (np.float32, -200.0)):
        f = make(config(score="sigmoid", norm="l1", router_bias=True, losses=ALL))
        f = router_of(f, bias=np.full(6, z)).astype(dtype)
        found = everything(f)
        assert all(np.isfinite(a).all() for a in found.values())
        assert not found["weight"].any() and not found["y"].any()


def test_s_the_scale_is_applied_once() -> None:
    """vLLM #45037 twice (Kimi-K2.5: GSM8K 25 %), SGLang #8511 not at all: scale 2.827, never tested at 1.0 only."""
    one, scaled = make(config(norm="l1")), make(config(norm="l1", scale=2.827))
    a, b = one.forward()[0], scaled.forward()[0]
    assert relative(b.y, 2.827 * a.y) <= 16 * U64 and relative(b.routing.weight.sum(1), np.full(7, 2.827)) <= 4 * U64
    shared = make(config(norm="l1", scale=2.827, d_shared=5))
    lone = make(config(norm="l1", scale=0.0, d_shared=5))._replace(p=shared.p)
    routed = {n: shared.p[n] for n in ("router", "experts")}
    part = shared._replace(cfg=config(norm="l1", scale=2.827), p=routed).forward()[0].y
    assert relative(shared.forward()[0].y, part + lone.forward()[0].y) <= 4 * U64, "the shared expert is not scaled"


def test_s_weights_without_renormalisation_are_scores_not_logits() -> None:
    """SGLang #35160: renormalize=False returned raw logits.  torchtitan #1448: renormalised where it should not."""
    f = make(config(norm="none"))
    z = f.x @ f.p["router"]["weight"].T
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    out, _ = f.forward()
    assert relative(out.routing.weight, np.take_along_axis(p, out.routing.idx, 1)) <= 16 * U64


def test_i_more_than_ten_and_more_than_255_experts() -> None:
    """torchtitan #1918: expert_10 sorted before expert_2.  OpenVINO #35691: ids cut to eight bits."""
    for experts in (11, 300):
        f = make(config(n_experts=experts, k=1, losses=()), 40)
        weight = f.p["router"]["weight"]
        out, _ = f.forward(x=frozen(3.0 * weight[-40:] if experts == 300 else 3.0 * weight[np.arange(40) % 11]))
        for t, e in enumerate(out.routing.idx[:, 0]):
            x = 3.0 * (weight[-40:][t] if experts == 300 else weight[t % 11])
            a = f.p["experts"]["gate_up_proj"][e] @ x
            y = f.p["experts"]["down_proj"][e] @ (a[:4] / (1 + np.exp(-a[:4])) * a[4:])
            assert relative(out.y[t], out.routing.weight[t, 0] * y) <= 64 * U64
        assert out.routing.idx.max() > (10 if experts == 300 else 8)


@pytest.mark.parametrize("size", [(4, 4), (8, 4), (6, 3)])
def test_i_square_weights_are_not_transposed(size: tuple[int, int]) -> None:
    """unsloth-zoo #849: with F = D or 2F = D a transposed weight has the right shape."""
    d, hidden = size
    f = make(config(d_model=d, d_ff=hidden, k=1, losses=()))
    out, _ = f.forward()
    for t in range(7):
        e = out.routing.idx[t, 0]
        a = [sum(f.p["experts"]["gate_up_proj"][e][i, j] * f.x[t, j] for j in range(d)) for i in range(2 * hidden)]
        h = [a[i] / (1 + np.exp(-a[i])) * a[hidden + i] for i in range(hidden)]
        y = [sum(f.p["experts"]["down_proj"][e][i, j] * h[j] for j in range(hidden)) for i in range(d)]
        assert relative(out.y[t], out.routing.weight[t, 0] * np.array(y)) <= 64 * U64


@pytest.mark.parametrize("kind", ["ones", "random", "one-hot", "linspace"])
def test_t_no_cotangent_hides_a_fault(kind: str) -> None:
    """TransformerEngine tested with ones, where Σ_j w is constant: every kind here sees a router scaled by 0.1 %."""
    f = make(config(norm="l1", losses=()))
    rng = np.random.default_rng(0)
    dy = {
        "ones": np.ones((7, 3)),
        "random": rng.standard_normal((7, 3)),
        "one-hot": np.eye(21)[4].reshape(7, 3),
        "linspace": np.linspace(-1, 2, 21).reshape(7, 3),
    }[kind]
    _, _, dp = f.both(dy=frozen(dy))
    direction = rng.standard_normal((6, 3))
    step = 1e-200j * direction
    p = {**f.p, "router": {"weight": f.p["router"]["weight"] + step}}
    want = float(np.sum(dy * moe.forward(f.x, p, f.cfg)[0].y.imag)) / 1e-200
    found = float(np.sum(dp["router.weight"] * direction))
    assert abs(found - want) <= 1e-13 * abs(want) < 1e-4 * abs(1.001 * found - want)


def test_p_duplicated_and_swapped_tokens() -> None:
    """HF Doge: a view mixed tokens, so changing token 7 changed token 6.  Only the changed row moves."""
    f = make(config(norm="l1", losses=()))
    out, _ = f.forward()
    for t in range(7):
        x = f.x.copy()
        x[t] = -2.0 * x[t]
        rows = np.arange(7) != t
        assert relative(f.forward(x=frozen(x))[0].y[rows], out.y[rows]) <= 64 * U64


def test_b_evaluation_has_no_noise_but_the_same_load_loss_form() -> None:
    """fastmoe NoisyGate divides 0/0 in evaluation; without draws the load is the count."""
    f = make(config(noise="learned", losses=("importance", "load")), train=False)
    out, _, dp = f.both()
    counts = out.routing.load.astype(float)
    assert float(out.losses["load"]) == pytest.approx(np.var(counts) / np.mean(counts) ** 2, rel=1e-14)
    assert not dp["router.noise_weight"].any() and all(np.isfinite(g).all() for g in dp.values())


def test_r_selection_on_noisy_logits_weights_of_the_noisy_softmax() -> None:
    """LLaMA-MoE tested membership with the noise only; davidmrau took the softmax before the threshold."""
    f = make(config(noise="learned", norm="l1", losses=()))
    z = f.x @ f.p["router"]["weight"].T
    h = z + f.draws.noise * (np.log1p(np.exp(f.x @ f.p["router"]["noise_weight"].T)) + 0.01)
    idx = np.argsort(-h, axis=1, kind="stable")[:, :2]
    v = np.exp(np.take_along_axis(h, idx, 1))
    out, _ = f.forward()
    assert np.array_equal(out.routing.idx, idx)
    assert relative(out.routing.weight, v / v.sum(1, keepdims=True)) <= 32 * U64
