"""Tiny models that transformers made and saved: logits, loss, every gradient and greedy tokens, in float64."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.numpy import load_file  # noqa: E402

from pymoe import hf  # noqa: E402
from pymoe.hf import models  # noqa: E402
from pymoe.hf.models import switch  # noqa: E402
from pymoe.models import generate, lm, seq2seq  # noqa: E402
from tests.hf.double import casts_answered_in_double, frequencies_in_double  # noqa: E402
from tests.hf.models import stored, tiny  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
GREEDILY = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
IDS = np.random.default_rng(0).integers(0, 19, (2, 10))


def made(name, folder):
    """A random model, saved in ``folder``: no norm, bias or sink at its start."""
    model_type, architecture, _ = tiny.MODELS[name]
    torch.manual_seed(1)
    kind = getattr(transformers, architecture)
    cfg = kind.config_class(**tiny.settings(name))
    cfg._experts_implementation = cfg._attn_implementation = "eager"
    m = kind(cfg).to(torch.float64).eval()
    with torch.no_grad():
        for n, w in [*m.named_parameters(), *m.named_buffers()]:
            if "inv_freq" not in n:
                w.add_(0.3 * torch.randn_like(w))
    m.save_pretrained(folder)
    frequencies_in_double(m)
    return m


def close(got, want, tolerance=1e-11):
    got, want = np.asarray(got), np.asarray(want)
    return got.shape == want.shape and np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("name", tiny.MODELS)
def test_logits_loss_every_gradient_and_greedy_tokens(name, tmp_path):
    m = made(name, tmp_path)
    found = hf.read(str(tmp_path))
    out, cache = lm.forward(IDS[:, :-1], found.p, found.cfg, targets=IDS[:, 1:])
    with casts_answered_in_double(integers=True):
        logits = m(torch.from_numpy(IDS[:, :-1]), use_cache=False).logits
    assert logits.dtype == torch.float64
    assert close(out.logits, logits.detach().numpy())
    assert not close(out.logits * 1.001, logits.detach().numpy())
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 19), torch.from_numpy(IDS[:, 1:].reshape(-1)))
    loss.backward()
    assert abs(float(out.losses["lm"]) - loss.item()) <= 1e-12 * loss.item()
    mine = stored.in_memory(lm.backward(None, cache, {"lm": 1.0})[1], found)
    theirs = {n: w.grad.numpy() for n, w in m.named_parameters() if w.grad is not None}
    assert len(theirs) > 20 and theirs.keys() <= mine.keys()
    for n, g in theirs.items():
        assert close(mine[n], g), n
    assert all(not close(1.001 * mine[n], g) for n, g in theirs.items())
    with casts_answered_in_double(integers=True):
        greedy = m.generate(torch.from_numpy(IDS[:1, :3]), max_new_tokens=8, **GREEDILY)
    tokens = [int(t[0]) for t in generate.stream(IDS[:1, :3], found.p, found.cfg, 8, sampling=generate.GREEDY)]
    assert greedy[0, 3:].tolist() == tokens and len(set(tokens)) > 1


@pytest.mark.parametrize("name", [*models.FAMILIES, "switch_transformers"])
def test_a_field_that_is_left_out_means_what_transformers_takes_it_for(name):
    """config.json with nothing but what has no default, and the same with every field of transformers' config."""
    kind = next(k for k in transformers.models.auto.configuration_auto.CONFIG_MAPPING.values() if k.model_type == name)
    needed = {"num_experts_per_tok": 3} if name == "deepseek_v2" else {}
    read = switch.config if name == switch.NAME else models.config
    assert read({"model_type": name, **needed}) == read(kind(**needed).to_dict())


@pytest.mark.parametrize("name", tiny.SWITCH)
def test_switch_both_sides(name, tmp_path):
    torch.manual_seed(1)
    cfg = transformers.SwitchTransformersConfig(**tiny.SWITCH[name])
    m = transformers.SwitchTransformersForConditionalGeneration(cfg).to(torch.float64).eval()
    with torch.no_grad():
        for w in m.parameters():
            w.copy_(0.4 * torch.randn_like(w) + (1 if w.ndim == 1 else 0))
    m.save_pretrained(tmp_path)
    found = hf.read(str(tmp_path))
    ids, given, targets = IDS, IDS[:, 1:8], IDS[:, 2:9]
    out, cache = seq2seq.forward(ids, found.p, found.cfg, given, targets=targets)
    with casts_answered_in_double(integers=True):
        logits = m(torch.from_numpy(ids), decoder_input_ids=torch.from_numpy(given), use_cache=False).logits
    assert logits.dtype == torch.float64
    assert close(out.logits, logits.detach().numpy())
    assert not close(out.logits * 1.001, logits.detach().numpy())
    kept = [r.kept.all() for r in out.routing if r is not None]
    assert len(kept) > 1 and not all(kept)  # some token finds no place
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 19), torch.from_numpy(targets.copy()).reshape(-1))
    loss.backward()
    assert abs(float(out.losses["seq2seq"]) - loss.item()) <= 1e-12 * loss.item()
    mine = switch.dump(seq2seq.backward(None, cache, {"seq2seq": 1.0})[1], found.cfg)
    theirs = {n: w.grad.numpy() for n, w in m.named_parameters() if w.grad is not None}
    assert len(theirs) > 20 and theirs.keys() <= mine.keys()
    for n, g in theirs.items():
        assert close(mine[n], g), n
    for n in mine.keys() - theirs.keys():  # an expert that no token asked for has no gradient there
        assert ".experts." in n and not mine[n].any(), n
    with casts_answered_in_double(integers=True):
        every = torch.ones(ids.shape, dtype=torch.int64)  # id 0 is no padding here
        greedy = m.generate(torch.from_numpy(ids), attention_mask=every, max_new_tokens=7, **GREEDILY)
    tokens = generate.translate(ids, found.p, found.cfg, 7, start=0)
    assert np.array_equal(greedy[:, 1:].numpy(), tokens) and len(set(tokens.ravel().tolist())) > 1
    again, kept = switch.dump(found.p, found.cfg), load_file(tmp_path / "model.safetensors")
    assert again.keys() == kept.keys() - ({"shared.weight"} if name == "switch untied" else set())
    assert all(np.array_equal(again[n], kept[n]) for n in again)


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoe"])
def test_dump_is_what_the_files_hold(name, tmp_path):
    made(name, tmp_path)
    found, kept = hf.read(str(tmp_path)), load_file(tmp_path / "model.safetensors")
    again = models.dump(found.p, found.cfg, models.form(found.raw))
    assert again.keys() == kept.keys()
    for n, a in kept.items():
        assert np.array_equal(again[n], a), n
    assert json.loads((tmp_path / "config.json").read_text()) == found.raw
