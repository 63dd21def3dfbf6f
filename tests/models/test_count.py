"""Numbers of parameters, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import presets
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.models import ClassifierConfig, LMConfig, Seq2SeqConfig, count_parameters, lm, module_of


def test_a_sparse_language_model_by_hand():
    moe = presets.mixtral(d_model=12, d_ff=10, n_experts=8, k=3, d_shared=7)
    cfg = LMConfig(
        vocab=20, d_model=12, n_layers=3, n_heads=6, n_kv_heads=2, d_ff=9, context=16, moe=moe, moe_layers=(0, 2)
    )
    attention = (6 + 2 + 2) * 2 * 12 + 12 * 12
    common = 3 * attention + (3 * 2 + 1) * 12 + 20 * 12 + 3 * 9 * 12 + 2 * (8 * 12 + 3 * 7 * 12)
    experts = 2 * 8 * 3 * 10 * 12
    count = count_parameters(cfg)
    assert count.total == common + experts == 8256
    assert count.active == common + experts * 3 // 8 == 4656
    assert count.embedding == 20 * 12
    assert (count.total_non_embedding, count.active_non_embedding) == (8016, 4416)


def test_an_untied_head_is_no_embedding():
    sizes = dict(vocab=20, d_model=12, n_layers=1, n_heads=6, d_ff=9, context=16)
    tied, untied = count_parameters(LMConfig(**sizes)), count_parameters(LMConfig(**sizes, tie=False))
    assert untied.total - tied.total == 20 * 12
    assert untied.embedding == tied.embedding == 20 * 12


@pytest.mark.parametrize(
    "cfg",
    [
        ClassifierConfig(vocab=20, n_classes=5, d_model=12, n_layers=2, n_heads=6, d_ff=9, context=16),
        Seq2SeqConfig(vocab=20, target_vocab=23, d_model=12, n_layers=2, n_heads=6, d_ff=9, context=16),
    ],
    ids=lambda c: type(c).__name__,
)
def test_dense_models_are_all_active(cfg):
    p = module_of(cfg).init(np.random.default_rng(1), cfg)
    count = count_parameters(cfg, p)
    assert count.total == count.active == tree.size(p)
    assert count == count_parameters(cfg)
    assert count.embedding == (20 + (23 if isinstance(cfg, Seq2SeqConfig) else 0)) * 12


def test_a_config_of_something_else_is_refused():
    with pytest.raises(ConfigError, match="got int"):
        module_of(3)
    assert module_of(LMConfig(vocab=2, d_model=2, n_layers=1, n_heads=1, d_ff=1, context=1)) is lm
