"""A model whose MoE layers differ: one setting for each sparse layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pymoe import presets, verify
from pymoe.backend.errors import ConfigError
from pymoe.models import classifier, count_parameters, lm, seq2seq
from pymoe.train import objective, size

FIRST = presets.mixtral(d_model=12, d_ff=5, n_experts=4, k=2)
SECOND = presets.switch(d_model=12, d_ff=7, n_experts=6, k=1, tied=(0, 1, 2, 0, 1, 2), d_shared=3)
COMMON = {"vocab": 11, "d_model": 12, "n_heads": 3, "context": 8}


def model(**changes) -> lm.LMConfig:
    settings = {"n_layers": 3, "d_ff": 9, "moe": (FIRST, SECOND), "moe_layers": (0, 2)}
    return lm.LMConfig(**COMMON, **(settings | changes))


def test_each_sparse_layer_has_its_own_settings():
    cfg = model()
    assert [cfg.stack.moe_of(i) for i in range(3)] == [FIRST, None, SECOND] and not cfg.stack.blocks[1].sparse
    assert cfg.moe_settings == (FIRST, SECOND) and model(moe=FIRST).moe_settings == (FIRST,)
    p = lm.init(np.random.default_rng(0), cfg)
    assert p["layers"]["0"]["mlp"]["experts"]["down_proj"].shape == (4, 12, 5)
    assert p["layers"]["2"]["mlp"]["experts"]["down_proj"].shape == (3, 12, 7)
    count = count_parameters(cfg, p)
    inactive = (4 - 2) * 3 * 12 * 5 + (3 - 1) * 2 * 12 * 7
    assert count.total - count.active == inactive


def test_gradients():
    cfg = model(std=0.3)
    p = lm.init(np.random.default_rng(0), cfg, np.float64)
    ids = np.random.default_rng(1).integers(0, 11, (2, 9))
    weights = {"balance": 0.3, "z": 0.1}
    report = verify.gradcheck(objective, ids[:, :-1], p, cfg, ids[:, 1:], weights, controls=True)
    assert report.error <= 1e-13


def test_files_and_lines():
    cfg = model()
    values = cfg.to_dict()
    assert isinstance(values["moe"], list) and lm.LMConfig.from_dict(values) == cfg
    assert lm.LMConfig.from_dict(model(moe=FIRST).to_dict()) == model(moe=FIRST)
    assert "2 of 4 experts of 5, or 1 of 6 experts (3 stored) of 7 + 1 shared" in size.describe(cfg)
    assert size.dense_twin(cfg).moe is None


def test_all_models_take_them():
    cfg = classifier.ClassifierConfig(**COMMON, n_layers=2, n_classes=3, moe=(FIRST, SECOND))
    assert cfg.stack.blocks[1].feed_forward is SECOND
    both = seq2seq.Seq2SeqConfig(**COMMON, n_layers=2, decoder_layers=1, moe=(FIRST, FIRST, SECOND))
    assert both.decoder.blocks[0].feed_forward is SECOND and both.encoder.blocks[1].feed_forward is FIRST
    count = count_parameters(both)
    assert count.total - count.active == 2 * (4 - 2) * 3 * 12 * 5 + (3 - 1) * 2 * 12 * 7


@pytest.mark.parametrize("moe", [(FIRST,), (FIRST, SECOND, FIRST), (FIRST, dataclasses.replace(SECOND, d_model=13))])
def test_refused(moe):
    with pytest.raises(ConfigError, match="one setting for each of 2 sparse layers|must have d_model=12"):
        model(moe=moe)
    with pytest.raises(ConfigError):
        seq2seq.Seq2SeqConfig(**COMMON, n_layers=2, decoder_layers=2, moe=moe)
