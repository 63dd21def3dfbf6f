"""What prune, split, merge and compress share: the folder they write to, held-out loss, fine-tuning, the last lines."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.cli.bar import Bar
from pymoe.cli.progress import Progress
from pymoe.io import atomic, tensors
from pymoe.models.lm import LMConfig
from pymoe.surgery import measure, source
from pymoe.surgery.calibration import Calibration
from pymoe.surgery.source import Source, Text
from pymoe.train import evaluate, job, plan, run, size, sparse_fit, step
from pymoe.train.data import Corpus
from pymoe.train.optim import OPTIMIZERS
from pymoe.train.plan import Plan
from pymoe.train.run import Run
from pymoe.train.settings import TrainSettings
from pymoe.train.step import State

ROWS = 16  # windows at a time
NAMES = {
    "parameters": "parameters", "active": "active for a token", "zeros": "of them pruned to zero",
    "bytes": "bytes of the weights",
}  # fmt: skip


def opened(args: argparse.Namespace, place: str) -> Source:
    """The model, said in a line."""
    tensors.library()
    if args.windows < 1 or args.seed < 0 or args.finetune < 0:
        raise ConfigError("--windows must be at least 1, --seed and --finetune not negative")
    found = source.open_(place)
    print(f"{place}: {found.kind}\n  {size.describe(found.cfg)}", flush=True)
    return found


def calibration(args: argparse.Namespace, text: Text) -> Calibration:
    """``--windows`` windows, spread evenly over the text that is not held out."""
    return Calibration(text.train, text.window, ROWS, args.windows)


def held_out(cfg: LMConfig, p: dict[str, Any], text: Text) -> float:
    """Nats a token over the whole held-out tenth (of a long text: 512 windows of it)."""
    return evaluate.loss(p, cfg, text.held_out, window=text.window, rows=32, limit=512).loss


@contextlib.contextmanager
def place(origin: str, suffix: str, out: str | None) -> Iterator[Run]:
    """The new folder, beside the old one; taken away again if it was made here and nothing came to lie in it."""
    where = source.beside(origin, suffix, out)
    new = not os.path.exists(where)
    folder = run.create(suffix, where)
    try:
        with folder:
            yield folder
    except BaseException:
        with contextlib.suppress(OSError):  # not empty: what was reached stays
            if new:
                os.rmdir(folder.folder)
        raise


def tune(
    args: argparse.Namespace,
    origin: Source,
    cfg: LMConfig,
    p: dict[str, Any],
    masks: dict[str, np.ndarray],
    text: Text,
    record: dict[str, Any],
    folder: str,
    how: Plan | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(parameters, masks) after ``--finetune`` steps from ``p`` with these masks, or with those of the plan ``how``.

    A run keeps its checkpoint in ``folder`` as it goes: what is stopped continues with ``pymoe train --resume``.
    """
    settings = tuning_settings(args, origin, text)
    if origin.job is None:
        with Bar("fine-tuning", settings.steps) as bar:
            state = State(0, p, slots(settings, p), masks)
            early = state
            while state.step < settings.steps:
                if how is None:
                    state, _ = step.advance(settings, cfg, state, text.train)
                else:
                    state, _ = plan.advance(how, settings, cfg, state, text.train, early)
                bar.step()
        return state.p, dict(state.masks)
    work = source.derived(origin, cfg, record, settings=settings, plan=how, text=text)
    corpus = _corpus(origin, text)
    state = State(0, p, slots(settings, p), masks)
    job.save(os.path.join(folder, source.CHECKPOINT), work, state)
    progress = Progress("fine-tuning", settings, 0)
    try:
        done = sparse_fit.fit(work, state, corpus, folder, progress)
        return done.p, dict(done.masks)
    except KeyboardInterrupt:
        print(f"pymoe: what was reached is saved; continue with `pymoe train --resume {folder}`", file=sys.stderr)
        raise
    finally:
        progress.close()


def tuning_settings(args: argparse.Namespace, origin: Source, text: Text) -> TrainSettings:
    """The run's own settings, shorter and gentler."""
    base = (
        origin.job.settings
        if origin.job is not None
        else TrainSettings(steps=1, rows=8, window=text.window, lr=1e-4, floor=1e-5, warmup=0)
    )
    lr = args.lr if args.lr is not None else base.lr / 4
    steps = max(args.finetune, 1)
    return dataclasses.replace(
        base,
        steps=steps,
        lr=lr,
        floor=lr / 10,
        warmup=min(20, steps // 5),
        eval_every=max(1, steps // 3),
        seed=args.seed,
    )


def slots(settings: TrainSettings, p: dict[str, Any]) -> dict[str, Any]:
    """The optimiser's state before the first step."""
    slots: dict[str, Any] = OPTIMIZERS[settings.optimizer].init(p)
    return slots


def _corpus(origin: Source, text: Text) -> Corpus:
    assert origin.job is not None
    return Corpus(text.source, text.sha256, 0, origin.job.vocabulary, text.train, text.held_out)


def table(before: tuple[LMConfig, dict[str, Any], dict[str, Any], float | None],
          after: tuple[LMConfig, dict[str, Any], dict[str, Any], float | None]) -> dict[str, Any]:  # fmt: skip
    """Print the model before and after in two columns; the numbers, for the record."""
    numbers: dict[str, Any] = {"dtype": _dtype(after[1])}
    sizes = [measure.size(cfg, p, masks) for cfg, p, masks, _ in (before, after)]
    losses = [before[3], after[3]]
    print(f"\n{'in ' + numbers['dtype']:<26}{'before':>14}{'after':>14}")
    for what in ("parameters", "active", "zeros", "bytes"):
        a, b = (getattr(s, what) for s in sizes)
        numbers[what] = [a, b]
        print(f"{NAMES[what]:<26}{a:>14,}{b:>14,}")
    if losses[0] is not None and losses[1] is not None:
        numbers["held_out"] = losses
        print(f"{'held-out loss':<26}{losses[0]:>14.4f}{losses[1]:>14.4f}")
    return numbers


def _dtype(p: dict[str, Any]) -> str:
    """Of the weights as they are computed with, which is what bytes are counted in."""
    return "/".join(sorted({str(leaf.dtype) for leaf in tree.flatten(p).values()}))


def record_file(folder: str, name: str, record: dict[str, Any]) -> None:
    """<name>.json: what was done and what it cost."""
    atomic.write(os.path.join(folder, name), [json.dumps(record, indent=2, sort_keys=True).encode() + b"\n"])


def next_lines(folder: str, origin: Source) -> None:
    held = ", ".join(sorted(n for n in os.listdir(folder) if not n.startswith(".")))
    print(f"\n{folder} holds {held}; {origin.place} is as it was")
    if origin.job is not None:
        print(f"next: pymoe generate {folder} --prompt 'The '")
        print(f"next: pymoe verify {folder}")
