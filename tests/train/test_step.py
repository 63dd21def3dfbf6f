"""One step, the objective and its gradient, evaluation, the table of kinds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from pymoe import presets, verify
from pymoe.backend import tree
from pymoe.backend.errors import GradientError, NonFiniteError
from pymoe.models import lm
from pymoe.models.lm import LMConfig
from pymoe.train import data, evaluate, kinds, objective, size, step, vocabulary
from pymoe.train.settings import TrainSettings

IDS = np.random.default_rng(0).integers(0, 11, 700).astype(np.uint8)
IDS.setflags(write=False)
SETTINGS = TrainSettings(steps=9, rows=6, window=7, warmup=2, dtype="float64", decay=0.1)


def config(**settings) -> LMConfig:
    moe = presets.mixtral(d_model=8, d_ff=6, n_experts=5, k=2, **settings)
    return LMConfig(vocab=11, d_model=8, n_layers=3, n_heads=2, context=7, moe=moe, moe_layers=(0, 2), d_ff=10)


def frozen(state: step.State) -> step.State:
    for leaf in tree.flatten({"p": state.p, "s": state.slots}).values():
        leaf.setflags(write=False)
    return state


def equal(a: step.State, b: step.State) -> bool:
    x, y = (tree.flatten({"p": s.p, "s": s.slots}) for s in (a, b))
    return a.step == b.step and x.keys() == y.keys() and all(np.array_equal(x[n], y[n]) for n in x)


def test_the_gradient_of_the_objective_is_right_and_a_wrong_one_is_seen():
    cfg = config()
    x, y = data.batch(IDS, seed=0, step=0, rows=2, window=7)
    at = (x, lm.init(np.random.default_rng(0), cfg, np.float64), cfg, y, {"balance": 0.3, "z": 0.2, "load": 9.0})
    assert verify.directional(objective, *at).error < 1e-13

    class Broken:
        forward = staticmethod(objective.forward)

        @staticmethod
        def backward(dy, cache):
            weights = {name: w * (1.001 if name == "balance" else 1) for name, w in cache.weights.items()}
            return objective.backward(dy, cache._replace(weights=weights))

    with pytest.raises(GradientError):
        verify.directional(Broken, *at)


def test_a_step_is_pure_and_repeats_bit_for_bit():
    cfg = config(jitter=0.1)
    state = frozen(step.start(SETTINGS, cfg))
    one, measured = step.advance(SETTINGS, cfg, state, IDS)
    two, again = step.advance(SETTINGS, cfg, state, IDS)
    assert equal(one, two) and measured == again and one.step == 1
    assert not equal(one, state)
    assert [sum(n) for n in measured.load] == [6 * 7 * 2] * 2
    other, _ = step.advance(dataclasses.replace(SETTINGS, seed=1), cfg, state, IDS)
    assert not equal(one, other)


def test_micro_batches_average_the_gradient():
    cfg = config()
    whole = dataclasses.replace(SETTINGS, balance=0.0, z=0.1, clip=0.0)
    parts = dataclasses.replace(whole, micro_batches=3)
    state = frozen(step.start(whole, cfg))
    (one, m1), (three, m3) = (step.advance(s, cfg, state, IDS) for s in (whole, parts))
    g1, g3 = (tree.flatten(s.slots["m"]) for s in (one, three))
    for name in g1:
        assert np.max(np.abs(g1[name] - g3[name])) <= 1e-13 * np.max(np.abs(g1[name])), name
    assert m1.load == m3.load and m1.parts["lm"] == pytest.approx(m3.parts["lm"], rel=1e-13)
    _, control = step.advance(dataclasses.replace(parts, balance=1.0), cfg, state, IDS)
    _, whole_balance = step.advance(dataclasses.replace(whole, balance=1.0), cfg, state, IDS)
    assert control.norm != pytest.approx(whole_balance.norm, rel=1e-6)  # a balance loss is one of each micro-batch


def test_the_selection_bias_moves_against_the_load_once_a_step():
    cfg = config(selection_bias=True)
    s = dataclasses.replace(SETTINGS, bias_rate=0.25, micro_batches=2)
    state = frozen(step.start(s, cfg))
    after, measured = step.advance(s, cfg, state, IDS)
    for i, layer in enumerate(("0", "2")):
        load = np.array(measured.load[i])
        expected = 0.25 * np.sign(load.mean() - load)
        assert np.array_equal(after.p["layers"][layer]["mlp"]["router"]["selection_bias"], expected)
    assert np.any(expected != 0)


def test_divergence_stops_with_what_to_do_and_leaves_the_state():
    cfg = config(nonfinite="propagate")
    state = step.start(SETTINGS, cfg)
    flat = tree.flatten(state.p)
    flat["norm.weight"] = np.full_like(flat["norm.weight"], np.inf)
    broken = frozen(state._replace(p=tree.unflatten(flat)))
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match="diverged at step 1.*smaller --lr"):
        step.advance(SETTINGS, cfg, broken, IDS)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_learns_a_text_that_repeats(optimizer):
    ids = np.tile(np.arange(11, dtype=np.uint8), 80)
    cfg = config()
    s = dataclasses.replace(
        SETTINGS, steps=60, warmup=5, optimizer=optimizer, lr=0.5 if optimizer == "sgd" else 0.02, floor=0.0, decay=0.0
    )
    state = step.start(s, cfg)
    first = evaluate.loss(state.p, cfg, ids[:100], window=7, rows=4)
    for _ in range(s.steps):
        state, _ = step.advance(s, cfg, state, ids)
    last = evaluate.loss(state.p, cfg, ids[:100], window=7, rows=4)
    assert first.loss == pytest.approx(math.log(11), abs=0.1) and last.loss < 0.3 and last.tokens == 99


def test_evaluation_is_the_mean_over_all_tokens():
    cfg = config()
    p = lm.init(np.random.default_rng(1), cfg, np.float64)
    ids = IDS[:38]
    total = 0.0
    for start in range(0, 37, 7):  # one window at a time, log-softmax by hand
        x, y = ids[start : min(start + 7, 37)], ids[start + 1 : min(start + 8, 38)]
        out, _ = lm.forward(x[None].astype(np.int64), p, cfg)
        for z, target in zip(out.logits[0], y, strict=True):
            total += math.log(math.fsum(math.exp(v) for v in z)) - float(z[target])
    found = evaluate.loss(p, cfg, ids, window=7, rows=2)
    assert found.tokens == 37 and found.loss == pytest.approx(total / 37, rel=1e-13)


def test_the_dense_twin_is_as_large_as_what_a_token_passes():
    from pymoe.models.count import count_parameters

    for shared in (0, 4):
        moe = presets.mixtral(d_model=8, d_ff=6, n_experts=5, k=2, d_shared=shared)
        cfg = LMConfig(vocab=11, d_model=8, n_layers=2, n_heads=2, context=7, moe=moe)
        twin = size.dense_twin(cfg)
        active, dense = count_parameters(cfg).active, count_parameters(twin)
        assert dense.total == dense.active and active <= dense.active <= active + 2 * 3 * 8
        assert twin.d_ff == 12 + shared + 2  # k F, the shared expert, and the router's 5 x 8 numbers as 5/3 units


def test_counts_of_kinds_are_those_of_a_plain_loop():
    words = vocabulary.of("aBc 1\n,(é")
    rng = np.random.default_rng(2)
    ids, idx = rng.integers(0, words.size, 90), rng.integers(-1, 4, (90, 3))
    batches = [evaluate.Choice(6, ids[lo:hi], idx[lo:hi], 4) for lo, hi in ((0, 40), (40, 90))]
    (layer,) = kinds.count(batches, words)
    expected = np.zeros((words.size, 4), int)
    for i, row in zip(ids, idx, strict=True):
        for e in row:
            if e >= 0:
                expected[i, e] += 1
    assert layer.layer == 6 and np.array_equal(layer.counts, expected)
    names, share = kinds.by_kind(layer, words)
    assert np.allclose(share.sum(axis=0), 1, rtol=1e-14, atol=0)
    vowels = [words.characters.index(c) for c in "aé"]
    wanted = expected[vowels].sum(0) / expected[vowels].sum()
    assert np.allclose(share[:, names.index("vowel")], wanted, rtol=1e-14, atol=0)
    text = kinds.table(layer, words)
    assert len(text.splitlines()) == 5 and "vowel" in text


def test_a_table_of_an_expert_without_tokens_has_no_nan():
    words = vocabulary.of("ab")
    (layer,) = kinds.count([evaluate.Choice(0, np.array([0, 1]), np.array([[0], [0]]), 3)], words)
    assert "nan%" not in kinds.table(layer, words)
