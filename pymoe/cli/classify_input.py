"""What the three uses of ``pymoe classify`` share: the table that was asked for, the model that was named."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NamedTuple

from pymoe.backend.errors import CheckpointError, ConfigError, check_integer
from pymoe.cli import words
from pymoe.pipeline import columns, folder, tables
from pymoe.pipeline.columns import Table
from pymoe.pipeline.report.text import plain

TASK = "classification"


class Classifier(NamedTuple):
    """A model folder, read."""

    place: str
    encoder: Any
    model: Any
    twin: Any  # None of a dense model
    about: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        return [str(c) for c in self.model.classes_]


def load(place: str) -> Classifier:
    """The classifier in a folder; CheckpointError if it is none, or damaged."""
    parts, about = folder.load(place)
    if about.get("task") != TASK or not {"encoder", "model"} <= parts.keys():
        raise CheckpointError(f"{place} is no classifier: give the folder that `pymoe classify train` made")
    return Classifier(place, parts["encoder"], parts["model"], parts.get("twin"), about)


def one_file(args: argparse.Namespace) -> str | None:
    """The FILE of the command, or None."""
    if len(args.files) > 1:
        raise ConfigError(f"give one file, got {len(args.files)}: {' '.join(args.files)} (`cat` joins files)")
    return args.files[0] if args.files else None


def sheet(args: argparse.Namespace, path: str, *, form: str | None = None, cut: bool = False) -> tables.Sheet:
    """The table in ``path``, read as the options say."""
    with words.options({"longest": "--longest"}):
        longest = check_integer("longest", args.longest)
    return tables.read(
        path, encoding=args.encoding, form=form or args.format, skip_bad=args.skip_bad, longest=longest, cut=cut
    )


def table(args: argparse.Namespace, path: str, *, known: dict[str, str] | None = None) -> Table:
    """Texts with labels."""
    group = args.group
    found = sheet(args, path)
    return columns.choose(
        found, text=args.text, label=args.label, group=group, header=args.header, known=known,
        need=("text", "label", "group") if known and "group" in known else ("text", "label"),
    )  # fmt: skip


def notes(lines: Any, *, to_error: bool = False) -> None:
    """What was guessed or left out, a line each."""
    for line in lines:
        line = plain(line)
        print(f"pymoe: note: {line}" if to_error else f"      {line}", file=sys.stderr if to_error else sys.stdout)
