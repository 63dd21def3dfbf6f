"""``pymoe translate train``: verify the gradient, train, compare with the dense twin, score, leave a model folder."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import sys
import time
from typing import Any

from pymoe.backend.errors import CheckpointError, ConfigError, MissingExtraError, install
from pymoe.cli import gradients, info, words
from pymoe.cli.progress import Progress
from pymoe.io import atomic, tensors
from pymoe.models.count import count_parameters
from pymoe.pipeline.translation import bpe, evaluate, job, plots, sources, train
from pymoe.pipeline.translation.batches import Batches
from pymoe.pipeline.translation.job import Job
from pymoe.pipeline.translation.settings import PRESETS, Preset, TranslateSettings, config, steps
from pymoe.pipeline.translation.sources import Texts
from pymoe.train import size
from pymoe.train.run import Run, create
from pymoe.train.step import State

DENSE = "dense"  # the folder of the dense twin inside the run
SIZES = {
    "d_model": "--width", "layers": "--layers", "d_ff": "--expert-width", "experts": "--experts", "k": "--k",
    "dropout": "--dropout", "smoothing": "--label-smoothing", "context": "--context",
}  # fmt: skip
SETTINGS = {
    "lr": "--lr", "seed": "--seed", "save_every": "--save-every", "save_seconds": "--save-seconds",
    "batch_tokens": "--batch-tokens", "width": "--beam", "alpha": "--alpha", "beta": "--beta",
}  # fmt: skip
OPTIONS = SIZES | SETTINGS | {"steps": "--steps", "label_smoothing": "--label-smoothing"}
SHOWN = 5  # translations that are printed at the end


def run(args: argparse.Namespace) -> int:
    begin = time.perf_counter()
    tensors.library()  # a run that could not be saved must not begin
    place, work, state, texts = _resume(args) if args.resume is not None else _new(args)
    with place:
        again = f"pymoe translate train --resume {place.folder}"
        try:
            return _run(args, place, work, state, texts, begin)
        except KeyboardInterrupt:
            print(f"\npymoe: stopped; continue with `{again}`", file=sys.stderr)
            return 130
        except BrokenPipeError:
            raise
        except OSError as error:
            words.say(f"{words.system(error)}; then continue with `{again}`")
            return 2


def _run(args: argparse.Namespace, place: Run, work: Job, state: State, texts: Texts, begin: float) -> int:
    s = work.settings
    data = train.prepared(work, texts.train, texts.valid)
    made = Batches(data.train, tokens=s.batch_tokens, seed=s.seed)
    count = count_parameters(work.model, state.p)
    left_out = [f"{texts.train.empty:,} with an empty side"] if texts.train.empty else []
    left_out += [f"{data.left_out:,} of more than {work.model.context - 1} tokens"] if data.left_out else []
    without = f" (left out: {', '.join(left_out)})" if left_out else ""
    print(
        f"text: {', '.join(work.text.train)}, sha256 {work.text.sha256}\n"
        f"      {len(data.train):,} pairs to train on{without}, "
        f"{len(texts.valid):,} held out; {work.bpe.size:,} tokens of byte-level BPE\n"
        f"model: {size.describe(work.model)}\n"
        f"       {count.total:,} parameters, {count.active:,} active for a token\n"
        f"training: {s.steps:,} steps of about {made.tokens:,.0f} tokens ({s.steps / len(made):.1f} epochs), "
        f"{s.optimizer}, model folder {place.folder}",
        flush=True,
    )
    if not args.no_verify:
        print(gradients.sentence(_checked(work, state, made), "tokens of this text, padding left out"), flush=True)
    state, spent = _fit("sparse", work, state, made, data, place.folder)
    found: dict[str, list[str]] = {}
    result: dict[str, Any] = {"sparse": spent | _final(work, state, data, texts, found)}
    if work.compare_dense:
        result["dense"] = _dense(place, work, made, data, texts)
    _verdict(result)
    text = _samples(texts, found)
    print(text, flush=True)
    document = json.dumps(result, indent=2, sort_keys=True).encode() + b"\n"
    atomic.write(place.path("result.json"), [document])
    atomic.write(place.path("translations.txt"), [_side_by_side(texts, found).encode()])
    if not args.no_plots:
        _plot(place, work, made)
    held = ", ".join(sorted(name for name in os.listdir(place.folder) if not name.startswith(".")))
    print(f"\nall in {time.perf_counter() - begin:.0f} s; {place.folder} holds {held}")
    print(f"next: echo {_quoted(texts)} | pymoe translate {place.folder}")
    return 0


def _new(args: argparse.Namespace) -> tuple[Run, Job, State, Texts]:
    name = args.preset or ("default" if args.files else "names")
    if name not in PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {name!r}")
    if args.files and args.pair is not None:
        raise ConfigError("--pair is for the built-in names and dates: leave it out, or give no files")
    if not args.files and (args.valid or args.test):
        raise ConfigError("--valid and --test go with files to train on: give SRC TGT, or leave them out")
    if args.steps is not None and args.minutes is not None:
        raise ConfigError("give --steps or --minutes, not both")
    if args.minutes is not None and not 0 < args.minutes < float("inf"):
        raise ConfigError(f"--minutes must be a finite number above 0, got {args.minutes}")
    if args.seed is not None and args.seed < 0:
        raise ConfigError(f"--seed must not be negative, got {args.seed}")
    preset, seed = PRESETS[name], args.seed or 0
    with words.options(OPTIONS | {"size": "--vocabulary"}):
        sizes = preset.sizes._replace(**_given(args, SIZES))
        config(sizes, 512)  # what is wrong with the sizes is said before any text is read
        settings = _settings(args, preset, 1 if args.steps is None else args.steps)
    if args.files:
        texts = sources.from_files(args.files, args.valid, args.test, seed=seed)
    else:
        texts = sources.built_in(args.pair or "en-de", seed)
    with words.options({"size": "--vocabulary"}):
        words_of = bpe.train(
            [*texts.train.source, *texts.train.target],
            preset.vocabulary if args.vocabulary is None else args.vocabulary,
        )
    dense = args.compare_dense is not False
    work = Job(name, config(sizes, words_of.size), settings, words_of, texts.about, dense, info.environment())
    data = train.prepared(work, texts.train, texts.valid)
    made = Batches(data.train, tokens=settings.batch_tokens, seed=seed)
    if args.steps is None:
        n = steps(preset, len(made)) if args.minutes is None else train.steps_in(args.minutes, work, made, data)
        work = dataclasses.replace(work, settings=_settings(args, preset, n))
    state = job.start(work.settings, work.model)
    place = create("translate", args.out)
    try:
        job.save(place.checkpoint, work, state)
    except BaseException:  # a full disk: leave no folder that looks like a model
        with contextlib.suppress(OSError):
            os.unlink(place.checkpoint)
        with contextlib.suppress(OSError):
            os.rmdir(place.folder)
        place.close()
        raise
    return place, work, state, texts


def _given(args: argparse.Namespace, options: dict[str, str]) -> dict[str, Any]:
    """The fields whose option was given."""
    values = {field: getattr(args, option.strip("-").replace("-", "_")) for field, option in options.items()}
    return {field: value for field, value in values.items() if value is not None}


def _settings(args: argparse.Namespace, preset: Preset, n: int) -> TranslateSettings:
    if n < 1:
        raise ConfigError(f"--steps must be a positive integer, got {n}")
    changes = _given(args, SETTINGS)
    if "lr" in changes:
        changes["floor"] = changes["lr"] / 20
    return dataclasses.replace(preset.settings(n), **changes)


def _resume(args: argparse.Namespace) -> tuple[Run, Job, State, Texts]:
    names = (
        "valid test pair preset out steps minutes vocabulary width layers expert_width experts k dropout "
        "label_smoothing context batch_tokens lr seed save_every save_seconds beam alpha beta compare_dense"
    ).split()
    extra = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    extra += ["the files"] if args.files else []
    if extra:
        raise ConfigError(f"--resume continues with the run's own settings and texts: leave out {', '.join(extra)}")
    if not os.path.isdir(args.resume):
        kind = "is a file" if os.path.exists(args.resume) else "does not exist"
        raise CheckpointError(f"--resume {args.resume}: it {kind}; give the folder of a training, see `ls runs`")
    job.find(args.resume)
    place = Run(args.resume)
    try:
        work, state = job.load(place.checkpoint)
        texts = sources.again(work.text, work.settings.seed)
        if texts.about.sha256 != work.text.sha256:
            raise CheckpointError(
                f"{', '.join(work.text.train)}: not the text that {args.resume} was trained on (sha256 "
                f"{texts.about.sha256[:12]}..., was {work.text.sha256[:12]}...): put that text back"
            )
    except BaseException:
        place.close()
        raise
    now = info.environment()
    changed = [f"{k} {v} -> {now.get(k)}" for k, v in work.environment.items() if now.get(k) != v]
    if changed:
        print(f"pymoe: note: not the same bits as without the stop: {'; '.join(changed)}", file=sys.stderr)
    print(f"continuing {args.resume} at step {state.step} of {work.settings.steps}")
    return place, work, state, texts


def _checked(work: Job, state: State, made: Batches) -> gradients.Checked:
    """The gradient of this model on the first pairs of its first batch, with dropout and smoothing as they are."""
    rows = made.rows(0)[:3]
    small = Batches(made.encoded.take(rows), tokens=1 << 20, seed=0)
    batch = train.batch_of(work, small, 0)
    return gradients.of_batch(state.p, work.model, work.settings.loss_weights, batch, small.at(0).tokens)


class Watch(Progress):
    """Prints BLEU beside the held-out loss."""

    def scored(self, step: int, loss: float, bleu: float | None) -> None:
        n = self._settings.steps
        scored = "" if bleu is None else f"  BLEU {bleu:.1f}"
        self.say(f"step {step:>{len(str(n))}}/{n}  held-out loss {loss:.4f}{scored}")


def _fit(
    label: str, work: Job, state: State, made: Batches, data: train.Data, folder: str
) -> tuple[State, dict[str, Any]]:
    progress = Watch(label, work.settings, state.step, tokens=made.tokens)
    first = state.step
    try:
        state = train.fit(work, state, made, data, folder, progress)
    finally:
        progress.close()
    speed = {"seconds": round(progress.seconds, 2), "tokens_per_second": round(progress.tokens_per_second)}
    return state, (speed if state.step > first else {}) | {"steps": state.step}


def _final(work: Job, state: State, data: train.Data, texts: Texts, found: dict[str, list[str]]) -> dict[str, Any]:
    """The numbers of a trained model; its translations go into ``found``."""
    s, count = work.settings, count_parameters(work.model, state.p)
    scores = {}
    for name, test in texts.tests.items():
        how = {"width": s.width, "alpha": s.alpha, "beta": s.beta}
        translated = evaluate.translate(test.source, state.p, work.model, work.bpe, **how)  # type: ignore[arg-type]
        found[name] = [one.text for one in translated]
        scores[name] = evaluate.score(found[name], test.target)._asdict()
    return {
        "held_out": evaluate.loss(state.p, work.model, data.held), "tests": scores,
        "parameters": count.total, "active_parameters": count.active,
    }  # fmt: skip


def _dense(place: Run, work: Job, made: Batches, data: train.Data, texts: Texts) -> dict[str, Any]:
    """Train the dense twin in a folder of its own (or continue it), with the same settings, text and order."""
    folder = place.path(DENSE)
    path = train.checkpoint_of(folder)
    os.makedirs(folder, exist_ok=True)
    atomic.sweep(folder)
    if os.path.exists(path):
        twin, state = job.load(path)
    else:
        twin = dataclasses.replace(work, model=size.dense_twin(work.model))
        state = job.start(twin.settings, twin.model)
        job.save(path, twin, state)
    count = count_parameters(twin.model, state.p)
    print(f"\nto compare: {size.describe(twin.model)}\n            {count.total:,} parameters, all active", flush=True)
    state, spent = _fit("dense ", twin, state, made, data, folder)
    return spent | _final(twin, state, data, texts, {})


def _verdict(result: dict[str, Any]) -> None:
    some = next(iter(result.values()))["tests"]
    print(f"\nheld-out loss in nats a token; BLEU and chrF of beam search ({', '.join(some)}):")
    for label, r in result.items():
        active = f"{r['active_parameters']:>10,} of {r['parameters']:>10,} parameters active"
        seconds = f", {r['seconds']:,.0f} s of training" if "seconds" in r else ""
        print(f"  {label:<6}  loss {r['held_out']:.4f}   {active}{seconds}")
        for name, values in r["tests"].items():
            print(f"          {name:<9} {evaluate.Scores(**values)}")
    one = next(iter(some.values()))
    print(f"  sacrebleu: {one['bleu_signature']}; {one['chrf_signature']}")


def _samples(texts: Texts, found: dict[str, list[str]]) -> str:
    lines = []
    for name, test in texts.tests.items():
        lines.append(f"\n{name}, the first {min(SHOWN, len(test))}: source, translation, reference")
        for source, one, right in list(zip(test.source, found[name], test.target, strict=True))[:SHOWN]:
            lines += [f"  < {source}", f"  > {one}", f"  = {right}" if one != right else "  = (the same)"]
    return "\n".join(lines)


def _side_by_side(texts: Texts, found: dict[str, list[str]]) -> str:
    rows = ["test\tsource\ttranslation\treference"]
    for name, test in texts.tests.items():
        rows += ["\t".join((name, *row)) for row in zip(test.source, found[name], test.target, strict=True)]
    return "\n".join(rows) + "\n"


def _quoted(texts: Texts) -> str:
    import shlex

    return shlex.quote(next(iter(texts.tests.values())).source[0])


def _plot(place: Run, work: Job, made: Batches) -> None:
    if not importlib.util.find_spec("matplotlib"):
        print(f"\nno picture: matplotlib is not installed ({install('plot')})")
        return
    curves = {"sparse": place.path("metrics.jsonl")}
    if work.compare_dense:
        curves["dense"] = place.path(DENSE, "metrics.jsonl")
    try:
        plots.draw(place.folder, curves, tokens=made.tokens)
    except ImportError as error:
        raise MissingExtraError(f"matplotlib is broken ({error}): use --no-plots, or reinstall it") from None
