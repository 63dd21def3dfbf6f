"""Pruned weights: exactly zero after any number of steps of any optimiser, in bitwise resumed runs, and in files."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import storage
from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError, DtypeError, ShapeError
from pymoe.train import job, masking, objective, presets, step, vocabulary
from pymoe.train.job import Job
from pymoe.train.optim import OPTIMIZERS
from pymoe.train.settings import TrainSettings
from pymoe.train.step import State

IDS = np.random.default_rng(0).integers(0, 23, 4000).astype(np.uint8)
CFG = presets.PRESETS["tiny"].model(23, 9)
NAMES = ["layers.0.mlp.experts.gate_up_proj", "layers.1.mlp.experts.down_proj", "layers.0.self_attn.qkv_proj"]


def settings(**changes) -> TrainSettings:
    return TrainSettings(**({"steps": 40, "rows": 4, "window": 9, "lr": 1e-2, "warmup": 3} | changes))


def pruned(s: TrainSettings, share: float = 0.5) -> State:
    state = step.start(s, CFG)
    flat = tree.flatten(state.p)
    masks = {name: np.random.default_rng(i).random(flat[name].shape) >= share for i, name in enumerate(NAMES)}
    p = masking.apply(state.p, masks)
    return State(0, p, OPTIMIZERS[s.optimizer].init(p), masks)


def zeros_hold(state: State) -> bool:
    flat = tree.flatten(state.p)
    return all(not flat[name][~mask].any() for name, mask in state.masks.items())


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_pruned_weights_stay_zero_and_the_others_learn(optimizer):
    s = settings(optimizer=optimizer, decay=0.3, lr=1e-2 if optimizer != "sgd" else 0.1)
    state = first = pruned(s)
    losses = []
    for _ in range(20):
        state, measured = step.advance(s, CFG, state, IDS)
        losses.append(measured.parts["lm"])
    assert zeros_hold(state) and state.masks is first.masks
    for moments in state.slots.values():
        if isinstance(moments, dict):
            for name, mask in state.masks.items():
                assert not tree.flatten(moments)[name][~mask].any()
    before, after = tree.flatten(first.p), tree.flatten(state.p)
    assert all((before[n] != after[n])[m].mean() > 0.9 for n, m in state.masks.items())
    assert losses[-1] < losses[0]
    loose = State(0, first.p, first.slots)  # negative control: the same start without masks fills the zeros
    loose, _ = step.advance(s, CFG, loose, IDS)
    assert not zeros_hold(loose._replace(masks=first.masks))


def test_the_gradient_is_the_mask_times_the_gradient_at_the_masked_weights():
    """G11: one plain SGD step moves what lives by -lr g and nothing else."""
    s = settings(optimizer="sgd", momentum=0.0, decay=0.0, clip=0.0, warmup=0, lr=0.1, floor=0.1, balance=0.0, z=0.0)
    state = pruned(s)
    from pymoe.train import data

    x, targets = data.batch(IDS, seed=s.seed, step=0, rows=s.rows, window=s.window)
    _, cache = objective.forward(x, state.p, CFG, targets, {})
    g = tree.flatten(objective.backward(1.0, cache)[1])
    moved, _ = step.advance(s, CFG, state, IDS)
    before, after = tree.flatten(state.p), tree.flatten(moved.p)
    for name, mask in state.masks.items():
        want = np.where(mask, before[name] - np.float32(0.1) * g[name], 0)
        assert np.abs(after[name] - want).max() <= 2e-7 * np.abs(want).max()


def test_clipping_does_not_see_pruned_gradients():
    s = settings()
    state = pruned(s, share=1.0)
    _, measured = step.advance(s, CFG, state, IDS)
    from pymoe.train import clip, data

    x, targets = data.batch(IDS, seed=s.seed, step=0, rows=s.rows, window=s.window)
    _, cache = objective.forward(x, state.p, CFG, targets, s.loss_weights)
    dp = objective.backward(1.0, cache)[1]
    whole, seen = clip.norm(dp), clip.norm(masking.apply(dp, state.masks))
    assert measured.norm == pytest.approx(seen, rel=1e-6) and seen < whole


def work(s: TrainSettings) -> Job:
    letters = vocabulary.Vocabulary("".join(chr(97 + i) for i in range(23)))
    return Job("tiny", CFG, s, letters, "nowhere", "0" * 64, False, {})


def test_a_masked_run_resumes_bit_for_bit(tmp_path):
    s = settings()
    state = pruned(s)
    for _ in range(6):
        state, _ = step.advance(s, CFG, state, IDS)
    job.save(str(tmp_path / "c"), work(s), state)
    _, again = job.load(str(tmp_path / "c"))
    assert again.masks.keys() == state.masks.keys()
    for _ in range(5):
        state, _ = step.advance(s, CFG, state, IDS)
        again, _ = step.advance(s, CFG, again, IDS)
    one, two = tree.flatten(state.p), tree.flatten(again.p)
    assert all(np.array_equal(one[n], two[n]) for n in one) and zeros_hold(again)


def test_files_without_masks_are_as_they_were(tmp_path):
    s = settings()
    job.save(str(tmp_path / "c"), work(s), step.start(s, CFG))
    text = (tmp_path / "c").read_bytes()
    assert b"mask." not in text and b"history" not in text and b"stored" not in text
    loaded, state = job.load(str(tmp_path / "c"))
    assert state.masks == {} and loaded.history == ()


def test_masks_that_do_not_fit_are_refused(tmp_path):
    s = settings()
    state = pruned(s)
    name = NAMES[0]
    for masks, message in (
        ({"layers.9.x": state.masks[name]}, "no such tensor"),
        ({name: state.masks[name][1:]}, "must have shape"),
        ({name: state.masks[name].astype(np.int8)}, "must be bool"),
        ({name: ~state.masks[name]}, "is not 0 where its mask says"),
    ):
        job.save(str(tmp_path / "c"), work(s), state._replace(masks=masks))
        with pytest.raises(CheckpointError, match=message):
            job.load(str(tmp_path / "c"))
    with pytest.raises(ShapeError, match="must have shape"):
        masking.check(state.p, {name: state.masks[name][1:]})
    with pytest.raises(DtypeError, match="must be bool"):
        masking.check(state.p, {name: state.masks[name] * 1})


def test_nothing_that_stood_at_a_pruned_place_leaks():
    p = {"a": {"w": np.array([[np.nan, 1.0], [np.inf, -2.0]])}}
    mask = {"a.w": np.array([[False, True], [False, True]])}
    assert masking.apply(p, mask)["a"]["w"].tolist() == [[0.0, 1.0], [0.0, -2.0]]
    assert np.isnan(p["a"]["w"][0, 0]) and masking.apply(p, {})["a"] is p["a"]


@pytest.mark.parametrize("form", ["csr", "bsr", "nm"])
def test_sparse_stored_checkpoints(form, tmp_path):
    s = settings()
    state = step.start(s, CFG)
    flat = tree.flatten(state.p)
    name = "layers.0.mlp.experts.gate_up_proj"
    w = flat[name]
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
    packed = tree.unflatten(flat | {name: make()})
    job.save(str(tmp_path / "c"), work(s), State(40, packed, {}, {name: mask}))
    dense = State(40, tree.unflatten(flat | {name: np.where(mask, w, 0)}), state.slots, {name: mask})
    job.save(str(tmp_path / "d"), work(s), dense)
    _, again = job.load(str(tmp_path / "c"))
    found = tree.flatten(again.p)[name]
    assert type(found) is type(make()) and np.array_equal(found.dense(), np.where(mask, w, 0))
    assert (tmp_path / "c").stat().st_size < (tmp_path / "d").stat().st_size / 2
    assert np.array_equal(storage.forms.masks(again.p)[name], mask)
    assert np.array_equal(tree.flatten(storage.forms.dense(again.p))[name], np.where(mask, w, 0))
    from pymoe.io import checkpoint

    tensors, meta = checkpoint.load(tmp_path / "c")
    broken = dict(tensors)
    part = f"model.{name}.{'position' if form == 'nm' else 'indices'}"
    broken[part] = broken[part] + 100
    checkpoint.save(tmp_path / "b", broken, meta)
    with pytest.raises(CheckpointError, match="is damaged"):
        job.load(str(tmp_path / "b"))
