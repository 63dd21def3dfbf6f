"""A suite is a list of callables that raise when something is wrong: hand-made, or taken from test files.

A suite is named by a string, so that worker processes can load it:

- ``"path/to/file.py:NAME"``: a list, or a function that returns one;
- ``"path/to/test_file.py"``: all of its tests with their parametrisations;
- ``"path/to/test_file.py::text"``: those whose name or parameters contain the text.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

Check = Callable[[], Any]
LEFT_OUT = ("slow", "gpu", "skip", "skipif", "xfail")


def load(spec: str) -> list[Check]:
    """The callables that ``spec`` names."""
    if "::" in spec:
        path, _, select = spec.partition("::")
        return list(from_tests(load_file(Path(path)), select))
    path, _, name = spec.partition(":")
    module = load_file(Path(path))
    if not name:
        return list(from_tests(module))
    found = getattr(module, name)
    return list(found() if callable(found) else found)


def load_file(path: Path) -> ModuleType:
    """Import a file by its path, once; a file of a ``tests`` tree as the module it is there (relative imports work)."""
    path = path.resolve()
    parts = path.with_suffix("").parts
    if "tests" in parts:
        at = len(parts) - 1 - parts[::-1].index("tests")
        root = str(Path(*parts[:at]))
        if root not in sys.path:
            sys.path.insert(0, root)
        return importlib.import_module(".".join(parts[at:]))
    name = "_suite_" + "_".join(parts[1:])
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def from_tests(module: ModuleType, select: str = "") -> Iterator[Check]:
    """Every ``test_*`` function of a test module, once for each set of parameters; slow ones and those that need
    fixtures are left out.  ``select``: only those whose name or parameters contain it."""
    common = getattr(module, "pytestmark", [])
    common = common if isinstance(common, list) else [common]
    for name, function in vars(module).items():
        if not name.startswith("test_") or not inspect.isfunction(function):
            continue
        marks = [_mark(m) for m in (*common, *getattr(function, "pytestmark", ()))]
        if any(m.name in LEFT_OUT for m in marks):
            continue
        axes = [_axis(m) for m in marks if m.name == "parametrize"]
        for combination in itertools.product(*axes):
            arguments = {k: v for part in combination for k, v in part[1].items()}
            label = f"{name}[{'-'.join(part[0] for part in combination)}]" if combination else name
            if select in label and _complete(function, arguments):
                check = partial(_without_shrinking(function), **arguments)
                check.__name__ = label  # type: ignore[attr-defined]
                yield check


def _mark(m: Any) -> Any:
    """``pytest.mark.slow`` is a decorator that holds its mark; on functions the mark itself is kept."""
    return getattr(m, "mark", m)


def _axis(mark: Any) -> list[tuple[str, dict[str, Any]]]:
    """One parametrize mark as [(id, {argument: value})]."""
    names = mark.args[0]
    names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    ids = mark.kwargs.get("ids")
    rows = []
    for i, values in enumerate(mark.args[1]):
        label = None
        if hasattr(values, "values") and hasattr(values, "marks"):  # pytest.param
            if any(_mark(m).name in LEFT_OUT for m in values.marks):
                continue
            label, values = values.id, values.values
            values = values[0] if len(names) == 1 else values
        row = (values,) if len(names) == 1 else tuple(values)
        if label is None:
            label = ids(row[0]) if callable(ids) else ids[i] if ids is not None else None
        label = "-".join(_short(v) for v in row) if label is None else str(label)
        rows.append((label, dict(zip(names, row, strict=True))))
    return rows


def _without_shrinking(function: Callable[..., Any]) -> Callable[..., Any]:
    """A property test that fails has said enough: Hypothesis need not look for the smallest example."""
    own = getattr(function, "_hypothesis_internal_use_settings", None)
    if own is not None:
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        function._hypothesis_internal_use_settings = settings(own, phases=phases, database=None)  # type: ignore[attr-defined]
    return function


def _short(value: Any) -> str:
    return str(getattr(value, "__name__", value))[:40]


def _complete(function: Callable[..., Any], arguments: dict[str, Any]) -> bool:
    if hasattr(function, "hypothesis"):  # draws its own arguments
        return True
    needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    return set(needed) <= set(arguments)
