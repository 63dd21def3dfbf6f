"""A checkpoint: one safetensors file with every tensor of a state, its settings, and a proof that nothing changed.

The metadata have one key, ``pymoe``, a JSON document with sorted keys: ``format``; ``state``, itself JSON (model,
vocabulary, optimiser, step, seed); ``sha256``, a map from tensor to the SHA-256 of its bytes; and ``header_sha256``
over all names, dtypes, shapes and the three entries before.  So whatever loads is what was saved, a flipped bit in a
tensor or in the header is found, and any safetensors reader can read the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import CheckpointError
from pymoe.io import atomic
from pymoe.io import tensors as files

FORMAT = "pymoe.checkpoint.2"
ENTRIES = {"format": str, "state": str, "sha256": dict, "header_sha256": str}


def save(path: str | os.PathLike[str], tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write ``tensors`` (name -> array) and ``state`` (JSON) atomically; the same content gives the same bytes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder + "/c", {"w": np.ones((2, 3))}, {"step": 7})
    ...     loaded, state = load(folder + "/c")
    >>> loaded["w"].shape, state
    ((2, 3), {'step': 7})
    """
    arrays = {name: files.canonical(to_numpy(a)) for name, a in tensors.items()}
    document: dict[str, Any] = {
        "format": FORMAT,
        "state": _json(state),
        "sha256": {name: _sha256(a) for name, a in arrays.items()},
    }
    document["header_sha256"] = _header_sha256(arrays, document)
    atomic.write(path, [files.dump(arrays, _json(document))])


def load(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, state) of a file that ``save`` wrote; CheckpointError if a single bit is not as it was written."""
    with open(path, "rb") as file:
        return parse(file.read(), os.fspath(path))


def parse(data: bytes, where: str = "checkpoint") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """``load`` of the bytes of a file."""
    try:
        arrays, text = files.parse(data)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}: use another copy") from None
    document = _document(text)
    if document is None:
        raise CheckpointError(
            f"{where}: not a checkpoint of this version of pymoe (format {FORMAT}), or damaged: use another copy"
        )
    claimed = document.pop("header_sha256")
    if claimed != _header_sha256(arrays, document):
        raise CheckpointError(f"{where}: the header is damaged (its SHA-256 differs): use another copy")
    if document["sha256"].keys() != arrays.keys():
        raise CheckpointError(f"{where}: the checksums name other tensors than the file holds: use another copy")
    for name, array in arrays.items():
        if document["sha256"][name] != _sha256(array):
            raise CheckpointError(f"{where}: tensor {name!r} is damaged (its SHA-256 differs): use another copy")
    return arrays, json.loads(document["state"])


def pack(**trees: tree.Tree) -> dict[str, Any]:
    """Several parameter trees as one flat map: pack(model=p, m=m) -> {"model.embed.weight": ..., ...}."""
    return tree.flatten(dict(trees))


def unpack(
    tensors: Mapping[str, np.ndarray], prefix: str, like: tree.Tree, where: str = "checkpoint"
) -> dict[str, Any]:
    """The tree ``prefix`` of ``tensors``, which must have exactly the names, shapes and dtypes of ``like``."""
    got = {name[len(prefix) + 1 :]: a for name, a in tensors.items() if name.startswith(prefix + ".")}
    want = tree.flatten(like)
    missing, extra = sorted(want.keys() - got.keys()), sorted(got.keys() - want.keys())
    if missing or extra:
        raise CheckpointError(
            f"{where}: not a checkpoint of this model: {prefix} lacks {_few(missing)} and has {_few(extra)} too many"
        )
    for name, array in want.items():
        if got[name].shape != tuple(array.shape) or got[name].dtype != np.dtype(str(array.dtype)):
            raise CheckpointError(
                f"{where}: not a checkpoint of this model: {prefix}.{name} is {got[name].dtype} {got[name].shape}, "
                f"the model has {array.dtype} {tuple(array.shape)}"
            )
    return tree.unflatten({name: got[name] for name in want})


def _few(names: list[str]) -> str:
    return "nothing" if not names else ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _document(text: Any) -> dict[str, Any] | None:
    """The JSON document of a checkpoint; None if it is not one, or not written exactly as ``save`` writes it."""
    try:
        document = json.loads(text)
        kinds = {name: type(value) for name, value in document.items()}
        right = kinds == ENTRIES and document["format"] == FORMAT and _json(document) == text
        right = right and isinstance(json.loads(document["state"]), dict)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return document if right else None


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sha256(array: np.ndarray) -> str:
    raw = files.canonical(array).reshape(-1).data.cast("B") if array.size else b""
    return hashlib.sha256(raw).hexdigest()


def _header_sha256(arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> str:
    layout = [[name, arrays[name].dtype.newbyteorder("<").str, list(arrays[name].shape)] for name in sorted(arrays)]
    return hashlib.sha256(_json([layout, document]).encode()).hexdigest()
