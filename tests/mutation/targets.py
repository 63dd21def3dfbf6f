"""Which module is judged by which tests: a module by the tests that mirror its path, and by the tables of cases."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import pymoe.moe
import pymoe.ops
from pymoe.verify.mutate import Target

TESTS = Path(__file__).resolve().parents[1]
# settings, names, and what only draws random numbers or raises: no arithmetic of a forward or a backward
LEFT_OUT = {"pymoe.moe.config"}


def _files(folder: str, pattern: str = "test_*.py") -> list[str]:
    return [str(p) for p in sorted((TESTS / folder).rglob(pattern))]


def ops(every: int = 1) -> list[Target]:
    """One target for each op: its rows of the case table, and all edge cases."""
    targets = []
    for info in pkgutil.iter_modules(pymoe.ops.__path__):
        text = "" if info.name.startswith("_") else info.name
        suites = (f"{TESTS}/ops/test_bench.py::{text}", f"{TESTS}/ops/test_edges.py")
        targets.append(Target(f"pymoe.ops.{info.name}", suites, every))
    return targets


def kernels(every: int = 1) -> list[Target]:
    """The definitions: loops, then whatever tests/kernels has, then the ops that run on them."""
    suites = (f"{TESTS}/mutation/test_kernel_loops.py", *_files("kernels", "test_reference*.py"))
    return [
        Target("pymoe.kernels.activations", suites, every),
        Target("pymoe.kernels.reference", suites, every),
    ]


def moe(every: int = 1) -> list[Target]:
    """The layer: all its modules by the loop oracles, limits, dtypes, and what tests/moe has on a part of it."""
    slow = {"test_layer_gradients.py", "test_layer_memory.py", "test_layer_oracle.py", "test_layer_threads.py"}
    slow |= {"test_layer_precision.py", "test_layer_input.py"}  # bad input is no arithmetic
    suites = (
        f"{TESTS}/mutation/moe_suite.py:suite",
        f"{TESTS}/moe/test_layer_gradients.py::test_sizes",
        f"{TESTS}/moe/test_layer_precision.py::test_dtypes",
        *(f for f in _files("moe") if Path(f).name not in slow),
    )
    names = [m.name for m in pkgutil.walk_packages(pymoe.moe.__path__, "pymoe.moe.") if not m.ispkg]
    return [Target(n, suites, every) for n in names if n not in LEFT_OUT]


GROUPS = {"ops": ops, "kernels": kernels, "moe": moe}
