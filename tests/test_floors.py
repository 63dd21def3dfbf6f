"""Imports go down the floors only: reads every import of every file of pymoe, those inside functions too.

Parts of one floor may lean on each other in one direction (train writes its runs with io), never in a circle.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pymoe"
FLOORS = {
    "backend": 0,
    "kernels": 1,
    "ops": 2,
    "storage": 2.5,  # weights that are not one dense array, made of ops and kernels
    "nn": 3,
    "moe": 4,
    "sparsity": 4.5,  # reads what moe decides and keeps
    "presets": 4.5,  # settings of moe by name
    "models": 5,
    "sharing": 5.5,  # takes whole models apart and puts them together
    "train": 6,
    "parallel": 6,
    "io": 6,
    "interop": 6,
    "hf": 6,
    "surgery": 6.5,  # models with their text: calibrate, prune, split, merge
    "pipeline": 7,
    "cli": 8,
    "__main__": 8,
}
SIDE = "verify"  # may import F0 to F6; only the command line imports it
# The package itself offers its parts by name, above all floors; what it holds (a version) may be read by anyone.
TOP = "__init__"


def imports(source: str, module: tuple[str, ...], is_package: bool) -> list[tuple[int, tuple[str, ...]]]:
    """(line, dotted path within pymoe) of every import of pymoe: absolute, relative, lazy, and by importlib."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                here = list(module) if is_package else list(module[:-1])
                base = ["pymoe", *here[: len(here) - node.level + 1], *base]
            names = [[*base, a.name] for a in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names = [_constant(node.args[0]).split(".")] if node.args else []
        else:
            continue
        found += [(node.lineno, tuple(name[1:])) for name in names if name[0] == "pymoe"]
    return found


def _constant(node: ast.expr) -> str:
    """The fixed beginning of a string: "pymoe.kernels." of f"pymoe.kernels.{name}"."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr) and node.values:
        return _constant(node.values[0]).rstrip(".")
    return ""


def part_of(path: tuple[str, ...]) -> str:
    return path[0] if path else TOP


def wrong(source: str, module: tuple[str, ...], is_package: bool = False) -> list[str]:
    """Every import of this file that goes up, or where it must not."""
    mine = part_of(module)
    complaints = []
    for line, target in imports(source, module, is_package):
        other = part_of(target)
        if other == mine or mine == TOP or (other not in FLOORS and other != SIDE):
            continue  # within one part; the package's own names
        if mine == SIDE:
            allowed = FLOORS[other] <= 6
        elif other == SIDE:
            allowed = FLOORS[mine] == 8
        else:
            allowed = FLOORS[other] <= FLOORS[mine]
        if not allowed:
            complaints.append(f"line {line}: pymoe.{'.'.join(module)} imports pymoe.{'.'.join(target)}")
    return complaints


def modules() -> list[tuple[Path, tuple[str, ...], bool]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found.append((path, parts[:-1] if is_package else parts, is_package))
    return found


MODULES = modules()


@pytest.mark.parametrize("path, module, is_package", MODULES, ids=[".".join(m) or "pymoe" for _, m, _ in MODULES])
def test_imports_go_down(path: Path, module: tuple[str, ...], is_package: bool) -> None:
    assert wrong(path.read_text(encoding="utf-8"), module, is_package) == []


def circle(leans: set[tuple[str, str]]) -> list[str]:
    """The parts of a circle of imports, [] if there is none: take away who leans on nobody until nothing moves."""
    left = {part for pair in leans for part in pair}
    while True:
        free = {a for a in left if not any((a, b) in leans for b in left)}
        if not free:
            return sorted(left)
        left -= free


def test_parts_of_one_floor_do_not_lean_on_each_other_in_a_circle() -> None:
    leans = set()
    for path, module, is_package in MODULES:
        mine = part_of(module)
        for _, target in imports(path.read_text(encoding="utf-8"), module, is_package):
            other = part_of(target)
            if mine != other and FLOORS.get(mine, -1) == FLOORS.get(other, -2):
                leans.add((mine, other))
    assert circle(leans) == []


def test_control_a_circle_is_seen() -> None:
    assert circle({("train", "io"), ("io", "interop"), ("interop", "train"), ("cli", "train")}) == [
        "cli",
        "interop",
        "io",
        "train",
    ]
    assert circle({("train", "io"), ("interop", "io")}) == []


def test_every_part_has_a_floor() -> None:
    parts = {part_of(module) for _, module, _ in MODULES} - {TOP}
    assert parts <= FLOORS.keys() | {SIDE}, "say on which floor the new part lives"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (("ops", "x"), "from pymoe.moe import layer"),
        (("ops", "x"), "import pymoe.nn.linear"),
        (("ops", "x"), "def f():\n    from pymoe.models import lm\n"),
        (("ops", "x"), "from pymoe import moe"),
        (("ops", "x"), "from ..moe import layer"),
        (("ops", "x"), "import importlib\nimportlib.import_module('pymoe.train')"),
        (("kernels", "x"), "importlib.import_module(f'pymoe.ops.{name}')"),
        (("moe", "losses", "x"), "from ...models import lm"),
        (("moe", "x"), "from pymoe import presets"),
        (("models", "x"), "from pymoe.verify import gradcheck"),
        (("train", "x"), "if True:\n    from pymoe.verify import gradcheck"),
        (("verify", "x"), "from pymoe.cli import main"),
        (("verify", "x"), "from pymoe.pipeline import text"),
        (("backend", "x"), "from pymoe.kernels import reference"),
        (("models", "x"), "from pymoe.train import loop"),
    ],
)
def test_control_an_import_that_goes_up_is_seen(module: tuple[str, ...], source: str) -> None:
    assert len(wrong(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            ("moe", "x"),
            "from pymoe.ops import linear\nfrom pymoe.backend import tree\nfrom . import config\nimport numpy",
        ),
        (("moe", "x"), "from pymoe import kernels, __version__"),
        (("verify", "x"), "from pymoe.train import loop"),
        (("cli", "x"), "from pymoe.verify import gradcheck"),
        (("presets",), "from pymoe.moe.config import MoEConfig"),
        (("ops", "x"), "import importlib\nimportlib.import_module('scipy.special')"),
    ],
)
def test_control_an_import_that_goes_down_is_not_blamed(module: tuple[str, ...], source: str) -> None:
    assert wrong(source, module) == []
