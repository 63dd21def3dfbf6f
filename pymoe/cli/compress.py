"""``pymoe compress``: try the ways to make a model smaller, measure each, and let a person choose."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, MissingExtraError, install
from pymoe.cli import changed
from pymoe.cli.bar import Bar
from pymoe.surgery import compress, experts, report, source, weights
from pymoe.surgery.compress import Made
from pymoe.surgery.source import Source, Text
from pymoe.train import step
from pymoe.train.step import State

SPEED_ROWS = 16  # windows of a forward whose speed is measured


def run(args: argparse.Namespace) -> int:
    levels = _levels(args.levels)
    by_weight = _methods("--weights", args.weights, tuple(m for m in weights.METHODS if m != "movement"))
    by_expert = _methods("--experts", args.experts, experts.METHODS)
    if args.report and not importlib.util.find_spec("matplotlib"):
        raise MissingExtraError(
            f"--report draws with matplotlib, which is not installed: {install('plot')}, or leave it out"
        )
    origin = changed.opened(args, args.source)
    if origin.masks:
        raise ConfigError(f"{origin.place} is pruned already: compress starts from a model that is not")
    text = source.text(origin, args.text)
    which = list(compress.candidates(origin.cfg, levels, by_weight, by_expert))
    with changed.place(args.source, "compress", args.out) as folder:
        with Bar("trying", len(which) + 2) as bar:
            rows = compress.run(
                origin.p, origin.cfg, which, text=changed.calibration(args, text),
                loss=lambda cfg, p: changed.held_out(cfg, p, text), speed_on=_windows(text),
                tune=None if not args.finetune else lambda made: _tuned(args, origin, text, made), watch=bar.begin,
            )  # fmt: skip
        print()
        for line in report.lines(rows):
            print(line)
        print()
        for line in report.verdict(rows):
            print(line)
        about: dict[str, Any] = {
            "source": args.source, "text": text.source, "levels": levels, "finetune": args.finetune,
            "windows": args.windows, "seed": args.seed,
        }  # fmt: skip
        made = report.write(folder.folder, rows, about)
        if args.report:
            made.append(report.draw(folder.folder, rows))
        print(f"\nwritten: {', '.join(made)}")
    return 0


def _windows(text: Text) -> np.ndarray:
    """(SPEED_ROWS, S): different windows of the held-out text, over and over if it has not so many."""
    n = len(text.held_out) // text.window
    each = np.asarray(text.held_out[: n * text.window]).reshape(n, text.window)
    return each[np.arange(SPEED_ROWS) % n].astype(np.int64)


def _levels(given: str) -> list[float]:
    try:
        levels = [float(part) for part in given.split(",")]
    except ValueError:
        levels = []
    if not levels or not all(0 < s < 1 for s in levels):
        raise ConfigError(f"--levels takes shares between 0 and 1 with commas between, as 0.5,0.75; got {given!r}")
    return sorted(set(levels))


def _methods(option: str, given: str, known: tuple[str, ...]) -> list[str]:
    names = [name for name in given.split(",") if name]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ConfigError(f"{option} takes methods of {', '.join(known)}; got {wrong[0]!r}")
    return list(dict.fromkeys(names))


def _tuned(args: argparse.Namespace, origin: Source, text: Text, made: Made) -> dict[str, Any]:
    """The candidate after ``--finetune`` steps of masked training."""
    s = changed.tuning_settings(args, origin, text)
    state = State(0, made.p, changed.slots(s, made.p), made.masks)
    while state.step < s.steps:
        state, _ = step.advance(s, made.cfg, state, text.train)
    return state.p
