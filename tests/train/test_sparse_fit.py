"""Runs whose masks change: stopped at any event and continued, the same bytes; what is missing is refused."""

from __future__ import annotations

import dataclasses
import os

import pytest

from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.cli.main import main
from pymoe.io import checkpoint, records
from pymoe.train import data, job, presets, sparse_fit, step
from pymoe.train.plan import Plan
from tests.train.test_fit import Watch, final

UP, DOWN = "layers.0.mlp.experts.gate_up_proj", "layers.1.mlp.experts.down_proj"
PLANS = {
    "one_shot": Plan("one_shot", (UP, DOWN), 0.5),
    "gradual": Plan("gradual", (UP, DOWN), 0.5, changes=3),
    "lottery": Plan("lottery", (UP, DOWN), 0.5, changes=2, rewind=2),
    "rigl": Plan("rigl", (UP, DOWN), 0.5, changes=2),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "t"
    path.write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
    return data.load(str(path), window=8)


def made(case, corpus, steps=12) -> job.Job:
    preset = presets.PRESETS["tiny"]
    s = dataclasses.replace(preset.settings, steps=steps, window=8, rows=2, eval_every=5, save_every=3, warmup=2)
    model = preset.model(corpus.vocabulary.size, 8)
    return job.Job("t", model, s, corpus.vocabulary, corpus.source, corpus.sha256, False, {}, (), PLANS[case])


def begin(work, folder) -> step.State:
    state = step.start(work.settings, work.model)
    job.save(str(folder / "checkpoint.safetensors"), work, state)
    return state


@pytest.mark.parametrize("case", PLANS)
def test_stopped_at_any_event_and_continued_is_the_same_run(case, corpus, tmp_path):
    work, watch, whole = made(case, corpus), Watch(), tmp_path / "whole"
    whole.mkdir()
    sparse_fit.fit(work, begin(work, whole), corpus, str(whole), watch)
    expected = final(whole)
    names = ["checkpoint.safetensors", "metrics.jsonl"] + (["early.safetensors"] if case == "lottery" else [])
    assert sorted(os.listdir(whole)) == sorted(names)
    for n in range(1, len(watch.events) + 1):
        folder = tmp_path / str(n)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            sparse_fit.fit(work, begin(work, folder), corpus, str(folder), Watch(n))
        again, state = job.load(str(folder / "checkpoint.safetensors"))
        assert again == work
        sparse_fit.fit(again, state, corpus, str(folder), Watch())
        assert final(folder) == expected, watch.events[n - 1]


def test_control_another_plan_gives_other_bytes(corpus, tmp_path):
    found = []
    for case in PLANS:
        folder = tmp_path / case
        folder.mkdir()
        work = dataclasses.replace(made(case, corpus), name="same", plan=PLANS[case])
        state = sparse_fit.fit(work, begin(work, folder), corpus, str(folder), Watch())
        found.append(tree.flatten(state.p)[UP].tobytes())
    assert len(set(found)) == len(PLANS)


def test_the_records_say_how_many_zeros(corpus, tmp_path):
    work = made("gradual", corpus)
    state = sparse_fit.fit(work, begin(work, tmp_path), corpus, str(tmp_path), Watch())
    zeros = [r["zeros"] for r in records.read(str(tmp_path / "metrics.jsonl")) if "zeros" in r]
    assert zeros == sorted(zeros) and len(set(zeros)) == 3
    assert zeros[-1] == sum(int((~m).sum()) for m in state.masks.values())


def test_without_a_plan_it_is_fit(corpus, tmp_path):
    from pymoe.train import fit

    work = dataclasses.replace(made("gradual", corpus), plan=None)
    for name, loop in (("a", fit.fit), ("b", sparse_fit.fit)):
        (tmp_path / name).mkdir()
        loop(work, begin(work, tmp_path / name), corpus, str(tmp_path / name), Watch())
    assert final(tmp_path / "a") == final(tmp_path / "b")


def test_the_lottery_needs_its_early_weights(corpus, tmp_path):
    work = made("lottery", corpus)
    with pytest.raises(KeyboardInterrupt):
        sparse_fit.fit(work, begin(work, tmp_path), corpus, str(tmp_path), Watch(9))
    again, state = job.load(str(tmp_path / "checkpoint.safetensors"))
    assert state.step > 2
    early = tmp_path / "early.safetensors"
    whole = early.read_bytes()
    early.unlink()
    with pytest.raises(CheckpointError, match="no such file: without the weights"):
        sparse_fit.fit(again, state, corpus, str(tmp_path), Watch())
    job.save(str(early), dataclasses.replace(work, name="other"), state)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        sparse_fit.fit(again, state, corpus, str(tmp_path), Watch())
    early.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="use another copy"):
        sparse_fit.fit(again, state, corpus, str(tmp_path), Watch())
    early.write_bytes(whole)
    assert sparse_fit.fit(again, state, corpus, str(tmp_path), Watch()).step == 12


def test_a_plan_without_room_writes_nothing(corpus, tmp_path):
    work = dataclasses.replace(made("gradual", corpus), plan=Plan("gradual", (UP,), 0.5, changes=50))
    state = begin(work, tmp_path)
    with pytest.raises(ConfigError, match="no room"):
        sparse_fit.fit(work, state, corpus, str(tmp_path), Watch())
    assert os.listdir(tmp_path) == ["checkpoint.safetensors"]


def test_a_stored_plan_that_is_none(corpus, tmp_path):
    work = made("gradual", corpus)
    begin(work, tmp_path)
    path = str(tmp_path / "checkpoint.safetensors")
    tensors, meta = checkpoint.load(path)
    for wrong in (3, {}, meta["plan"] | {"kind": "magic"}, meta["plan"] | {"more": 1}, meta["plan"] | {"names": 3}):
        checkpoint.save(path, tensors, meta | {"plan": wrong})
        with pytest.raises(CheckpointError, match="cannot be read"):
            job.load(path)


def test_the_command_continues_a_run_with_its_plan(corpus, tmp_path):
    work, whole, part = made("lottery", corpus), tmp_path / "whole", tmp_path / "part"
    whole.mkdir(), part.mkdir()
    sparse_fit.fit(work, begin(work, whole), corpus, str(whole), Watch())
    with pytest.raises(KeyboardInterrupt):
        sparse_fit.fit(work, begin(work, part), corpus, str(part), Watch(8))
    assert main(["train", "--resume", str(part), "--no-plots", "--no-verify"]) == 0
    assert final(part) == final(whole)
