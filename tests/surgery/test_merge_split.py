"""Whole models split into experts and merged again."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.models import lm
from pymoe.surgery import experts, merge, split
from tests.surgery import models


def close(a, b, tolerance=1e-13):
    return np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize(
    ("how", "settings"),
    [
        ("copy", {"n_experts": 3, "k": 2}),
        ("partition", {"n_experts": 4, "k": 4}),
        ("partition", {"n_experts": 4, "k": 4, "grouping": "random"}),
        ("partition", {"n_experts": 4, "k": 4, "grouping": "coactivation"}),
        ("partition", {"n_experts": 4, "k": 4, "grouping": "gradient"}),
        ("granular", {"n_experts": 6, "k": 2, "pieces": 2}),
        ("drop", {"n_experts": 3, "k": 2, "ratio": 0.0}),
    ],
)
def test_a_split_model_is_the_dense_one_at_the_start(how, settings):
    cfg, p = models.dense()
    made = split.experts(p, cfg, how=how, rng=np.random.default_rng(0), text=models.text(), **settings)
    assert made.cfg.moe_settings[0].n_experts == settings["n_experts"]
    assert close(models.logits(made.cfg, made.p), models.logits(cfg, p))
    flat = tree.flatten(made.p)
    name = "layers.1.mlp.experts.down_proj"
    broken = tree.unflatten(flat | {name: flat[name] * 1.001})
    assert not close(models.logits(made.cfg, broken), models.logits(cfg, p), 1e-6)
    for kept in ("embed_tokens.weight", "layers.0.self_attn.qkv_proj", "norm.weight"):
        assert flat[kept] is tree.flatten(p)[kept]


def test_dropped_units_change_the_model_and_fewer_pieces_lose_something():
    cfg, p = models.dense()
    rng = np.random.default_rng(0)
    for settings in (
        {"how": "drop", "n_experts": 3, "k": 2, "ratio": 0.5},
        {"how": "partition", "n_experts": 4, "k": 2},
    ):
        made = split.experts(p, cfg, rng=rng, text=models.text(), **settings)
        assert not close(models.logits(made.cfg, made.p), models.logits(cfg, p), 1e-3)


def test_split_refuses():
    cfg, p = models.dense()
    common = {"n_experts": 4, "k": 2, "rng": np.random.default_rng(0)}
    for call in (
        lambda: split.experts(p, cfg, how="magic", **common),
        lambda: split.experts(*models.sparse()[::-1], how="copy", **common),
        lambda: split.experts(p, cfg, how="granular", pieces=3, **common),
        lambda: split.experts(p, cfg, how="partition", grouping="magic", **common),
        lambda: split.experts(p, cfg, how="partition", grouping="coactivation", **common),
        lambda: split.experts(p, cfg, how="partition", **(common | {"n_experts": 3})),  # 20 hidden units
    ):
        with pytest.raises(ConfigError):
            call()


@pytest.mark.parametrize("how", merge.AVERAGES)
@pytest.mark.parametrize("grouping", merge.GROUPINGS)
def test_merged_experts_are_tied_layer_by_layer(grouping, how):
    cfg, p = models.sparse()
    made = merge.experts(p, cfg, grouping=grouping, n_groups=3, text=models.text(), how=how)
    for i, groups in made.groups.items():
        assert made.cfg.stack.blocks[i].feed_forward.tied == tuple(groups) and len(set(groups)) == 3
        assert made.p["layers"][str(i)]["mlp"]["experts"]["down_proj"].shape[0] == 3
    lm.forward(np.zeros((1, 3), int), made.p, made.cfg)


@pytest.mark.parametrize("grouping", merge.GROUPINGS)
def test_experts_that_stay_in_all_layers_together(grouping):
    cfg, p = models.sparse()
    layers = experts.moe_layers(cfg)
    total = 2 * len(layers) + 1
    made = merge.experts(p, cfg, grouping=grouping, in_all=total, text=models.text())
    kept = [len(set(groups)) for groups in made.groups.values()]
    assert sum(kept) == total and len(set(kept)) > 1
    lm.forward(np.zeros((1, 3), int), made.p, made.cfg)
    for both in ({}, {"n_groups": 2, "in_all": total}):
        with pytest.raises(ConfigError, match="in_all"):
            merge.experts(p, cfg, grouping=grouping, text=models.text(), **both)


def test_copies_merge_back_into_the_model_they_were_made_of():
    cfg, p = models.dense()
    sparse = split.experts(p, cfg, how="copy", n_experts=4, k=2, rng=np.random.default_rng(0))
    for made in (
        merge.experts(sparse.p, sparse.cfg, grouping="hc-smoe", n_groups=2, text=models.text(), how="uniform"),
        merge.to_dense(sparse.p, sparse.cfg, text=models.text()),
        merge.to_dense(sparse.p, sparse.cfg),
    ):
        assert close(models.logits(made.cfg, made.p), models.logits(cfg, p))
    assert merge.to_dense(sparse.p, sparse.cfg).cfg == cfg


@pytest.mark.parametrize("how", merge.MODELS)
def test_a_model_merged_with_itself_is_itself(how):
    cfg, p = models.dense()
    base = models.dense(seed=5)[1]
    density = 1.0
    made = merge.models([p, p], cfg, how=how, rng=np.random.default_rng(0), base=base, density=density, scale=1.0)
    want = models.logits(cfg, p)
    if how in ("arithmetic", "dare"):  # two differences are added: twice the way from the base
        twice = tree.map(lambda b, a: 2 * a - b, base, p)
        want = models.logits(cfg, twice)
    assert close(models.logits(made.cfg, made.p), want, 1e-11)


def test_the_mean_of_two_models():
    cfg, p = models.dense()
    q = models.dense(seed=3)[1]
    made = merge.models([p, q], cfg, how="uniform", rng=np.random.default_rng(0))
    for name, a in tree.flatten(made.p).items():
        np.testing.assert_allclose(a, (tree.flatten(p)[name] + tree.flatten(q)[name]) / 2, rtol=0, atol=1e-15)
    mixed = merge.models([p, q], cfg, how="btx", k=2, rng=np.random.default_rng(0))
    assert experts.moe_layers(mixed.cfg)[0].n_experts == 2
    assert np.array_equal(
        mixed.p["layers"]["0"]["mlp"]["experts"]["down_proj"][1], q["layers"]["0"]["mlp"]["down_proj"]
    )


def test_merge_refuses():
    cfg, p = models.dense()
    rng = np.random.default_rng(0)
    other = models.dense(d_ff=10)[1]
    for call in (
        lambda: merge.models([p], cfg, how="uniform", rng=rng),
        lambda: merge.models([p, other], cfg, how="uniform", rng=rng),
        lambda: merge.models([p, p], cfg, how="ties", rng=rng),
        lambda: merge.models([p, p, p], cfg, how="slerp", rng=rng),
        lambda: merge.models([p, p], cfg, how="magic", rng=rng),
        lambda: merge.experts(p, cfg, grouping="m-smoe", n_groups=2, text=models.text()),
        lambda: merge.experts(*models.sparse()[::-1], grouping="magic", n_groups=2, text=models.text()),
        lambda: merge.experts(*models.sparse()[::-1], grouping="m-smoe", n_groups=2, text=models.text(), how="magic"),
        lambda: merge.experts(*models.sparse()[::-1], grouping="m-smoe", n_groups=6, text=models.text()),
    ):
        with pytest.raises(ConfigError):
            call()
