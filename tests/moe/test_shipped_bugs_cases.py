"""The adversarial inputs that tell a right layer from the wrong ones that shipped, each judged by two references.

Values and all gradients against the per-token loops (64 roundings of the tensor's maximum, decisions exactly), and the
gradients again against the complex step along a random direction of all inputs (1e-13).  A docstring names the defect;
``shipped.CASES`` lists where each input of the project's list is tested, here or elsewhere.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend import tree
from pymoe.backend.errors import NonFiniteError
from pymoe.moe import plan

from ..oracles.cases import CHOICE, GSHARD, NOISY, SIGMOID, SWITCH, TOPK, V2, V3, Case, any_bias
from ..oracles.cases import make as build
from . import bridge
from .frames import ALL, U64, Frame, bits, config, everything, frozen, make, relative
from .test_layer_oracle import TOLERANCE, compare

STEP = 1e-200


def along(f: Frame, seed: int = 0) -> tuple[float, float, float]:
    """(what backward says, what the complex step says, size of the terms) of the derivative along a random direction.

    The direction moves x and every parameter by a share of its own size; all outputs have cotangents.
    """
    rng = np.random.default_rng(seed)
    _, dx, dp = f.both()
    at = {"x": f.x, **tree.flatten(f.p)}
    v = {n: rng.standard_normal(a.shape) * (np.abs(a).max(initial=0.0) or 1.0) for n, a in at.items()}
    moved = {n: frozen(a + 1j * STEP * v[n]) for n, a in at.items()}
    out, _ = f.forward(x=moved.pop("x"), p=tree.unflatten(moved))
    terms = [float(np.sum(v[n] * g)) for n, g in ({"x": dx} | dp).items()]
    sizes = [float(np.sum(np.abs(v[n] * g))) for n, g in ({"x": dx} | dp).items()]
    stepped = np.sum(f.dy * out.y.imag) + sum(d * out.losses[n].imag for n, d in f.dlosses.items())
    return sum(terms), float(stepped) / STEP, sum(sizes)


def judge(case: Case) -> None:
    cfg = bridge.config(case)
    p = bridge.to_pymoe(case.params, cfg.gated)
    errors = compare(case, cfg, p)
    bad = {k: f"{e / U64:.0f} u" for k, e in errors.items() if not e <= TOLERANCE}
    assert not bad, bad
    given = {n: d for n, d in case.dlosses.items() if n in cfg.router.losses}
    f = Frame(cfg, case.x, tree.map(frozen, p), case.mask, bridge.draws(case), case.dy, given)
    found, wanted, size = along(f)
    assert abs(found - wanted) <= 1e-13 * size, (found, wanted)


# ---- sizes ----


@pytest.mark.parametrize("tokens", [0, 1, 2, 3])
@pytest.mark.parametrize("rule", ["softmax", "sigmoid", "noisy", "gshard", "choice"])
def test_as_few_tokens_as_choices(tokens: int, rule: str) -> None:
    """T in {0, 1, k - 1, k} of k = 3: Megatron #2214 crashed where the capacity passed the number of tokens."""
    settings = {
        "softmax": TOPK,
        "sigmoid": SIGMOID,
        "noisy": NOISY,
        "gshard": {**GSHARD, "k": 3},
        "choice": CHOICE,
    }[rule]
    judge(build(f"few {rule} {tokens}", settings, T=tokens, E=7, D=4, F=3))


SIZES = [(e, k) for e in (1, 7, 8, 60, 288, 512) for k in sorted({1, 2, 8, min(e, 60)}) if k <= e]


@pytest.mark.parametrize("experts, k", SIZES)
def test_any_number_of_experts_and_choices(experts: int, k: int) -> None:
    """HF #33463, DeepSpeed #2110 (E = T hid a transposition); ids of 288 and 512 experts, E not a power of two."""
    judge(build(f"size {experts} {k}", {"k": k, "score": "sigmoid", "renorm": True}, T=3, D=3, F=2, E=experts))


def test_ids_beyond_16_bits() -> None:
    """OpenVINO #35691 cut ids to eight bits; here the best are the ids 255, 256, 32767, 32768 and 39,999."""
    wanted = [39_999, 32_768, 32_767, 256, 255]
    weight = np.full((40_000, 1), -1.0, np.float32)
    weight[wanted, 0] = [5, 4, 3, 2, 1]
    cfg = config(d_model=1, n_experts=40_000, k=5, norm="l1", losses=("balance",))
    (routing, _), cache = moe.router.forward(np.ones((2, 1), np.float32), {"weight": weight}, cfg.router)
    assert routing.idx.tolist() == [wanted, wanted] and np.flatnonzero(routing.load).tolist() == sorted(wanted)
    made = plan.make(routing.idx, None, 40_000)
    assert made.token.tolist() == [0, 1] * 5 and made.start[-1] == 10
    _, dp = moe.router.backward(np.ones((2, 5), np.float32), {"balance": 1.0}, cache)
    assert np.isfinite(dp["weight"]).all() and dp["weight"][39_999] != 0


def test_offsets_beyond_32_bits() -> None:
    """vLLM #45884, #5938, SGLang #4727, DeepSpeed #8261, Liger #1246: the offset e·F·D of an expert passes 2³¹.

    The weights are memory that nobody touches but for the two last experts.
    """
    n, d, f = 40_000, 256, 128
    try:
        up, down = np.zeros((n, 2 * f, d), np.float32), np.zeros((n, d, f), np.float32)
    except MemoryError:
        pytest.skip("this system does not lend memory that is never touched")
    assert (n - 2) * 2 * f * d > 2**31
    rng = np.random.default_rng(0)
    up[-2:] = rng.standard_normal((2, 2 * f, d)) / 16
    down[-2:] = rng.standard_normal((2, d, f)) / 16
    x = rng.standard_normal((3, d)).astype(np.float32)
    router = np.zeros((n, d), np.float32)
    router[-2], router[-1] = x[1], x[0] + x[2] - x[1]
    cfg = config(d_model=d, d_ff=f, n_experts=n, k=1, losses=())
    p = {"router": {"weight": router}, "experts": {"gate_up_proj": up, "down_proj": down}}
    out, _ = moe.forward(x, p, cfg)
    assert out.routing.idx[:, 0].tolist() == [n - 1, n - 2, n - 1]
    for t, e in enumerate(out.routing.idx[:, 0]):
        a = up[e].astype(np.float64) @ x[t]
        wanted = out.routing.weight[t, 0] * (down[e] @ (a[:f] / (1 + np.exp(-a[:f])) * a[f:]))
        assert relative(out.y[t], wanted) <= 64 * 2.0**-24


def rows_per_expert(counts: list[int]) -> Any:
    """Tokens such that expert e gets exactly counts[e], in a mixed order."""

    def change(rng: Any, x: np.ndarray, params: dict[str, np.ndarray], draws: Any) -> np.ndarray:
        params["router.weight"][:] = 0.0
        params["router.weight"][:, : len(counts)] = 4.0 * np.eye(len(counts))
        x[:, : len(counts)] = 0.0
        who = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        x[np.arange(len(x)), who] = 2.0
        return x

    return change


@pytest.mark.parametrize("tile", [4, 8, 16, 32, 64])
def test_one_row_more_or_less_than_a_tile(tile: int) -> None:
    """Liger #1361 lost the tail, pytorch #172439 the empty groups: tile - 1, tile, tile + 1 and 0 rows beside 1."""
    counts = [tile - 1, 0, tile, tile + 1, 1]
    case = build(f"tile {tile}", {"k": 1}, T=sum(counts), D=6, F=3, E=5, change=rows_per_expert(counts))
    out, _ = moe.forward(case.x, bridge.to_pymoe(case.params, True), bridge.config(case))
    assert out.routing.load.tolist() == counts
    judge(case)


# ---- who is chosen ----


def test_every_pair_swapped() -> None:
    """HF Doge mixed rows by a view, DeepSpeed #7163 took wrong places: every two tokens or experts change places."""
    f = make(config(norm="l1", losses=ALL, bias=True, router_bias=True))
    want = everything(f)
    for i, j in itertools.combinations(range(7), 2):
        order = np.arange(7)
        order[[i, j]] = j, i
        found = everything(f._replace(x=frozen(f.x[order]), dy=frozen(f.dy[order])))
        assert np.array_equal(found["idx"], want["idx"][order]) and np.array_equal(found["load"], want["load"])
        for n in ("y", "dx", "weight"):
            assert relative(found[n], want[n][order]) <= 64 * U64, n
    for i, j in itertools.combinations(range(6), 2):
        order = np.arange(6)
        order[[i, j]] = j, i
        found = everything(f._replace(p=tree.map(lambda a: frozen(a[order]), f.p)))  # noqa: B023
        assert np.array_equal(order[found["idx"]], want["idx"])
        for n in want:
            if n not in ("idx", "load"):
                moved = want[n][order] if "." in n else want[n]
                assert relative(found[n], moved) <= 64 * U64, n


def rounded_to_bf16(a: np.ndarray) -> np.ndarray:
    """The nearest of the numbers with eight significant bits."""
    mantissa, exponent = np.frexp(a)
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)


@pytest.mark.parametrize("rule", ["softmax", "sigmoid", "groups", "choice"])
def test_logits_rounded_to_bf16_tie_often_and_the_lowest_id_wins(rule: str) -> None:
    """vLLM #52679, SGLang #31768, torchtitan #3600: a tie of bf16 logits went this way or that, in the oracle too."""
    settings = {"softmax": TOPK, "sigmoid": SIGMOID, "groups": V2, "choice": CHOICE}[rule]
    settings = {**settings, "losses": ("balance", "z")}  # CV² of nearly equal loads is all rounding

    def change(rng: Any, x: np.ndarray, params: dict[str, np.ndarray], draws: Any) -> np.ndarray:
        x[:] = 0.0  # the logits of token t are column t of the weight
        x[np.arange(len(x)), np.arange(len(x))] = 1.0
        params["router.weight"][:] = rounded_to_bf16(8.0 + rng.standard_normal(params["router.weight"].shape) / 16)
        return x

    case = build(f"bf16 {rule}", settings, T=9, D=9, F=2, E=32 if rule != "choice" else 4, change=change)
    values = case.params["router.weight"]
    assert len(np.unique(values)) < values.size / 2  # ties abound
    judge(case)


@pytest.mark.parametrize("shift", [0.5, -0.5, -4.0, 64.0])
def test_a_constant_selection_bias_changes_no_bit(shift: float) -> None:
    """tt-metal #47914: a constant added to all biases changed the choice.  Dyadic scores, so every sum is exact."""
    f = make(config(score="sigmoid", norm="l1", selection_bias=True, losses=ALL))
    s = np.arange(1, 7)[np.argsort(f.x @ np.ones((3, 6)) + np.arange(6) % 4, axis=1)] / 8.0
    plain = moe.select.topk.select(s, f.cfg.router, None)
    moved = moe.select.topk.select(s + shift, f.cfg.router, None)
    assert bits(*[a for a in plain if a is not None]) == bits(*[a for a in moved if a is not None])
    groups = config(score="sigmoid", select="group_limited", n_group=3, topk_group=2, selection_bias=True).router
    a, b = (moe.select.group_limited.select(c, groups, None)[0] for c in (s, s + shift))
    assert np.array_equal(a, b)
    zero, other = (f._replace(p=_biased(f, np.full(6, c))) for c in (0.0, shift))
    want, found = everything(zero), everything(other)
    assert all(bits(found[n]) == bits(want[n]) for n in want), "a constant bias moved a bit of the layer"


def _biased(f: Frame, bias: np.ndarray) -> dict[str, Any]:
    return {**f.p, "router": {**f.p["router"], "selection_bias": frozen(bias)}}


def test_n_a_selection_bias_keeps_its_digits() -> None:
    """SGLang #31213: in bf16 a correction bias of 238 values had 8 left.  Two that differ by 2⁻⁴⁰ choose otherwise."""
    f = make(config(k=1, score="sigmoid", selection_bias=True, losses=()))
    zero = {**f.p["router"], "weight": frozen(np.zeros((6, 3)))}
    for e in range(6):
        bias = np.full(6, 0.75)
        bias[e] += 2.0**-40
        out, _ = f.forward(p={**f.p, "router": {**zero, "selection_bias": frozen(bias)}})
        assert (out.routing.idx == e).all()


def test_l_scores_of_1e_minus_18_still_teach_the_router() -> None:
    """Megatron #1545: an epsilon of 1e-20 in the loss's denominator let the router escape by making all scores small.

    s / Σ s of sigmoids at z = -41 is softmax-like: the balance loss has its closed form and a gradient of full size.
    """
    f = make(config(score="sigmoid", norm="l1", router_bias=True, losses=("balance",)))
    small, plain = (
        f._replace(p={**f.p, "router": {**f.p["router"], "bias": frozen(np.full(6, b))}}) for b in (-41.0, 0.0)
    )
    out, _, dp = small.both(dy=frozen(np.zeros((7, 3))))
    z = f.x @ f.p["router"]["weight"].T - 41.0
    q = np.exp(z) / np.exp(z).sum(1, keepdims=True)  # 1 + e^z = 1 to 1e-18
    f_e = out.routing.load / 14
    assert float(out.losses["balance"]) == pytest.approx(6 * np.sum(f_e * q.mean(0)), rel=1e-13)
    _, _, ordinary = plain.both(dy=frozen(np.zeros((7, 3))))
    assert np.abs(dp["router.weight"]).max() > 0.5 * np.abs(ordinary["router.weight"]).max() > 0


# ---- numbers that are not ----


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_nan_row_raises_or_stays_in_its_row(value: float) -> None:
    """NaN from bias padding (maxtext 83ea3148b) went through the whole batch: the policy is to say so or to keep it."""
    f = make(config(norm="l1", losses=(), bias=True))
    x = f.x.copy()
    x[2, 1] = value
    with pytest.raises(NonFiniteError):
        f.forward(x=frozen(x))
    through = config(norm="l1", losses=(), bias=True, nonfinite="propagate")
    want, _ = f.forward(cfg=through)
    with np.errstate(all="ignore"):
        out, _ = f.forward(x=frozen(x), cfg=through)
    rows = np.arange(7) != 2
    assert np.isnan(out.y[2]).any() and bits(out.y[rows]) == bits(want.y[rows])


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_logits_of_200_in_single_precision(score: str) -> None:
    """FlashInfer #3803: 0/0 where every chosen score underflows; +200 overflows a plain exp.  All stays finite."""
    f = make(config(score=score, norm="l1", router_bias=True, losses=ALL)).astype(np.float32)
    for bias in (np.full(6, 200.0), np.full(6, -200.0), np.where(np.arange(6) % 2, 200.0, -200.0)):
        p = {**f.p, "router": {**f.p["router"], "bias": frozen(bias.astype(np.float32))}}
        found = everything(f._replace(p=p))
        assert all(np.isfinite(a).all() for a in found.values())


def test_l_the_cv_losses_at_perfect_balance_have_a_gradient() -> None:
    """vmoe #218, maxtext #3864: std / mean has no derivative at 0, so a balanced start gave NaN.  CV² has one: 0."""
    for loss, settings in (("importance", {"k": 6}), ("load", {"noise": "learned"})):
        f = make(config(losses=(loss,), **settings))
        f = f._replace(p={**f.p, "router": tree.map(lambda a: frozen(np.zeros_like(a)), f.p["router"])})
        if f.draws.noise is not None:
            f = f._replace(draws=f.draws._replace(noise=frozen(np.zeros((7, 6)))))
        out, _, dp = f.both(dy=frozen(np.zeros((7, 3))))
        assert float(out.losses[loss]) <= (8 * U64) ** 2
        assert all(np.abs(g).max() <= 8 * U64 for g in dp.values()), loss  # NaN is not


# ---- the same again ----


@pytest.mark.parametrize("rule", [TOPK, SIGMOID, SWITCH, GSHARD, V3, CHOICE, NOISY], ids=str)
def test_a_recomputed_forward_has_the_same_bits(rule: dict[str, Any]) -> None:
    """HF #47467: recomputation in the backward pass of a checkpoint chose other experts than the forward had."""
    case = build("recomputed", rule, T=12, E=12, D=4, F=3, selection_bias=any_bias if rule in (SIGMOID, V3) else None)
    cfg, given = bridge.config(case), bridge.draws(case)
    p = bridge.to_pymoe(case.params, cfg.gated)
    first, cache = moe.forward(case.x, p, cfg, draws=given)
    again, recomputed = moe.forward(case.x.copy(), tree.map(np.copy, p), cfg, draws=given)
    assert bits(first.y, *first.losses.values()) == bits(again.y, *again.losses.values())
    a, b = moe.backward(case.dy, cache), moe.backward(case.dy, recomputed)
    assert bits(a[0], *tree.flatten(a[1]).values()) == bits(b[0], *tree.flatten(b[1]).values())


def test_evaluation_is_the_layer_without_draws() -> None:
    """Eval/train: Megatron e9204a5f36's jitter stayed on; with no draws the noisy, jittered layer is the plain one."""
    noisy = make(config(norm="l1", noise="learned", jitter=0.25, losses=("balance", "z")), train=False)
    plain = config(norm="l1", losses=("balance", "z"))
    quiet = {"weight": noisy.p["router"]["weight"]}
    want = noisy._replace(cfg=plain, p={**noisy.p, "router": quiet})
    found, wanted = everything(noisy), everything(want)
    assert not found.pop("router.noise_weight").any()
    assert all(bits(found[n]) == bits(wanted[n]) for n in wanted)
    trained = noisy.forward(draws=moe.draw(np.random.default_rng(0), noisy.cfg, 7))[0]
    assert bits(trained.y) != bits(noisy.forward()[0].y), "control: the draws do something"


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_ids_of_any_integer_type_make_the_same_plan(dtype: Any) -> None:
    """vLLM #53390, SGLang #4727: the type of the ids decided the arithmetic of the offsets."""
    idx = np.random.default_rng(0).permuted(np.tile(np.arange(100), (500, 1)), axis=1)[:, :3]
    want, found = plan.make(idx, None, 100), plan.make(idx.astype(dtype), None, 100)
    for a, b in zip(want, found, strict=True):
        assert np.array_equal(a, b)
