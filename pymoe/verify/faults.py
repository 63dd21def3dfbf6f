"""Which gradient check sees which fault?  ``python -m pymoe.verify.faults`` prints the table.

Every line of the hand-written backward of the MoE layer that computes a float (assignments and returned values, in
``pymoe.moe`` and in the kernels under it) is multiplied by 1 + ε in turn, and each check of the field judges the
resulting gradients (``pymoe.verify.detectors``).  A fault counts as caught if it is seen with either setting:
renormalised weights or not.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from pymoe import kernels
from pymoe.verify import subject
from pymoe.verify.detectors import NAMES, Detectors
from pymoe.verify.mutate import isolate, operators

SIZES = (1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)


def layers(seed: int = 0) -> list[Any]:
    """Two settings of the layer, T, D, F, E, k = 7, 5, 6, 4, 2, with balance and z loss."""
    moe, presets = importlib.import_module("pymoe.moe"), importlib.import_module("pymoe.presets")
    made = []
    for preset in (presets.mixtral, presets.olmoe):
        cfg = preset(d_model=5, d_ff=6, n_experts=4, k=2)
        rng = np.random.default_rng(seed)
        made.append(subject(moe, rng.standard_normal((7, 5)), moe.init(rng, cfg), cfg))
    return made


def modules() -> list[str]:
    """Everything that a backward of the layer runs through."""
    moe = importlib.import_module("pymoe.moe")
    found = [m.name for m in pkgutil.walk_packages(moe.__path__, "pymoe.moe.") if not m.ispkg]
    return [*found, "pymoe.kernels.reference", "pymoe.kernels.activations"]


def sites() -> Iterator[tuple[str, str, Any]]:
    """(module, key, factor -> mutated tree) of every line that can be scaled."""
    for name in modules():
        source = inspect.getsource(importlib.import_module(name))
        for key, build in operators.scalings(source, name):
            yield name, key, build


def run(sizes: tuple[float, ...] = SIZES, seed: int = 0) -> tuple[int, dict[float, dict[str, float]]]:
    """(number of lines, {ε: {check: share of them caught}})."""
    with kernels.using("reference"), isolate.poisoned():
        judges = [Detectors(s, seed) for s in layers(seed)]
        right = [d.jacobian() for d in judges]
        for d, j in zip(judges, right, strict=True):
            wrongly = [name for name, seen in d.caught(j).items() if seen]
            if wrongly:
                raise AssertionError(f"{wrongly} refuse the right gradient: the comparison would mean nothing")
        counts = {e: dict.fromkeys(NAMES, 0) for e in sizes}
        lines = 0
        for module, _, build in sites():
            if not _matters(judges, right, module, build):
                continue
            lines += 1
            for e in sizes:
                seen = dict.fromkeys(NAMES, False)
                with isolate.replaced(module, build(1 + e)):
                    for d in judges:
                        seen = {name: seen[name] or now for name, now in d.caught(d.jacobian()).items()}
                for name in NAMES:
                    counts[e][name] += seen[name]
    return lines, {e: {name: counts[e][name] / max(lines, 1) for name in NAMES} for e in sizes}


def _matters(judges: list[Detectors], right: list[Any], module: str, build: Any) -> bool:
    """Does scaling this line by 2 change a gradient here?  (Lines of other settings, and of decisions, do not.)"""
    with isolate.replaced(module, build(2.0)):
        for d, j in zip(judges, right, strict=True):
            now = d.jacobian()
            if any(not np.allclose(now[key], j[key], rtol=1e-9, atol=0) for key in j):
                return True
    return False


def table(lines: int, shares: dict[float, dict[str, float]]) -> str:
    head = f"{'fault':<8}" + "".join(f"{name:>14}" for name in NAMES)
    rows = [f"{e:<8.0e}" + "".join(f"{100 * row[name]:>12.1f} %" for name in NAMES) for e, row in shares.items()]
    return "\n".join([f"{lines} lines of the backward of the MoE layer, each times 1 + fault; caught by", head, *rows])


def main() -> int:
    print(table(*run()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
