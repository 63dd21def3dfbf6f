"""Experts, units and choices taken out of a whole model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.models import lm
from pymoe.sparsity import experts as layer
from pymoe.surgery import calibration, experts
from tests.surgery import models


@pytest.mark.parametrize("method", experts.METHODS)
def test_every_layer_keeps_as_many_and_the_right_ones(method):
    cfg, p = models.sparse()
    text = models.text()
    cut = experts.prune(p, cfg, method=method, sparsity=0.4, text=text)
    assert cut.cfg.moe == dataclasses.replace(cfg.moe, router=dataclasses.replace(cfg.moe.router, n_experts=3))
    if method in experts.SCORES:
        seen = calibration.routed(p, cfg, text)
        for i, ids in cut.kept.items():
            score = experts.SCORES[method](seen[i])
            assert sorted(ids) == sorted(sorted(range(5), key=lambda e: (-score[e], e))[:3])
    else:  # the first layer sees what the whole model shows it
        x = calibration.layer_inputs(p, cfg, text, 0)
        assert cut.kept[0].tolist() == layer.naee.exhaustive(x, p["layers"]["0"]["mlp"], cfg.moe, 3).tolist() or (
            method == "naee-greedy"
        )
    for i, ids in cut.kept.items():
        old, new = p["layers"][str(i)]["mlp"], cut.p["layers"][str(i)]["mlp"]
        assert np.array_equal(new["experts"]["down_proj"], old["experts"]["down_proj"][ids])
        assert np.array_equal(new["router"]["weight"], old["router"]["weight"][ids])
    assert models.logits(cut.cfg, cut.p).shape == (3, models.WINDOW, models.VOCAB)


def test_a_later_layer_is_judged_behind_the_pruned_ones():
    cfg, p = models.sparse()
    text = models.text()
    cut = experts.prune(p, cfg, method="naee", sparsity=0.4, text=text)
    first = experts.prune(p, dataclasses.replace(cfg), method="naee", sparsity=0.4, text=text).kept[0]
    q, one = layer.cut(p["layers"]["0"]["mlp"], cfg.moe, first)
    half = p | {"layers": p["layers"] | {"0": p["layers"]["0"] | {"mlp": q}}}
    x = calibration.layer_inputs(half, dataclasses.replace(cfg, moe=(one, cfg.moe)), text, 1)
    assert cut.kept[1].tolist() == layer.naee.exhaustive(x, p["layers"]["1"]["mlp"], cfg.moe, 3).tolist()


def test_units_of_no_weight_go_first_and_change_nothing():
    cfg, p = models.sparse()
    flat = {n: a.copy() for n, a in tree.flatten(p).items()}
    for name, a in flat.items():
        if name.endswith("experts.gate_up_proj"):
            a[:, [1, 6, models.F + 1, models.F + 6]] = 0
        if name.endswith("experts.down_proj"):
            a[:, :, [1, 6]] = 0
    p = tree.unflatten(flat)
    cut = experts.prune_units(p, cfg, sparsity=0.25)
    assert cut.cfg.moe.d_ff == 6
    for kept in cut.kept.values():
        assert kept.tolist() == [[0, 2, 3, 4, 5, 7]] * models.E
    np.testing.assert_allclose(models.logits(cut.cfg, cut.p), models.logits(cfg, p), rtol=0, atol=1e-12)


def test_skipping_halves_the_second_choices():
    cfg, p = models.sparse()
    text = models.text()
    skipping, thresholds = experts.skip(p, cfg, text=text)
    chosen, second = 0, 0
    for x, _ in text.batches():
        out, _ = lm.forward(x, p, skipping)
        for i, routing in enumerate(out.routing):
            assert skipping.stack.blocks[i].feed_forward.router.skip == thresholds[i]
            chosen += routing.kept.shape[0]
            second += int(routing.kept[:, 1].sum())
    assert 0.45 < second / chosen < 0.55


def test_refused():
    cfg, p = models.sparse()
    text = models.text()
    for call, message in (
        (lambda: experts.prune(p, cfg, method="magic", sparsity=0.5, text=text), "method must be one of"),
        (lambda: experts.prune(p, cfg, method="reap", sparsity=1.0, text=text), "leaves no expert in block 0"),
        (lambda: experts.prune_units(p, cfg, sparsity=1.0), "leaves no hidden unit"),
        (lambda: experts.skip(p, _single(cfg), text=text), "nothing to skip"),
        (lambda: experts.moe_layers(models.dense()[0]), "is dense: it has no experts"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


def _single(cfg):
    return dataclasses.replace(cfg, moe=dataclasses.replace(cfg.moe, router=dataclasses.replace(cfg.moe.router, k=1)))


def test_layers_with_settings_of_their_own_come_back_as_a_tuple():
    cfg, _ = models.sparse()
    layers = experts.moe_layers(cfg)
    assert experts.with_layers(cfg, layers) == cfg
    layers[1] = dataclasses.replace(layers[1], d_ff=3)
    assert experts.with_layers(cfg, layers).moe == (layers[0], layers[1]) and isinstance(layers[1], moe.MoEConfig)
