"""A layer of its own by its tests: they run as they are, and what their comparisons return is written down.

``test_loop`` compares with the loop of the file by ``frames.relative``; every gradient check is a call of
``verify.gradcheck``.  A test that fails, or a file in which one of the two never happens, is an infinite error.
"""

from __future__ import annotations

import importlib
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from pymoe import verify
from pymoe.verify.explain import Entry

ROOT = Path(__file__).resolve().parents[2]
ATTENTION = "tests/moe/attention_experts/test_attention_experts.py"


class Recorder:
    """A pytest plugin: the errors that the comparisons of a file return."""

    def __init__(self) -> None:
        self.loops: list[float] = []
        self.gradients: list[float] = []
        self._gradcheck = verify.gradcheck
        self._patched: list[Any] = []
        self._relative = importlib.import_module("tests.moe.frames").relative

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for module in {item.module for item in items if hasattr(item, "module")}:
            if hasattr(module, "relative"):
                self._patched.append(module)
                module.relative = self._seen()

    def pytest_sessionfinish(self) -> None:
        for module in self._patched:  # whoever runs in this process next has its own back
            module.relative = self._relative

    def _seen(self) -> Any:
        def recorded(found: Any, wanted: Any) -> float:
            error = self._relative(found, wanted)
            self.loops.append(error)
            return error

        return recorded

    def pytest_runtest_setup(self, item: Any) -> None:
        def recorded(*args: Any, **keywords: Any) -> Any:
            report = self._gradcheck(*args, **keywords)  # a control raises, and is no measurement
            self.gradients.append(report.error)
            return report

        verify.gradcheck = recorded

    def pytest_runtest_teardown(self, item: Any) -> None:
        verify.gradcheck = self._gradcheck


def layer(entry: Entry) -> tuple[float, float, str]:
    """(largest error against the loop, of the gradients, where the loop stands)."""
    file, loop, gradient = f"tests/moe/rules/test_{entry.name}.py", "test_loop", "gradients or exact"
    if entry.kind == "attention":  # one file for both, told apart by the names of its cases
        of = entry.name.partition("_")[0]
        file, loop, gradient = ATTENTION, f"agrees_with_the_loops and {of}", f"every_entry and {of}"
    loops, gradients = _run(file, loop).loops, _run(file, gradient).gradients
    return max(loops, default=float("inf")), max(gradients, default=float("inf")), file


def _run(file: str, which: str) -> Recorder:
    recorder = Recorder()
    with redirect_stdout(io.StringIO()) as said:
        args = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(ROOT), "-m", "not gpu", "-k", which]
        status = pytest.main([str(ROOT / file), *args], plugins=[recorder])
    if status:
        print(said.getvalue())
        return Recorder()
    return recorder
