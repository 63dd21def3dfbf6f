"""Arrays and a text as the bytes of a safetensors file: the safetensors library, and what it leaves to its caller.

- It writes an array's memory, not its values, where that is transposed, strided or reversed, without an error
  (huggingface/safetensors#825): ``canonical`` makes every array C-ordered and little-endian first.
- Metadata of several keys are written in an order that changes from process to process: ours are a text in one key.
- It raises exceptions of many kinds, and complex or sub-byte numbers would reach pymoe: here all is CheckpointError.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend.errors import CheckpointError, DtypeError, MissingExtraError, install

KEY = "pymoe"  # the one key of the metadata
RESERVED = "__metadata__"

_DTYPES = frozenset(np.dtype(name) for name in ("<f8 <f4 <f2 <i8 <i4 <i2 |i1 <u8 <u4 <u2 |u1 |b1".split()))


def library() -> Any:
    """``safetensors.numpy``, imported when the first file is written or read; MissingExtraError where it is not."""
    try:
        from safetensors import numpy
    except ImportError as error:
        raise MissingExtraError(f"checkpoints need the safetensors library ({error}): {install('train')}") from None
    return numpy


def canonical(array: Any) -> np.ndarray:
    """``array`` as it lies in the file: C order, little-endian.  (``np.ascontiguousarray`` would turn 0-d into 1-d.)"""
    a = np.asarray(array, order="C")
    little = a.dtype.newbyteorder("<")
    if np.dtype(little) not in _DTYPES:
        raise DtypeError(f"a checkpoint holds real numbers, integers and booleans; got {a.dtype}: cast it first")
    return np.asarray(a, dtype=little, order="C")


def dump(tensors: Mapping[str, Any], text: str) -> bytes:
    """The file of ``tensors`` and ``text``; equal content gives equal bytes, whatever the order of the mapping.

    >>> tensors, text = parse(dump({"w": np.arange(6.0).reshape(2, 3).T}, "hello"))
    >>> tensors["w"].tolist(), text
    ([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], 'hello')
    """
    if RESERVED in tensors:  # the library would write a file that it cannot read
        raise CheckpointError(f"no tensor can be named {RESERVED!r}: the format uses this name: choose another one")
    arrays = {name: canonical(tensors[name]) for name in sorted(tensors)}
    return library().save(arrays, metadata={KEY: text})  # type: ignore[no-any-return]


def parse(data: bytes) -> tuple[dict[str, np.ndarray], str | None]:
    """(tensors, text) of a file's bytes; the text is None if ``dump`` did not write it.  CheckpointError if damaged.

    The header's length is compared with the file before the library sees it, and the library compares each tensor's
    bytes with the file: no more is allocated than the file holds, whatever its header claims.
    """
    if len(data) < 8:
        raise CheckpointError(f"not a safetensors file: {len(data)} bytes, 8 for the length of the header are needed")
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data) - 8:
        raise CheckpointError(
            f"the header claims {length} bytes, the file has {len(data) - 8} after its length: not a safetensors file, "
            "or cut short"
        )
    load = library().load
    try:
        tensors = load(data)
        text = (json.loads(data[8 : 8 + length]).get(RESERVED) or {}).get(KEY)
    except MemoryError:
        raise CheckpointError(f"the tensors ({len(data)} bytes) do not fit into memory") from None
    except Exception as error:  # SafetensorError is an Exception; KeyError: an unknown dtype; ValueError: 65 axes; ...
        raise CheckpointError(f"damaged, cut short, or not a safetensors file ({_line(error)})") from None
    for name, array in tensors.items():
        if array.dtype not in _DTYPES:
            raise CheckpointError(f"tensor {_short(repr(name))} has dtype {array.dtype}, which pymoe does not write")
    return {name: tensors[name] for name in sorted(tensors)}, text  # the library's order is another in each process


def _line(error: Exception) -> str:
    return _short(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."
