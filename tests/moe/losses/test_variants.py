"""Losses by sequence, of the global batch, pooled over layers, by total, of scores; the entropy and the L1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pymoe.moe import Capacity, Given, router
from pymoe.moe.losses import balance, entropy, importance, l1, load, pooled

from ...oracles.scalar_math import softmax
from ..frames import ALL, U64, config, frozen, make, relative
from .test_losses import MASK, F, S, Z, check

SIGMOID = frozen(1 / (1 + np.exp(-Z)))
MASKS = pytest.mark.parametrize("mask", [None, MASK], ids=["all", "padding"])


# ---- the complex step of each module, with planted faults ----


@MASKS
@pytest.mark.parametrize("normalise", ["token", "total"])
@pytest.mark.parametrize("sequences", [1, 7])
def test_gradcheck_balance_of_sequences(mask: Any, normalise: str, sequences: int) -> None:
    f = np.random.default_rng(4).random((sequences, 6))
    check(lambda s: balance.forward(s, f, mask, normalise=normalise, factor=0.3), balance.backward, SIGMOID)


@MASKS
def test_gradcheck_entropy_l1_and_importance_of_scores(mask: Any) -> None:
    check(lambda x: entropy.forward(x, mask), entropy.backward, Z)
    check(lambda s: l1.forward(s, 2, mask), l1.backward, SIGMOID)
    check(lambda s: importance.of_scores(s, mask, ddof=1, eps=1e-3), importance.of_scores_backward, SIGMOID)


@MASKS
def test_gradcheck_load_of_one_threshold(mask: Any) -> None:
    sigma = frozen(np.full((7, 6), 0.4))
    h = frozen(Z + 0.4 * np.random.default_rng(2).standard_normal((7, 6)))

    def forward(c: Any, h: Any) -> Any:
        return load.forward(c, h, sigma.astype(np.real(c).dtype), 2, mask, single=True)

    check(forward, _without_sigma, Z, h)


def _without_sigma(dloss: Any, cache: Any) -> Any:
    dc, d = load.backward(dloss, cache)
    return dc, {"h": d["h"]}


@pytest.mark.parametrize("factor", [None, 0.25])
@pytest.mark.parametrize("mask", [None, frozen(np.array([1, 0, 1, 1, 0], bool))], ids=["all", "padding"])
def test_gradcheck_pooled(mask: Any, factor: float | None) -> None:
    z = np.random.default_rng(5).standard_normal((3, 5, 4))
    check(lambda z: pooled.forward(z, 2, mask, factor=factor), pooled.backward, z)


# ---- values by loops ----


def test_pooled_is_the_loss_of_transformers() -> None:
    """E times the sum over places and experts of mean one-hot times mean probability; layers and tokens in a heap."""
    rng = np.random.default_rng(0)
    for mask in (None, rng.random(7) < 0.6):
        z = rng.standard_normal((3, 7, 5))
        rows = [z[layer, t] for layer in range(3) for t in range(7) if mask is None or mask[t]]
        total = 0.0
        for j in range(2):
            for e in range(5):
                chosen = sum(int(np.argsort(-row, kind="stable")[j]) == e for row in rows) / len(rows)
                total += chosen * math.fsum(softmax(row.tolist())[e] for row in rows) / len(rows)
        assert float(pooled.forward(z, 2, mask)[0]) == pytest.approx(5 * total, rel=1e-14)


def test_pooled_hides_what_the_mean_over_layers_shows() -> None:
    """transformers #28255: 4 layers collapsed on 4 experts are 1.0 pooled and 4.0 each; 1 collapsed layer is 4.0."""
    collapsed = 40.0 * np.eye(4)[:, None, :].repeat(9, axis=1)
    assert float(pooled.forward(collapsed, 1)[0]) == pytest.approx(1.0, abs=1e-12)
    each = [float(pooled.forward(collapsed[i : i + 1], 1)[0]) for i in range(4)]
    assert each == pytest.approx([4.0] * 4, abs=1e-12)
    even = np.random.default_rng(0).permutation(np.eye(4).repeat(9, axis=0))[None] * 1e-9
    assert float(pooled.forward(even, 2, factor=None)[0]) == pytest.approx(2.0, abs=1e-8), "balanced is k, not 1"


def test_pooled_equals_balance_for_one_layer_but_for_the_factor_k() -> None:
    f = np.bincount(np.argsort(-Z, axis=1)[:, :2].ravel(), minlength=6) / 14
    wanted, cache = balance.forward(S, f)
    assert float(pooled.forward(Z[None], 2)[0]) == pytest.approx(2 * float(wanted), rel=1e-14)


def test_pooled_edges() -> None:
    """No real token: 0, no gradient; one token: its share; another factor: its multiple."""
    loss, cache = pooled.forward(np.ones((2, 3, 4)), 2, np.zeros(3, bool))
    assert float(loss) == 0 and not pooled.backward(np.ones(()), cache)[0].any()
    one = np.log(np.array([[[0.5, 0.3, 0.2]]]))
    assert float(pooled.forward(one, 1)[0]) == pytest.approx(3 * 0.5, rel=1e-14)
    assert float(pooled.forward(one, 1, factor=0.25)[0]) == pytest.approx(0.25 * 0.5, rel=1e-14)


def test_the_factors_in_the_wild() -> None:
    """mesh and DeepSpeed E² mean(me ce), Megatron E/(k T²) Σ count Σ p, Tutel E/T² Σ Σ: the same number."""
    counts, p_sum, e, t, k = F * 14, S.sum(0), 6, 7, 2
    ours = float(balance.forward(S, F)[0])
    assert (e**2 * np.mean((p_sum / t) * (counts / (k * t)))) == pytest.approx(ours, rel=1e-14)
    assert e / (k * t**2) * np.sum(counts * p_sum) == pytest.approx(ours, rel=1e-14)
    assert e / t**2 * np.sum(counts / k * p_sum) == pytest.approx(ours, rel=1e-14)
    fairscale = float(balance.forward(S, F, factor=1 / e)[0])
    assert fairscale == pytest.approx(np.mean((p_sum / t) * (counts / (k * t))), rel=1e-14)


def test_total_is_lm_engines_product_of_shares() -> None:
    acc, freq = SIGMOID.sum(0), F * 14
    wanted = 6 * np.sum(acc / acc.sum() * freq / freq.sum())
    assert float(balance.forward(SIGMOID, F, normalise="total")[0]) == pytest.approx(wanted, rel=1e-14)
    assert float(balance.forward(S, F, normalise="total")[0]) == pytest.approx(
        float(balance.forward(S, F)[0]), rel=1e-14
    )
    assert abs(float(balance.forward(SIGMOID, F)[0]) - wanted) > 1e-4, "for sigmoid scores they differ"


def test_by_sequence_is_the_mean_of_the_sequences() -> None:
    f = frozen(np.random.default_rng(0).random((3, 6)))
    s = frozen(np.random.default_rng(1).random((12, 6)))
    mask = frozen(np.concatenate([np.ones(4, bool), np.zeros(4, bool), np.array([1, 1, 0, 0], bool)]))
    parts = [float(balance.forward(s[a : a + 4], f[i], mask[a : a + 4])[0]) for i, a in enumerate((0, 4, 8))]
    assert parts[1] == 0, "a sequence of padding"
    assert float(balance.forward(s, f, mask)[0]) == pytest.approx((parts[0] + parts[2]) / 2, rel=1e-14)


def test_l1_and_entropy_by_hand() -> None:
    s = np.array([[0.5, 0.0, 0.25], [1.0, 0.0, 0.0]])
    # f = 3/(1·2) · (2, 0, 1);  Σ f R = 3 · 1.5 + 1.5 · 0.25
    assert float(l1.forward(s, 1)[0]) == pytest.approx((3 * 1.5 + 1.5 * 0.25) / 6, rel=1e-15)
    masked = l1.forward(np.array([[0.5, 0.0, 0.25], [1.0, 1.0, 0.0]]), 1, np.array([True, False]))[0]
    assert float(masked) == pytest.approx((3 * 0.5 + 3 * 0.25) / 3, rel=1e-15)
    z = np.array([[0.0, -np.inf, 0.0], [9.0, -np.inf, -np.inf]])
    loss, cache = entropy.forward(z)
    assert float(loss) == pytest.approx(math.log(2) / 2, rel=1e-15)
    assert np.isfinite(entropy.backward(np.ones(()), cache)[0]).all()


def test_l1_and_entropy_of_one_token_and_of_none() -> None:
    s, z = np.array([[0.5, 0.0, 0.25]]), np.log(np.array([[0.5, 0.5]]))
    loss, cache = l1.forward(s, 1)
    assert float(loss) == pytest.approx((3 * 0.5 + 3 * 0.25) / 3, rel=1e-15)
    assert np.allclose(l1.backward(np.ones(()), cache)[0], [[1.0, 0.0, 1.0]], rtol=1e-15)
    loss, cache = entropy.forward(z)
    assert float(loss) == pytest.approx(math.log(2), rel=1e-15)
    tilted = np.log(np.array([[0.75, 0.25]]))
    _, cache = entropy.forward(tilted)
    h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    wanted = [-0.75 * (math.log(0.75) + h), -0.25 * (math.log(0.25) + h)]
    assert np.allclose(entropy.backward(np.ones(()), cache)[0], [wanted], rtol=1e-14)
    for module, x, more in ((l1, s, (1,)), (entropy, z, ())):
        for given, mask in ((x, np.zeros(1, bool)), (x[:0], None)):
            loss, cache = module.forward(given, *more, mask)
            assert float(loss) == 0 and not module.backward(np.ones(()), cache)[0].any()


def test_l1_accumulates_in_double_precision() -> None:
    s = np.full((1 << 15, 1), 1.0 + 2.0**-20, np.float32)
    assert float(l1.forward(s, 1)[0]) == 1.0 + 2.0**-20


# ---- the global batch and its parts ----


RULES = {
    "softmax": {"norm": "l1"},
    "sigmoid": {"score": "sigmoid", "norm": "l1"},
    "biased": {"score": "sigmoid", "selection_bias": True},
    "first choices": {"balance_choices": "first"},
    "of the softmax": {"score": "sigmoid", "balance_of": "softmax"},
}


@pytest.mark.parametrize("how", ["counts", "reduce"])
@pytest.mark.parametrize("name", RULES)
def test_the_loss_of_micro_batches_with_global_counts_is_that_of_the_batch(name: str, how: str) -> None:
    """arXiv:2501.11873: f of the global batch, P of each part; Megatron 9ef8a2a420: not a matter of the splitting."""
    f = make(config(losses=("balance",), **RULES[name]), 12)
    cfg, p = f.cfg.router, f.p["router"]

    def run(rows: slice, given: Given | None) -> tuple[float, np.ndarray, np.ndarray]:
        (_, losses), cache = router.forward(f.x[rows], p, cfg, given=given)
        dx, dp = router.backward(np.zeros(cache.weigh.idx.shape), {"balance": 1.0}, cache)
        return float(losses["balance"]), dx, dp["weight"]

    parts = [slice(0, 4), slice(4, 8), slice(8, 12)]
    counts = []
    for rows in parts:  # what f counts, seen through the all-reduce
        router.forward(f.x[rows], p, cfg, given=Given(reduce=lambda n: counts.append(n) or n))
    whole, dx, dw = run(slice(0, 12), None)
    total = sum(counts)
    given = [Given(counts=total - own) if how == "counts" else Given(reduce=lambda n: total) for own in counts]
    found = [run(rows, g) for rows, g in zip(parts, given, strict=True)]
    assert np.mean([v for v, _, _ in found]) == pytest.approx(whole, rel=1e-14)
    assert relative(np.concatenate([d for _, d, _ in found]) / 3, dx) <= 16 * U64
    assert relative(sum(d for _, _, d in found) / 3, dw) <= 16 * U64
    alone = np.mean([run(rows, None)[0] for rows in parts])
    assert abs(alone - whole) > 1e-6, "control: with local counts it does depend on the splitting"


def test_by_sequence_does_not_depend_on_micro_batches() -> None:
    """A batch of 4 sequences, or twice 2 of them: the same mean loss and gradients (Megatron #5047)."""
    f = make(config(score="sigmoid", norm="l1", losses=("balance",), balance_over="sequence"), (4, 5))
    whole, dx, dp = f.both(dy=np.zeros_like(f.dy), dlosses={"balance": 1.0})
    halves = [f.both(x=f.x[a : a + 2], dy=np.zeros((2, 5, 3)), dlosses={"balance": 0.5}) for a in (0, 2)]
    assert np.mean([h[0].losses["balance"] for h in halves]) == pytest.approx(float(whole.losses["balance"]), rel=1e-14)
    assert relative(np.concatenate([h[1] for h in halves]), dx) <= 16 * U64
    for name in dp:
        assert relative(halves[0][2][name] + halves[1][2][name], dp[name]) <= 16 * U64


def test_sequences_of_one_token_and_batches_of_one_choice() -> None:
    """f of one choice is 1 at that expert: L = E q of the chosen, by sequence its mean over the tokens."""
    for over in ("batch", "sequence"):
        f = make(config(k=1, losses=("balance",), balance_over=over), (7, 1) if over == "sequence" else 1)
        out, _ = f.forward()
        z = out.routing.logits
        q = np.exp(z - z.max(1, keepdims=True))
        q = q / q.sum(1, keepdims=True)
        assert float(out.losses["balance"]) == pytest.approx(6 * q.max(1).mean(), rel=1e-13)


# ---- padding: five counters ----


COUNTERS = ALL + ("balance_second", "entropy", "l1")
PADDED = {
    "noisy": {"noise": "learned", "norm": "l1"},
    "gaussian": {"noise": "gaussian", "noise_std": 3.0, "importance_of": "scores"},
    "biased": {"score": "sigmoid", "selection_bias": True, "norm": "l1"},
    "total": {"score": "sigmoid", "balance_normalise": "total"},
    "capacity": {"norm": "l1", "capacity": Capacity(0.6, order="choice", renorm="after")},
    "places": {"capacity": Capacity(0.6, rule="deepspeed", order="probability", priority="weight")},
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_is_in_none_of_the_counters(name: str) -> None:
    """f, P, lse, the counts of the bias, the queue: with padding all are those of the real tokens alone."""
    f = make(config(losses=COUNTERS, **PADDED[name]), 13, mask=True)
    out, dx, dp = f.both()
    real = f.mask
    draws = f.draws._replace(noise=None if f.draws.noise is None else f.draws.noise[real])
    alone, dx_alone, dp_alone = f.both(x=f.x[real], dy=f.dy[real], mask=None, draws=draws)
    for loss, value in alone.losses.items():
        assert float(out.losses[loss]) == pytest.approx(float(value), rel=1e-13), loss
    assert np.array_equal(out.routing.load, alone.routing.load)
    assert np.array_equal(out.routing.idx[real], alone.routing.idx)
    kept = np.ones((real.sum(), 2), bool) if alone.routing.kept is None else alone.routing.kept
    assert np.array_equal(out.routing.kept[real], kept) and not out.routing.kept[~real].any()
    assert relative(dx[real], dx_alone) <= 64 * U64 and not dx[~real].any()
    for n in dp:
        assert relative(dp[n], dp_alone[n]) <= 64 * U64, n


def test_auxiliary_losses_reach_the_logits() -> None:
    """NeMo Automodel #1408: an attached loss whose gradient never arrived.  Each moves router.weight by itself."""
    f = make(config(losses=COUNTERS, noise="learned"), 13)
    for loss in COUNTERS:
        _, _, dp = f.both(dy=np.zeros_like(f.dy), dlosses={loss: 1.0})
        assert dp["router.weight"].any(), loss
