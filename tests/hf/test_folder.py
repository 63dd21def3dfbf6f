"""Folders that cannot be used, by what is wrong with them; no transformers needed."""

from __future__ import annotations

import dataclasses
import errno
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pymoe import hf, presets, storage
from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError, ConfigError, NonFiniteError
from pymoe.hf import model_config, names
from pymoe.io import atomic
from pymoe.models import lm
from tests.io.faults import Faulty, raising

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
    cfg = model_config.from_hf(RAW)
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
        ({"hidden_size": None}, "config.json lacks hidden_size"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ({"rope_parameters": "yarn"}, "rope_parameters = 'yarn'"),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "has a quantization_config, and this decoder has only plain",
        ),
        ({"vocab_size": "19"}, "vocab_size must be an integer, got '19'"),
        ({"hidden_size": 12.0}, "hidden_size must be an integer, got 12.0"),
        ({"rms_norm_eps": "small"}, "another kind than its field has"),
        ({"num_experts_per_tok": 6}, "k must not exceed n_experts"),
        ({"num_key_value_heads": 4}, "n_heads must be a multiple of n_kv_heads"),
        ({"vocab_size": 20}, "'model.embed_tokens.weight' has shape"),
        ({"num_local_experts": 4}, "gate.weight' has shape"),
        ({"num_local_experts": 6}, r"gate.weight' has shape \(5, 12\), config.json says \(6, 12\)"),
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
    for wrong in (3, {"a": 3}, {"a": "../source/model.safetensors"}, None):
        (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(CheckpointError, match="no weight_map of names of files"):
            hf.read(str(place))
    (place / "model.safetensors.index.json").unlink()
    (place / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="holds no model.safetensors$"):
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


def test_tensors_of_integers_are_refused(folder):
    place, cfg, p = folder
    made = {n: np.ascontiguousarray(a) for n, a in names.to_hf(p, cfg).items()}
    name = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
    save_file(made | {name: made[name].astype(np.int8)}, place / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"'{name}' holds int8, no floating-point numbers"):
        hf.read(str(place))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_the_dtype_is_that_of_the_source_whatever_its_config_says(dtype, folder, tmp_path):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    place, cfg, p = folder
    source = tmp_path / "typed"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({n: v for n, v in RAW.items() if n != "dtype"}))
    made = {n: np.ascontiguousarray(a.astype(dtype)) for n, a in names.to_hf(p, cfg).items()}
    save_file(made, source / "model.safetensors")
    hf.write(str(tmp_path / "again"), cfg, hf.read(str(source)).p, like=str(source))
    found = load_file(tmp_path / "again" / "model.safetensors")
    assert found.keys() == made.keys()
    for name, a in made.items():
        assert found[name].dtype == a.dtype and np.array_equal(found[name], a), name
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == np.dtype(dtype).name


def test_a_value_that_float16_has_not(folder, tmp_path):
    place, cfg, p = folder
    flat = tree.flatten(p)
    big = tree.unflatten(flat | {"norm.weight": np.full_like(flat["norm.weight"], 7e4)})
    source = tmp_path / "half"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(RAW | {"dtype": "float16"}))
    with pytest.raises(NonFiniteError, match="model.norm.weight has a value above the largest of float16"):
        hf.write(str(tmp_path / "x"), cfg, big, like=str(source))
    assert not (tmp_path / "x").exists()


def test_sparse_stored_weights_are_written_with_their_zeros(folder, tmp_path):
    place, cfg, p = folder
    name = "layers.1.mlp.experts.gate_up_proj"
    w = tree.flatten(p)[name]
    mask = np.random.default_rng(0).random(w.shape) < 0.3
    stored = tree.unflatten(tree.flatten(p) | {name: storage.csr.from_dense(w, mask)})
    hf.write(str(tmp_path / "x"), cfg, stored, like=str(place))
    assert np.array_equal(tree.flatten(hf.read(str(tmp_path / "x")).p)[name], np.where(mask, w, 0))


def test_a_disk_that_is_full_at_any_call_leaves_nothing(folder, tmp_path, monkeypatch):
    place, cfg, p = folder
    before = {f.name: f.read_bytes() for f in place.iterdir()}
    counting = Faulty()
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "os", counting)
        hf.write(str(tmp_path / "probe"), cfg, p, like=str(place))
    assert len(counting.calls) >= 15
    for n in range(1, len(counting.calls) + 1):
        for target in (tmp_path / f"new{n}", tmp_path / f"old{n}"):
            if target.name.startswith("old"):
                target.mkdir()
            with monkeypatch.context() as patch:
                patch.setattr(atomic, "os", Faulty(raising(n, errno.ENOSPC)))
                with pytest.raises(OSError):
                    hf.write(str(target), cfg, p, like=str(place))
            assert list(target.iterdir()) == [] if target.name.startswith("old") else not target.exists()
            hf.write(str(target), cfg, p, like=str(place))
            assert {f.name for f in target.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert before == {f.name: f.read_bytes() for f in place.iterdir()}


def test_a_family_that_is_read_only_cannot_be_written():
    from pymoe.hf import models

    raw = {"model_type": "qwen3_moe", "num_hidden_layers": 1}
    with pytest.raises(ConfigError, match="'qwen3_moe' is not one that pymoe.hf writes: llama, mistral, mixtral"):
        model_config.to_hf(models.config(raw), raw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "layer"}, "this model's norm"),
        ({"bias": True}, "this model's bias"),
        ({"rope_base": None}, "this model's rope_base"),
        ({"moe": None, "d_ff": 7, "gated": False}, "this model's gated"),
        ({"moe": None, "d_ff": 7, "activation": "gelu"}, "this model's activation"),
        ({"moe_layers": (1,), "d_ff": 7}, "layers differ"),
    ],
    ids=str,
)
def test_models_that_no_family_has(folder, changes, message, tmp_path):
    place, cfg, _ = folder
    other = dataclasses.replace(cfg, **changes)
    with pytest.raises(ConfigError, match=message):
        hf.write(str(tmp_path / "x"), other, lm.init(np.random.default_rng(0), other), like=str(place))
    assert not (tmp_path / "x").exists()


FIELDS = {
    "vocab": 23, "d_model": 24, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 10, "context": 17,
    "norm_eps": 3e-4, "rope_base": 777.0, "tie": True,
}  # fmt: skip


@pytest.mark.parametrize("family", model_config.FAMILIES)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("window", [None, 9, 40])
def test_every_setting_that_can_be_said_comes_back(family, sparse, window):
    """Written over any config.json of a family, also one that leaves all it can to its defaults."""
    short = {n: RAW[n] for n in model_config._NEEDED} | {"model_type": family}
    short |= {} if window is None else {"sliding_window": window}
    moe = presets.mixtral(d_model=24, d_ff=10, n_experts=7, k=3) if sparse else None
    cfg = lm.LMConfig(moe=moe, d_ff=None if sparse else 14, **FIELDS)
    for like in (short, short | {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}, "head_dim": 2}):
        assert model_config.from_hf(model_config.to_hf(cfg, like)) == cfg
    near = dataclasses.replace(cfg, n_layers=2, tie=False)
    assert model_config.from_hf(model_config.to_hf(near, model_config.to_hf(cfg, short))) == near
    with pytest.raises(ConfigError, match="is not one that pymoe.hf writes: llama, mistral, mixtral"):
        model_config.to_hf(cfg, short | {"model_type": "qwen2"})
