"""Folders that transformers wrote, read here, and the other way round: the same numbers, in float64."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pymoe import hf  # noqa: E402
from pymoe.backend import tree  # noqa: E402
from pymoe.hf import model_config, names  # noqa: E402
from pymoe.models import generate, lm  # noqa: E402
from tests.hf.double import angles_in_double, casts_answered_in_double  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
COMMON = {
    "vocab_size": 19, "hidden_size": 24, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 3e-5, "initializer_range": 0.3,
}  # fmt: skip
MODELS = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "llama-tied": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {"tie_word_embeddings": True}),
    "llama-heads": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {"head_dim": 8}),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, {"sliding_window": None}),
    "mixtral": (
        transformers.MixtralConfig,
        transformers.MixtralForCausalLM,
        {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": None},
    ),
}
IDS = np.random.default_rng(0).integers(0, 19, (3, 11))


def made(name, folder, dtype=torch.float64, **changes):
    """A random model of transformers, saved in ``folder``; its norms are not all one."""
    kind, model, own = MODELS[name]
    torch.manual_seed(1)
    cfg = kind(**(COMMON | own | changes))
    cfg._experts_implementation = "eager"
    m = model(cfg).to(dtype).eval()
    with torch.no_grad():
        for n, w in m.named_parameters():
            if "norm" in n:
                w.add_(0.3 * torch.randn_like(w))
    m.save_pretrained(folder)
    return wide(m)


def wide(m):
    angles_in_double(m, m.config.rope_parameters["rope_theta"])
    return m


def loaded(model, folder):
    """A folder as transformers loads it, in float64."""
    sparse = {"experts_implementation": "eager"} if model is transformers.MixtralForCausalLM else {}
    return wide(model.from_pretrained(folder, dtype=torch.float64, **sparse).eval())


def logits_of(m, ids=IDS):
    with torch.no_grad(), casts_answered_in_double():
        return m(torch.from_numpy(ids)).logits.to(torch.float64).numpy()


def close(got, want, tolerance=1e-11):
    return np.abs(np.asarray(got) - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("name", MODELS)
def test_logits_loss_and_every_gradient(name, tmp_path):
    m = made(name, tmp_path / "m")
    found = hf.read(str(tmp_path / "m"))
    assert found.p["embed_tokens"]["weight"].dtype == np.float64 and found.tokenizer is None
    out, cache = lm.forward(IDS[:, :-1], found.p, found.cfg, targets=IDS[:, 1:])
    assert close(out.logits, logits_of(m, IDS[:, :-1]))
    assert not close(out.logits * 1.001, logits_of(m, IDS[:, :-1]))
    with casts_answered_in_double():
        logits = m(torch.from_numpy(IDS[:, :-1])).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 19), torch.from_numpy(IDS[:, 1:].reshape(-1)))
    loss.backward()
    assert abs(float(out.losses["lm"]) - loss.item()) <= 1e-12 * loss.item()
    _, dp = lm.backward(None, cache, {"lm": 1.0})
    mine = names.to_hf(dp, found.cfg)
    theirs = {n: w.grad.numpy() for n, w in m.named_parameters()}
    for n, g in theirs.items():
        if n.endswith("mlp.experts.gate_up_proj"):
            at = n.removesuffix("mlp.experts.gate_up_proj") + "block_sparse_moe.experts."
            got = np.stack([np.concatenate([mine[f"{at}{e}.{w}.weight"] for w in ("w1", "w3")]) for e in range(5)])
        elif n.endswith("mlp.experts.down_proj"):
            at = n.removesuffix("mlp.experts.down_proj") + "block_sparse_moe.experts."
            got = np.stack([mine[f"{at}{e}.w2.weight"] for e in range(5)])
        else:
            got = mine[n.replace("mlp.gate.weight", "block_sparse_moe.gate.weight")]
        assert close(got, g), n


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_by_transformers(name, tmp_path):
    m = made(name, tmp_path / "m")
    found = hf.read(str(tmp_path / "m"))
    p = tree.map(lambda a: a * 1.01, found.p)
    hf.write(str(tmp_path / "w"), found.cfg, p, like=str(tmp_path / "m"))
    again = hf.read(str(tmp_path / "w"))
    assert again.cfg == found.cfg
    for n, a in tree.flatten(p).items():
        assert np.array_equal(tree.flatten(again.p)[n], a), n
    theirs = loaded(type(m), tmp_path / "w")
    mine = lm.forward(IDS, p, found.cfg)[0].logits
    assert close(logits_of(theirs), mine)
    assert not close(logits_of(m), mine)
    greedy = theirs.generate(
        torch.from_numpy(IDS[:1, :4]), max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    tokens = [int(t[0]) for t in generate.stream(IDS[:1, :4], p, found.cfg, 6, sampling=generate.GREEDY)]
    assert greedy[0, 4:].tolist() == tokens


def test_gate_and_up_swapped_are_seen(tmp_path):
    m = made("mixtral", tmp_path / "m")
    found = hf.read(str(tmp_path / "m"))
    flat = tree.flatten(found.p)
    name = "layers.1.mlp.experts.gate_up_proj"
    swapped = np.concatenate([flat[name][:, 10:], flat[name][:, :10]], axis=1)
    out, _ = lm.forward(IDS, tree.unflatten(flat | {name: swapped}), found.cfg)
    assert not close(out.logits, logits_of(m), 1e-3)


def test_stacked_experts_and_many_files_and_bfloat16(tmp_path):
    m = made("mixtral", tmp_path / "m", torch.bfloat16)
    found = hf.read(str(tmp_path / "m"))
    assert found.p["norm"]["weight"].dtype == np.float32
    assert close(lm.forward(IDS, found.p, found.cfg)[0].logits, logits_of(m.float()), 1e-5)
    hf.write(str(tmp_path / "w"), found.cfg, found.p, like=str(tmp_path / "m"))
    assert json.loads((tmp_path / "w" / "config.json").read_text())["dtype"] == "bfloat16"
    for n, a in tree.flatten(hf.read(str(tmp_path / "w")).p).items():
        assert np.array_equal(a, tree.flatten(found.p)[n]), n
    from safetensors.numpy import save_file

    flat = tree.flatten(hf.read(str(tmp_path / "m"), np.float32).p)
    stacked = names.to_hf(found.p, found.cfg)
    stacked = {n: np.ascontiguousarray(a) for n, a in stacked.items() if "block_sparse_moe" not in n}
    for i in range(2):
        stacked[f"model.layers.{i}.mlp.gate.weight"] = flat[f"layers.{i}.mlp.router.weight"]
        for n in ("gate_up_proj", "down_proj"):
            stacked[f"model.layers.{i}.mlp.experts.{n}"] = flat[f"layers.{i}.mlp.experts.{n}"]
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "config.json").write_text((tmp_path / "m" / "config.json").read_text())
    half = sorted(stacked)[:7]
    files = {"a.safetensors": half, "b.safetensors": [n for n in stacked if n not in half]}
    for file, tensors in files.items():
        save_file({n: stacked[n] for n in tensors}, parts / file)
    where = {n: file for file, tensors in files.items() for n in tensors}
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    for n, a in tree.flatten(hf.read(str(parts)).p).items():
        assert np.array_equal(a, flat[n]), n


@pytest.mark.parametrize("name", ["llama", "mistral", "mixtral"])
def test_a_field_that_is_left_out_means_what_transformers_takes_it_for(name, tmp_path):
    """config.json with nothing but what a model cannot be without: written by older tools, or by hand."""
    kind = MODELS[name][0]
    raw = {"vocab_size": 19, "hidden_size": 64, "intermediate_size": 10, "num_hidden_layers": 2}
    raw |= {"num_attention_heads": 16, "model_type": name}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs, mine = kind.from_pretrained(tmp_path), model_config.from_hf(raw)
    assert mine.n_kv_heads == theirs.num_key_value_heads and mine.norm_eps == theirs.rms_norm_eps
    assert mine.rope_base == theirs.rope_parameters["rope_theta"] and mine.tie == theirs.tie_word_embeddings
    window = getattr(theirs, "sliding_window", None)
    assert mine.context == min(theirs.max_position_embeddings, window or theirs.max_position_embeddings)
    if name == "mixtral":
        assert (mine.moe.n_experts, mine.moe.k) == (theirs.num_local_experts, theirs.num_experts_per_tok)


def test_within_a_sliding_window_the_logits_agree_and_beyond_it_they_would_not(tmp_path):
    m = made("mistral", tmp_path / "m", sliding_window=9)
    found = hf.read(str(tmp_path / "m"))
    assert close(lm.forward(IDS[:, :9], found.p, found.cfg)[0].logits, logits_of(m, IDS[:, :9]))
    import dataclasses

    longer = dataclasses.replace(found.cfg, context=32)
    got, want = lm.forward(IDS, found.p, longer)[0].logits, logits_of(m)
    assert close(got[:, :9], want[:, :9]) and not close(got, want)


def test_a_sliding_window_limits_the_context(tmp_path):
    made("mistral", tmp_path / "m", sliding_window=9)
    assert hf.read(str(tmp_path / "m")).cfg.context == 9


def test_dense_becomes_sparse_and_sparse_becomes_dense(tmp_path):
    import dataclasses

    from pymoe import presets

    made("llama", tmp_path / "m")
    found = hf.read(str(tmp_path / "m"))
    moe = presets.mixtral(d_model=24, d_ff=10, n_experts=3, k=2, tied=(0, 1, 0), scale=0.5)
    cfg = dataclasses.replace(found.cfg, moe=moe, d_ff=None)
    p = lm.init(np.random.default_rng(0), cfg, np.float64)
    hf.write(str(tmp_path / "sparse"), cfg, p, like=str(tmp_path / "m"))
    theirs = loaded(transformers.MixtralForCausalLM, tmp_path / "sparse")
    assert close(logits_of(theirs), lm.forward(IDS, p, cfg)[0].logits)
    dense = dataclasses.replace(cfg, moe=None, d_ff=7)
    p = lm.init(np.random.default_rng(0), dense, np.float64)
    hf.write(str(tmp_path / "dense"), dense, p, like=str(tmp_path / "sparse"))
    theirs = loaded(transformers.MistralForCausalLM, tmp_path / "dense")
    assert close(logits_of(theirs), lm.forward(IDS, p, dense)[0].logits)
