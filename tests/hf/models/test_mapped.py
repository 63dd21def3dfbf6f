"""Experts that stay in their files: the same logits, the bytes that were read and no others; no torch needed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pymoe import hf
from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.cli.main import main
from pymoe.hf import models
from pymoe.hf.models import switch
from pymoe.models import generate, lm, seq2seq
from tests.hf.models import tiny

IDS = np.array([[3, 18, 0, 7, 7, 11, 2, 9]])
NAMES = ("qwen2_moe", "granitemoe", "deepseek_v3", "gpt_oss", "llama4")


def raw_of(name):
    model_type, architecture, _ = tiny.MODELS[name]
    return {"model_type": model_type, "architectures": [architecture], **tiny.settings(name)}


def folder_of(name, place, dtype=np.float32):
    """A folder of a random model; its weights are large enough to matter."""
    raw = raw_of(name)
    cfg = models.config(raw)
    p = lm.init(np.random.default_rng(0), cfg, dtype)
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(raw))
    made = models.dump(p, cfg, models.form(raw))
    save_file({n: np.ascontiguousarray(a) for n, a in made.items()}, place / "model.safetensors")
    return str(place)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_logits_and_only_the_experts_that_were_asked_for(name, tmp_path):
    place = folder_of(name, tmp_path)
    whole, (found, meter) = hf.read(place), hf.open_mapped(place)
    stored = load_file(tmp_path / "model.safetensors")
    assert meter.stored == sum(a.nbytes for a in stored.values()) and not meter.experts
    assert meter.read == meter.plain == sum(a.nbytes for n, a in stored.items() if not is_expert(n))
    one, _ = lm.forward(IDS[:, :1], found.p, found.cfg)
    assert close(one.logits, lm.forward(IDS[:, :1], whole.p, whole.cfg)[0].logits)
    asked = {
        (f"layers.{i}.mlp.experts.{stack}_proj", int(e))
        for i, r in enumerate(one.routing)
        if r is not None
        for e in np.unique(r.idx)
        for stack in ("gate_up", "down")
    }
    assert meter.experts.keys() == asked  # one token, k experts a layer
    assert 0 < len(asked) < meter.matrices
    b = next(b.feed_forward for b in found.cfg.stack.blocks if b.sparse)
    assert meter.read - meter.plain == len(asked) // 2 * 3 * b.d_model * b.d_ff * 4
    out, _ = lm.forward(IDS, found.p, found.cfg)
    assert close(out.logits, lm.forward(IDS, whole.p, whole.cfg)[0].logits)
    assert not close(1.001 * out.logits, out.logits)
    assert asked < meter.experts.keys()
    said = [list(generate.stream(IDS[:, :3], m.p, m.cfg, 5)) for m in (whole, found)]
    assert np.array_equal(*said)


def close(a, b):
    """The same numbers up to the order in which a transposed matrix is added up."""
    return float(np.abs(a - b).max()) <= 256 * 2.0**-24 * float(np.abs(b).max())


def is_expert(name):
    return ".experts." in name and "bias" not in name or "put_linear" in name


def test_switch_reads_an_expert_when_a_token_asks(tmp_path, capsys):
    raw = {"model_type": "switch_transformers", **tiny.SWITCH["switch"]}
    cfg = switch.config(raw)
    made = switch.dump(seq2seq.init(np.random.default_rng(0), cfg), cfg)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    save_file({n: np.ascontiguousarray(a) for n, a in made.items()}, tmp_path / "model.safetensors")
    whole, (found, meter) = hf.read(str(tmp_path)), hf.open_mapped(str(tmp_path))
    assert meter.read == meter.plain == sum(a.nbytes for n, a in made.items() if ".experts." not in n)
    want = seq2seq.forward(IDS, whole.p, cfg, IDS[:, :1])[0].logits
    assert close(seq2seq.forward(IDS, found.p, cfg, IDS[:, :1])[0].logits, want)
    assert 0 < len(meter.experts) < meter.matrices == 2 * 3 * 4
    assert main(["generate", "--hf", str(tmp_path), "--prompt", "3 18", "--tokens", "4", "--temperature", "0"]) == 0
    tokens = generate.translate(IDS[:, :2], whole.p, cfg, 4, start=0)[0]
    assert capsys.readouterr().out.split() == list(map(str, tokens))


def test_what_is_mapped_has_no_gradient(tmp_path):
    found, _ = hf.open_mapped(folder_of("qwen3_moe", tmp_path))
    out, cache = lm.forward(IDS, found.p, found.cfg)
    with pytest.raises(ConfigError, match="have no gradient: hf.read loads a model to train"):
        lm.backward(np.ones_like(out.logits), cache)


def test_files_that_do_not_fit(tmp_path):
    place = folder_of("qwen3_moe", tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[:-8], whole[:7], b"\xff" * 8 + whole[8:], whole.replace(b"F32", b"F8_", 1)):
        weights.write_bytes(broken)
        with pytest.raises(CheckpointError, match="damaged|cut short|not read"):
            hf.open_mapped(place)
    stored = load_file(folder_of("qwen3_moe", tmp_path) + "/model.safetensors")
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    for change, message in (
        ({name: stored[name].astype(np.int32)}, f"'{name}' holds int32"),
        ({name: stored[name][:, :-1].copy()}, f"'{name}' has shape"),
        ({"model.extra": stored[name]}, "a tensor that this family does not: 'model.extra'"),
    ):
        save_file(stored | change, weights)
        for read in (hf.read, hf.open_mapped):
            with pytest.raises(CheckpointError, match=message):
                read(place)
    save_file({n: a for n, a in stored.items() if n != name}, weights)
    with pytest.raises(CheckpointError, match=f"no tensor '{name}'"):
        hf.open_mapped(place)


def test_generate_prints_ids_and_the_bytes_read(tmp_path, capsys):
    place = folder_of("gpt_oss", tmp_path)
    assert main(["generate", "--hf", place, "--prompt", "3 18", "--tokens", "4", "--temperature", "0"]) == 0
    said = capsys.readouterr()
    found = hf.read(place)
    tokens = generate.generate(IDS[:, :2], found.p, found.cfg, 4)[0]
    assert said.out == f"3 18 {' '.join(map(str, tokens))}\n"
    assert said.err.startswith("read ") and " experts' matrices when a token asked" in said.err
    for prompt in ("x", "19", "-1"):
        assert main(["generate", "--hf", place, f"--prompt={prompt}"]) == 2
        assert "--prompt must be ids" in capsys.readouterr().err
    assert main(["generate", "run", "--hf", place]) == 2
    assert "give one of the two" in capsys.readouterr().err
