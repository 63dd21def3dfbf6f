"""More of the wrong mathematics that shipped: presets, rules of balancing, small numbers, several losses at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pymoe import moe, presets
from pymoe.moe import Capacity, plan

from ..oracles import loops
from ..oracles.cases import TOPK, V2, any_bias
from ..oracles.cases import make as build
from .frames import ALL, U64, Frame, bits, config, everything, frozen, make, relative
from .test_shipped_bugs import router_of
from .test_shipped_bugs_cases import along, judge


def logits(f: Frame) -> np.ndarray:
    return f.x @ f.p["router"]["weight"].T


def test_l_the_z_loss_is_of_the_logits() -> None:
    """HF Switch #48293, Megatron c656553315: the z-loss was taken of probabilities, whose logsumexp is no z at all."""
    f = make(config(losses=("z",)))
    z = logits(f)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    found = float(f.forward()[0].losses["z"])
    assert found == pytest.approx(np.mean(np.log(np.exp(z).sum(1)) ** 2), rel=1e-14)
    assert abs(found - np.mean(np.log(np.exp(p).sum(1)) ** 2)) > 1e-2


def test_r_deepseek_v2_chooses_the_sets_of_its_rule() -> None:
    """HF #43224: the eager path of DeepSeek-V2 ran the wrong experts; outputs were close enough, the sets were not."""
    cfg = presets.deepseek_v2(d_model=5, d_ff=4, n_experts=12, k=4, n_group=4, topk_group=2)
    f = make(cfg, 60)
    s = np.exp(logits(f)) / np.exp(logits(f)).sum(1, keepdims=True)
    out, _ = f.forward()
    for t, row in enumerate(s.tolist()):
        groups = sorted(range(4), key=lambda g: (-max(row[3 * g : 3 * g + 3]), g))[:2]  # noqa: B023
        inside = [e for e in range(12) if e // 3 in groups]
        assert set(out.routing.idx[t].tolist()) == set(sorted(inside, key=lambda e: (-row[e], e))[:4])  # noqa: B023
    plain = {frozenset(r) for r in np.argsort(-s, axis=1)[:, :4].tolist()}
    assert {frozenset(r) for r in out.routing.idx.tolist()} != plain, "control: the groups decide"
    judge(build("groups of v2", V2, E=8, selection_bias=any_bias))


def test_s_deepseek_v3_renormalises_then_scales() -> None:
    """torchtitan #1448: DeepSeek-V3 without its renormalisation.  Each row of weights sums to 2.5, V2's to anything."""
    v3 = make(presets.deepseek_v3(d_model=5, d_ff=4, n_experts=16, k=4, n_group=4, topk_group=2, scale=2.5), 9)
    assert relative(v3.forward()[0].routing.weight.sum(1), np.full(9, 2.5)) <= 8 * U64
    v2 = make(presets.deepseek_v2(d_model=5, d_ff=4, n_experts=16, k=4, n_group=4, topk_group=2, scale=2.5), 9)
    assert np.ptp(v2.forward()[0].routing.weight.sum(1)) > 0.01


SIGMOID_PRESETS = ("deepseek_v3",)
SOFTMAX_PRESETS = ("mixtral", "olmoe", "switch", "gshard", "deepseek_v2")


@pytest.mark.parametrize("name", SIGMOID_PRESETS + SOFTMAX_PRESETS)
def test_r_a_preset_scores_as_its_paper_does(name: str) -> None:
    """llama.cpp #18980, mlx-lm #1354: softmax for sigmoid, and a model that still talked (perplexity 11.06 for 9.81).

    With the router's bias c on all logits a softmax stays and a sigmoid does not.
    """
    cfg = presets.PRESETS[name](d_model=5, d_ff=4, n_experts=16, bias=True, losses=())
    cfg = dataclasses.replace(cfg, router=dataclasses.replace(cfg.router, bias=True, norm="none", capacity=None))
    f = make(cfg, 9, train=False)
    f = router_of(f, bias=np.zeros(16))
    here, there = (g.forward()[0].routing.weight for g in (f, router_of(f, bias=np.full(16, 1.0))))
    assert (relative(there, here) <= 64 * U64) == (name in SOFTMAX_PRESETS)


def test_b_the_bias_moves_by_the_load_of_the_whole_step_once() -> None:
    """torchtitan #4148, #1506, Megatron 723db5a727: tokens of evaluation and padding moved the bias; FlyLoRA #1: units.

    Only the sign of mean - load counts, so shares, counts and ten times the counts move it alike; per micro-batch it
    would move twice, and to another place.
    """
    f = make(config(score="sigmoid", norm="l1", selection_bias=True, losses=()), (3, 5), mask=True)
    bias = f.p["router"]["selection_bias"]
    load = f.forward()[0].routing.load
    assert load.sum() == 2 * f.mask.sum() < 2 * f.mask.size
    moved = moe.bias_update(bias, load, 0.125)
    assert relative(moved, np.array(loops.bias_update(bias.tolist(), load.tolist(), 0.125))) <= U64
    assert bits(moved) == bits(moe.bias_update(bias, 10 * load, 0.125)) and set(np.abs(moved - bias).round(12)) <= {
        0.125,
        0,
    }
    parts = [np.array([4, 0, 1]), np.array([0, 1, 4])]
    twice = moe.bias_update(moe.bias_update(np.zeros(3), parts[0], 0.125), parts[1], 0.125)
    assert not np.array_equal(twice, moe.bias_update(np.zeros(3), sum(parts), 0.125))


def test_n_a_tied_row_chooses_the_same_wherever_it_stands() -> None:
    """torchtitan #3600, vLLM #54403: a top-k that is not deterministic on ties; here the lowest ids, in any batch."""
    c = np.array([0.25, 0.5, 0.25, 0.5, 0.5, -0.0, 0.0, 0.25] * 40)
    many = config(n_experts=320, k=130).router
    want = np.argsort(-c, kind="stable")[:130]
    for tokens in (1, 2, 31, 64):
        for dtype in (np.float32, np.float64):
            idx = moe.select.topk.select(np.tile(c.astype(dtype), (tokens, 1)), many)[0]
            assert (idx == want).all()


def test_l_the_balance_loss_of_first_choices_in_closed_form() -> None:
    """DeepSpeed #5156: the value of l_aux of top-2 gating.  E Σ_e mean(P_e) · (share of first choices of e)."""
    f = make(config(losses=("balance",), balance_choices="first"))
    p = np.exp(logits(f)) / np.exp(logits(f)).sum(1, keepdims=True)
    wanted = 6 * np.sum(p.mean(0) * np.bincount(p.argmax(1), minlength=6) / 7)
    assert float(f.forward()[0].losses["balance"]) == pytest.approx(wanted, rel=1e-14)


def test_d_every_kept_pair_has_a_place_of_its_own() -> None:
    """DeepSpeed #7163: two tokens got one place in the expert's buffer.  Places are a bijection, sorted and stable."""
    rng = np.random.default_rng(0)
    idx = rng.permuted(np.tile(np.arange(9), (40, 1)), axis=1)[:, :3]
    kept = rng.random((40, 3)) < 0.7
    made = plan.make(idx, kept, 9)
    rows = made.slot[kept]
    assert sorted(rows.tolist()) == list(range(kept.sum())) and (made.slot[~kept] == -1).all()
    for e in range(9):
        mine = slice(*made.start[e : e + 2])
        assert (idx.reshape(-1)[made.pair[mine]] == e).all() and (np.diff(made.token[mine]) > 0).all()


@pytest.mark.parametrize("eps", [0.0, 0.125, 2.0])
def test_n_the_epsilon_of_the_normalisation_is_in_both_directions(eps: float) -> None:
    """FlashInfer #3946: the ε was missing.  g = v / (Σ v + ε), and its gradient has the ε as well."""
    f = make(config(score="sigmoid", norm="l1", eps=eps, losses=()))
    s = 1 / (1 + np.exp(-logits(f)))
    v = -np.sort(-s, axis=1)[:, :2]
    assert relative(f.forward()[0].routing.weight, v / (v.sum(1, keepdims=True) + eps)) <= 8 * U64
    found, wanted, size = along(f)
    assert abs(found - wanted) <= 1e-13 * size


def test_r_gate_and_up_are_told_apart() -> None:
    """vLLM #29273: the halves of gate_up were read interleaved.  The first F rows go through the activation."""
    f = make(config(n_experts=1, k=1, losses=()))
    w, down = f.p["experts"]["gate_up_proj"][0], f.p["experts"]["down_proj"][0]

    def expert(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        a = f.x @ gate.T
        return (a / (1 + np.exp(-a)) * (f.x @ up.T)) @ down.T

    y = f.forward()[0].y
    assert relative(y, expert(w[:4], w[4:])) <= 64 * U64
    assert min(relative(y, expert(w[4:], w[:4])), relative(y, expert(w[::2], w[1::2]))) > 0.1


def test_d_a_duplicated_token_is_two_tokens() -> None:
    """SGLang #31768, megablocks #87: equal rows were merged or reordered.  Both are counted, queued and taught."""
    f = make(config(norm="l1", capacity=Capacity(factor=0.0, minimum=1, order="token"), losses=("balance",)), 1)
    two = f._replace(x=frozen(np.tile(f.x, (2, 1))), dy=frozen(np.tile(f.dy, (2, 1))))
    out, _ = two.forward()
    assert out.routing.load.sum() == 4 and out.routing.kept.tolist() == [[True, True], [False, False]]
    free = config(norm="l1", losses=())
    (a, dx, _), (b, dx2, _) = f.both(cfg=free, dlosses={}), two.both(cfg=free, dlosses={})
    assert relative(b.y, np.tile(a.y, (2, 1))) <= 8 * U64 and relative(dx2, np.tile(dx, (2, 1))) <= 8 * U64


def test_d_drop_orders_are_told_apart() -> None:
    """DeepSpeed #7163: by position, by choice, by the token's best score, by probability: four answers."""
    kept = {}
    for order in ("token", "choice", "score", "probability"):
        f = make(config(norm="l1", capacity=Capacity(factor=0.5, order=order), losses=()), 12, spread=2.0)
        kept[order] = f.forward()[0].routing.kept
    assert len({k.tobytes() for k in kept.values()}) == 4


@pytest.mark.parametrize("scale", [-2.0, 2.827])
def test_g_negative_weights_keep_their_gradient(scale: float) -> None:
    """unsloth-zoo #858: the identity of gate and gradient clamped negative gates.  A negative scale makes all so."""
    f = make(config(norm="l1", scale=scale, bias=True, losses=ALL))
    found, wanted, size = along(f)
    assert abs(found - wanted) <= 1e-13 * size
    one, _ = f._replace(cfg=config(norm="l1", scale=1.0, bias=True, losses=ALL)).forward()
    assert relative(f.forward()[0].y, scale * one.y) <= 8 * U64


def test_g_no_loss_ends_the_backward_of_another() -> None:
    """tutel #127: a ``return`` for a ``continue``, so the gates after the first without a gradient got none either."""
    f = make(config(norm="l1", noise="learned", router_bias=True, losses=ALL))
    zero = frozen(np.zeros((7, 3)))
    _, dx, dp = f.both()
    parts = [f.both(dlosses={})] + [f.both(dy=zero, dlosses={n: d}) for n, d in f.dlosses.items()]
    assert all(part[2]["router.weight"].any() for part in parts)
    assert relative(sum(part[1] for part in parts), dx) <= 64 * U64
    for n in dp:
        assert relative(sum(part[2][n] for part in parts), dp[n]) <= 64 * U64, n
    skipped = f.both(dlosses={"balance": 0.0} | {n: d for n, d in f.dlosses.items() if n != "balance"})
    assert relative(skipped[2]["router.weight"] + parts[1][2]["router.weight"], dp["router.weight"]) <= 64 * U64


@pytest.mark.parametrize("power", [-40, -17, 0, 20])
def test_t_small_numbers_are_judged_by_their_own_size(power: int) -> None:
    """sonic-moe #63: an absolute tolerance of 1.4e-2 against outputs of 1e-5.  Relative errors do not see the scale.

    The way down times 2^m: y, dx and the router's gradient times 2^m to the bit, whatever the m.
    """
    f = make(config(norm="l1", losses=()))
    small = f._replace(
        p={**f.p, "experts": {**f.p["experts"], "down_proj": frozen(f.p["experts"]["down_proj"] * 2.0**power)}}
    )
    a, b = everything(f), everything(small)
    for n in ("y", "dx", "router.weight", "experts.gate_up_proj"):
        assert bits(b[n]) == bits(a[n] * 2.0**power), n
    found, wanted, size = along(small)
    assert abs(found - wanted) <= 1e-13 * size


@pytest.mark.parametrize("tokens, d, f", [(17, 33, 9), (64, 16, 32), (5, 65, 3)])
def test_g_dx_at_sizes_that_are_no_tile(tokens: int, d: int, f: int) -> None:
    """Liger #1413: dx wrong by 50 to 64 % on one device, tests of one size passed.  Odd sizes, all gradients."""
    judge(build(f"no tile {tokens} {d} {f}", TOPK, T=tokens, D=d, F=f, E=5))


def test_d_the_shared_expert_is_not_forgotten() -> None:
    """JAXformer #21 returned the routed sum without the shared expert's; the total is both, and so is dx."""
    f = make(config(norm="l1", d_shared=5, losses=()))
    routed = f._replace(cfg=config(norm="l1", losses=()), p={n: f.p[n] for n in ("router", "experts")})
    gate, up = np.split(f.p["shared"]["gate_up_proj"].reshape(10, 3), 2)
    a = f.x @ gate.T
    common = (a / (1 + np.exp(-a)) * (f.x @ up.T)) @ f.p["shared"]["down_proj"].reshape(3, 5).T
    assert np.abs(common).max() > 0.01
    assert relative(f.forward()[0].y, routed.forward()[0].y + common) <= 64 * U64
    found, wanted, size = along(f)
    assert abs(found - wanted) <= 1e-13 * size


def test_g_dispatch_and_combine_are_adjoint() -> None:
    """maxtext fd2ff2b03: the custom VJP of the permutation was not its transpose.  <dispatch x, y> = <x, combine y>."""
    rng = np.random.default_rng(1)
    f = make(config(losses=(), k=3), 12)
    routing = f.forward()[0].routing
    made = plan.make(routing.idx, None, 6)
    x, ys = rng.integers(-3, 4, (12, 3)).astype(float), rng.integers(-3, 4, (36, 3)).astype(float)
    back = np.zeros((12, 3))
    for t in range(12):
        for j in range(3):
            back[t] += ys[made.slot[t, j]]
    assert np.sum(x[made.token] * ys) == np.sum(x * back)
    assert not np.array_equal(made.pair, np.arange(36)), "control: it permutes"


def test_l_the_z_loss_does_not_see_the_number_of_pieces() -> None:
    """Megatron 87d9d2506a, #5047: the scale of auxiliary losses depended on the number of micro-batches.

    The z-loss of a batch is the mean of its pieces' z-losses, gradients too.
    """
    f = make(config(losses=("z",)), 8)
    zero = np.zeros((8, 3))
    out, dx, dp = f.both(dy=frozen(zero), dlosses={"z": 1.0})
    for pieces in (2, 4):
        parts = [
            f.both(x=frozen(x), dy=frozen(np.zeros_like(x)), dlosses={"z": 1.0 / pieces}) for x in np.split(f.x, pieces)
        ]
        assert sum(float(o.losses["z"]) for o, _, _ in parts) / pieces == pytest.approx(
            float(out.losses["z"]), rel=1e-14
        )
        assert relative(np.concatenate([d for _, d, _ in parts]), dx) <= 64 * U64
        assert relative(sum(d["router.weight"] for _, _, d in parts), dp["router.weight"]) <= 64 * U64
