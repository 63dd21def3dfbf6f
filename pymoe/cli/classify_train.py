"""``pymoe classify train``: read, encode, train, score beside the dense twin and the majority, leave a model folder."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from collections import Counter
from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.cli import classify_input, info, words
from pymoe.cli.bar import Bar
from pymoe.io import tensors
from pymoe.pipeline import builtin, classification, folder, held_out
from pymoe.pipeline.classification import Settings, Trained
from pymoe.pipeline.columns import Table
from pymoe.pipeline.report.text import plain, short
from pymoe.pipeline.report.text import table as table_of
from pymoe.train import run as runs

OPTIONS = {
    "method": "--method", "experts": "--experts", "n_experts": "--experts", "k": "--k", "subsets": "--subsets",
    "integration": "--integration", "test_share": "--test-share", "seed": "--seed", "tokens": "--tokens",
    "stop_words": "--stop-words", "max_features": "--max-features",
}  # fmt: skip
DEFAULT = "languages"


def run(args: argparse.Namespace) -> int:
    begin = time.perf_counter()
    tensors.library()  # a model that could not be saved must not be trained
    _new(args.out)
    with words.options(OPTIONS):
        settings = _settings(args)
        table, test = _tables(args)
        _say(table, test)
        classification.check(table)
        place = runs.create("classify", args.out)
        with place:
            try:
                trained = _train(table, settings, test)
                _save(place.folder, table, settings, trained)
            except BaseException:  # bad input, a full disk, Ctrl-C: no folder that looks like a model
                _clear(place.folder)
                raise
    for line in _verdict(settings, trained):
        print(plain(line))
    names = ", ".join(sorted(n for n in os.listdir(place.folder) if not n.startswith(".")))
    print(f"\nall in {time.perf_counter() - begin:.0f} s; {place.folder} holds {names}")
    for line in _next(place.folder, trained):
        print(line)
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    encoder: dict[str, Any] = {}
    if args.tokens is not None:
        encoder["tokens"] = args.tokens
        if args.tokens in ("characters", "bytes", "bpe"):
            encoder |= {"char_ngrams": None, "ngrams": (1, 5) if args.tokens != "bpe" else (1, 2)}
    if args.stop_words is not None:
        encoder["stop_words"] = [code for code in args.stop_words.split(",") if code]
    if args.max_features is not None:
        encoder["max_features"] = args.max_features
    if args.test is not None and args.test_share is not None:
        raise ConfigError("--test names the rows to score on: leave --test-share out")
    return Settings(
        method=args.method, experts=args.experts, k=args.k, subsets=args.subsets, integration=args.integration,
        test_share=0.2 if args.test_share is None else args.test_share, seed=args.seed, encoder=encoder,
        verbose=sys.stderr.isatty(),
    )  # fmt: skip


def _tables(args: argparse.Namespace) -> tuple[Table, Table | None]:
    path = classify_input.one_file(args)
    if path is None:
        extra = [f"--{n}" for n in ("text", "label", "format", "test") if getattr(args, n) is not None]
        if extra:
            raise ConfigError(f"{', '.join(extra)} belongs to a FILE: give one, or leave it out")
        table = builtin.load(args.data or DEFAULT)
        if args.group is None:
            table = table._replace(groups=None, names={k: v for k, v in table.names.items() if k != "group"})
        elif args.group != "group":
            raise ConfigError(f"the column of the groups of a built-in set is --group group, got {args.group!r}")
        return table, None
    if args.data is not None:
        raise ConfigError("--data is for the built-in sets: leave it out, or give no FILE")
    table = classify_input.table(args, path)
    if args.test is None:
        return table, None
    assert table.labels is not None
    test, out = classification.unseen(
        classify_input.table(args, args.test, known=table.names), sorted(set(table.labels)), leave_out=args.skip_bad
    )
    return table, test._replace(notes=(*test.notes, *out))


def _say(table: Table, test: Table | None) -> None:
    for one in (table, test):
        if one is None:
            continue
        assert one.labels is not None
        count = Counter(one.labels).most_common()
        shown = ", ".join(f"{short(label)} {n:,}" for label, n in count[:12]) + (", ..." if len(count) > 12 else "")
        print(f"{'text' if one is table else 'test'}: {one.where}, sha256 {one.sha256}")
        classify_input.notes(one.notes)
        print(
            f"      {len(one.texts):,} rows, {len(count)} class{'es' if len(count) != 1 else ''}: {shown}", flush=True
        )


def _train(table: Table, settings: Settings, test: Table | None) -> Trained:
    with Bar("classify", 3 if settings.method != "dense" else 2) as bar:
        return classification.train(table, settings, test=test, watch=bar.begin)


def _save(place: str, table: Table, settings: Settings, trained: Trained) -> None:
    classes = [str(c) for c in trained.model.classes_]
    held = trained.held_out
    about = {
        "task": classify_input.TASK,
        "method": settings.method,
        "columns": table.names,
        "data": {"where": table.where, "sha256": table.sha256, "rows": len(table.texts)},
        "test_share": settings.test_share,
        "seed": settings.seed,
        "scores": [[name, *score] for name, score in trained.scores.items()],
        "seconds": {name: round(s, 3) for name, s in trained.seconds.items()},
        "environment": info.environment(),
        "held_out_sha256": held_out.write(place, held, classes, trained.probabilities) if held.texts else None,
    }
    parts = {"encoder": trained.encoder, "model": trained.model}
    folder.save(place, parts if trained.twin is None else parts | {"twin": trained.twin}, about)


def _verdict(settings: Settings, trained: Trained) -> list[str]:
    lines = [f"note: {note}" for note in trained.notes]
    if not trained.scores:
        return [*lines, "nothing was held out, so there is no score: `pymoe classify report MODEL FILE` on other rows"]
    seconds = trained.seconds | {settings.method: trained.seconds["training"]}
    rows = []
    for name, score in trained.scores.items():
        took = f"{seconds[name]:.1f} s" if name in seconds else ""
        rows.append([name, f"{score.accuracy:.4f}", f"{score.macro_f1:.4f}", took])
    lines += ["", f"on the {len(trained.held_out.texts):,} held-out texts:"]
    return [*lines, *table_of(["", "accuracy", "macro-F1", "training"], rows)]


def _next(place: str, trained: Trained) -> list[str]:
    lines = [f"next: pymoe classify report {place}"] if trained.held_out.texts else []
    text = next((t for t in trained.held_out.texts if "\n" not in t and len(t) < 60), "some text")
    return [*lines, f"next: echo {shlex.quote(text)} | pymoe classify predict {place} --route"]


def _new(out: str | None) -> None:
    """A folder that is not new is refused before anything is read."""
    if out is None or not os.path.exists(out):
        return
    if not os.path.isdir(out):
        raise ConfigError(f"{out} is a file: give a new folder with --out")
    if os.listdir(out):
        raise ConfigError(f"{out} is not empty, and no model is overwritten: give a new folder with --out")


def _clear(place: str) -> None:
    for name in (held_out.NAME, folder.TENSORS, folder.JSON):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(place, name))
    with contextlib.suppress(OSError):
        os.rmdir(place)
