"""A checkpoint is what was saved, bit for bit, or a CheckpointError."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError
from pymoe.io import atomic, checkpoint, tensors
from tests.io.faults import Faulty, raising

STATE = {"step": 7, "rate": 0.1 + 0.2, "name": 'quote " backslash \\ é \n', "deep": {"list": [1, None, True]}}


def trees(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    model = {"router": {"weight": rng.standard_normal((2, 3)).astype("f4")}, "norm": rng.standard_normal(2)}
    return {"model": model, "m": tree.map(lambda a: a * 2, model)}


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


def test_every_single_flipped_bit_is_found(tmp_path):
    data = saved(tmp_path)
    assert len(data) < 3000
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
    with pytest.raises(CheckpointError, match="trailing"):
        checkpoint.parse(data + b"\0")


def test_control_a_format_without_checksums_takes_a_flipped_bit(tmp_path):
    tensors.write(tmp_path / "plain", {"a": np.arange(3.0)})
    data = bytearray((tmp_path / "plain").read_bytes())
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
    tensors.write(tmp_path / "c", {"a": np.arange(3.0)}, {"format": "pt"})
    with pytest.raises(CheckpointError, match="not a checkpoint of this version of pymoe"):
        checkpoint.load(tmp_path / "c")


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
    assert states == [0] * (len(states) - 2) + [1, 1] and len(states) == 10
