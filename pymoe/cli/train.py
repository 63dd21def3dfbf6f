"""``pymoe train``: verify the gradient, train, compare, show what was learned, leave a run folder."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from pymoe.backend.errors import CheckpointError, ConfigError, MissingExtraError, install
from pymoe.cli import generate, gradients, info, words
from pymoe.cli.progress import Progress
from pymoe.io import atomic, tensors
from pymoe.models.count import count_parameters
from pymoe.models.generate import Sampling
from pymoe.train import data, evaluate, job, kinds, plots, presets, size, sparse_fit, step
from pymoe.train.data import Corpus
from pymoe.train.job import Job
from pymoe.train.run import Run, create
from pymoe.train.settings import TrainSettings
from pymoe.train.step import State

DENSE = "dense"  # the folder of the dense twin inside the run
SAMPLE_TOKENS = 400
# the fields of TrainSettings that have an option
OPTIONS = {
    "steps": "--steps", "rows": "--batch", "window": "--window", "micro_batches": "--micro-batches",
    "optimizer": "--optimizer", "lr": "--lr", "seed": "--seed", "save_every": "--save-every",
    "save_seconds": "--save-seconds",
}  # fmt: skip


def run(args: argparse.Namespace) -> int:
    begin = time.perf_counter()
    tensors.library()  # a run that could not be saved must not begin
    place, work, state, corpus = _resume(args) if args.resume is not None else _new(args)
    with place:
        try:
            return _run(args, place, work, state, corpus, begin)
        except KeyboardInterrupt:
            print(f"\npymoe: stopped; continue with `pymoe train --resume {place.folder}`", file=sys.stderr)
            return 130
        except BrokenPipeError:
            raise
        except OSError as error:
            words.say(f"{words.system(error)}; then continue with `pymoe train --resume {place.folder}`")
            return 2


def _run(args: argparse.Namespace, place: Run, work: Job, state: State, corpus: Corpus, begin: float) -> int:
    s = work.settings
    count = count_parameters(work.model, state.p)
    print(
        f"text: {corpus.source}, {corpus.n_bytes:,} bytes, sha256 {corpus.sha256}\n"
        f"      {corpus.vocabulary.size} {corpus.vocabulary.kind}; {len(corpus.train):,} tokens to train on, "
        f"{len(corpus.held_out):,} held out\n"
        f"model: {size.describe(work.model)}\n"
        f"       {count.total:,} parameters, {count.active:,} active for a token\n"
        f"training: {s.steps:,} steps of {s.rows} x {s.window} tokens, {s.optimizer}, run folder {place.folder}",
        flush=True,
    )
    if not args.no_verify:
        ids = corpus.train[: 4 * s.window]
        print(gradients.sentence(gradients.check(state.p, work.model, s, ids)), flush=True)
    state, spent = _fit("sparse", work, state, corpus, place.folder)
    result: dict[str, Any] = {"sparse": spent | _final(work, state, corpus)}
    if work.compare_dense:
        result["dense"] = _dense(place, work, corpus)
    for line in _verdict(result):
        print(line)
    text = "\n".join(_learned(work, state, corpus))
    print(text, flush=True)
    atomic.write(place.path("result.json"), [json.dumps(result, indent=2, sort_keys=True).encode() + b"\n"])
    atomic.write(place.path("learned.txt"), [text.encode() + b"\n"])
    if not args.no_plots:
        _plots(place, work, state, corpus)
    print(f"\nall in {time.perf_counter() - begin:.0f} s; {place.folder} holds {', '.join(_contents(place.folder))}")
    print(f"next: pymoe generate {place.folder} --prompt 'The '")
    print(f"next: pymoe verify {place.folder}")
    return 0


def _new(args: argparse.Namespace) -> tuple[Run, Job, State, Corpus]:
    name = args.preset or "default"
    if name not in presets.PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(presets.PRESETS)}, got {name!r}")
    preset = presets.PRESETS[name]
    settings = _settings(args, preset.settings)
    corpus = data.load(args.data if args.data is not None else data.TOPICS, window=settings.window)
    model = preset.model(corpus.vocabulary.size, settings.window)
    work = Job(
        name, model, settings, corpus.vocabulary, corpus.source, corpus.sha256, args.compare_dense, info.environment()
    )
    state = step.start(settings, model)
    place = create(name, args.out)
    try:
        job.save(place.checkpoint, work, state)
    except BaseException:  # a full disk: leave no folder that looks like a run
        with contextlib.suppress(OSError):
            os.unlink(place.checkpoint)
        with contextlib.suppress(OSError):
            os.rmdir(place.folder)
        place.close()
        raise
    return place, work, state, corpus


def _settings(args: argparse.Namespace, base: TrainSettings) -> TrainSettings:
    given = {name: getattr(args, option.strip("-").replace("-", "_")) for name, option in OPTIONS.items()}
    changes = {name: value for name, value in given.items() if value is not None}
    if "lr" in changes:
        changes["floor"] = changes["lr"] / 10
    if "steps" in changes:
        changes["warmup"] = min(base.warmup, max(0, changes["steps"] // 5))
        changes["eval_every"] = max(1, min(base.eval_every, changes["steps"] // 4))
    with words.options(OPTIONS):
        return dataclasses.replace(base, **changes)


def _resume(args: argparse.Namespace) -> tuple[Run, Job, State, Corpus]:
    names = "preset out steps batch window micro_batches optimizer lr seed save_every save_seconds".split()
    extra = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if args.compare_dense:
        extra.append("--compare-dense")
    if extra:
        raise ConfigError(f"--resume continues with the run's own settings: leave out {', '.join(extra)}")
    if not os.path.isdir(args.resume):
        kind = "is a file" if os.path.exists(args.resume) else "does not exist"
        raise CheckpointError(f"--resume {args.resume}: it {kind}; give the folder of a run, see `ls runs`")
    job.find(args.resume)
    place = Run(args.resume)
    try:
        work, state = job.load(place.checkpoint)
        state = job.trainable(work, state)
        corpus = data.load(args.data or work.source, window=work.settings.window, known=work.vocabulary)
        if corpus.sha256 != work.sha256:
            raise CheckpointError(
                f"{corpus.source} is not the text that {args.resume} was trained on (sha256 {corpus.sha256[:12]}..., "
                f"was {work.sha256[:12]}...): give that text with --data"
            )
    except BaseException:
        place.close()
        raise
    now = info.environment()
    changed = [f"{k} {v} -> {now.get(k)}" for k, v in work.environment.items() if now.get(k) != v]
    if changed:
        print(f"pymoe: note: not the same bits as without the stop: {'; '.join(changed)}", file=sys.stderr)
    print(f"continuing {args.resume} at step {state.step} of {work.settings.steps}")
    return place, work, state, corpus


def _fit(label: str, work: Job, state: State, corpus: Corpus, folder: str) -> tuple[State, dict[str, Any]]:
    progress = Progress(label, work.settings, state.step)
    first = state.step
    try:
        state = sparse_fit.fit(work, state, corpus, folder, progress)
    finally:
        progress.close()
    trained = state.step - first
    speed = {"seconds": round(progress.seconds, 2), "tokens_per_second": round(progress.tokens_per_second)}
    return state, (speed if trained else {}) | {"steps": state.step}


def _final(work: Job, state: State, corpus: Corpus) -> dict[str, Any]:
    s = work.settings
    held = evaluate.loss(state.p, work.model, corpus.held_out, window=s.window, rows=max(s.rows, 32))
    count = count_parameters(work.model, state.p)
    return {
        "held_out": held.loss, "held_out_tokens": held.tokens, "training_tokens": s.tokens,
        "parameters": count.total, "active_parameters": count.active,
    }  # fmt: skip


def _dense(place: Run, work: Job, corpus: Corpus) -> dict[str, Any]:
    """Train the dense twin in a folder of its own (or continue it), with the same settings, text and order."""
    folder = place.path(DENSE)
    path = os.path.join(folder, "checkpoint.safetensors")
    os.makedirs(folder, exist_ok=True)
    atomic.sweep(folder)
    if os.path.exists(path):
        twin, state = job.load(path)
    else:
        twin = dataclasses.replace(work, model=size.dense_twin(work.model), plan=None)
        state = step.start(twin.settings, twin.model)
        job.save(path, twin, state)
    count = count_parameters(twin.model, state.p)
    print(f"\nto compare: {size.describe(twin.model)}\n            {count.total:,} parameters, all active", flush=True)
    state, spent = _fit("dense ", twin, state, corpus, folder)
    return spent | _final(twin, state, corpus)


def _verdict(result: dict[str, Any]) -> Iterator[str]:
    yield "\nheld-out loss over all held-out tokens, nats a token:"
    for label, r in result.items():
        active = f"{r['active_parameters']:>9,} of {r['parameters']:>9,} parameters active"
        yield f"  {label:<6}  {r['held_out']:.4f}   {active}, {r['training_tokens']:,} tokens"
    if "dense" in result:
        gain = result["dense"]["held_out"] - result["sparse"]["held_out"]
        better = "lower" if gain > 0 else "higher"
        yield f"  the sparse model's loss is {abs(gain):.4f} {better} for the same active size and tokens"


def _learned(work: Job, state: State, corpus: Corpus) -> Iterator[str]:
    s, words = work.settings, corpus.vocabulary
    prompt = words.decode(corpus.held_out[: min(32, s.window)])
    pieces = generate.text(work, state, prompt, SAMPLE_TOKENS, Sampling(temperature=0.8), s.seed)
    yield "\na sample (the first line's beginning is held-out text):\n"
    yield "\n".join("  | " + line for line in (prompt + "".join(pieces)).split("\n"))
    for layer in _counted(work, state, corpus):
        yield f"\nblock {layer.layer}: of all choices made for a kind of token, the share that went to each expert"
        yield kinds.table(layer, words)


def _counted(work: Job, state: State, corpus: Corpus) -> list[kinds.Layer]:
    s = work.settings
    chosen = evaluate.choices(state.p, work.model, corpus.held_out, window=s.window, rows=max(s.rows, 32), limit=256)
    return kinds.count(chosen, corpus.vocabulary)


def _plots(place: Run, work: Job, state: State, corpus: Corpus) -> None:
    if not importlib.util.find_spec("matplotlib"):
        print(f"\nno pictures: matplotlib is not installed ({install('plot')})")
        return
    curves = {"sparse": place.path("metrics.jsonl")}
    if work.compare_dense:
        curves["dense"] = place.path(DENSE, "metrics.jsonl")
    try:
        plots.draw(place.folder, work.settings, _counted(work, state, corpus), corpus.vocabulary, curves)
    except ImportError as error:
        raise MissingExtraError(f"matplotlib is broken ({error}): use --no-plots, or reinstall it") from None


def _contents(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))
