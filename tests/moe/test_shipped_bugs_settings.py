"""Wrong mathematics that shipped, seen only where a setting is not the default, and where experts are sharded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend import tree
from pymoe.backend.errors import IndexRangeError
from pymoe.moe import Given, experts, plan, router

from .frames import U64, Frame, config, everything, frozen, make, relative
from .test_shipped_bugs import router_of, to_one_expert
from .test_shipped_bugs_cases import along


def exact(f: Frame) -> None:
    """The gradients of all inputs against the complex step along a random direction."""
    found, wanted, size = along(f)
    assert abs(found - wanted) <= 1e-13 * size, (found, wanted)


def swish(a: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return a / (1 + np.exp(-alpha * a))


def halves(f: Frame, e: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gate and up of expert e for every token."""
    gate, up = np.split(f.x @ f.p["experts"]["gate_up_proj"][e].T, 2, axis=1)
    return gate, up


ONE = {"n_experts": 1, "k": 1, "losses": ()}  # y is the expert's output


# ---- router ----


@pytest.mark.parametrize("z", [-800.0, -40.0, 30.0])
def test_n_the_square_root_of_softplus_has_no_0_over_0(z: float) -> None:
    """HF's and SGLang #34459's sqrtsoftplus: √softplus underflows to 0, and its gradient 1/(2√·) is 0/0 there."""
    f = make(config(score="sqrtsoftplus", norm="l1", router_bias=True, losses=("balance",)))
    f = router_of(f, bias=np.full(6, z))
    found = everything(f)
    assert all(np.isfinite(a).all() for a in found.values())
    if z == -40.0:  # √e^z, to the last digits
        logits = f.x @ f.p["router"]["weight"].T + z
        v = np.take_along_axis(np.exp(logits / 2), found["idx"], 1)
        assert relative(found["weight"], v / v.sum(1, keepdims=True)) <= 1e-14
        exact(f)


def test_r_gpt_oss_weighs_by_a_softmax_of_the_chosen_logits() -> None:
    """torchtitan #2319: the gate's bias was left out of the weights, or the softmax was of all experts."""
    f = make(config(score_at="chosen", router_bias=True, losses=()))
    z = f.x @ f.p["router"]["weight"].T + f.p["router"]["bias"]
    idx = np.argsort(-z, axis=1, kind="stable")[:, :2]
    v = np.exp(np.take_along_axis(z, idx, 1))
    out, _ = f.forward()
    assert np.array_equal(out.routing.idx, idx)
    assert relative(out.routing.weight, v / v.sum(1, keepdims=True)) <= 16 * U64
    exact(f)


def test_n_a_table_may_choose_experts_whose_scores_underflow() -> None:
    """vllm-ascend #9676: weights of hash routing were NaN where all scores of the table's experts are 0."""
    cfg = config(select="table", table_size=5, score="sigmoid", norm="l1", router_bias=True, losses=())
    f = make(cfg)
    table = np.array([[0, 1], [2, 3], [4, 5], [1, 0], [5, 2]])
    ids = np.array([0, 1, 2, 3, 4, 0, 1])
    for z in (-800.0, 0.0):
        p = {**f.p, "router": {**f.p["router"], "table": table, "bias": frozen(np.full(6, z))}}
        out, cache = moe.forward(f.x, p, cfg, given=Given(token_ids=ids))
        dx, dp = moe.backward(f.dy, cache)
        assert np.array_equal(out.routing.idx, table[ids])
        assert all(np.isfinite(a).all() for a in (out.y, out.routing.weight, dx, *tree.flatten(dp).values()))
    assert relative(out.routing.weight.sum(1), np.ones(7)) <= 4 * U64


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_s_the_scale_of_an_expert_is_applied_once(sign: float) -> None:
    """maxtext 014fc4985: the per-expert scale went in twice.  y = Σ s_e g_e FFN_e(x), and s_e may be below 0."""
    f = make(config(norm="l1", expert_scale=True, losses=()))
    scale = sign * np.array([0.5, 1.5, 2.0, 3.0, 0.25, 1.25])
    f = router_of(f, expert_scale=scale)
    plain = {n: a for n, a in f.p["router"].items() if n != "expert_scale"}
    one, _ = f.forward(cfg=config(norm="l1", losses=()), p={**f.p, "router": plain})
    out, _ = f.forward()
    assert np.array_equal(out.routing.idx, one.routing.idx)
    assert relative(out.routing.weight, scale[one.routing.idx] * one.routing.weight) <= 4 * U64
    exact(f)


def test_l_the_balance_loss_of_pieces_with_the_counts_of_all_is_that_of_the_whole() -> None:
    """Megatron 87d9d2506a, 9ef8a2a420 (#5047), #5798: the value depended on the number of micro-batches or workers."""
    f = make(config(norm="l1", losses=("balance",)), 8)
    zero = frozen(np.zeros((8, 3)))
    whole, dx, dp = f.both(dy=zero, dlosses={"balance": 1.0})
    for pieces in (2, 4):
        xs = np.split(f.x, pieces)
        loads = [f.forward(x=frozen(x))[0].routing.load for x in xs]
        losses, dxs, dws = [], [], []
        for i, x in enumerate(xs):
            others = sum(n for j, n in enumerate(loads) if j != i)
            out, cache = moe.forward(x, f.p, f.cfg, given=Given(counts=others))
            d, g = moe.backward(np.zeros_like(x), cache, {"balance": 1.0 / pieces})
            losses.append(float(out.losses["balance"]))
            dxs.append(d)
            dws.append(g["router"]["weight"])
        assert np.mean(losses) == pytest.approx(float(whole.losses["balance"]), rel=1e-14)
        assert relative(np.concatenate(dxs), dx) <= 64 * U64 and relative(sum(dws), dp["router.weight"]) <= 64 * U64
        alone = np.mean([float(f.forward(x=frozen(x))[0].losses["balance"]) for x in xs])
        assert abs(alone - np.mean(losses)) > 1e-3, "control: without the counts it is another loss"


def test_l_each_sequence_is_balanced_by_itself() -> None:
    """Megatron e85385a761: the sequence loss was that of the batch.  Two sequences on two experts read as balanced."""
    f = make(config(n_experts=2, k=1, losses=("balance",)), (2, 5))
    x = np.ones((2, 5, 3))
    x[1] = -1.0
    f = router_of(f._replace(x=frozen(x)), weight=np.array([[3.0, 0, 0], [-3.0, 0, 0]]))
    batch, _ = f.forward()
    sequence, _ = f.forward(cfg=config(n_experts=2, k=1, losses=("balance",), balance_over="sequence"))
    assert float(batch.losses["balance"]) == pytest.approx(1.0, rel=1e-14)
    assert float(sequence.losses["balance"]) > 1.9


# ---- experts ----


@pytest.mark.parametrize("limit", [0.5, 1.0, 7.0])
def test_r_the_limit_of_a_gated_expert_is_kept(limit: float) -> None:
    """vLLM #41935: swiglu_limit was dropped, unseen while no pre-activation passes it."""
    f = make(config(limit=limit, gate_alpha=1.702, up_offset=1.0, **ONE), spread=4.0)
    gate, up = halves(f)
    assert (np.abs(up) > limit).any() and (gate > limit).any()
    h = swish(np.minimum(gate, limit), 1.702) * (np.clip(up, -limit, limit) + 1.0)
    assert relative(f.forward()[0].y, h @ f.p["experts"]["down_proj"][0].T) <= 64 * U64
    exact(f)


def test_r_a_limit_that_is_hit_exactly() -> None:
    """vLLM #41935's clamp, at its edge: the gradient passes at the limit, as in torch, and not an ulp beyond."""
    f = make(config(limit=1.0, **ONE), 1)
    x = frozen(np.array([[1.0, 0.0, 0.0]]))
    over = np.nextafter(1.0, 2.0)
    for value, slope in ((1.0, 1.0), (over, 0.0)):
        gate, up = np.array([value, value, -value, 0.5]), np.array([value, -value, value, 1.0])
        w = np.zeros((1, 8, 3))
        w[0, :, 0] = np.concatenate([gate, up])
        out, _, dp = f.both(x=x, p={**f.p, "experts": {**f.p["experts"], "gate_up_proj": frozen(w)}})
        gate, up = np.minimum(gate, 1.0), np.clip(up, -1.0, 1.0)
        down = f.p["experts"]["down_proj"][0]
        assert relative(out.y[0], down @ (swish(gate) * up)) <= 8 * U64
        s, dh = 1 / (1 + np.exp(-gate)), f.dy[0] @ down
        dgate = dh * up * (s + gate * s * (1 - s)) * [slope, slope, 1, 1]  # the gate has no lower limit
        dup = dh * swish(gate) * [slope, slope, slope, 1]
        assert relative(dp["experts.gate_up_proj"][0, :, 0], np.concatenate([dgate, dup])) <= 16 * U64


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu", "sigmoid"])
def test_r_the_activation_is_the_one_that_was_asked_for(activation: str) -> None:
    """onnxruntime #28738: one variant of SwiGLU was built in whatever the model said."""
    others = {
        a: make(config(activation=a, **ONE)).forward()[0].y for a in ("silu", "gelu", "gelu_tanh", "relu", "sigmoid")
    }
    mine = others.pop(activation)
    assert min(relative(y, mine) for y in others.values()) > 1e-4
    plain, offset = make(config(**ONE)), make(config(up_offset=1.0, **ONE))
    assert relative(plain.forward()[0].y, offset.forward()[0].y) > 0.1


@pytest.mark.parametrize("where", ["input", "output", "pre_down"])
def test_s_the_weight_goes_where_it_was_put(where: str) -> None:
    """llm-compressor #1907, TensorRT-LLM #3492: Llama 4 weighs what goes into the expert; FFN(g x) is not g FFN(x)."""
    f = make(config(k=1, score="sigmoid", losses=(), weight_at=where))
    out, _ = f.forward()
    for t in range(7):
        e, g = out.routing.idx[t, 0], out.routing.weight[t, 0]
        gate, up = np.split(f.p["experts"]["gate_up_proj"][e] @ (f.x[t] * (g if where == "input" else 1.0)), 2)
        y = f.p["experts"]["down_proj"][e] @ (swish(gate) * up)
        assert relative(out.y[t], y * (1.0 if where == "input" else g)) <= 64 * U64
    exact(f)


# ---- shards: each of several workers holds some of the experts, in one process ----


def shard(f: Frame, owned: list[int]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], Any]:
    """(y, dx of the experts, gradients, own choices) of the worker of these experts; it routes like all others."""
    (routing, _), _ = router.forward(f.x, f.p["router"], f.cfg.router)
    mine = np.isin(routing.idx, owned)
    local = np.zeros(f.cfg.n_experts, int)
    local[owned] = np.arange(len(owned))
    rows = plan.make(local[routing.idx], mine, len(owned))
    weights = {n: a[owned] for n, a in f.p["experts"].items()}
    y, cache = experts.forward(f.x, routing.weight, weights, rows, form=f.cfg.form)
    dx, d = experts.backward(f.dy, cache)
    return y, dx, d, mine


SHARDS = {
    "halves": [[0, 1, 2], [3, 4, 5]],
    "mixed": [[5, 0], [3], [1, 4, 2]],
    "each": [[e] for e in range(6)],
}


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("owners", SHARDS)
def test_g_the_sum_over_shards_is_the_whole(owners: str, crowded: bool) -> None:
    """HF #45621, #48687, torchtitan #4054: the loss right, the router's gradient wrong (up to 2.69 times) with experts
    spread over workers; HF #48205, Megatron #599: NaN or no gradient from a worker whose experts nobody chose.

    Values, dx, the gradient of every expert, and dg: of a foreign choice it is exactly 0, so the router's gradient from
    the sum of the shards' dg is that of the whole, norm for norm.
    """
    f = make(config(norm="l1", bias=True, losses=()))
    f = to_one_expert(f) if crowded else f
    (routing, _), cache = router.forward(f.x, f.p["router"], f.cfg.router)
    out, dx, dp = f.both()
    parts = [shard(f, owned) for owned in SHARDS[owners]]
    assert relative(sum(y for y, _, _, _ in parts), out.y) <= 64 * U64
    for _, _, d, mine in parts:
        assert not d["g"][~mine].any() and all(np.isfinite(a).all() for a in d.values())
    dx_router, d = router.backward(sum(d["g"] for _, _, d, _ in parts), {}, cache)
    assert relative(sum(dx_ for _, dx_, _, _ in parts) + dx_router, dx) <= 64 * U64
    assert relative(d["weight"], dp["router.weight"]) <= 64 * U64
    assert np.linalg.norm(d["weight"]) == pytest.approx(np.linalg.norm(dp["router.weight"]), rel=1e-13)
    for n in f.p["experts"]:
        whole = np.zeros_like(dp[f"experts.{n}"])
        for owned, (_, _, g, _) in zip(SHARDS[owners], parts, strict=True):
            whole[owned] = g[n]
        assert relative(whole, dp[f"experts.{n}"]) <= 64 * U64, n


def test_g_a_sentinel_id_that_is_not_masked_is_refused() -> None:
    """HF #45621: the sentinel E of a foreign expert leaked as an index.  Here it is an error, never somebody's row."""
    idx, kept = np.array([[0, 3], [3, 2], [3, 3]]), np.array([[True, False], [False, True], [False, False]])
    for given in (None, kept):
        with pytest.raises(IndexRangeError, match="idx"):
            plan.make(idx, given, 3)
    clean = plan.make(np.where(kept, idx, 0), kept, 3)
    assert clean.slot.tolist() == [[0, -1], [-1, 1], [-1, -1]] and clean.start.tolist() == [0, 1, 1, 2]
