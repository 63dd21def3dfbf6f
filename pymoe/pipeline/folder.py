"""A model as a folder: ``model.json``, its settings and facts, and ``model.safetensors``, its arrays.  No pickle.

``model.json`` is written last, atomically, with the SHA-256 of the tensors and of itself: a folder without it, or with
one that does not fit, is no model.  What is read was written bit for bit, and only classes of ``pymoe.pipeline`` come
out of it: reading a stranger's folder runs nothing of theirs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import to_numpy
from pymoe.backend.errors import CheckpointError, ConfigError, PymoeError
from pymoe.io import atomic
from pymoe.io import tensors as files

FORMAT = "pymoe.model.1"
JSON, TENSORS = "model.json", "model.safetensors"


class Model(NamedTuple):
    """What ``load`` finds."""

    parts: dict[str, Any]  # name -> estimator or transformer, as it was saved
    about: dict[str, Any]  # whatever JSON the writer put there


def save(path: str | os.PathLike[str], parts: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
    """Write ``parts`` (name -> an object of ``pymoe.pipeline`` with ``state()``) and ``about`` (JSON) into ``path``.

    The folder is made if it is not there; one with a model in it is refused.

    >>> import tempfile
    >>> from pymoe.pipeline.reduce import Reduce
    >>> x = np.random.default_rng(0).standard_normal((5, 3))
    >>> made = Reduce("svd", 2).fit(x)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder, {"reduce": made}, {"columns": ["text"]})
    ...     model = load(folder)
    >>> model.about, bool((model.parts["reduce"].transform(x) == made.transform(x)).all())
    ({'columns': ['text']}, True)
    """
    folder = os.fspath(path)
    described: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        kind = type(part).__name__
        if kind not in _classes() or "/" in name:
            raise ConfigError(f"a model folder holds {', '.join(_classes())}; got {name}: {kind}")
        meta, own = part.state()
        described[name] = {"class": kind, "state": meta, "arrays": sorted(own)}
        arrays |= {f"{name}/{key}": files.canonical(to_numpy(a)) for key, a in own.items()}
    data = files.dump(arrays, FORMAT)
    document = {
        "format": FORMAT,
        "about": dict(about or {}),
        "parts": described,
        "tensors_sha256": hashlib.sha256(data).hexdigest(),
    }
    document["sha256"] = _sha256(document)
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    os.makedirs(folder, exist_ok=True)
    if os.path.exists(os.path.join(folder, JSON)):
        raise ConfigError(f"{folder} holds a model already: give a new folder")
    try:
        atomic.write(os.path.join(folder, TENSORS), [data])
        atomic.write(os.path.join(folder, JSON), [text.encode("utf-8", "surrogatepass"), b"\n"])
    except BaseException:  # a full disk, Ctrl-C: nothing that looks like a model
        for name in (TENSORS, JSON):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))
        raise


def load(path: str | os.PathLike[str]) -> Model:
    """The model in the folder ``path``; CheckpointError if it is none, damaged, or of another version."""
    folder = os.fspath(path)
    document = _document(folder)
    data = _bytes(os.path.join(folder, TENSORS), folder)
    if hashlib.sha256(data).hexdigest() != document["tensors_sha256"]:
        raise CheckpointError(f"{folder}: {TENSORS} is damaged or cut short (its SHA-256 differs): use another copy")
    arrays, _ = files.parse(data)
    parts = {}
    for name, one in document["parts"].items():
        own = {key: arrays[f"{name}/{key}"] for key in one["arrays"] if f"{name}/{key}" in arrays}
        if one["class"] not in _classes():
            raise CheckpointError(f"{folder}: {name} is a {one['class']}, which this version of pymoe does not have")
        try:
            parts[name] = _class(one["class"]).from_state(one["state"], own)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, PymoeError) and not isinstance(error, ConfigError):
                raise
            raise CheckpointError(
                f"{folder}: {name} cannot be read by this version of pymoe ({type(error).__name__}: {error}): train it "
                "again, or use the version that wrote it"
            ) from None
    return Model(parts, document["about"])


def is_model(path: str) -> bool:
    """Whether it says so of itself; ``load`` finds out."""
    return os.path.isfile(os.path.join(path, JSON))


def _document(folder: str) -> dict[str, Any]:
    if not os.path.isdir(folder):
        what = "is a file, not a model folder" if os.path.exists(folder) else "no such model folder"
        raise CheckpointError(f"{folder}: {what}: give the folder that training made, see `ls runs`")
    path = os.path.join(folder, JSON)
    if not os.path.exists(path):
        raise CheckpointError(
            f"{folder} holds no {JSON}, so it is not a model: give the folder that `pymoe classify train` made"
        )
    raw = _bytes(path, folder)
    broken = f"{path} is damaged or cut short: use another copy"
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise CheckpointError(broken) from None
    if not isinstance(document, dict) or "format" not in document:
        raise CheckpointError(broken)
    if document["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has the format {str(document['format'])[:40]!r}, this version of pymoe reads {FORMAT!r}: use the "
            "version that wrote it, or train again"
        )
    claimed = document.pop("sha256", None)
    if not raw.endswith(b"}\n") or claimed != _sha256(document):
        raise CheckpointError(broken)
    return document


def _bytes(path: str, folder: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise CheckpointError(f"{folder} lacks {os.path.basename(path)}: copy the whole folder") from None


def _sha256(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _classes() -> tuple[str, ...]:
    from pymoe import pipeline

    return tuple(name for name in pipeline._NAMES if name[0].isupper())


def _class(name: str) -> Any:
    from pymoe import pipeline

    return getattr(pipeline, name)
