"""Training: the gradient, padding, the loop stopped anywhere, what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError, DataError, GradientError
from pymoe.io import checkpoint
from pymoe.models import seq2seq
from pymoe.pipeline.translation import evaluate, job, train
from pymoe.train import clip, objective, size
from pymoe.train import step as steps
from tests.pipeline.translation import small

TEXT, HELD = small.text(60, 0), small.text(9, 1)


class Watch:
    """Counts events; raises Ctrl-C at the n-th."""

    def __init__(self, n: int = 0) -> None:
        self.events: list[tuple] = []
        self._n = n

    def _event(self, *what):
        self.events.append(what)
        if len(self.events) == self._n:
            raise KeyboardInterrupt

    def stepped(self, at, measured):
        self._event("step", at)

    def held_out(self, at, loss):
        raise AssertionError("a translator reports by `scored`")

    def scored(self, at, loss, bleu):
        self._event("scored", at, bleu is not None)

    def saved(self, at):
        self._event("saved", at)


def begin(work, folder):
    state = job.start(work.settings, work.model)
    job.save(str(folder / "checkpoint.safetensors"), work, state)
    return state


def test_the_gradient_of_the_whole_objective():
    """Dropout, smoothing, padding, sparse and dense layers, one shared table; and the control, 0.1 % off."""
    work = small.work(TEXT, dtype="float64")
    batches, _ = small.made(work, TEXT, HELD)
    p = job.start(work.settings, work.model).p
    rows = batches.rows(0)[:2].tolist() + batches.rows(1)[:2].tolist()
    few = train.Batches(batches.encoded.take(rows), tokens=1000, seed=0)
    batch = train.batch_of(work, few, 0)
    assert not batch.given["mask"].all() and batch.draws is not None
    at = (batch.ids, p, work.model, batch.targets, {"balance": 0.5}, batch.draws)
    assert verify.directional(objective, *at, directions=1, **batch.given).error < 1e-13

    class Broken:
        forward = staticmethod(objective.forward)

        @staticmethod
        def backward(dy, cache):
            none, dp = objective.backward(dy, cache)
            flat = tree.flatten(dp)
            name = "decoder.layers.1.cross_attn.kv_proj"
            return none, tree.unflatten(flat | {name: flat[name] * 1.001})

    with pytest.raises(GradientError, match="kv_proj"):
        verify.directional(Broken, *at, directions=1, **batch.given)


def test_the_objective_is_the_models_losses_weighted():
    work = small.work(TEXT)
    batches, _ = small.made(work, TEXT, HELD)
    batch = train.batch_of(work, batches, 2)
    p = job.start(work.settings, work.model).p
    out, _ = objective.forward(batch.ids, p, work.model, batch.targets, {"balance": 0.3}, batch.draws, **batch.given)
    losses = seq2seq.forward(batch.ids, p, work.model, targets=batch.targets, draws=batch.draws, **batch.given)[
        0
    ].losses
    assert float(out.y) == pytest.approx(float(losses["seq2seq"]) + 0.3 * float(losses["balance"]), rel=1e-12)
    assert list(out.parts)[0] == "seq2seq"  # which `Measured.main` relies on


def test_padding_has_no_part_in_the_gradient():
    """Other ids in the padding, and more of it, give the same numbers."""
    work = small.work(TEXT, dtype="float64")
    model = dataclasses.replace(work.model, dropout=0.0)
    batches, _ = small.made(work, TEXT, HELD)
    step = next(s for s in range(len(batches)) if not batches.at(s).mask.all() and not batches.at(s).decoder_mask.all())
    b = batches.at(step)
    p = job.start(work.settings, model).p

    def gradient(ids, decoder_ids, targets, mask, decoder_mask):
        given = {"decoder_ids": decoder_ids, "mask": mask, "decoder_mask": decoder_mask}
        return steps.mean(p, model, {"balance": 0.3}, [steps.Batch(ids, targets, None, given)], 1)

    plain = gradient(b.ids, b.decoder_ids, b.targets, b.mask, b.decoder_mask)
    other = gradient(
        np.where(b.mask, b.ids, 77), np.where(b.decoder_mask, b.decoder_ids, 99), b.targets, b.mask, b.decoder_mask
    )

    def wider(a, value):
        return np.pad(a, ((0, 0), (0, 3)), constant_values=value)

    longer = gradient(
        wider(b.ids, 5), wider(b.decoder_ids, 6), wider(b.targets, -100), wider(b.mask, False),
        wider(b.decoder_mask, False),
    )  # fmt: skip
    for found in (other, longer):
        assert found.parts == pytest.approx(plain.parts, rel=1e-12)
        for (name, one), two in zip(tree.flatten(plain.dp).items(), tree.flatten(found.dp).values(), strict=True):
            assert np.abs(one - two).max() <= 1e-12 * max(np.abs(one).max(), 1e-3), name
    seen = gradient(np.where(b.mask, b.ids, 77), b.decoder_ids, b.targets, np.ones_like(b.mask), b.decoder_mask)
    assert seen.parts["seq2seq"] != pytest.approx(plain.parts["seq2seq"], rel=1e-6)  # the control: padding as text


def test_a_step_is_the_clipped_gradient_through_the_optimiser():
    work = small.work(TEXT, clip=0.01)
    batches, _ = small.made(work, TEXT, HELD)
    state = job.start(work.settings, work.model)
    after, measured = train.advance(work, batches, state)
    dp = steps.mean(state.p, work.model, work.settings.loss_weights, [train.batch_of(work, batches, 0)], 1).dp
    assert measured.norm == clip.norm(dp) > 0.01
    clipped, _ = clip.by_global_norm(dp, 0.01)
    p, _ = work.settings.update(state.p, clipped, state.slots, 0)
    for name, value in tree.flatten(p).items():
        assert np.array_equal(value, tree.flatten(after.p)[name]), name
    assert after.step == 1 and measured.main == measured.parts["seq2seq"]


@pytest.mark.slow
def test_stopped_at_any_event_and_continued_the_same_bytes(tmp_path):
    work = small.work(TEXT)
    batches, data = small.made(work, TEXT, HELD)
    (tmp_path / "whole").mkdir()
    watch = Watch()
    train.fit(work, begin(work, tmp_path / "whole"), batches, data, str(tmp_path / "whole"), watch)
    names = ("checkpoint.safetensors", "metrics.jsonl")
    whole = [(tmp_path / "whole" / name).read_bytes() for name in names]
    assert [e for e in watch.events if e[0] == "scored"] == [
        ("scored", 0, False), ("scored", 5, True), ("scored", 10, True), ("scored", 12, True)
    ]  # fmt: skip
    for n in range(1, len(watch.events) + 1):
        folder = tmp_path / str(n)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            train.fit(work, begin(work, folder), batches, data, str(folder), Watch(n))
        again, state = job.load(str(folder / names[0]))
        fresh, data_again = small.made(again, TEXT, HELD)
        train.fit(again, state, fresh, data_again, str(folder), Watch())
        assert [(folder / name).read_bytes() for name in names] == whole, n


def test_it_learns_and_the_settings_matter(tmp_path):
    work = small.work(TEXT, steps=120, bleu_pairs=0)
    batches, data = small.made(work, TEXT, HELD)
    state = begin(work, tmp_path)
    before = evaluate.loss(state.p, work.model, data.held)
    after = train.fit(work, state, batches, data, str(tmp_path), Watch())
    assert evaluate.loss(after.p, work.model, data.held) < 0.6 * before
    assert before == pytest.approx(math.log(work.bpe.size), rel=0.25)


def test_a_checkpoint_comes_back_and_what_is_none_is_refused(tmp_path):
    work = small.work(TEXT)
    state = begin(work, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    again, loaded = job.load(job.find(str(tmp_path)))
    assert again.bpe.to_json() == work.bpe.to_json()
    assert dataclasses.replace(again, bpe=work.bpe) == work and loaded.step == 0
    for name, value in tree.flatten(state.p).items():
        assert np.array_equal(value, tree.flatten(loaded.p)[name])
    raw = path.read_bytes()
    for damage in (raw[:-100], raw[: len(raw) // 2], raw[:50], b"", raw[:-1] + bytes([raw[-1] ^ 1])):
        (tmp_path / "damaged").write_bytes(damage)
        with pytest.raises(CheckpointError, match="damaged: "):
            job.load(str(tmp_path / "damaged"))
    tensors, meta = checkpoint.load(path)
    for change, message in [
        ({"kind": "language model"}, "is a language model, not a translator"),
        ({"bpe": "{}"}, "the stored vocabulary cannot be read"),
        ({"text": None}, "its settings cannot be read"),
        ({"settings": {"steps": 0}}, "its settings cannot be read"),
        ({"model": meta["model"] | {"vocab": 999}}, r"a vocabulary of \d+ for a model of 999 tokens"),
        ({"model": meta["model"] | {"d_ff": 3}}, "not a checkpoint of this model"),
    ]:
        checkpoint.save(path, tensors, meta | change)
        with pytest.raises(CheckpointError, match=message):
            job.load(str(path))
    checkpoint.save(path, tensors | {"more": np.ones(2)}, meta)
    with pytest.raises(CheckpointError, match=r"it also holds \['more'\]"):
        job.load(str(path))
    with pytest.raises(CheckpointError, match="no such model"):
        job.find(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\.safetensors"):
        job.find(str(tmp_path / "empty"))


def test_the_dense_twin_has_the_active_size():
    from pymoe.models import count_parameters

    model = small.work(TEXT).model
    sparse, dense = count_parameters(model), count_parameters(size.dense_twin(model))
    assert dense.total == dense.active and 0 <= dense.active - sparse.active <= 3 * 4 * model.d_model
    assert sparse.total > sparse.active
    assert size.describe(model).startswith("sparse transformer: 2 + 2 layers (encoder + decoder)")
    assert size.describe(size.dense_twin(model)).startswith("dense transformer: 2 + 2 layers")


def test_pairs_that_are_too_long_are_left_out_and_none_left_is_an_error():
    long = dataclasses.replace(TEXT, source=("and " * 60, *TEXT.source[1:]))
    work = small.work(TEXT)
    assert train.prepared(work, long, HELD).left_out == 1
    with pytest.raises(DataError, match="no held-out pair has at most 47 tokens a side"):
        train.prepared(work, TEXT, dataclasses.replace(HELD, source=("and " * 60,) * len(HELD)))


def test_the_steps_of_a_time_budget_grow_with_it():
    work = small.work(TEXT)
    batches, data = small.made(work, TEXT, HELD)
    few = train.steps_in(1e-9, work, batches, data)
    assert few == 10 < train.steps_in(1.0, work, batches, data)
