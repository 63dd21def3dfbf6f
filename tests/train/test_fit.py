"""The loop in one process: stopped anywhere, continued, the same bytes at the end."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil

import pytest

from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.io import atomic
from pymoe.train import data, fit, job, presets, run, step
from tests.io.faults import Faulty, raising


class Watch:
    """Counts events; raises at the n-th."""

    def __init__(self, n: int = 0, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.events: list[tuple[str, int]] = []
        self._n, self._error = n, error

    def _event(self, kind: str, at: int) -> None:
        self.events.append((kind, at))
        if len(self.events) == self._n:
            raise self._error

    def stepped(self, at, measured):
        self._event("step", at)

    def held_out(self, at, loss):
        self._event("held out", at)

    def saved(self, at):
        self._event("saved", at)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "t"
    path.write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
    return data.load(str(path), window=8)


@pytest.fixture(scope="module")
def work(corpus):
    preset = presets.PRESETS["tiny"]
    s = dataclasses.replace(
        preset.settings, steps=12, window=8, rows=2, eval_every=5, save_every=3, log_load_every=2, warmup=2
    )
    return job.Job("t", preset.model(corpus.vocabulary.size, 8), s, corpus.vocabulary, "x", corpus.sha256, False, {})


def begin(work, folder):
    state = step.start(work.settings, work.model)
    job.save(str(folder / "checkpoint.safetensors"), work, state)
    return state


def final(folder):
    return {name: (folder / name).read_bytes() for name in ("checkpoint.safetensors", "metrics.jsonl")}


@pytest.fixture(scope="module")
def whole(work, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    watch = Watch()
    fit.fit(work, begin(work, folder), corpus, str(folder), watch)
    return watch.events, final(folder)


def test_events_come_in_order(whole):
    events, _ = whole
    assert [at for kind, at in events if kind == "step"] == list(range(1, 13))
    assert [at for kind, at in events if kind == "held out"] == [0, 5, 10, 12]
    assert [at for kind, at in events if kind == "saved"] == [3, 6, 9, 12]


def test_ctrl_c_at_any_event_and_resume_gives_the_same_bytes(work, corpus, whole, tmp_path):
    events, expected = whole
    for n in range(1, len(events) + 1):
        folder = tmp_path / str(n)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            fit.fit(work, begin(work, folder), corpus, str(folder), Watch(n))
        again, state = job.load(str(folder / "checkpoint.safetensors"))
        done = [at for kind, at in events[:n] if kind == "step"]
        assert again == work and state.step == (done[-1] if done else 0)
        fit.fit(again, state, corpus, str(folder), Watch())
        assert final(folder) == expected, events[n - 1]


def test_another_seed_gives_other_bytes(work, corpus, whole, tmp_path):
    other = dataclasses.replace(work, settings=dataclasses.replace(work.settings, seed=1))
    fit.fit(other, begin(other, tmp_path), corpus, str(tmp_path), Watch())
    assert final(tmp_path)["metrics.jsonl"] != whole[1]["metrics.jsonl"]


def test_control_a_lost_optimiser_slot_is_seen(work, corpus, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit.fit(work, begin(work, tmp_path), corpus, str(tmp_path), Watch(9))
    _, state = job.load(str(tmp_path / "checkpoint.safetensors"))
    broken = state._replace(slots=state.slots | {"v": tree.map(lambda a: a * 1.001, state.slots["v"])})
    fit.fit(work, broken, corpus, str(tmp_path), Watch())
    assert final(tmp_path) != whole[1]


def test_a_full_disk_at_any_call_leaves_a_run_that_continues(work, corpus, whole, tmp_path, monkeypatch):
    start = tmp_path / "start"
    start.mkdir()
    begin(work, start)
    probe = tmp_path / "probe"
    shutil.copytree(start, probe)
    counting = Faulty()
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "os", counting)
        fit.fit(work, job.load(str(probe / "checkpoint.safetensors"))[1], corpus, str(probe), Watch())
    for n in range(1, len(counting.calls) + 1, 7):
        folder = tmp_path / str(n)
        shutil.copytree(start, folder)
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "os", Faulty(raising(n, errno.ENOSPC)))
            with pytest.raises(OSError):
                fit.fit(work, job.load(str(folder / "checkpoint.safetensors"))[1], corpus, str(folder), Watch())
        assert sorted(os.listdir(folder)) in (["checkpoint.safetensors"], ["checkpoint.safetensors", "metrics.jsonl"])
        fit.fit(work, job.load(str(folder / "checkpoint.safetensors"))[1], corpus, str(folder), Watch())
        assert final(folder) == whole[1], n


def test_a_run_folder_is_new_and_locked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with run.create("a") as one, run.create("a") as two:
        assert (one.folder, two.folder) == (os.path.join("runs", "a-1"), os.path.join("runs", "a-2"))
        with pytest.raises(ConfigError, match="in use by another process"):
            run.Run(one.folder)
    run.Run(one.folder).close()
    with run.create("b", out="x/y") as three:
        (tmp_path / "x/y/file").write_text("mine")
    assert three.folder == "x/y"
    with pytest.raises(ConfigError, match="not empty"):
        run.create("b", out="x/y")
    with pytest.raises(ConfigError, match="is a file"):
        run.create("b", out="x/y/file")
    assert (tmp_path / "x/y/file").read_text() == "mine"


def test_a_checkpoint_without_its_settings_is_refused(work, tmp_path):
    from pymoe.io import checkpoint

    path = str(tmp_path / "checkpoint.safetensors")
    begin(work, tmp_path)
    tensors, meta = checkpoint.load(path)
    changes = {"settings": {"steps": 1}, "model": {"vocab": 3}, "vocabulary": "ab", "step": None, "data": 3}
    for change in ({name: value} for name, value in changes.items()):
        checkpoint.save(path, tensors, {k: v for k, v in (meta | change).items() if v is not None})
        with pytest.raises(CheckpointError):
            job.load(path)
    checkpoint.save(path, tensors | {"more": tensors["model.norm.weight"]}, meta)
    with pytest.raises(CheckpointError, match="also holds"):
        job.load(path)
