"""``pymoe presets``: every rule that has a name."""

from __future__ import annotations

import argparse
import shutil

from pymoe.verify import explain
from pymoe.verify.explain.catalogue import KINDS


def run(args: argparse.Namespace) -> int:
    wanted = (args.find or "").lower()
    found = [e for e in explain.entries() if wanted in f"{e.name} {e.doc}".lower()]
    for kind, about in KINDS.items():
        of_kind = [e for e in found if e.kind == kind]
        if of_kind:
            print(f"{about}: {len(of_kind)}")
            _table(of_kind)
            print()
    if not found:
        print(f"no rule has {args.find!r} in its name or its description; `pymoe presets` alone lists all")
        return 1
    print("pymoe explain NAME prints one: formulas, gradient, what is constant, source, an example in numbers")
    return 0


def _table(found: list[explain.Entry]) -> None:
    name = max(len(e.name) for e in found)
    source = max(len(_source(e)) for e in found)
    room = max(shutil.get_terminal_size((160, 24)).columns - name - source - 6, 30)
    for e in found:
        said = e.summary if len(e.summary) <= room else e.summary[: room - 1].rsplit(" ", 1)[0] + " …"
        print(f"  {e.name:<{name}}  {_source(e):<{source}}  {said}")


def _source(e: explain.Entry) -> str:
    return e.sources[0] if e.sources else ""
