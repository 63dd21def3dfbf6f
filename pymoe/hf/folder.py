"""A Hugging Face folder on disk: read whole, and written anew beside the one it came from."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend.errors import CheckpointError, ConfigError, MissingExtraError, NonFiniteError, install
from pymoe.hf import model_config, models, names
from pymoe.hf.blocks.mapped import LONGEST_HEADER, Mapped
from pymoe.hf.models import switch
from pymoe.hf.models.mapped import Meter
from pymoe.hf.tokenizer import FILES, Tokenizer
from pymoe.io import atomic, tensors
from pymoe.models.lm import LMConfig
from pymoe.nn import initial
from pymoe.storage import forms

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"


class Checkpoint(NamedTuple):
    cfg: Any  # LMConfig; Seq2SeqConfig for a Switch Transformer
    p: dict[str, Any]
    tokenizer: Tokenizer | None  # None: the folder has no tokenizer.json
    raw: dict[str, Any]  # config.json as it stands


def read(folder: str, dtype: Any = None) -> Checkpoint:
    """The model of a folder, in float32 (float64 where it is stored so) or ``dtype``.

    CheckpointError for a file or a tensor that is missing, damaged, or of another shape; ConfigError for a family or a
    setting that the decoder of pymoe has not.
    """
    raw = _json(os.path.join(folder, "config.json"))
    cfg = _settings(raw)
    given = _tensors(folder)
    if dtype is None:
        dtype = np.float64 if all(a.dtype == np.float64 for a in given.values()) else np.float32
    p = _parameters(given, cfg, raw, initial.check_dtype(dtype))
    return Checkpoint(cfg, p, Tokenizer.of(folder), raw)


def open_mapped(folder: str, dtype: Any = None) -> tuple[Checkpoint, Meter]:
    """As ``read``, but the experts stay in their files until a token asks for one; the meter counts the bytes read.

    The parameters generate and evaluate; they have no gradient.  ``dtype``: None is float32.
    """
    raw = _json(os.path.join(folder, "config.json"))
    cfg = _settings(raw)
    given = dict(Mapped(folder))
    meter = Meter(sum(a.nbytes for a in given.values()))
    p = _parameters(given, cfg, raw, initial.check_dtype(np.float32 if dtype is None else dtype), meter.stack)
    return Checkpoint(cfg, p, Tokenizer.of(folder), raw), meter


def _settings(raw: dict[str, Any]) -> Any:
    if raw.get("model_type") == switch.NAME:
        return switch.config(raw)
    return models.config(raw) if raw.get("model_type") in models.FAMILIES else model_config.from_hf(raw)


def _parameters(
    given: dict[str, np.ndarray], cfg: Any, raw: dict[str, Any], dtype: Any, stack: Any = None
) -> dict[str, Any]:
    if raw["model_type"] == switch.NAME:
        return switch.load(given, cfg, dtype, stack)
    if raw["model_type"] in models.FAMILIES:
        return models.load(given, cfg, models.form(raw), dtype, stack)
    return names.from_hf(given, cfg, dtype, stack)


def write(folder: str, cfg: LMConfig, p: dict[str, Any], *, like: str) -> None:
    """A new folder with ``p``: config.json and tokenizer after the folder ``like``, tensors in that one's dtype.

    ``folder`` must not exist, or be empty: ConfigError.  The weights come first and config.json last, each written
    whole (``io.atomic``): a folder with a config.json is complete.  Where that fails nothing is left of it.  Sparse
    stored weights (``pymoe.storage``) are written with their zeros, which these layouts cannot leave out.
    """
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise ConfigError(f"{folder} is not empty: give a new folder, nothing is written over")
    source = _json(os.path.join(like, "config.json"))
    raw = model_config.to_hf(cfg, source)
    made = names.to_hf(forms.dense(p), cfg)
    dtype = _dtype(like, source, next(iter(made.values())).dtype)
    raw |= {name: np.dtype(dtype).name for name in ("dtype", "torch_dtype") if name == "dtype" or name in raw}
    plain = {name: _cast(name, a, dtype) for name, a in sorted(made.items())}
    new = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    written: list[str] = []

    def put(name: str, data: bytes) -> None:
        written.append(os.path.join(folder, name))
        atomic.write(written[-1], [data])

    try:
        put(WEIGHTS, tensors.library().save(plain, metadata={"format": "pt"}))
        for name in FILES:
            if os.path.isfile(os.path.join(like, name)):
                with open(os.path.join(like, name), "rb") as file:
                    put(name, file.read())
        put("config.json", (json.dumps(raw, indent=2, sort_keys=True) + "\n").encode())
        atomic.sync_folder(os.path.dirname(os.path.abspath(folder)))
    except BaseException:
        for path in written:
            with contextlib.suppress(OSError):
                os.unlink(path)
        if new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise


def _cast(name: str, a: np.ndarray, dtype: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        made = np.ascontiguousarray(a.astype(dtype))
    if dtype == np.float16 and not np.array_equal(np.isfinite(made), np.isfinite(a)):
        raise NonFiniteError(f"{name} has a value above the largest of float16, {np.abs(a).max():.4g}: see dtype")
    return made


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file, so this is not a Hugging Face folder") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): use another copy") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object: use another copy")
    return found


def _tensors(folder: str) -> dict[str, np.ndarray]:
    library = tensors.library()
    found: dict[str, np.ndarray] = {}
    for path in _files(folder):
        if not os.path.isfile(path):
            raise CheckpointError(f"{path}: no such file, and {INDEX} names it: fetch it")
        known = _bfloat16()  # its import makes NumPy know the type
        try:
            found |= library.load_file(path)
        except Exception as error:  # the library has exceptions of many kinds (io.tensors)
            if known is None and ("BF16" in repr(error) or "bfloat16" in repr(error)):
                raise MissingExtraError(f"{path} stores bfloat16, which needs ml_dtypes: {install('io')}") from None
            raise CheckpointError(f"{path} is damaged or no safetensors file ({error}): fetch it again") from None
    return found


def _files(folder: str) -> list[str]:
    """The paths of the files with weights, which lie in the folder itself."""
    if os.path.isfile(os.path.join(folder, INDEX)):
        index = _json(os.path.join(folder, INDEX)).get("weight_map")
        if not isinstance(index, dict) or not all(
            isinstance(n, str) and os.path.basename(n) == n for n in index.values()
        ):
            raise CheckpointError(
                f"{os.path.join(folder, INDEX)} has no weight_map of names of files: use another copy"
            )
        return [os.path.join(folder, name) for name in sorted(set(index.values()))]
    if not os.path.isfile(os.path.join(folder, WEIGHTS)):
        old = [name for name in sorted(os.listdir(folder)) if name.endswith(".bin")]
        more = f"; {old[0]} is a pickle, which is not read: convert it to safetensors" if old else ""
        raise CheckpointError(f"{folder} holds no {WEIGHTS}{more}")
    return [os.path.join(folder, WEIGHTS)]


def _bfloat16() -> Any:
    """``ml_dtypes.bfloat16``, which NumPy has not; None where the extra is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    return ml_dtypes.bfloat16


def _dtype(like: str, raw: dict[str, Any], own: Any) -> Any:
    """The dtype of the weights of ``like``; without weights that of its config.json, without that ``own``."""
    said = raw.get("dtype") or raw.get("torch_dtype") or np.dtype(own).name
    name = _stored_dtype(like) or said
    if name == "bfloat16":
        found = _bfloat16()
        if found is None:
            raise MissingExtraError(f"{like} stores bfloat16, which needs ml_dtypes: {install('io')}")
        return found
    if name not in ("float64", "float32", "float16"):
        raise ConfigError(f"{like} has dtype {name!r}: float64, float32, float16 and bfloat16 can be written")
    return np.dtype(name)


def _stored_dtype(folder: str) -> str | None:
    """The dtype of the first matrix in the header of the first file; None where there are no files."""
    known = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
    try:
        with open(_files(folder)[0], "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, LONGEST_HEADER)))
        each = [entry["dtype"] for name, entry in sorted(header.items()) if name != tensors.RESERVED]
    except (CheckpointError, OSError, ValueError, struct.error, AttributeError, KeyError, TypeError, IndexError):
        return None
    return known.get(each[0], each[0]) if each else None
