"""config.json files that cannot be run, by what is wrong with them, and layers that files hold and no model reads."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.hf import models
from pymoe.hf.models import switch
from pymoe.models import lm
from tests.hf.models import tiny


def raw_of(name, **change):
    return {"model_type": tiny.MODELS[name][0], **tiny.settings(name), **change}


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("olmoe", {"model_type": "gpt2"}, ConfigError, "'gpt2' is not a decoder that pymoe.hf runs: qwen2_moe"),
        ("olmoe", {"clip_qkv": 3.0}, ConfigError, "clip_qkv = 3.0"),
        ("olmoe", {"hidden_size": "16"}, CheckpointError, "hidden_size must be an integer, got '16'"),
        ("olmoe", {"quantization_config": {"quant_method": "mxfp4"}}, ConfigError, "only plain floating-point"),
        ("olmoe", {"rope_parameters": {"rope_type": "longrope"}}, ConfigError, "rope_type = 'longrope'"),
        ("olmoe", {"rope_parameters": {"partial_rotary_factor": 0.5}}, ConfigError, "partial_rotary_factor"),
        ("olmoe", {"rope_parameters": {"rope_type": "linear"}}, CheckpointError, "another kind .*'factor'"),
        ("olmoe", {"rms_norm_eps": "small"}, CheckpointError, "another kind than its field has"),
        ("gpt_oss", {"layer_types": ["full_attention"]}, CheckpointError, "another kind .*IndexError"),
        ("qwen3_moe", {"num_key_value_heads": 3}, ConfigError, "n_heads must be a multiple of n_kv_heads"),
        ("granitemoe", {"logits_scaling": 0}, CheckpointError, "ZeroDivisionError"),
        ("deepseek_v3", {"qk_rope_head_dim": 5}, ConfigError, "need an even head width, got 5"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_run(name, change, error, message):
    with pytest.raises(error, match=message):
        models.config(raw_of(name, **change))


def test_a_switch_transformer_that_cannot_be_run():
    raw = {"model_type": "switch_transformers", **tiny.SWITCH["switch"]}
    with pytest.raises(CheckpointError, match="num_heads must be an integer"):
        switch.config(raw | {"num_heads": None})
    with pytest.raises(ConfigError, match="even number of at least 4 buckets"):
        switch.config(raw | {"relative_attention_num_buckets": 3})


def test_older_files_say_their_rotary_positions_otherwise():
    new = raw_of("deepseek_v3 halves")
    old = {n: v for n, v in new.items() if n != "rope_parameters"}
    scaling = {n: v for n, v in new["rope_parameters"].items() if n not in ("rope_theta", "rope_type")}
    old |= {"rope_theta": new["rope_parameters"]["rope_theta"], "rope_scaling": scaling | {"type": "yarn"}}
    assert models.config(old) == models.config(new)


def test_layers_that_predict_further_tokens_are_not_read():
    raw = raw_of("deepseek_v3", num_nextn_predict_layers=1)
    cfg, form = models.config(raw), models.form(raw)
    p = lm.init(np.random.default_rng(0), cfg)
    given = models.dump(p, cfg, form)
    extra = {"model.layers.3.eh_proj.weight": np.ones((2, 2), np.float32)}
    assert np.array_equal(models.load(given | extra, cfg, form)["norm"]["weight"], p["norm"]["weight"])
    with pytest.raises(CheckpointError, match="does not: 'model.layers.3.eh_proj.weight'"):
        models.load(given | extra, cfg, models.form(raw | {"num_nextn_predict_layers": 0}))
