"""The file format: deterministic, exchanged with the official library, and strict about hostile files."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from pymoe.backend.errors import CheckpointError, DtypeError
from pymoe.io import tensors

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def sample(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {f"layer.{d}": (100 * rng.standard_normal((3, i + 2))).astype(d) for i, d in enumerate(DTYPES)}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in a
    )


def file(head: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def test_round_trip_of_every_dtype_and_of_scalars_and_empty_arrays(tmp_path):
    state = sample(np.random.default_rng(0)) | {"scalar": np.float64(2.5), "none": np.zeros((0, 3), np.float32)}
    tensors.write(tmp_path / "f", state, {"a": "b", "é": "\u0000 ü"})
    loaded, metadata = tensors.read(tmp_path / "f")
    assert same({n: np.asarray(a) for n, a in state.items()}, loaded)
    assert metadata == {"a": "b", "é": "\u0000 ü"}
    assert all(a.flags.owndata and a.flags.aligned for a in loaded.values())


@pytest.mark.parametrize("view", [lambda a: a.T, lambda a: a[::2], lambda a: a[:, ::-1], lambda a: a.astype(">f8"),
                                  lambda a: np.broadcast_to(a[0], (4, 6)), np.asfortranarray])  # fmt: skip
def test_any_memory_order_is_saved_by_its_values(tmp_path, view):
    a = view(np.random.default_rng(1).standard_normal((5, 6)))
    tensors.write(tmp_path / "f", {"a": a})
    assert np.array_equal(tensors.read(tmp_path / "f")[0]["a"], a)


def test_equal_content_gives_equal_bytes_whatever_the_order(tmp_path):
    state = sample(np.random.default_rng(2))
    tensors.write(tmp_path / "f", state, {"x": "1", "a": "2"})
    tensors.write(tmp_path / "g", dict(reversed(state.items())), {"a": "2", "x": "1"})
    assert (tmp_path / "f").read_bytes() == (tmp_path / "g").read_bytes()
    tensors.write(tmp_path / "g", state, {"x": "1", "a": "3"})
    assert (tmp_path / "f").read_bytes() != (tmp_path / "g").read_bytes()


def test_the_official_library_reads_ours_and_we_read_its(tmp_path):
    official = pytest.importorskip("safetensors.numpy")
    state = sample(np.random.default_rng(3))
    tensors.write(tmp_path / "f", state, {"k": "v"})
    assert same(official.load_file(tmp_path / "f"), state)
    official.save_file(state, tmp_path / "g", metadata={"k": "v"})
    loaded, metadata = tensors.read(tmp_path / "g")
    assert same(loaded, state) and metadata == {"k": "v"}


@pytest.mark.parametrize("array", [np.array([1j]), np.array(["a"]), np.array([None]), np.zeros(2, np.longdouble)])
def test_what_the_format_cannot_hold_is_refused(tmp_path, array):
    with pytest.raises(DtypeError, match="cast it first"):
        tensors.write(tmp_path / "f", {"a": array})
    assert list(tmp_path.iterdir()) == []


ONE = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
HOSTILE = {
    "empty": b"",
    "seven bytes": b"1234567",
    "length 2^63": file(ONE, b"xx", 2**63),
    "length one too long": file(ONE, b"", len(json.dumps(ONE)) + 1),
    "not JSON": file(b"{oops}", b""),
    "not UTF-8": file(b'{"\xff":1}', b""),
    "a list": file(b"[1]", b""),
    "space before": file(b" {}", b""),
    "deep": file(b'{"a":' + b"[" * 100_000, b""),
    "long number": file(b'{"a":{"dtype":"U8","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,2]}}', b"xx"),
    "NaN": file(b'{"a":NaN}', b""),
    "key twice": file(b'{"a":%s,"a":%s}' % ((json.dumps(ONE["a"]).encode(),) * 2), b"xx"),
    "entry is a number": file({"a": 3}),
    "no offsets": file({"a": {"dtype": "U8", "shape": [2]}}, b"xx"),
    "one field more": file({"a": ONE["a"] | {"x": 1}}, b"xx"),
    "dtype unknown": file({"a": ONE["a"] | {"dtype": "Q7"}}, b"xx"),
    "dtype no string": file({"a": ONE["a"] | {"dtype": ["U8"]}}, b"xx"),
    "shape negative": file({"a": ONE["a"] | {"shape": [-1, -2]}}, b"xx"),
    "shape real": file({"a": ONE["a"] | {"shape": [2.0]}}, b"xx"),
    "shape bool": file({"a": ONE["a"] | {"shape": [2, True]}}, b"xx"),
    "shape too large": file({"a": ONE["a"] | {"shape": [2**40, 2**40]}}, b"xx"),
    "rank 65": file({"a": ONE["a"] | {"shape": [2] + [1] * 64}}, b"xx"),
    "three offsets": file({"a": ONE["a"] | {"data_offsets": [0, 1, 2]}}, b"xx"),
    "offsets reversed": file({"a": ONE["a"] | {"data_offsets": [2, 0]}}, b"xx"),
    "hole": file({"a": ONE["a"] | {"data_offsets": [1, 3]}}, b"xxx"),
    "overlap": file(ONE | {"b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, b"xxx"),
    "cut short": file(ONE, b"x"),
    "trailing byte": file(ONE, b"xxx"),
    "empty name": file({"": ONE["a"]}, b"xx"),
    "NUL in name": file({"a\0b": ONE["a"]}, b"xx"),
    "metadata a number": file(ONE | {"__metadata__": {"a": 1}}, b"xx"),
    "metadata a list": file(ONE | {"__metadata__": ["a"]}, b"xx"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_kind_of_error(tmp_path, name):
    (tmp_path / "f").write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError) as caught:
        tensors.read(tmp_path / "f")
    assert str(tmp_path / "f") in str(caught.value) and len(str(caught.value)) < 300 + len(str(tmp_path))


def test_control_the_file_the_hostile_ones_are_made_from_is_good():
    assert tensors.parse(file(ONE, b"xx"))[0]["a"].tolist() == [120, 120]


@pytest.mark.slow
def test_a_hundred_thousand_mutated_headers_raise_nothing_else():
    rng = np.random.default_rng(4)
    good = bytearray(file(ONE | {"__metadata__": {"k": "v"}, "bb": ONE["a"] | {"data_offsets": [2, 4]}}, b"xxyy"))
    accepted = 0
    for _ in range(100_000):
        data = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        try:
            tensors.parse(bytes(data))
            accepted += 1
        except CheckpointError:
            pass
    assert 0 < accepted < 50_000  # a changed name or tensor byte is a good file of the format; checkpoints see it
