"""A checkpoint is what was saved, bit for bit, or a CheckpointError."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError
from pymoe.io import atomic, checkpoint, tensors
from tests.io.faults import Faulty, raising

STATE = {"step": 7, "rate": 0.1 + 0.2, "name": 'quote " backslash \\ é \n', "deep": {"list": [1, None, True]}}


def trees(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    model = {"router": {"weight": rng.standard_normal((2, 3)).astype("f4")}, "norm": rng.standard_normal(2)}
    model |= {"scale": np.array(rng.standard_normal()), "é": np.zeros((0, 3), "i4")}
    return {"model": model, "m": tree.map(lambda a: np.asarray(a * 2), model)}


def saved(folder) -> bytes:
    checkpoint.save(folder / "c", checkpoint.pack(**trees()), STATE)
    return (folder / "c").read_bytes()


def test_round_trip(tmp_path):
    saved(tmp_path)
    loaded, state = checkpoint.load(tmp_path / "c")
    assert state == STATE
    for name, want in trees().items():
        got = checkpoint.unpack(loaded, name, want)
        tree.map(np.testing.assert_array_equal, got, want)
        assert list(tree.flatten(got)) == list(tree.flatten(want))


def test_the_same_state_gives_the_same_bytes(tmp_path):
    first = saved(tmp_path)
    assert saved(tmp_path) == first
    checkpoint.save(tmp_path / "c", checkpoint.pack(**trees()), STATE | {"step": 8})
    assert (tmp_path / "c").read_bytes() != first


def test_the_same_state_gives_the_same_bytes_in_every_process(tmp_path):
    want = hashlib.sha256(saved(tmp_path)).hexdigest()
    program = "import hashlib, pathlib, sys\nfrom tests.io.test_checkpoint import saved\n"
    program += "print(hashlib.sha256(saved(pathlib.Path(sys.argv[1]))).hexdigest())\n"
    for seed in ("1", "2", "3"):
        got = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert got.stdout.strip() == want


def test_control_the_metadata_of_the_library_alone_are_of_a_random_order():
    many = {str(i): "v" for i in range(20)}
    assert len({safetensors.numpy.save({}, metadata=many) for _ in range(9)}) > 1


def test_every_single_flipped_bit_is_found(tmp_path):
    data = saved(tmp_path)
    assert len(data) < 5000
    for i in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[i] ^= 1 << bit
            with pytest.raises(CheckpointError):
                checkpoint.parse(bytes(damaged))


def test_every_truncation_and_any_trailing_byte_is_found(tmp_path):
    data = saved(tmp_path)
    for n in range(len(data)):
        with pytest.raises(CheckpointError):
            checkpoint.parse(data[:n])
    with pytest.raises(CheckpointError, match="not fully covered"):
        checkpoint.parse(data + b"\0")


def test_control_a_format_without_checksums_takes_a_flipped_bit():
    data = bytearray(tensors.dump({"a": np.arange(3.0)}, ""))
    data[-1] ^= 1
    assert tensors.parse(bytes(data))[0]["a"][2] != 2.0


def test_two_tensors_exchanged_are_found(tmp_path):
    a, b = np.arange(3.0), np.arange(3.0) + 1
    checkpoint.save(tmp_path / "c", {"a": a, "b": b}, {})
    data = (tmp_path / "c").read_bytes()
    assert data.endswith(a.tobytes() + b.tobytes())
    with pytest.raises(CheckpointError, match="'a' is damaged"):
        checkpoint.parse(data[: -a.nbytes - b.nbytes] + b.tobytes() + a.tobytes())


def test_a_file_of_another_program_is_refused(tmp_path):
    for metadata in (None, {"format": "pt"}):
        safetensors.numpy.save_file({"a": np.arange(3.0)}, tmp_path / "c", metadata=metadata)
        with pytest.raises(CheckpointError, match="not a checkpoint of this version of pymoe"):
            checkpoint.load(tmp_path / "c")


DOCUMENTS = {
    "not JSON": lambda d: "{",
    "deep": lambda d: "[" * 100_000,
    "a list": lambda d: [d],
    "another format": lambda d: d | {"format": "pymoe.checkpoint.9"},
    "no state": lambda d: {k: v for k, v in d.items() if k != "state"},
    "one entry more": lambda d: d | {"x": "1"},
    "state not JSON": lambda d: d | {"state": "{"},
    "state a list": lambda d: d | {"state": "[]"},
    "checksums a list": lambda d: d | {"sha256": []},
    "a checksum less": lambda d: d | {"sha256": {}},
    "other spaces": lambda d: d,
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_that_save_did_not_write_is_refused_even_if_its_checksum_is_right(case):
    arrays = {"a": np.arange(3.0)}
    good = {"format": checkpoint.FORMAT, "state": "{}", "sha256": {"a": hashlib.sha256(arrays["a"]).hexdigest()}}

    def sealed(document):
        if isinstance(document, dict):
            document = document | {"header_sha256": checkpoint._header_sha256(arrays, document)}
        return document if isinstance(document, str) else json.dumps(document, sort_keys=True, separators=(",", ":"))

    assert checkpoint.parse(tensors.dump(arrays, sealed(good)))[1] == {}  # control
    changed = sealed(DOCUMENTS[case](good))
    if case == "other spaces":
        changed = changed.replace(",", ", ")
    with pytest.raises(CheckpointError, match="use another copy"):
        checkpoint.parse(tensors.dump(arrays, changed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["model"].pop("norm"), "has norm too many"),
        (lambda p: p["model"].update(extra=np.zeros(2)), "lacks extra"),
        (lambda p: p["model"].update(norm=np.zeros(3)), r"model.norm is float64 \(2,\), the model has float64 \(3,\)"),
        (lambda p: p["model"].update(norm=np.zeros(2, "f4")), "the model has float32"),
    ],
)
def test_another_model_is_refused(tmp_path, change, message):
    saved(tmp_path)
    loaded, _ = checkpoint.load(tmp_path / "c")
    like = trees()
    change(like)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.unpack(loaded, "model", like["model"])


def test_every_failing_call_leaves_the_earlier_checkpoint_or_the_new_one(tmp_path, monkeypatch):
    states = []
    for n in range(1, 99):
        saved(tmp_path)
        faulty = Faulty(raising(n, errno.ENOSPC))
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "os", faulty)
            try:
                checkpoint.save(tmp_path / "c", checkpoint.pack(**trees(1)), {"step": 8})
            except OSError:
                loaded, state = checkpoint.load(tmp_path / "c")
                which = 0 if state == STATE else 1
                tree.map(np.testing.assert_array_equal, checkpoint.unpack(loaded, "m", trees()["m"]), trees(which)["m"])
                states.append(which)
            else:
                break
    assert states == [0] * 4 + [1, 1]  # open, write, fsync, rename; open and fsync of the folder


def test_kill_at_every_call_leaves_the_earlier_checkpoint_or_the_new_one(tmp_path):
    program = (
        "import sys\n"
        "from pymoe.io import atomic, checkpoint\n"
        "from tests.io.faults import Faulty, killing\n"
        "from tests.io.test_checkpoint import trees\n"
        "atomic.os = Faulty(killing(int(sys.argv[1])))\n"
        "checkpoint.save(sys.argv[2], checkpoint.pack(**trees(1)), {'step': 8})\n"
    )
    for n in range(1, 8):
        saved(tmp_path)
        done = subprocess.run([sys.executable, "-c", program, str(n), str(tmp_path / "c")], check=False).returncode
        loaded, state = checkpoint.load(tmp_path / "c")
        which = 0 if n <= 4 else 1
        assert state == (STATE, {"step": 8})[which] and done == (-9 if n < 7 else 0), n
        tree.map(np.testing.assert_array_equal, checkpoint.unpack(loaded, "m", trees()["m"]), trees(which)["m"])
