"""The second run of the CI: all that did not pass in the first, and only that."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.parametrize("i", ["a", "b::c", "d e"])
def test_passes(i): pass

def test_lacks():
    lib = pytest.importorskip("lib")

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.gpu
def test_gpu(): pass

@pytest.mark.xfail
def test_xfails(): assert False

@pytest.fixture
def bad():
    yield
    assert False

def test_fails_afterwards(bad): pass

def test_fails(): assert False
"""
ONLY_WITH_LIB = """
import pytest
lib = pytest.importorskip("lib")
def test_of_the_library(): assert lib.answer == 42
"""


@pytest.fixture
def run(tmp_path: Path):
    """run(*arguments) -> the names of the tests that were run and passed or failed."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_a.py").write_text(TESTS)
    (tmp_path / "test_b.py").write_text(ONLY_WITH_LIB)
    (tmp_path / "pytest.ini").write_text('[pytest]\nmarkers =\n  slow\n  gpu\naddopts = -m "not slow and not gpu"\n')

    def run(*arguments: str) -> set[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-rpfE", "-p", "no:cacheprovider", "-n", "2", *arguments]
        out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
        lines = [line.split(" ", 1) for line in out.splitlines()]
        return {rest[0].split(" - ")[0] for status, *rest in lines if status in ("PASSED", "FAILED", "ERROR")}

    return run


@pytest.mark.slow
def test_the_second_run_does_what_the_first_did_not(run, tmp_path: Path) -> None:
    first = run("--passed-to", "passed")
    passed = set((tmp_path / "passed").read_text().splitlines())
    assert passed == {f"test_a.py::test_passes[{i}]" for i in ("a", "b::c", "d e")}
    assert first - passed == {"test_a.py::test_fails", "test_a.py::test_fails_afterwards"}
    (tmp_path / "lib.py").write_text("answer = 42\n")
    second = run("--not-again", "passed", "-m", "not gpu")
    new = {"test_a.py::test_lacks", "test_a.py::test_slow", "test_b.py::test_of_the_library"}
    assert second == (first - passed) | new
