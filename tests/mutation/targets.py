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
        suites = (
            f"{TESTS}/ops/test_bench.py::{text}",
            f"{TESTS}/mutation/test_op_gaps.py",
            f"{TESTS}/ops/test_edges.py",
        )
        targets.append(Target(f"pymoe.ops.{info.name}", suites, every))
    return targets


def kernels(every: int = 1) -> list[Target]:
    """The definitions, by loops.  (That the compiled twins agree with them is tests/kernels/test_twins.py.)"""
    suites = (f"{TESTS}/mutation/test_kernel_loops.py",)
    return [
        Target("pymoe.kernels.activations", suites, every),
        Target("pymoe.kernels.reference", suites, every),
        Target("pymoe.kernels.reference_norm", (f"{TESTS}/kernels/test_norm.py",), every),
        Target("pymoe.kernels.reference_csr", (f"{TESTS}/kernels/test_csr.py",), every),
        Target("pymoe.kernels.reference_bsr", (f"{TESTS}/kernels/test_bsr.py",), every),
        Target("pymoe.kernels.reference_nm", (f"{TESTS}/kernels/test_nm.py",), every),
    ]


def moe(every: int = 1) -> list[Target]:
    """Each module of the layer by the loop oracles, limits, invariants, dtypes, and the tests of its name."""
    common = (
        f"{TESTS}/mutation/moe_suite.py:suite",
        f"{TESTS}/mutation/test_moe_gaps.py",
        f"{TESTS}/moe/test_layer_input.py",
        f"{TESTS}/moe/test_layer_torch.py",
        f"{TESTS}/moe/test_layer_precision.py::test_dtypes",
        f"{TESTS}/moe/test_layer_gradients.py::token",
        f"{TESTS}/moe/test_layer_invariants.py",
    )
    names = [m.name for m in pkgutil.walk_packages(pymoe.moe.__path__, "pymoe.moe.") if not m.ispkg]
    targets = []
    for name in names:
        if name not in LEFT_OUT:
            own = _files("moe", f"test_{name.rsplit('.', 1)[1]}.py")
            targets.append(Target(name, (*own, *common), every))
    return targets


GROUPS = {"ops": ops, "kernels": kernels, "moe": moe}
