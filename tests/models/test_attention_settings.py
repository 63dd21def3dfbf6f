"""Attention of a kind of its own in a language model: gradients, generation, and settings that come back from JSON."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend.errors import ConfigError
from pymoe.models import LMConfig, Multipliers, generate, lm
from pymoe.nn import LatentAttentionConfig, RelativePositions, SelfAttentionConfig, Temperature
from pymoe.nn.rotary import Linear, Llama3, Yarn

from .cases import SIZES, distance, frozen, parameters

NARROW = SelfAttentionConfig(5, 2, 1, 4, window=3, sinks=True, rope_stretch=Yarn(4.0, 8))
WIDE = SelfAttentionConfig(5, 3, head_dim=2, qk_norm="width", bias=True, out_bias=False, rope_stretch=Llama3(4.0, 8))
CHUNKED = SelfAttentionConfig(5, 2, 1, 4, chunk=3, qk_norm="unit", rope_stretch=Linear(2.0))
ANYWHERE = SelfAttentionConfig(5, 2, 1, 4, rope_base=None, temperature=Temperature(0.3, 2))
LATENT = LatentAttentionConfig(5, 3, 4, 2, 6, 7, q_rank=8)
KINDS = {
    "latent": LATENT, "alternating": (NARROW, WIDE), "llama4": (CHUNKED, ANYWHERE),
    "distances": SelfAttentionConfig(5, 2, 1, 4, relative=RelativePositions(6, 5)),
}  # fmt: skip


def config(kind, **settings):
    return LMConfig(**SIZES, n_layers=2, attention=KINDS[kind], **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_generation(kind):
    cfg = config(kind, multipliers=Multipliers(2.0, 0.5, 0.3))
    p = parameters(cfg)
    ids = frozen(np.random.default_rng(1).integers(0, 11, (2, 9)))
    report = verify.gradcheck(lm, ids, p, cfg, targets=frozen(np.roll(ids, -1, 1)), mode="directional")
    assert report.error < 1e-13 and report.zeros == ()
    whole = lm.forward(ids, p, cfg)[0].logits
    _, past = lm.step(ids[:, :4], p, cfg)
    for i in range(4, 9):
        logits, past = lm.step(ids[:, i : i + 1], p, cfg, past)
        assert distance(logits, whole[:, i]) < 1e-13
    assert distance(1.001 * logits, whole[:, 8]) > 1e-13
    one, two = (generate.generate(ids[:, :2], p, cfg, 9, cached=cached) for cached in (True, False))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_come_back(kind):
    cfg = config(kind, relative=RelativePositions(6, 7), multipliers=Multipliers(logits=0.5))
    assert LMConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_settings_without_meaning_are_refused():
    with pytest.raises(ConfigError, match="one setting for each layer, 2, got 1|each of 2 layers, got 1"):
        LMConfig(**SIZES, n_layers=2, attention=(LATENT,))
    with pytest.raises(ConfigError, match="must have one d_model"):
        LMConfig(**SIZES, n_layers=2, attention=dataclasses.replace(LATENT, d_model=6))
    near, far = (SelfAttentionConfig(5, 1, relative=RelativePositions(6, n), rope_base=None) for n in (5, 9))
    with pytest.raises(ConfigError, match="share one table of distances"):
        LMConfig(**SIZES, n_layers=2, attention=(near, far))
    with pytest.raises(ConfigError, match="has the settings"):
        LMConfig.from_dict(config("latent").to_dict() | {"attention": {"n_heads": 3}})
    with pytest.raises(ConfigError, match="Multipliers.logits must be"):
        Multipliers(logits=float("inf"))
