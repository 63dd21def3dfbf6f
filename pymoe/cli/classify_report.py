"""``pymoe classify report``: how good, on which classes, by which expert, and where it errs."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os

from pymoe.backend.errors import ConfigError, MissingExtraError, check_integer, install
from pymoe.cli import classify_input, words
from pymoe.cli.bar import Bar
from pymoe.cli.classify_input import Classifier
from pymoe.io import atomic
from pymoe.pipeline import classification, held_out
from pymoe.pipeline.classification import Scores
from pymoe.pipeline.report import page, pictures, text
from pymoe.pipeline.report.measure import Report, measure

HTML = "report.html"
BAR_FROM = 2000  # texts that deserve a progress bar


def run(args: argparse.Namespace) -> int:
    with words.options({"errors": "--errors"}):
        check_integer("errors", args.errors, 0)
    if args.out is not None:
        _new(args.out)
    found = classify_input.load(args.model)
    report = _measured(args, found)
    for line in text.lines(report):
        print(line)
    made, legend = _write(args, report, args.out or _beside(found.place))
    if legend:
        print(
            "\nno installed font has the characters of these labels, so they are numbers in the pictures (a font such "
            "as Noto Sans CJK brings them):"
        )
        for line in legend:
            print(f"  {text.plain(line)}")
    print(f"\nwritten: {', '.join(made)}")
    return 0


def _measured(args: argparse.Namespace, found: Classifier) -> Report:
    path = classify_input.one_file(args)
    notes: list[str] = []
    if path is None:
        table = held_out.read(found.place, found.about)
    else:
        table = classify_input.table(args, path, known=found.about["columns"])
        notes += table.notes
        table, out = classification.unseen(table, found.classes, leave_out=args.skip_bad)
        notes += out
        if table.sha256 == found.about["data"]["sha256"]:
            notes.append("it is the table that the model learned from: the scores say little about new texts")
    assert table.labels is not None
    with Bar("report", 2) if len(table.texts) >= BAR_FROM else contextlib.nullcontext() as bar:
        if bar is not None:
            bar.begin(f"cleaning and encoding {len(table.texts):,} texts")
        x = found.encoder.transform(table.texts)
        if bar is not None:
            bar.begin("predicting")
        p = classification.probabilities(found.model, x, table.groups)
        weights = classification.routes(found.model, x, table.groups)
    if path is None:  # the commonest class is that of the learned rows, which are not kept
        beside = {name: Scores(*score) for name, *score in found.about["scores"] if name != found.about["method"]}
    else:
        beside = classification.beside(found.twin, x, table.labels, table.labels)
    return measure(
        table, found.classes, p, weights, title=f"Report on {os.path.normpath(found.place)}",
        method=found.about["method"], beside=beside, errors=args.errors, notes=notes,
        expert_names=None if weights is None else classification.expert_names(found.model, weights.shape[1]),
    )  # fmt: skip


def _write(args: argparse.Namespace, report: Report, folder: str) -> tuple[list[str], list[str]]:
    """(the files that were written, what the numbers in the pictures stand for)."""
    fresh = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    html = os.path.join(folder, HTML)
    try:
        drawn, legend = ([], []) if args.no_plots else _pictures(folder, report)
        atomic.write(html, [page.page(report, legend).encode("utf-8", "replace")])
    except BaseException:  # a full disk: leave no half of a report in a folder that was made for it
        if fresh:
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(folder, name))
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise
    return [html, *drawn], legend


def _pictures(folder: str, report: Report) -> tuple[list[str], list[str]]:
    if not importlib.util.find_spec("matplotlib"):
        print(f"\nno pictures: matplotlib is not installed ({install('plot')})")
        return [], []
    try:
        return pictures.draw(folder, report)
    except ImportError as error:
        raise MissingExtraError(f"matplotlib is broken ({error}): use --no-plots, or reinstall it") from None


def _beside(place: str) -> str:
    """MODEL/report, or the first MODEL/report-<n> that is free."""
    folder, n = os.path.join(place, "report"), 1
    while os.path.exists(folder):
        n += 1
        folder = os.path.join(place, f"report-{n}")
    return folder


def _new(out: str) -> None:
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        what = "is not empty" if os.path.isdir(out) else "is a file"
        raise ConfigError(f"{out} {what}, and nothing is overwritten: give a new folder with --out")
