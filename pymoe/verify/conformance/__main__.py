"""Measure every row and write the page: ``python -m pymoe.verify.conformance [--out FILE] [--only TEXT]``."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import pymoe
from pymoe.backend.errors import ConfigError, PymoeError
from pymoe.verify.conformance.page import page


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pymoe.verify.conformance", description=__doc__)
    parser.add_argument("--out", metavar="FILE", help="where the page goes (default: docs/conformance.md)")
    parser.add_argument("--only", metavar="TEXT", default="", help="print the rows with this in their name; no page")
    args = parser.parse_args(argv)
    try:
        measured = _oracles()
    except PymoeError as error:
        print(f"pymoe: {error}", file=sys.stderr)
        return 2
    rules = _measure("rules", measured.rules(args.only), measured.count_rules(args.only))
    blocks = _measure("blocks", measured.blocks(args.only), measured.count_blocks(args.only))
    failed = [row for row in (*rules, *blocks) if not row.passes]
    if not args.only:
        out = args.out or os.path.join(_root(), "docs", "conformance.md")
        made = {"pymoe": pymoe.__version__, "NumPy": np.__version__, "Python": platform.python_version()}
        made |= measured.made()
        with open(out, "w", encoding="utf-8") as file:
            file.write(page(rules, blocks, measured.defects(), made) + "\n")
        print(f"{len(rules)} rules, {len(blocks)} blocks: {out}")
    for row in failed:
        print(f"fails: {row}", file=sys.stderr)
    return 1 if failed else 0


def _measure(what: str, rows: Iterator[Any], total: int) -> list[Any]:
    """The rows, a line of progress for each."""
    found = []
    for row in rows:
        found.append(row)
        print(
            f"{what} {len(found):3d}/{total}  {row.name:<28} forward {row.forward:.1e}  gradient {row.gradient:.1e}",
            flush=True,
        )
    return found


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(pymoe.__file__)))


def _oracles() -> Any:
    """``tests.conformance`` of the source tree: what measures."""
    if not os.path.isdir(os.path.join(_root(), "tests", "conformance")):
        raise ConfigError("the oracles live with the tests: clone the repository and run this there")
    sys.path.insert(0, _root())
    load: Callable[[str], Any] = importlib.import_module
    return load("tests.conformance.measure")


if __name__ == "__main__":
    sys.exit(main())
