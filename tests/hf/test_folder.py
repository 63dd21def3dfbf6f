"""Folders that cannot be used, by what is wrong with them; no transformers needed."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pymoe import hf, presets
from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.hf import config, names
from pymoe.models import lm

RAW = {
    "model_type": "mixtral", "vocab_size": 19, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 32, "num_local_experts": 5,
    "num_experts_per_tok": 2, "dtype": "float32",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A folder written here, and the model in it."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(RAW))
    (source / "tokenizer.json").write_text("{}")
    cfg = config.from_hf(RAW)
    p = lm.init(np.random.default_rng(0), cfg)
    hf.write(str(tmp_path / "m"), cfg, p, like=str(source))
    return tmp_path / "m", cfg, p


def test_a_folder_written_here_is_read_here(folder):
    place, cfg, p = folder
    found = hf.read(str(place))
    assert found.cfg == cfg and np.array_equal(found.p["lm_head"]["weight"], p["lm_head"]["weight"])
    assert found.tokenizer is not None
    with pytest.raises(CheckpointError, match="cannot be read"):
        found.tokenizer.encode("text")


def test_nothing_is_written_over(folder):
    place, cfg, p = folder
    before = {f.name: f.read_bytes() for f in place.iterdir()}
    with pytest.raises(ConfigError, match="is not empty"):
        hf.write(str(place), cfg, p, like=str(place))
    assert before == {f.name: f.read_bytes() for f in place.iterdir()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not one"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type = 'yarn'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_type = 'linear'"),
        ({"router_jitter_noise": 0.1}, "router_jitter_noise = 0.1"),
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": 20}, "'model.embed_tokens.weight' has shape"),
        ({"num_local_experts": 4}, "gate.weight' has shape"),
        ({"num_local_experts": 6}, "experts.5.w1.weight"),
        ({"num_hidden_layers": 3}, "no tensor 'model.layers.2"),
        ({"num_hidden_layers": 1}, "a tensor that this family does not: 'model.layers.1"),
    ],
)
def test_settings_that_do_not_fit(folder, change, message):
    place, _, _ = folder
    raw = {name: value for name, value in (RAW | change).items() if value is not None}
    (place / "config.json").write_text(json.dumps(raw))
    with pytest.raises((ConfigError, CheckpointError), match=message):
        hf.read(str(place))


def test_files_that_do_not_fit(folder):
    place, _, _ = folder
    weights = place / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match="is damaged"):
        hf.read(str(place))
    weights.unlink()
    (place / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a pickle"):
        hf.read(str(place))
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(CheckpointError, match="gone.safetensors: no such file"):
        hf.read(str(place))
    (place / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        hf.read(str(place))
    (place / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        hf.read(str(place))


@pytest.mark.parametrize(
    "changes",
    [{"norm": "none"}, {"score": "sigmoid"}, {"skip": 0.5}, {"bias": True}, {"activation": "gelu"}, {"d_shared": 4}],
    ids=str,
)
def test_a_router_that_is_not_mixtrals_cannot_be_written(folder, changes, tmp_path):
    place, cfg, _ = folder
    moe = presets.mixtral(d_model=12, d_ff=10, n_experts=5, k=2, **changes)
    other = dataclasses.replace(cfg, moe=moe)
    with pytest.raises(ConfigError, match="cannot say"):
        hf.write(str(tmp_path / "x"), other, lm.init(np.random.default_rng(0), other), like=str(place))
    assert not (tmp_path / "x").exists()
    differing = dataclasses.replace(cfg, moe=(cfg.moe, moe))
    with pytest.raises(ConfigError, match="layers differ"):
        names.to_hf(lm.init(np.random.default_rng(0), differing), differing)
