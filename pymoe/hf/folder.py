"""A Hugging Face folder on disk: read whole, and written anew beside the one it came from."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend.errors import CheckpointError, ConfigError, MissingExtraError, install
from pymoe.hf import config, names
from pymoe.hf.tokenizer import FILES, Tokenizer
from pymoe.io import atomic, tensors
from pymoe.models.lm import LMConfig

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"


class Checkpoint(NamedTuple):
    cfg: LMConfig
    p: dict[str, Any]
    tokenizer: Tokenizer | None  # None: the folder has no tokenizer.json
    raw: dict[str, Any]  # config.json as it stands


def read(folder: str, dtype: Any = None) -> Checkpoint:
    """The model of a folder, in float32 (float64 where it is stored so) or ``dtype``.

    CheckpointError for a file or a tensor that is missing, damaged, or of another shape; ConfigError for a family or a
    setting that the decoder of pymoe has not.
    """
    raw = _json(os.path.join(folder, "config.json"))
    cfg = config.from_hf(raw)
    given = _tensors(folder)
    if dtype is None:
        dtype = np.float64 if all(a.dtype == np.float64 for a in given.values()) else np.float32
    p = names.from_hf(given, cfg, dtype)
    return Checkpoint(cfg, p, Tokenizer.of(folder), raw)


def write(folder: str, cfg: LMConfig, p: dict[str, Any], *, like: str) -> None:
    """A new folder with ``p``: config.json and tokenizer after the folder ``like``, tensors in that one's dtype.

    ``folder`` must not exist, or be empty: ConfigError.  The weights come first and config.json last, each written
    whole (``io.atomic``): a folder with a config.json is complete.
    """
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise ConfigError(f"{folder} is not empty: give a new folder, nothing is written over")
    source = _json(os.path.join(like, "config.json"))
    raw = config.to_hf(cfg, source)
    made = names.to_hf(p, cfg)
    dtype = _dtype(source, next(iter(made.values())).dtype)
    raw["dtype" if "torch_dtype" not in raw else "torch_dtype"] = np.dtype(dtype).name
    plain = {name: np.ascontiguousarray(a.astype(dtype)) for name, a in sorted(made.items())}
    os.makedirs(folder, exist_ok=True)
    atomic.write(os.path.join(folder, WEIGHTS), [tensors.library().save(plain, metadata={"format": "pt"})])
    for name in FILES:
        if os.path.isfile(os.path.join(like, name)):
            with open(os.path.join(like, name), "rb") as file:
                atomic.write(os.path.join(folder, name), [file.read()])
    text = json.dumps(raw, indent=2, sort_keys=True) + "\n"
    atomic.write(os.path.join(folder, "config.json"), [text.encode()])


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
    files = [WEIGHTS]
    if os.path.isfile(os.path.join(folder, INDEX)):
        files = sorted(set(_json(os.path.join(folder, INDEX)).get("weight_map", {}).values()))
    elif not os.path.isfile(os.path.join(folder, WEIGHTS)):
        old = [name for name in os.listdir(folder) if name.endswith(".bin")]
        more = f"; {old[0]} is a pickle, which is not read: convert it to safetensors" if old else ""
        raise CheckpointError(f"{folder} holds no {WEIGHTS}{more}")
    library = tensors.library()
    found: dict[str, np.ndarray] = {}
    for name in files:
        path = os.path.join(folder, name)
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


def _bfloat16() -> Any:
    """``ml_dtypes.bfloat16``, which NumPy has not; None where the extra is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    return ml_dtypes.bfloat16


def _dtype(raw: dict[str, Any], own: Any) -> Any:
    name = raw.get("dtype") or raw.get("torch_dtype") or np.dtype(own).name
    if name == "bfloat16":
        found = _bfloat16()
        if found is None:
            raise MissingExtraError(f"this folder stores bfloat16, which needs ml_dtypes: {install('io')}")
        return found
    if name not in ("float64", "float32", "float16"):
        raise ConfigError(f"config.json has dtype {name!r}: float64, float32, float16 and bfloat16 can be written")
    return np.dtype(name)
