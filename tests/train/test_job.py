"""Checkpoints of masked runs, with a history, and with sparse stored weights: what is written, read, and refused."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from pymoe import storage
from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError
from pymoe.cli import gradients
from pymoe.cli.main import main
from pymoe.io import checkpoint
from pymoe.storage import forms
from pymoe.train import data, evaluate, fit, job, presets, step
from tests.train.test_fit import Watch, final

UP, DOWN = "layers.0.mlp.experts.gate_up_proj", "layers.1.mlp.experts.down_proj"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "t"
    path.write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
    return data.load(str(path), window=8)


@pytest.fixture(scope="module")
def work(corpus):
    preset = presets.PRESETS["tiny"]
    s = dataclasses.replace(preset.settings, steps=9, window=8, rows=2, eval_every=5, save_every=3, warmup=2)
    model = preset.model(corpus.vocabulary.size, 8)
    done = ({"command": "prune", "method": "magnitude", "sparsity": 0.5}, {"command": "split", "experts": 4})
    return job.Job("t", model, s, corpus.vocabulary, corpus.source, corpus.sha256, False, {}, done)


def masked(work) -> step.State:
    state = step.start(work.settings, work.model)
    flat, rng = tree.flatten(state.p), np.random.default_rng(1)
    return step.masked(state, {n: rng.random(flat[n].shape) < 0.4 for n in (UP, DOWN, "layers.0.self_attn.o_proj")})


def saved(work, state, folder):
    path = str(folder / "checkpoint.safetensors")
    job.save(path, work, state)
    return path


def test_masks_and_history_come_back(work, tmp_path):
    state = masked(work)
    path = saved(work, state, tmp_path)
    tensors, meta = checkpoint.load(path)
    assert tensors[f"mask.{UP}"].dtype == bool and meta["history"] == list(work.history) and "stored" not in meta
    again, found = job.load(path)
    assert again == work and found.masks.keys() == state.masks.keys()
    for name, mask in state.masks.items():
        assert np.array_equal(found.masks[name], mask)
    for values, others in ((state.p, found.p), (state.slots, found.slots)):
        flat = tree.flatten(others)
        assert all(np.array_equal(a, flat[n]) for n, a in tree.flatten(values).items())
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    assert (tmp_path / "b").mkdir() is None and saved(again, found, tmp_path / "b")
    assert (tmp_path / "b" / "checkpoint.safetensors").read_bytes() == before  # S1


def test_a_checkpoint_without_masks_is_written_as_ever(work, tmp_path):
    """Its header and tensors have no word of masks or of a history: files from before load, and load before."""
    plain = dataclasses.replace(work, history=())
    path = saved(plain, step.start(work.settings, work.model), tmp_path)
    tensors, meta = checkpoint.load(path)
    assert meta.keys() == {
        "kind", "name", "model", "settings", "vocabulary", "data", "compare_dense", "environment", "step"
    }  # fmt: skip
    assert not [n for n in tensors if not n.startswith(("model.", "optimizer."))]
    again, state = job.load(path)
    assert again.history == () and state.masks == {}


@pytest.fixture(scope="module")
def whole(work, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    watch = Watch()
    saved(work, masked(work), folder)
    fit.fit(work, masked(work), corpus, str(folder), watch)
    return watch.events, final(folder)


def test_a_masked_run_stopped_anywhere_ends_in_the_same_bytes(work, corpus, whole, tmp_path):
    events, expected = whole
    for n in range(1, len(events) + 1, 2):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = saved(work, masked(work), folder)
        with pytest.raises(KeyboardInterrupt):
            fit.fit(work, masked(work), corpus, str(folder), Watch(n))
        again, state = job.load(path)
        assert state.masks.keys() == masked(work).masks.keys()
        fit.fit(again, state, corpus, str(folder), Watch())
        assert final(folder) == expected, events[n - 1]


def test_control_a_lost_mask_is_seen(work, corpus, whole, tmp_path):
    path = saved(work, masked(work), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit.fit(work, masked(work), corpus, str(tmp_path), Watch(6))
    again, state = job.load(path)
    lost = state._replace(masks={n: m for n, m in state.masks.items() if n != UP})
    fit.fit(again, lost, corpus, str(tmp_path), Watch())
    assert final(tmp_path) != whole[1]


BROKEN = {
    "a mask of no tensor": (lambda t, m: {f"mask.{UP}x": t[f"mask.{UP}"]}, "that are not there"),
    "a mask of another shape": (lambda t, m: {f"mask.{UP}": t[f"mask.{UP}"][:, 1:]}, "must have shape"),
    "a mask of integers": (lambda t, m: {f"mask.{UP}": t[f"mask.{UP}"].astype(np.uint8)}, "must be bool"),
    "a weight where the mask says zero": (
        lambda t, m: {f"model.{UP}": np.where(t[f"mask.{UP}"], t[f"model.{UP}"], np.float32(1e-30))},
        f"{UP} is not 0 where its mask says",
    ),
    "NaN where the mask says zero": (
        lambda t, m: {f"model.{UP}": np.where(t[f"mask.{UP}"], t[f"model.{UP}"], np.float32("nan"))},
        f"{UP} is not 0 where its mask says",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_masks_that_do_not_fit_their_checkpoint(case, work, tmp_path):
    change, message = BROKEN[case]
    path = saved(work, masked(work), tmp_path)
    tensors, meta = checkpoint.load(path)
    checkpoint.save(path, tensors | change(tensors, meta), meta)
    with pytest.raises(CheckpointError, match=message):
        job.load(path)


@pytest.mark.parametrize("history", [3, "abc", [1], {"a": 1}], ids=str)
def test_a_history_that_is_none(history, work, tmp_path):
    path = saved(work, masked(work), tmp_path)
    tensors, meta = checkpoint.load(path)
    checkpoint.save(path, tensors, meta | {"history": history})
    with pytest.raises(CheckpointError, match="history"):
        job.load(path)


def stored(work) -> tuple[step.State, step.State]:
    """(dense with masks, the same model with its masked expert matrices stored sparse)."""
    state = masked(work)
    flat = tree.flatten(state.p)
    up = storage.csr.from_dense(flat[UP], state.masks[UP])
    nm_mask = np.zeros(flat[DOWN].shape, bool)
    nm_mask[..., ::3] = True
    flat[DOWN] = np.where(nm_mask, flat[DOWN], np.float32(0))
    state = step.State(state.step, tree.unflatten(flat), state.slots, state.masks | {DOWN: nm_mask})
    down = storage.nm.from_dense(flat[DOWN], 1, 3, nm_mask)
    return state, state._replace(p=tree.unflatten(flat | {UP: up, DOWN: down}))


def test_sparse_stored_weights_come_back_and_take_less_room(work, corpus, tmp_path):
    dense, sparse = stored(work)
    path = saved(work, sparse, tmp_path)
    tensors, meta = checkpoint.load(path)
    assert meta["stored"][UP]["form"] == "csr" and meta["stored"][DOWN]["form"] == "nm"
    assert f"mask.{UP}" not in tensors and "mask.layers.0.self_attn.o_proj" in tensors
    assert not [n for n in tensors if n.startswith("optimizer.")]
    room = sum(a.nbytes for n, a in tensors.items() if n.startswith(f"model.{DOWN}."))
    assert room < 0.5 * tree.flatten(dense.p)[DOWN].nbytes
    again, found = job.load(path)
    assert again == work and isinstance(tree.flatten(found.p)[UP], storage.CSR)
    back = tree.flatten(forms.dense(found.p))
    assert all(np.array_equal(a, back[n]) for n, a in tree.flatten(dense.p).items())
    one, two = (evaluate.loss(p, work.model, corpus.held_out, window=8, rows=4).loss for p in (dense.p, found.p))
    assert one == pytest.approx(two, rel=1e-6)
    ready = job.trainable(again, found)
    assert all(np.array_equal(ready.masks[n], m) for n, m in dense.masks.items())
    after, _ = step.advance(work.settings, work.model, ready, corpus.train)
    assert masked_zero(after)
    assert job.trainable(again, dense) is dense


def masked_zero(state):
    flat = tree.flatten(state.p)
    return bool(state.masks) and all(not flat[n][~m].any() for n, m in state.masks.items())


def test_the_gradient_of_a_stored_model_is_verified(work, corpus):
    _, sparse = stored(work)
    assert gradients.check(sparse.p, work.model, work.settings, corpus.train).error < 1e-13


def test_commands_on_masked_and_on_stored_runs(work, tmp_path, capsys):
    for name, state in zip(("dense", "sparse"), stored(work), strict=True):
        folder = tmp_path / name
        folder.mkdir()
        path = saved(work, state._replace(step=work.settings.steps), folder)
        before = (folder / "checkpoint.safetensors").read_bytes()
        assert main(["verify", str(folder)]) == 0
        assert main(["generate", path, "--tokens", "5", "--prompt", "the"]) == 0
        assert (folder / "checkpoint.safetensors").read_bytes() == before
        assert sorted(os.listdir(folder)) == ["checkpoint.safetensors"]
    out = capsys.readouterr().out
    assert out.count("gradient verified") == 2


STORED = {
    "no such form": (lambda t, m: (t, m | {"stored": {UP: m["stored"][UP] | {"form": "coo"}}}), "damaged"),
    "another shape": (
        lambda t, m: (t, m | {"stored": m["stored"] | {UP: m["stored"][UP] | {"shape": [5, 24, 17]}}}),
        "the model has",
    ),
    "not a dict": (lambda t, m: (t, m | {"stored": {UP: 3}}), "damaged"),
    "not a map": (lambda t, m: (t, m | {"stored": 3}), "cannot be read"),
    "a part missing": (lambda t, m: ({n: a for n, a in t.items() if n != f"model.{UP}.indices"}, m), "damaged"),
    "a part too many": (lambda t, m: (t | {f"model.{UP}.more": np.ones(2)}, m), "damaged"),
    "a column outside": (lambda t, m: (t | {f"model.{UP}.indices": t[f"model.{UP}.indices"] + 1}, m), "damaged"),
    "another dtype": (lambda t, m: (t | {f"model.{UP}.data": t[f"model.{UP}.data"].astype(np.float64)}, m), "float64"),
    "a name of no tensor": (lambda t, m: (t, m | {"stored": m["stored"] | {"x": m["stored"][UP]}}), "damaged"),
}


@pytest.mark.parametrize("case", STORED)
def test_stored_weights_that_do_not_fit(case, work, tmp_path):
    change, message = STORED[case]
    path = saved(work, stored(work)[1], tmp_path)
    tensors, meta = change(*checkpoint.load(path))
    checkpoint.save(path, tensors, meta)
    with pytest.raises(CheckpointError, match=message):
        job.load(path)


@pytest.mark.parametrize("form", ["csr", "bsr", "nm"])
def test_every_form_takes_less_than_half_of_the_dense_file(form, work, tmp_path):
    state = step.start(work.settings, work.model)
    flat = tree.flatten(state.p)
    w = flat[UP]
    mask = np.random.default_rng(1).random(w.shape) < 0.3
    if form == "bsr":
        mask = np.repeat(np.repeat(mask[:, ::4, ::4], 4, 1), 4, 2)
    if form == "nm":
        mask = np.broadcast_to(np.arange(w.shape[-1]) % 4 < 1, w.shape).copy()
    make = {
        "csr": lambda: storage.csr.from_dense(w, mask),
        "bsr": lambda: storage.bsr.from_dense(w, (4, 4), mask),
        "nm": lambda: storage.nm.from_dense(w, 1, 4, mask),
    }[form]
    job.save(str(tmp_path / "c"), work, step.State(9, tree.unflatten(flat | {UP: make()}), {}, {UP: mask}))
    job.save(str(tmp_path / "d"), work, step.masked(state, {UP: mask}))
    _, again = job.load(str(tmp_path / "c"))
    found = tree.flatten(again.p)[UP]
    assert type(found) is type(make()) and np.array_equal(found.dense(), np.where(mask, w, 0))
    assert (tmp_path / "c").stat().st_size < (tmp_path / "d").stat().st_size / 2
    assert np.array_equal(forms.masks(again.p)[UP], mask)
    tensors, meta = checkpoint.load(tmp_path / "c")
    part = f"model.{UP}.{'position' if form == 'nm' else 'indices'}"
    checkpoint.save(tmp_path / "b", tensors | {part: tensors[part] + 100}, meta)
    with pytest.raises(CheckpointError, match="is damaged"):
        job.load(str(tmp_path / "b"))
