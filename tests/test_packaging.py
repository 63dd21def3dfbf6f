"""What is installed is what is in the tree: every folder of pymoe is a package, and a wheel holds every file of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pymoe"
KINDS = (".py", ".cu", ".tsv", ".pyi", "py.typed")


def folders_without_init(package: Path) -> list[str]:
    holding = {path.parent for path in package.rglob("*.py")}
    return sorted(str(f.relative_to(package)) for f in holding if not (f / "__init__.py").is_file())


def files(package: Path) -> set[str]:
    return {path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.name.endswith(KINDS)}


def test_every_folder_with_code_is_a_package() -> None:
    assert folders_without_init(PACKAGE) == []


def test_control_a_folder_that_is_no_package_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "__init__.py").touch()
    (tmp_path / "a" / "b" / "c.py").touch()
    assert folders_without_init(tmp_path) == [os.path.join("a", "b")]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="runs in a source tree")
def test_a_wheel_holds_every_file_and_works_by_itself(tmp_path: Path) -> None:
    """On a machine without a compiler, which takes a minute less: the files are the same with one."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(PACKAGE, tree / "pymoe", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(tree)]
    built = subprocess.run(wheel, capture_output=True, text=True, env={**os.environ, "CC": "false"})
    assert built.returncode == 0, built.stderr
    (made,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(made).namelist())
    assert files(PACKAGE) - held == set()
    place = tmp_path / "installed"
    zipfile.ZipFile(made).extractall(place)
    code = (
        "import importlib, pkgutil, sys, pymoe\n"
        f"assert pymoe.__file__.startswith({str(place)!r}), pymoe.__file__\n"
        "names = [m.name for m in pkgutil.walk_packages(pymoe.__path__, 'pymoe.')]\n"
        "for name in names:\n"
        "    try:\n"
        "        name == 'pymoe.__main__' or importlib.import_module(name)\n"
        "    except ModuleNotFoundError as lacking:\n"
        "        assert lacking.name == 'pymoe.kernels._cython', name\n"
        "print(len(names))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150
