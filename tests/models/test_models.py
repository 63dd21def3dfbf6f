"""Every model: gradients to 1e-13 with planted faults, the transformer in loops, precision, purity."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend import tree

from .cases import CASES, Case, distance, frozen

U64, U32 = 2.0**-53, 2.0**-24
every = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def cotangents(case: Case, out, seed=3):
    rng = np.random.default_rng(seed)
    dlogits = rng.standard_normal(out.logits.shape).astype(np.float32).astype(out.logits.dtype)
    return frozen(dlogits), {name: float(rng.standard_normal()) for name in out.losses}


@every
def test_gradients_along_random_directions_with_every_loss(case):
    report = verify.gradcheck(case.module, *case.args(), **case.keywords(), mode="directional")
    assert report.error < 1e-13
    assert report.zeros == ()  # every parameter of the case has been looked at


@pytest.mark.parametrize(
    "case", [c if c.quick else pytest.param(c, marks=pytest.mark.slow) for c in CASES], ids=lambda c: c.name
)
def test_whole_gradients_with_every_loss_and_planted_faults(case):
    report = verify.gradcheck(case.module, *case.args(), **case.keywords(), mode="gradient", controls=True)
    assert report.error < 1e-13
    assert report.zeros == ()


@every
def test_forward_is_the_transformer_in_loops(case):
    args, keywords = case.args(), case.keywords()
    out, _ = case.module.forward(*args, **keywords)
    logits, losses = case.oracle(*args[:3], case.sparse, *args[3:], **keywords)
    assert distance(out.logits, logits) <= 64 * U64
    broken = np.array(out.logits)
    broken.reshape(-1)[np.argmax(np.abs(broken))] *= 1.001
    assert distance(broken, logits) > 64 * U64
    assert out.losses.keys() == losses.keys()
    for name, value in out.losses.items():
        assert abs(value - losses[name]) <= 64 * U64 * losses[name], name
        assert abs(1.001 * value - losses[name]) > 64 * U64 * losses[name], name


@every
def test_losses_are_means_over_the_sparse_layers(case):
    out, _ = case.module.forward(*case.args(), **case.keywords())
    flat = case.sparse if case.module.__name__.endswith("seq2seq") else (case.sparse,)
    n = sum(len(layers) for layers in flat)
    assert sum(bool(layer) for layer in out.layer_losses) == sum(r is not None for r in out.routing) == n
    for name in ("balance", "z") if n else ():
        values = [float(layer[name]) for layer in out.layer_losses if layer]
        assert float(out.losses[name]) == pytest.approx(np.mean(values), rel=1e-15)


@every
def test_float32_is_as_near_as_float32_can_be(case):
    """64u of the tensor's maximum holds for one layer.  Errors of the layers add on the residual stream, which the
    norms keep at unit size, in forward and again in backward: (number of blocks) * 64u is promised of a model's logits,
    and twice that of its gradients.  Routing decisions must be the same, which these seeds see to.
    """
    seed = 1
    low, c_low = case.module.forward(*case.args(seed, np.float32), **case.keywords())
    high, c_high = case.module.forward(*case.args(seed), **case.keywords())
    for a, b in zip(low.routing, high.routing, strict=True):
        assert a is None or np.array_equal(a.idx, b.idx)
    blocks = len(low.layer_losses)
    assert low.logits.dtype == np.float32
    assert distance(low.logits, high.logits) <= blocks * 64 * U32
    assert distance(1.001 * low.logits, high.logits) > blocks * 64 * U32
    dlogits, dlosses = cotangents(case, low)
    _, dp_low = case.module.backward(dlogits, c_low, dlosses)
    _, dp_high = case.module.backward(frozen(dlogits.astype(np.float64)), c_high, dlosses)
    dp_low, dp_high = tree.flatten(dp_low), tree.flatten(dp_high)
    assert dp_low.keys() == dp_high.keys()
    for name, g in dp_low.items():
        assert g.dtype == np.float32
        assert distance(g, dp_high[name]) <= 2 * blocks * 64 * U32, name
        assert not dp_high[name].any() or distance(1.001 * g, dp_high[name]) > 2 * blocks * 64 * U32, name


@every
def test_cotangents_add_and_zero_gives_zero(case):
    out, cache = case.module.forward(*case.args(), **case.keywords())
    dlogits, dlosses = cotangents(case, out)
    whole = tree.flatten(case.module.backward(dlogits, cache, dlosses)[1])
    parts = [case.module.backward(dlogits, cache)[1]]
    parts += [case.module.backward(None, cache, {name: d})[1] for name, d in dlosses.items()]
    total = tree.flatten(tree.add(*parts))
    for name, g in whole.items():
        assert distance(g, total[name]) < 1e-13, name
    assert any(distance(1.001 * g, total[name]) > 1e-13 for name, g in whole.items())
    for zero in (case.module.backward(None, cache)[1], case.module.backward(None, cache, {n: 0.0 for n in dlosses})[1]):
        assert not any(g.any() for g in tree.flatten(zero).values())


@every
def test_the_tree_of_gradients_is_the_tree_of_parameters(case):
    args = case.args()
    _, cache = case.module.forward(*args, **case.keywords())
    dx, dp = case.module.backward(None, cache, {case.module.LOSS: 1.0})
    assert dx is None
    shapes = {name: a.shape for name, a in tree.flatten(args[1]).items()}
    assert {name: a.shape for name, a in tree.flatten(dp).items()} == shapes
    assert list(tree.flatten(dp)) == list(tree.flatten(args[1]))
