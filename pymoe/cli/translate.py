"""``pymoe translate``: with a trained translator, lines in, translations out; ``pymoe translate train`` makes one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from pymoe.backend.errors import ConfigError, DataError
from pymoe.cli import translate_train
from pymoe.cli.bar import Bar
from pymoe.io import encodings
from pymoe.pipeline.translation import evaluate, pairs
from pymoe.pipeline.translation.evaluate import Translated
from pymoe.pipeline.translation.translator import Translator

# options that belong to one of the two uses
TRAINING = (
    "valid test pair preset out resume steps minutes compare_dense vocabulary width layers expert_width experts k "
    "dropout label_smoothing context batch_tokens lr seed save_every save_seconds no_verify no_plots"
).split()
BAR_FROM = 64  # lines that deserve a progress bar


def run(args: argparse.Namespace) -> int:
    if args.beam is not None and args.beam < 1:
        raise ConfigError(f"--beam must be an integer of at least 1, got {args.beam}")
    for name in ("alpha", "beta"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < float("inf"):
            raise ConfigError(f"--{name} must be a finite number of at least 0, got {value}")
    if args.model == "train":
        if args.reference is not None:
            raise ConfigError("--reference belongs to `pymoe translate MODEL`; to train, give the pairs with --test")
        return translate_train.run(args)
    given = [n for n in TRAINING if getattr(args, n) is not None and getattr(args, n) is not False]
    if given:
        extra = ", ".join(f"--{n.replace('_', '-')}" for n in given)
        raise ConfigError(f"leave out {extra}: `pymoe translate train` takes it, `pymoe translate MODEL` does not")
    return _translate(args)


def _translate(args: argparse.Namespace) -> int:
    if len(args.files) > 1:
        raise ConfigError(f"translate one file at a time, got {len(args.files)}: {' '.join(args.files)}")
    model = Translator.load(args.model)
    file = args.files[0] if args.files else "-"
    how = {"width": args.beam, "alpha": args.alpha, "beta": args.beta}
    reference = None if args.reference is None else pairs.lines(args.reference)
    if file == "-" and reference is None and sys.stdin.isatty():
        for number, text in enumerate(_typed(), 1):
            _print(model.found([text], **how), number)
        return 0
    texts = pairs.lines(file) if file != "-" else _piped()
    if reference is not None and len(reference) != len(texts):
        raise DataError(
            f"{args.reference} has {len(reference)} lines, and {len(texts)} are to be translated: line i of the "
            "reference must be the translation of line i"
        )
    if len(texts) >= BAR_FROM and sys.stderr.isatty():
        with Bar("translating", len(texts)) as bar:
            found = model.found(texts, **how, step=lambda n: _steps(bar, n))
    else:
        found = model.found(texts, **how)
    _print(found)
    if reference is not None:
        scores = evaluate.score([one.text for one in found], reference)
        for line in (str(scores), scores.bleu_signature, scores.chrf_signature):
            print(line, file=sys.stderr)
    return 0


def _steps(bar: Bar, n: int) -> None:
    for _ in range(n):
        bar.step()


def _print(found: list[Translated], first: int = 1) -> None:
    for one in found:
        print(one.text)
    sys.stdout.flush()
    cut = [str(number) for number, one in enumerate(found, first) if one.cut]
    if cut:
        shown = ", ".join(cut[:5]) + (f" and {len(cut) - 5} more" if len(cut) > 5 else "")
        what = f"line{'s' if len(cut) > 1 else ''} {shown}"
        print(f"pymoe: note: longer than the model's context, the end was not read: {what}", file=sys.stderr)


def _piped() -> list[str]:
    raw = sys.stdin.buffer.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input is not UTF-8 (byte {error.start}): convert it, e.g. with {encodings.command(raw, 'FILE')}"
        ) from None
    if "\0" in text:
        raise DataError(
            f"standard input, line {text.count(chr(10), 0, text.index(chr(0))) + 1} has a NUL character: "
            "give a text, a sentence a line, not a binary file"
        )
    if not text:
        raise DataError(
            "nothing to translate: standard input is empty; give a file, or pipe text in, a sentence a line"
        )
    return pairs.split(text)


def _typed() -> Iterator[str]:
    """Line by line from a terminal; what is typed there is decoded by Python."""
    print("a sentence a line; end with Ctrl-D", file=sys.stderr)
    for line in sys.stdin:
        yield line.strip()
