"""Whole models against numbers that transformers computed and ``vectors.json`` keeps: no torch needed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from pymoe import hf
from pymoe.hf.models import switch
from pymoe.models import generate, lm, seq2seq
from tests.hf.models import stored, tiny

MODELS = json.loads(stored.FILE.read_text())["models"]


def computed(name, folder, change=None, swap=None):
    """What pymoe makes of the stored config and the weights of the stored names: the summary, and the gradients."""
    kept = MODELS[name]
    given = stored.weights(kept["shapes"])
    for one, two in [swap] if swap else []:
        given[one], given[two] = given[two], given[one]
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(kept["config"] | (change or {})))
    save_file(given, folder / "model.safetensors")
    found = hf.read(str(folder))
    if name in tiny.SWITCH:
        out, cache = seq2seq.forward(
            stored.IDS, found.p, found.cfg, np.ascontiguousarray(stored.IDS[:, ::-1]), targets=stored.TARGETS
        )
        dp = switch.dump(seq2seq.backward(None, cache, {"seq2seq": 1.0})[1], found.cfg)
        tokens = generate.translate(stored.IDS[:1], found.p, found.cfg, stored.NEW, start=0)
    else:
        out, cache = lm.forward(stored.IDS, found.p, found.cfg, targets=stored.TARGETS)
        dp = stored.in_memory(lm.backward(None, cache, {"lm": 1.0})[1], found)
        tokens = generate.generate(stored.IDS[:1, :3], found.p, found.cfg, stored.NEW)
    loss = float(out.losses["seq2seq" if name in tiny.SWITCH else "lm"])
    return stored.summary(out.logits, loss, dp, tokens[0].tolist()), dp


def error(got, want):
    return float(np.abs(np.asarray(got["logits"]) - want["logits"]).max() / np.abs(want["logits"]).max())


def test_every_model_is_stored():
    assert MODELS.keys() == {*tiny.MODELS, *tiny.SWITCH}


@pytest.mark.parametrize("name", [*tiny.MODELS, *tiny.SWITCH])
def test_logits_loss_every_gradient_and_greedy_tokens(name, tmp_path):
    want = MODELS[name]
    got, dp = computed(name, tmp_path)
    assert error(got, want) < 1e-11
    assert abs(got["loss"] - want["loss"]) < 1e-12 * want["loss"]
    assert got["tokens"] == want["tokens"]
    assert len(want["gradients"]) > 20 and want["gradients"].keys() <= dp.keys()
    seen = 0
    for n, probe in want["gradients"].items():
        assert stored.off(got["gradients"][n], probe, dp[n]) < 1e-11, n
        seen += stored.off(1.001 * got["gradients"][n], probe, dp[n]) > 1e-11
    assert seen > 0.8 * len(want["gradients"])  # the control: a gradient that is off by 0.1 % is seen


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("qwen2_moe windows", {"sliding_window": 5}), ("qwen3_moe", {"rms_norm_eps": 3.1e-5}),
        ("olmoe", {"num_experts_per_tok": 3}), ("granitemoe", {"residual_multiplier": 0.4001}),
        ("deepseek_v3", {"rope_interleave": False}), ("deepseek_v2", {"routed_scaling_factor": 1.7001}),
        ("gpt_oss", {"sliding_window": 5}), ("llama4", {"attn_scale": 0.7001}), ("llama4", {"attention_chunk_size": 5}),
        ("switch", {"expert_capacity": 1}), ("switch", {"relative_attention_max_distance": 5}),
    ],
    ids=str,
)  # fmt: skip
def test_control_a_setting_that_is_off_is_seen(name, change, tmp_path):
    assert error(computed(name, tmp_path, change)[0], MODELS[name]) > 1e-9


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("deepseek_v3", "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("qwen3_moe", "model.layers.1.self_attn.q_norm.weight", "model.layers.1.self_attn.k_norm.weight"),
        ("qwen2_moe", "model.layers.3.mlp.experts.0.up_proj.weight", "model.layers.3.mlp.experts.0.gate_proj.weight"),
        ("switch", "encoder.block.0.layer.0.SelfAttention.k.weight", "encoder.block.0.layer.0.SelfAttention.v.weight"),
    ],
)
def test_control_two_tensors_swapped_are_seen(name, one, two, tmp_path):
    assert error(computed(name, tmp_path, swap=(one, two))[0], MODELS[name]) > 1e-3
