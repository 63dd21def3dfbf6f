"""Find every array inside outputs, caches and arguments, whatever tuples, dicts and dataclasses they are wrapped in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


def arrays(thing: Any, path: str = "") -> list[tuple[str, np.ndarray]]:
    """(path, array) for every NumPy array inside ``thing``.

    >>> [path for path, _ in arrays({"a": (np.ones(2), 3), "b": np.ones(1)})]
    ['.a[0]', '.b']
    """
    found: list[tuple[str, np.ndarray]] = []
    _collect(thing, path, found)
    return found


def _collect(thing: Any, path: str, found: list[tuple[str, np.ndarray]]) -> None:
    """A list that grows, not nested generators: a gradient check walks two caches for each element of each input."""
    if isinstance(thing, np.ndarray):
        found.append((path, thing))
    elif thing is None or isinstance(thing, (str, int, float)):
        return
    elif isinstance(thing, (tuple, list)):
        if names := getattr(thing, "_fields", None):
            for name, value in zip(names, thing, strict=True):
                _collect(value, f"{path}.{name}", found)
        else:
            for i, value in enumerate(thing):
                _collect(value, f"{path}[{i}]", found)
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            _collect(value, f"{path}.{key}", found)
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        for field in dataclasses.fields(thing):
            _collect(getattr(thing, field.name), f"{path}.{field.name}", found)


def freeze(thing: Any) -> None:
    """Make every array inside ``thing`` read-only: who writes into it now raises."""
    for _, a in arrays(thing):
        a.setflags(write=False)


def snapshot(thing: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(path, array, copy) of every array inside, to be handed to ``changed`` later."""
    return [(path, a, a.copy()) for path, a in arrays(thing)]


def changed(before: list[tuple[str, np.ndarray, np.ndarray]]) -> str | None:
    """The path of the first array whose bits are no longer those of the snapshot."""
    for path, a, copy in before:
        if not same_bits(a, copy):
            return path
    return None


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal shape, dtype and values, NaN equal to NaN (the sign of a zero is not looked at)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind in "biu":
        return a.tobytes() == b.tobytes()
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def decisions(thing: Any) -> dict[str, np.ndarray]:
    """The integer and boolean arrays inside ``thing``: chosen experts, plans, masks, kept slots."""
    return {path: a for path, a in arrays(thing) if a.dtype.kind in "biu"}
