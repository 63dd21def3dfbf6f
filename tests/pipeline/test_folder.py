"""A model folder: the same bits back, and whatever is damaged or strange is refused by name."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.io import atomic
from pymoe.pipeline import MoEClassifier, Reduce, SparseExpertClassifier, TextEncoder, folder
from tests.io.faults import Faulty, raising

TEXTS = ["a fine day", "今天天气很好", "a bad day", "天气不好", "fine, fine", "bad, so bad"] * 3
LABELS = np.array(["good", "good", "bad", "bad", "good", "bad"] * 3)


@pytest.fixture(scope="module")
def parts():
    encoder = TextEncoder(min_count=1)
    x = encoder.fit_transform(TEXTS)
    moe = MoEClassifier(n_experts=3, epochs=3, random_state=0).fit(x, LABELS)
    ensemble = SparseExpertClassifier(n_experts=2, random_state=0).fit(x, LABELS)
    return {"encoder": encoder, "moe": moe, "ensemble": ensemble, "reduce": Reduce("li", 5, random_state=1).fit(x)}


@pytest.fixture(scope="module")
def saved(parts, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("saved") / "model"
    folder.save(place, parts, {"columns": {"text": "文本"}, "n": 3})
    return place


def test_every_part_comes_back_bit_for_bit(parts, saved):
    again = folder.load(saved)
    assert again.about == {"columns": {"text": "文本"}, "n": 3}
    x = parts["encoder"].transform(TEXTS)
    assert (again.parts["encoder"].transform(TEXTS) != x).nnz == 0
    for name in ("moe", "ensemble"):
        found, was = again.parts[name].predict_proba(x), parts[name].predict_proba(x)
        assert (found == was).all() and (again.parts[name].route(x) == parts[name].route(x)).all()
        assert not (found * 1.001 == was).all()  # control
    assert (again.parts["reduce"].transform(x) == parts["reduce"].transform(x)).all()


def test_the_same_model_is_the_same_bytes(parts, saved, tmp_path):
    folder.save(tmp_path / "b", dict(reversed(parts.items())), {"n": 3, "columns": {"text": "文本"}})
    for name in (folder.JSON, folder.TENSORS):
        assert (tmp_path / "b" / name).read_bytes() == (saved / name).read_bytes()


def test_no_model_is_overwritten(parts, saved):
    before = (saved / folder.JSON).read_bytes()
    with pytest.raises(ConfigError, match="holds a model already"):
        folder.save(saved, {"reduce": parts["reduce"]})
    assert (saved / folder.JSON).read_bytes() == before
    with pytest.raises(ConfigError, match="a model folder holds"):
        folder.save(saved.parent / "other", {"x": object()})


@pytest.mark.parametrize("name", [folder.JSON, folder.TENSORS])
def test_a_file_cut_short_at_any_length(saved, tmp_path, name):
    shutil.copytree(saved, tmp_path / "m")
    data = (saved / name).read_bytes()
    lengths = {0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 2, len(data) - 1, *range(0, len(data), len(data) // 40)}
    for length in sorted(lengths - {len(data)}):
        (tmp_path / "m" / name).write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="damaged or cut short"):
            folder.load(tmp_path / "m")


@pytest.mark.parametrize("name", [folder.JSON, folder.TENSORS])
def test_a_flipped_bit_is_found(saved, tmp_path, name):
    shutil.copytree(saved, tmp_path / "m")
    data = (saved / name).read_bytes()
    rng = np.random.default_rng(0)
    for i in rng.integers(0, len(data), 150).tolist():
        damaged = bytearray(data)
        damaged[i] ^= 1 << int(rng.integers(8))
        (tmp_path / "m" / name).write_bytes(damaged)
        try:
            folder.load(tmp_path / "m")
        except CheckpointError:
            continue
        # JSON has bytes without a meaning: a space for a tab
        assert name == folder.JSON and json.loads(damaged) == json.loads(data)


def test_what_is_no_model(saved, tmp_path, parts):
    with pytest.raises(CheckpointError, match="no such model folder"):
        folder.load(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file, not a model folder"):
        folder.load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no model\.json, so it is not a model"):
        folder.load(tmp_path / "empty")
    shutil.copytree(saved, tmp_path / "m")
    (tmp_path / "m" / folder.TENSORS).unlink()
    with pytest.raises(CheckpointError, match="lacks model.safetensors: copy the whole folder"):
        folder.load(tmp_path / "m")


def test_another_format_and_a_strange_class(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "m")
    path = tmp_path / "m" / folder.JSON
    document = json.loads(path.read_text(encoding="utf-8"))

    def write(changed):
        changed = {k: v for k, v in changed.items() if k != "sha256"}
        text = json.dumps(changed | {"sha256": folder._sha256(changed)}, sort_keys=True, indent=1)
        path.write_text(text + "\n", encoding="utf-8")

    write(document | {"format": "pymoe.model.99"})
    with pytest.raises(CheckpointError, match="the format 'pymoe.model.99', this version of pymoe reads"):
        folder.load(tmp_path / "m")
    write(document | {"parts": {"encoder": document["parts"]["encoder"] | {"class": "os.system"}}})
    with pytest.raises(CheckpointError, match="is a os.system, which this version of pymoe does not have"):
        folder.load(tmp_path / "m")
    state = document["parts"]["moe"]
    write(document | {"parts": {"moe": state | {"state": {"parameters": {"unknown": 1}}}}})
    with pytest.raises(CheckpointError, match="cannot be read by this version"):
        folder.load(tmp_path / "m")
    write(document)
    folder.load(tmp_path / "m")


@pytest.mark.parametrize("call", range(1, 13))
def test_a_full_disk_leaves_nothing_that_looks_like_a_model(parts, tmp_path, monkeypatch, call):
    faulty = Faulty(raising(call, errno.ENOSPC))
    monkeypatch.setattr(atomic, "os", faulty)
    with pytest.raises(OSError, match="No space left"):
        folder.save(tmp_path / "m", {"reduce": parts["reduce"]})
    assert os.listdir(tmp_path / "m") == [] and len(faulty.calls) == call
