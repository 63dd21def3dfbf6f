"""The three families against logits that transformers computed and ``vectors.json`` keeps: no torch needed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pymoe import hf
from pymoe.models import lm
from tests.hf import vectors

WANTED = json.loads(vectors.FILE.read_text())["logits"]


def folder_of(place, raw, tensors):
    place.mkdir()
    (place / "config.json").write_text(json.dumps(raw))
    save_file(tensors, place / "model.safetensors")
    return str(place)


def error(place, name):
    found = hf.read(place)
    want = np.array(WANTED[name])
    got = lm.forward(vectors.IDS, found.p, found.cfg)[0].logits[:, -2:, :]
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", vectors.CONFIGS)
def test_logits_are_those_of_transformers_and_a_folder_written_here_has_the_same(name, tmp_path):
    raw = vectors.CONFIGS[name]
    given = vectors.tensors(raw)
    place = folder_of(tmp_path / "m", raw, given)
    assert error(place, name) < 1e-12
    found = hf.read(place)
    hf.write(str(tmp_path / "again"), found.cfg, found.p, like=place)
    assert error(str(tmp_path / "again"), name) < 1e-12
    written = load_file(tmp_path / "again" / "model.safetensors")
    assert written.keys() == given.keys() and all(np.array_equal(written[n], a) for n, a in given.items())


SWAPS = {
    "gate and up": ("mistral", "mlp.gate_proj", "mlp.up_proj"),
    "w1 and w3": ("mixtral", "experts.2.w1", "experts.2.w3"),
    "two experts": ("mixtral", "experts.0.w2", "experts.3.w2"),
    "k and v": ("llama", "self_attn.k_proj", "self_attn.v_proj"),
    "the norms": ("llama", "input_layernorm", "post_attention_layernorm"),
}


@pytest.mark.parametrize("case", SWAPS)
def test_control_two_tensors_swapped_are_seen(case, tmp_path):
    name, one, two = SWAPS[case]
    raw = vectors.CONFIGS[name]
    given = vectors.tensors(raw)
    swapped = {n.replace(one, "?").replace(two, one).replace("?", two): a for n, a in given.items()}
    assert error(folder_of(tmp_path / "m", raw, swapped), name) > 1e-3


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"rope_theta": 500.5}), ("llama", {"rms_norm_eps": 0.0}), ("mistral", {"rms_norm_eps": 3.1e-5}),
        ("mixtral", {"num_experts_per_tok": 2}), ("mixtral", {"rope_theta": 1.001e6}),
    ],
    ids=str,
)  # fmt: skip
def test_control_a_setting_that_is_off_by_a_little_is_seen(name, change, tmp_path):
    raw = vectors.CONFIGS[name]
    assert error(folder_of(tmp_path / "m", raw | change, vectors.tensors(raw)), name) > 1e-9
