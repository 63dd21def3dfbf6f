"""What the safetensors library leaves to its caller: memory order, equal bytes, hostile files, and its absence."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from pymoe.backend.errors import CheckpointError, DtypeError
from pymoe.io import tensors

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
TEXT = '{"quote":"\\"","é":"\u0000 ü\\\\"}'


def sample(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {f"layer.{d}": (100 * rng.standard_normal((3, i + 2))).astype(d) for i, d in enumerate(DTYPES)}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in a
    )


def file(head: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def test_round_trip_of_every_dtype_and_of_scalars_and_empty_arrays():
    state = sample(np.random.default_rng(0)) | {"scalar": np.float64(2.5), "none": np.zeros((0, 3), np.float32), "é": 7}
    loaded, text = tensors.parse(tensors.dump(state, TEXT))
    assert same({n: np.asarray(a) for n, a in state.items()}, loaded)
    assert text == TEXT and list(loaded) == sorted(state)
    assert all(a.flags.writeable and a.flags.aligned and a.flags.c_contiguous for a in loaded.values())


def test_no_tensors_at_all():
    assert tensors.parse(tensors.dump({}, "")) == ({}, "")


def test_bits_of_nan_and_of_minus_zero_survive():
    bits = np.array([0x7FF8DEADBEEF0001, 0xFFF0000000000001, 0x8000000000000000], np.uint64)
    loaded, _ = tensors.parse(tensors.dump({"a": bits.view(np.float64)}, ""))
    assert loaded["a"].view(np.uint64).tolist() == bits.tolist()


VIEWS = {
    "transposed": lambda a: a.T,
    "every second row": lambda a: a[::2],
    "reversed": lambda a: a[:, ::-1],
    "big-endian": lambda a: a.astype(">f8"),
    "repeated": lambda a: np.broadcast_to(a[0], (4, 6)),
    "Fortran": np.asfortranarray,
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(np.float64).reshape(a.shape),
    "read-only": lambda a: (a.setflags(write=False), a)[1],
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_memory_order_is_saved_by_its_values(view):
    a = VIEWS[view](np.random.default_rng(1).standard_normal((5, 6)))
    loaded = tensors.parse(tensors.dump({"a": a}, ""))[0]["a"]
    assert np.array_equal(loaded, a) and loaded.dtype == np.float64


def test_control_the_library_alone_saves_the_memory_of_a_transposed_array():
    a = np.random.default_rng(1).standard_normal((5, 6)).T
    assert not np.array_equal(safetensors.numpy.load(safetensors.numpy.save({"a": a}))["a"], a)


def test_equal_content_gives_equal_bytes_whatever_the_order():
    state = sample(np.random.default_rng(2))
    first = tensors.dump(state, "1")
    assert tensors.dump(dict(reversed(state.items())), "1") == first
    assert tensors.dump(state, "2") != first


def test_the_library_reads_ours_and_we_read_its(tmp_path):
    state = sample(np.random.default_rng(3))
    (tmp_path / "f").write_bytes(tensors.dump(state, TEXT))
    assert same(safetensors.numpy.load_file(tmp_path / "f"), state)
    with safetensors.safe_open(tmp_path / "f", framework="np") as opened:
        assert opened.metadata() == {tensors.KEY: TEXT}
    for metadata in (None, {}, {"k": "v"}):
        loaded, text = tensors.parse(safetensors.numpy.save(state, metadata=metadata))
        assert same(loaded, state) and text is None


@pytest.mark.parametrize("array", [np.array([1j]), np.array(["a"]), np.array([None]), np.zeros(2, np.longdouble)])
def test_what_the_format_cannot_hold_is_refused(array):
    with pytest.raises(DtypeError, match="cast it first"):
        tensors.dump({"a": array}, "")


def test_a_name_that_would_make_an_unreadable_file_is_refused():
    with pytest.raises(CheckpointError, match="choose another"):
        tensors.dump({"__metadata__": np.ones(2)}, "")
    with pytest.raises(CheckpointError):  # control: what the library makes of it
        tensors.parse(safetensors.numpy.save({"__metadata__": np.ones(2)}, metadata={"k": "v"}))


ONE = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
HOSTILE = {
    "empty": b"",
    "seven bytes": b"1234567",
    "length 2^63": file(ONE, b"xx", 2**63),
    "length one too long": file(ONE, b"", len(json.dumps(ONE)) + 1),
    "not JSON": file(b"{oops}", b""),
    "not UTF-8": file(b'{"\xff":1}', b""),
    "lone surrogate": file(b'{"__metadata__":{"pymoe":"\\ud800"}}'),
    "a list": file(b"[1]", b""),
    "deep": file(b'{"a":' + b"[" * 100_000, b""),
    "long number": file(b'{"a":{"dtype":"U8","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,2]}}', b"xx"),
    "long number in a field of no meaning": file(
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":' + b"9" * 10_000 + b"}}", b"xx"
    ),
    "NaN": file(b'{"a":NaN}', b""),
    "entry is a number": file({"a": 3}),
    "no offsets": file({"a": {"dtype": "U8", "shape": [2]}}, b"xx"),
    "dtype unknown": file({"a": ONE["a"] | {"dtype": "Q7"}}, b"xx"),
    "dtype of no array": file({"a": ONE["a"] | {"dtype": "BF16", "shape": [1]}}, b"xx"),
    "dtype complex": file({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, b"x" * 8),
    "dtype of half bytes": file({"a": ONE["a"] | {"dtype": "F4", "shape": [4]}}, b"xx"),
    "dtype no string": file({"a": ONE["a"] | {"dtype": ["U8"]}}, b"xx"),
    "shape negative": file({"a": ONE["a"] | {"shape": [-1, -2]}}, b"xx"),
    "shape real": file({"a": ONE["a"] | {"shape": [2.0]}}, b"xx"),
    "shape bool": file({"a": ONE["a"] | {"shape": [2, True]}}, b"xx"),
    "shape too large": file({"a": ONE["a"] | {"shape": [2**40, 2**40]}}, b"xx"),
    "shape beyond int64 of no bytes": file({"a": ONE["a"] | {"shape": [2**63, 0], "data_offsets": [0, 0]}}),
    "rank 65": file({"a": ONE["a"] | {"shape": [2] + [1] * 64}}, b"xx"),
    "three offsets": file({"a": ONE["a"] | {"data_offsets": [0, 1, 2]}}, b"xx"),
    "offsets reversed": file({"a": ONE["a"] | {"data_offsets": [2, 0]}}, b"xx"),
    "offsets beyond the file": file({"a": ONE["a"] | {"shape": [2**40], "data_offsets": [0, 2**40]}}, b"xx"),
    "hole": file({"a": ONE["a"] | {"data_offsets": [1, 3]}}, b"xxx"),
    "overlap": file(ONE | {"b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, b"xxx"),
    "cut short": file(ONE, b"x"),
    "trailing byte": file(ONE, b"xxx"),
    "metadata a number": file(ONE | {"__metadata__": {"a": 1}}, b"xx"),
    "metadata a list": file(ONE | {"__metadata__": ["a"]}, b"xx"),
    "metadata twice": file(b'{"__metadata__":{"pymoe":"1"},"__metadata__":{"pymoe":"2"}}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_kind_of_error_of_one_line(name):
    with pytest.raises(CheckpointError) as caught:
        tensors.parse(HOSTILE[name])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_control_the_file_the_hostile_ones_are_made_from_is_good():
    loaded, text = tensors.parse(file(ONE, b"xx"))
    assert loaded["a"].tolist() == [120, 120] and text is None


@pytest.mark.parametrize("error", [MemoryError(), AttributeError("a\nb"), TypeError("x" * 999), KeyError("F4")])
def test_whatever_the_library_raises_is_one_kind_of_error(monkeypatch, error):
    def fail(data):
        raise error

    monkeypatch.setattr(safetensors.numpy, "load", fail)
    with pytest.raises(CheckpointError) as caught:
        tensors.parse(file(ONE, b"xx"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_the_library_never_sees_a_header_longer_than_the_file(monkeypatch):
    monkeypatch.setattr(safetensors.numpy, "load", lambda data: pytest.fail("the library was called"))
    for name in ("empty", "seven bytes", "length 2^63", "length one too long"):
        with pytest.raises(CheckpointError):
            tensors.parse(HOSTILE[name])


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


WITHOUT = "import sys; sys.modules['safetensors'] = None; import numpy as np\n"


@pytest.mark.parametrize(
    "call", ["checkpoint.save('c', {'a': np.ones(2)}, {})", "checkpoint.parse(bytes(8))", "tensors.library()"]
)
def test_without_the_library_everything_imports_and_the_call_names_what_to_install(tmp_path, call):
    program = WITHOUT + (
        "from pymoe.backend.errors import MissingExtraError\n"
        "from pymoe.io import checkpoint, tensors\n"
        f"try:\n    {call}\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert """pip install -e ".[train]"` in the source folder""" in done.stdout and done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "train --resume run", "generate run", "verify run"])
def test_without_the_library_a_command_says_so_in_one_line_before_it_begins(tmp_path, command):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(tensors.dump({"a": np.ones(2)}, ""))
    program = WITHOUT + f"from pymoe.cli.main import main\nsys.exit(main({command.split()!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == "", done
    assert """pip install -e ".[train]"` in the source folder""" in done.stderr and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["run"]
