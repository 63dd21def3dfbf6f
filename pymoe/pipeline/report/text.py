"""A report for a terminal; columns stay straight where a character is two cells wide."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from pymoe.pipeline.report.measure import Report

WIDE = 14  # classes: a wider confusion matrix does not fit a terminal
_SHORT, _LONG = 16, 88


def lines(report: Report) -> Iterator[str]:
    """The report line by line."""
    return (plain(line) for line in _lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.title}: {report.texts:,} text{'s'[: report.texts != 1]}, {report.where}"
    yield from (f"note: {note}" for note in report.notes)
    yield ""
    yield from table(
        ["", "accuracy", "macro-F1"],
        [[name, f"{s.accuracy:.4f}", f"{s.macro_f1:.4f}"] for name, s in report.scores.items()],
    )
    yield ""
    yield from table(
        ["class", "precision", "recall", "F1", "texts"],
        [[c.label, f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}", f"{c.texts:,}"] for c in report.per_class],
    )
    if report.groups:
        yield ""
        yield from table(
            ["group", "accuracy", "macro-F1", "texts"],
            [[name, f"{s.accuracy:.4f}", f"{s.macro_f1:.4f}", f"{n:,}"] for name, n, s in report.groups],
        )
    yield ""
    if len(report.classes) <= WIDE:
        rows = [[label, *(f"{n:,}" if n else "." for n in row)] for label, row in _rows(report)]
        yield from table(["truth \\ answer", *(short(c, 10) for c in report.classes)], rows)
    else:
        yield f"the confusion matrix of {len(report.classes)} classes is in report.html"
    if report.experts:
        yield ""
        yield from table(
            ["expert", "mean weight", "leads", "accuracy", "classes of the texts that it leads"],
            [
                [
                    e.name, f"{e.weight:.3f}", f"{e.leads:,}", "" if e.accuracy is None else f"{e.accuracy:.3f}",
                    ", ".join(f"{short(label)} {n}" for label, n in e.classes[:4]) + (", ..." if e.classes[4:] else ""),
                ]
                for e in report.experts
            ],
            left=(0, 4),
        )  # fmt: skip
    if report.confused:
        yield ""
        yield "errors, the most frequent first (line, probability, text):"
        for pair in report.confused:
            if pair.examples:
                yield f"  {pair.truth} taken for {pair.predicted}: {pair.times:,}"
            for line, p, text in pair.examples:
                yield f"    {line:>6}  {p:.2f}  {short(text, _LONG)}"


def _rows(report: Report) -> list[tuple[str, list[int]]]:
    return list(zip(report.classes, report.confusion.tolist(), strict=True))


def width(text: str) -> int:
    """Cells on a terminal.

    >>> width("天气"), width("été")
    (4, 3)
    """
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def plain(text: str) -> str:
    """Without characters that steer a terminal.

    >>> plain("a\\x1b[31m")
    'a [31m'
    """
    return "".join(c if c.isprintable() else " " for c in text)


def short(text: str, most: int = _SHORT) -> str:
    """One line of at most ``most`` cells, without characters that steer a terminal.

    >>> short("a long\\n\\x1b[31m text", 10)
    'a long ...'
    """
    text = " ".join(plain(text[: 4 * most]).split())
    if width(text) <= most:
        return text
    while width(text) > most - 3:
        text = text[:-1]
    return text + "..."


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: tuple[int, ...] = (0,)) -> Iterator[str]:
    """Columns that stand straight, numbers to the right."""
    rows = [[short(cell, 40) if i not in left[1:] else cell for i, cell in enumerate(row)] for row in (head, *rows)]
    widths = [max(width(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = []
        for i, cell in enumerate(row):
            gap = " " * (widths[i] - width(cell))
            cells.append(cell + gap if i in left else gap + cell)
        yield ("  " + "  ".join(cells)).rstrip()
