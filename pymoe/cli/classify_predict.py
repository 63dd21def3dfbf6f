"""``pymoe classify predict``: a label for each text, from a table, or line by line as they come from standard input."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, DataError
from pymoe.cli import classify_input
from pymoe.cli.bar import Bar
from pymoe.cli.classify_input import Classifier
from pymoe.io import atomic
from pymoe.pipeline import classification, columns, tables

FORMATS = {"tsv": "\t", "csv": ",", "jsonl": None}
BATCH = 256
BAR_FROM = 2000  # texts that deserve a progress bar


def run(args: argparse.Namespace) -> int:
    if args.to not in FORMATS:
        raise ConfigError(f"--to must be one of {', '.join(FORMATS)}, got {args.to!r}")
    path = classify_input.one_file(args)
    if args.out is not None and os.path.exists(args.out):
        raise ConfigError(f"{args.out} exists, and nothing is overwritten: give a new file with --out")
    found = classify_input.load(args.model)
    answers = _answers(args, found, path or "-")
    if args.out is not None:
        atomic.write(args.out, (line.encode("utf-8", "surrogatepass") for line in answers))
        return 0
    for lines in answers:
        sys.stdout.write(lines)
        sys.stdout.flush()
    return 0


def _answers(args: argparse.Namespace, found: Classifier, path: str) -> Iterator[str]:
    """The output, part by part."""
    write = Writer(args, found)
    if path == "-" and (first := _streams(args, found)) is not None:
        for texts in _stream(args, first, found.about["columns"]):
            yield write.lines(texts, None)
        return
    sheet = classify_input.sheet(args, path, form=args.format or _lines(path), cut=True)
    one = sheet.form in ("csv", "tsv") and sheet.width == 1 and sheet.rows[0].cells[0] != found.about["columns"]["text"]
    table = columns.choose(
        sheet, text=args.text, group=args.group, header=False if one and args.header is None else args.header,
        need=("text", "group"), known=found.about["columns"],
    )  # fmt: skip
    one = one or sheet.width == 1  # nothing was guessed
    classify_input.notes((n for n in table.notes if not (one and ("header" in n or "only one" in n))), to_error=True)
    groups = table.groups if classification.by_group(found.model) else None
    parts = range(0, len(table.texts), BATCH)
    if len(table.texts) < BAR_FROM or not sys.stderr.isatty() or (args.out is None and sys.stdout.isatty()):
        for lo in parts:
            yield write.lines(table.texts[lo : lo + BATCH], None if groups is None else groups[lo : lo + BATCH])
        return
    with Bar("predicting", len(parts)) as bar:
        for lo in parts:
            yield write.lines(table.texts[lo : lo + BATCH], None if groups is None else groups[lo : lo + BATCH])
            bar.step()


class Writer:
    """Texts -> lines of output; the header before the first of them."""

    def __init__(self, args: argparse.Namespace, found: Classifier) -> None:
        self._args, self._found = args, found
        self._delimiter = FORMATS[args.to]
        self._begun = False

    def lines(self, texts: Sequence[str], groups: Sequence[str] | None) -> str:
        x = self._found.encoder.transform(list(texts))
        p = classification.probabilities(self._found.model, x, groups)
        weights = classification.routes(self._found.model, x, groups) if self._args.route else None
        if self._args.route and weights is None:
            raise ConfigError(f"{self._found.place} has no experts to choose between: leave --route out")
        rows = [
            self._row(text, p[i], None if weights is None else weights[i]) for i, text in enumerate(texts)
        ]  # fmt: skip
        if self._delimiter is None:
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        head = [] if self._begun else [list(rows[0])] if rows else []
        self._begun = True
        flat = [[_field(v) for v in row.values()] for row in rows]
        return "".join(tables.joined(cells, self._delimiter) for cells in head + flat)

    def _row(self, text: str, p: np.ndarray, weights: np.ndarray | None) -> dict[str, Any]:
        best = int(p.argmax())
        row: dict[str, Any] = {"label": self._found.classes[best], "probability": round(float(p[best]), 4)}
        if weights is not None:
            order = [int(e) for e in np.argsort(-weights, kind="stable") if weights[e] > 0]
            names = classification.expert_names(self._found.model, len(weights))
            row["experts"] = {names[e]: round(float(weights[e]), 4) for e in order}
        if self._args.all:
            every = {label: round(float(v), 4) for label, v in zip(self._found.classes, p, strict=True)}
            row |= {"probabilities": every} if self._delimiter is None else {f"p({k})": v for k, v in every.items()}
        return row if self._args.no_text else row | {"text": text}


def _field(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{expert}:{weight:.4f}" for expert, weight in value.items())
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _lines(path: str) -> str | None:
    """A .txt is a text a line; what ends otherwise is looked at."""
    name = path[:-3] if path.endswith(".gz") else path
    return "lines" if os.path.splitext(name)[1].lower() in (".txt", ".text") else None


def _streams(args: argparse.Namespace, found: Classifier) -> str | None:
    """lines or jsonl, if standard input can be answered as it comes; None: a table, which is read whole."""
    if args.format in ("lines", "jsonl"):
        return str(args.format)
    if args.format is not None or args.text is not None or tables.encoding_name(args.encoding).startswith("utf-16"):
        return None
    return "lines"


def _stream(args: argparse.Namespace, form: str, known: dict[str, str]) -> Iterator[list[str]]:
    """Texts in parts: as many lines as are there."""
    if sys.stdin.isatty():
        print("a text a line; end with Ctrl-D", file=sys.stderr)
    stdin: Any = sys.stdin.buffer  # read1: as much as is there
    rest, number = b"", 0
    column: str | None = None
    while True:
        data = stdin.read1(1 << 16)
        *lines, rest = (rest + data).split(b"\n")
        if not data and rest:
            lines, rest = [*lines, rest], b""
        texts = []
        for raw in lines:
            number += 1
            line = _decoded(raw.removesuffix(b"\r"), args, number)
            if form == "lines" and number == 1 and args.format is None and line.startswith("{"):
                form = "jsonl" if not tables.json_object(line)[1] else form
            if (
                form == "lines"
                and number == 1
                and args.format is None
                and known["text"] in re.split(r"[,;\t|]", line)[:99]
            ):
                note = f"line 1 looks like the header of a table with the column {known['text']!r}: if it is one, say"
                classify_input.notes([f"{note} --format csv; each line is taken as a text"], to_error=True)
            text: str | None = line
            if form == "jsonl":
                text, column = _of_json(line, args, number, column, known)
            if text is None:
                continue
            if len(text) > args.longest:
                note = f"line {number} has {len(text):,} characters: only the first {args.longest:,} were read"
                classify_input.notes([note + " (--longest)"], to_error=True)
                text = text[: args.longest]
            texts.append(text)
        for lo in range(0, len(texts), BATCH):
            yield texts[lo : lo + BATCH]
        if not data:
            if number == 0:
                raise DataError("standard input is empty: pipe texts in, one a line, or give a file")
            return


def _decoded(raw: bytes, args: argparse.Namespace, number: int) -> str:
    name = tables.encoding_name(args.encoding)
    try:
        text = raw.decode("utf-8-sig" if name == "utf-8" and number == 1 else name)
    except UnicodeDecodeError as error:
        raise DataError(tables.undecoded(tables.STDIN, args.encoding, raw, error.start, number)) from None
    if "\0" in text:
        raise DataError(f"standard input, line {number} has a NUL character: give a text, not a binary file")
    return text


def _of_json(
    line: str, args: argparse.Namespace, number: int, column: str | None, known: dict[str, str]
) -> tuple[str | None, str | None]:
    """(text, the key it stands under): the key is chosen at the first object, and every other must have it."""
    if not line.strip():
        return None, column
    value, problem = tables.json_object(line)
    if not problem and column is None:
        row = tables.Row(number, [tables.cell(v) for v in value.values()])
        sheet = tables.Sheet(tables.STDIN, "jsonl", "", tuple(value), [row], ())
        table = columns.choose(sheet, text=args.text, need=("text",), known=known)
        classify_input.notes(() if len(value) == 1 else table.notes, to_error=True)
        column = table.names["text"]
    if not problem and column not in value:
        problem = f"has no {column!r}, where the text stood before"
    if not problem:
        assert column is not None
        return tables.cell(value[column]), column
    if args.skip_bad:
        return None, column
    cure = "write one JSON object a line, all alike, or leave such lines out with --skip-bad"
    raise DataError(f"standard input, line {number} {problem}: {cure}")
