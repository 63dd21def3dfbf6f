"""The tensors of safetensors files as a mapping: a name gives a read-only array over the file, read when it is used.

A folder may spread them over several files (``model.safetensors.index.json``).  Only the headers are read at once;
the bytes of a tensor are those that the array is asked for, so one expert of a stack costs one expert.
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

from pymoe.backend.errors import CheckpointError, MissingExtraError, install

LONGEST_HEADER = 100_000_000  # bytes; what the format allows
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1"}


class Mapped(Mapping[str, np.ndarray]):
    """The tensors of one file, or of all ``.safetensors`` files of a folder.

    A file that is missing, cut short or none of the format, and a tensor that reaches beyond its file: CheckpointError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.entries: dict[str, tuple[str, int, dict[str, Any]]] = {}  # name -> file, where its data start, header
        for file in _files(self.path):
            start, header = _header(file)
            self.entries |= {name: (file, start, entry) for name, entry in header.items() if name != "__metadata__"}

    def __getitem__(self, name: str) -> np.ndarray:
        file, start, entry = self.entries[name]
        try:
            dtype, shape, (first, last) = _dtype(entry["dtype"], name), tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{file}: the header of tensor {name!r} is damaged: fetch it again") from None
        if last - first != math.prod(shape) * dtype.itemsize or start + last > os.path.getsize(file):
            raise CheckpointError(f"{file}: tensor {name!r} does not fit its bytes: the file is cut short or damaged")
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        return np.memmap(file, dtype, "r", start + first, shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    index = os.path.join(path, "model.safetensors.index.json")
    if os.path.isfile(index):
        try:
            with open(index, "rb") as file:
                names = set(json.loads(file.read())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            raise CheckpointError(f"{index} has no weight_map of names of files: use another copy") from None
        if not all(isinstance(n, str) and os.path.basename(n) == n for n in names):
            raise CheckpointError(f"{index} names files outside its folder: use another copy")
    else:
        names = {n for n in os.listdir(path) if n.endswith(".safetensors")}
    if not names:
        raise CheckpointError(f"{path} holds no .safetensors file")
    return [os.path.join(path, n) for n in sorted(names)]


def _header(path: str) -> tuple[int, dict[str, Any]]:
    """(where the data start, the header) of a file."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            found = json.loads(file.read(length))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (ValueError, struct.error) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}): fetch it again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged or no safetensors file: fetch it again")
    return 8 + length, found


def _dtype(name: str, tensor: str) -> np.dtype[Any]:
    if name == "BF16":
        try:
            import ml_dtypes
        except ImportError:
            raise MissingExtraError(f"{tensor} is bfloat16, which needs ml_dtypes: {install('io')}") from None
        wide: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return wide
    if name not in DTYPES:
        raise CheckpointError(f"tensor {tensor!r} is stored as {name}, which pymoe does not read: quantised?")
    return np.dtype(DTYPES[name])
