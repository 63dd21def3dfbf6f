"""The safetensors file format: read strictly, written deterministically, no pickle, no dependency.

A file is::

    8 bytes   n, the length of the header, little-endian
    n bytes   JSON {"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets": [begin, end]}, ...} + spaces
    the rest  the tensors' bytes, little-endian, C order, without holes

Why not the library: safetensors 0.8 for NumPy stores transposed and strided arrays in memory order without an error
(huggingface/safetensors#825), does not fsync, and writes its metadata in random order.  Files of either can be read by
the other; the tests do so.  Reading allocates no more than the file holds, whatever its header claims.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pymoe.backend.errors import CheckpointError, DtypeError
from pymoe.io import atomic

LONGEST_HEADER = 100_000_000
HIGHEST_RANK = 32

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_CODES = {np.dtype(v): k for k, v in _DTYPES.items()}


def canonical(array: Any) -> np.ndarray:
    """``array`` as it lies in the file: C order, little-endian.  (``np.ascontiguousarray`` would turn 0-d into 1-d.)"""
    a = np.asarray(array, order="C")
    little = a.dtype.newbyteorder("<")
    if np.dtype(little) not in _CODES:
        raise DtypeError(f"a checkpoint holds real numbers, integers and booleans; got {a.dtype}: cast it first")
    return np.asarray(a, dtype=little, order="C")


def code(array: np.ndarray) -> str:
    """The format's name of a dtype: float32 -> F32."""
    return _CODES[np.dtype(array.dtype.newbyteorder("<"))]


def write(path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write ``tensors`` and ``metadata`` atomically (``io.atomic``).  Equal content gives equal bytes.

    Tensors lie by descending item size (so that each is aligned), then by name.
    """
    arrays = {name: canonical(a) for name, a in tensors.items()}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    head: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        a = arrays[name]
        head[name] = {"dtype": code(a), "shape": list(a.shape), "data_offsets": [end, end + a.nbytes]}
        end += a.nbytes
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[bytes | memoryview]:
        yield struct.pack("<Q", len(text)) + text
        for name in names:
            if arrays[name].nbytes:
                yield arrays[name].reshape(-1).data.cast("B")

    atomic.write(path, chunks())


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, metadata) of a file; what breaks the format is a CheckpointError that names the file and the rule."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return parse(data)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from None


def parse(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """``read`` of the bytes of a file."""
    if len(data) < 8:
        raise CheckpointError(f"not a safetensors file: {len(data)} bytes, 8 for the length of the header are needed")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(LONGEST_HEADER, len(data) - 8):
        raise CheckpointError(
            f"the header claims {length} bytes, the file has {len(data) - 8} after its length: not a safetensors file, "
            "or cut short"
        )
    head = _header(data[8 : 8 + length])
    metadata = head.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("__metadata__ must map strings to strings")
    body = memoryview(data)[8 + length :]
    entries = {name: _entry(name, value) for name, value in head.items()}
    position = 0
    for begin, end, name in sorted((begin, end, name) for name, (_, _, begin, end) in entries.items()):
        if begin != position:
            raise CheckpointError(f"tensor {name!r} begins at byte {begin}, not at {position}: a hole or an overlap")
        position = end
    if position != len(body):
        raise CheckpointError(
            f"the tensors need {position} bytes, the file has {len(body)}: "
            + ("it is cut short" if position > len(body) else "it has trailing bytes")
        )
    tensors = {}
    for name, (dtype, shape, begin, end) in entries.items():
        flat = np.frombuffer(body[begin:end], dtype=dtype)
        tensors[name] = np.array(flat.reshape(shape), dtype=dtype.newbyteorder("="))  # a copy: aligned, owns its memory
    return tensors, metadata


def _header(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise CheckpointError("the header does not begin with '{': not a safetensors file")
    try:
        head = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"damaged: the header is not JSON in UTF-8 ({type(error).__name__})") from None
    return head  # type: ignore[no-any-return]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise CheckpointError("the header has a key twice")
    return keys


def _no_constant(name: str) -> Any:
    raise CheckpointError(f"the header holds {name}, which is not JSON")


def _entry(name: str, value: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    if not name or "\0" in name:
        raise CheckpointError(f"{name!r} cannot be the name of a tensor")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"tensor {name!r} must have exactly dtype, shape and data_offsets")
    shape, offsets = value["shape"], value["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise CheckpointError(f"tensor {name!r}: shape and data_offsets must be lists of integers >= 0")
    if len(offsets) != 2 or len(shape) > HIGHEST_RANK:
        raise CheckpointError(f"tensor {name!r}: two data_offsets and at most {HIGHEST_RANK} axes are allowed")
    if not isinstance(value["dtype"], str) or value["dtype"] not in _DTYPES:
        raise CheckpointError(f"tensor {name!r} has dtype {value['dtype']!r}; known are {', '.join(_DTYPES)}")
    dtype = np.dtype(_DTYPES[value["dtype"]])
    needed = math.prod(shape) * dtype.itemsize  # Python integers: no overflow
    if offsets[1] - offsets[0] != needed:
        held = offsets[1] - offsets[0]
        raise CheckpointError(f"tensor {name!r} of shape {tuple(shape)} needs {needed} bytes, not {held}")
    return dtype, tuple(shape), offsets[0], offsets[1]
