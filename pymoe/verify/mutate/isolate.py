"""Put a mutated module in the place of the original, everywhere, and take it out again without a trace."""

from __future__ import annotations

import ast
import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from array_api_compat import numpy as numpy_namespace

from pymoe.verify.mutate.operators import SCALE


class Scaler:
    """What numeric mutants call: multiplies every float inside a value, and remembers whether there was one."""

    def __init__(self) -> None:
        self.called = self.scaled = False

    def __call__(self, value: Any, factor: float) -> Any:
        self.called = True
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fc":
            if value.size and np.any(value):
                self.scaled = True
            return np.asarray(np.asarray(value) * factor, dtype=value.dtype)
        if isinstance(value, float):
            self.scaled = True
            return value * factor
        if isinstance(value, Mapping):
            return {k: self(v, factor) for k, v in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self(v, factor) for v in value))
        if isinstance(value, (tuple, list)):
            return type(value)(self(v, factor) for v in value)
        return value


@contextlib.contextmanager
def replaced(name: str, tree: ast.Module) -> Iterator[Scaler]:
    """Within the block, module ``name`` runs as ``tree``, for holders of the module and of its functions alike."""
    module = importlib.import_module(name)
    saved = dict(module.__dict__)
    scaler = Scaler()
    undo: list[tuple[Any, str, Any]] = []
    try:
        module.__dict__[SCALE] = scaler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as "is" with a literal
            exec(compile(tree, f"<mutant of {name}>", "exec"), module.__dict__)
        new = {
            id(old): module.__dict__[key]
            for key, old in saved.items()
            if key in module.__dict__ and _owned(old, name) and module.__dict__[key] is not old
        }
        for other in [m for n, m in sys.modules.items() if isinstance(m, ModuleType) and _ours(n) and m is not module]:
            for key, value in list(other.__dict__.items()):
                changed = _substitute(value, new)
                if changed is not value:
                    undo.append((other, key, value))
                    other.__dict__[key] = changed
        yield scaler
    finally:
        for other, key, value in reversed(undo):
            other.__dict__[key] = value
        module.__dict__.clear()
        module.__dict__.update(saved)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """``empty`` gives NaN (or absurd integers) within the block: the memory it gets often still holds the right answer
    of the call before, and then a mutant that never writes its result passes every test."""
    saved = [(m, name, getattr(m, name)) for m in (np, numpy_namespace) for name in ("empty", "empty_like")]

    def wrapped(original: Any) -> Any:
        def empty(*args: Any, **keywords: Any) -> Any:
            a = original(*args, **keywords)
            if type(a) is np.ndarray and a.dtype.kind in "fciu":
                a.fill(np.nan if a.dtype.kind in "fc" else np.iinfo(a.dtype).max // 2)
            return a

        return empty

    try:
        for m, name, original in saved:
            setattr(m, name, wrapped(original))
        yield
    finally:
        for m, name, original in saved:
            setattr(m, name, original)


def _ours(name: str) -> bool:
    return name.split(".")[0] in ("pymoe", "tests") and not name.startswith("pymoe.verify")


def _owned(value: Any, name: str) -> bool:
    """Functions and classes defined in the module, and its tables: what importers may hold by value."""
    return getattr(value, "__module__", None) == name or (isinstance(value, (dict, tuple)) and bool(value))


def _substitute(value: Any, new: dict[int, Any], depth: int = 3) -> Any:
    """``value`` with old objects replaced by new ones, also inside dicts and tuples; itself if none is there."""
    if id(value) in new:
        return new[id(value)]
    if depth == 0 or isinstance(value, (ModuleType, FunctionType, type)):
        return value
    if type(value) is dict and len(value) < 200:
        items = {k: _substitute(v, new, depth - 1) for k, v in value.items()}
        return items if any(items[k] is not v for k, v in value.items()) else value
    if type(value) is tuple and len(value) < 50:
        members = tuple(_substitute(v, new, depth - 1) for v in value)
        return members if any(a is not b for a, b in zip(members, value, strict=True)) else value
    return value
