"""``pymoe generate``: text from a trained model or a Hugging Face folder, token by token."""

from __future__ import annotations

import argparse
import codecs
import sys
from collections.abc import Iterator

import numpy as np

from pymoe import hf
from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.backend.rng import generator
from pymoe.cli import words
from pymoe.models import Seq2SeqConfig
from pymoe.models.generate import Sampling, stream, translate
from pymoe.train import job
from pymoe.train.job import Job
from pymoe.train.step import State

OPTIONS = {name: f"--{name.replace('_', '-')}" for name in ("temperature", "top_k", "top_p")}  # fields of Sampling
_SAMPLE = 4  # the key of this use of the generator


def text(work: Job, state: State, prompt: str, tokens: int, sampling: Sampling, seed: int) -> Iterator[str]:
    """The continuation of ``prompt``, piece by piece; a prompt that cannot be encoded is refused here, at once."""
    ids = work.vocabulary.encode(prompt).astype(np.int64)[None, :]
    return _pieces(work, stream(ids, state.p, work.model, tokens, sampling=sampling, rng=generator(seed, _SAMPLE)))


def _pieces(work: Job, tokens: Iterator[Array]) -> Iterator[str]:
    """The tokens as text; a piece of a UTF-8 character waits for its rest."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for chosen in tokens:
        if work.vocabulary.characters:
            yield work.vocabulary.decode(chosen)
        else:
            yield decoder.decode(bytes([int(chosen[0])]))
    if not work.vocabulary.characters:
        yield decoder.decode(b"", final=True)


def run(args: argparse.Namespace) -> int:
    if args.tokens < 0:
        raise ConfigError(f"--tokens must not be negative, got {args.tokens}")
    if not args.prompt:
        raise ConfigError("--prompt must not be empty: a model needs one token to start from")
    if args.seed < 0:
        raise ConfigError(f"--seed must not be negative, got {args.seed}")
    if (args.run is None) == (args.hf is None):
        raise ConfigError("generate needs RUN, a run folder or a checkpoint file, or --hf DIR: give one of the two")
    with words.options(OPTIONS):
        sampling = Sampling(args.temperature, args.top_k, args.top_p)
    if args.hf is not None:
        return _from_folder(args, sampling)
    work, state = job.load(job.find(args.run))
    _say(args.prompt, text(work, state, args.prompt, args.tokens, sampling, args.seed))
    return 0


def _say(prompt: str, pieces: Iterator[str]) -> None:
    sys.stdout.write(prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _from_folder(args: argparse.Namespace, sampling: Sampling) -> int:
    """A Hugging Face folder: its experts stay in the files until a token asks for one; the count goes to stderr."""
    found, meter = hf.open_mapped(args.hf)
    ids = _ids(args.prompt, found)
    stop = found.raw.get("eos_token_id")
    stop = stop[0] if isinstance(stop, list) and stop else stop
    rng, stop = generator(args.seed, _SAMPLE), stop if isinstance(stop, int) else None
    if isinstance(found.cfg, Seq2SeqConfig):  # the prompt is the source: what is said is the target, from its start
        start = found.raw.get("decoder_start_token_id")
        start = found.raw.get("pad_token_id") if start is None else start
        each = translate(
            ids, found.p, found.cfg, args.tokens, start=start or 0, stop=stop, sampling=sampling, rng=rng
        )  # fmt: skip
        _say("", _written(iter(each.T), found.tokenizer))
    else:
        tokens = stream(ids, found.p, found.cfg, args.tokens, sampling=sampling, rng=rng, stop=stop)
        _say(args.prompt, _written(tokens, found.tokenizer))
    sys.stderr.write(f"{meter}\n")
    return 0


def _ids(prompt: str, found: hf.Checkpoint) -> Array:
    """The prompt as ids (1, S): by the folder's tokenizer; without one the prompt is the ids themselves."""
    if found.tokenizer is not None:
        ids = found.tokenizer.encode(prompt)
    else:
        try:
            ids = np.array([int(word) for word in prompt.split()], dtype=np.int64)
        except ValueError:
            why = "the folder has no tokenizer.json, so --prompt must be ids, such as '3 17'"
            raise ConfigError(f"{why}, got {prompt!r}") from None
    wrong = [int(i) for i in ids if not 0 <= i < found.cfg.vocab]
    if wrong or not ids.size:
        raise ConfigError(
            f"--prompt must be ids from 0 to {found.cfg.vocab - 1}, at least one, got {wrong or prompt!r}"
        )
    return ids[None, :]


def _written(tokens: Iterator[Array], tokenizer: hf.tokenizer.Tokenizer | None) -> Iterator[str]:
    """Text as it grows: what is decoded of all tokens, beyond what was said; ids where there is no tokenizer."""
    seen: list[int] = []
    said = ""
    for chosen in tokens:
        seen.append(int(chosen[0]))
        if tokenizer is None:
            yield f" {seen[-1]}"
            continue
        whole = tokenizer.decode(seen)
        if not whole.endswith("\ufffd"):  # a character's rest may come
            yield whole[len(said) :]
            said = whole
    if tokenizer is not None:
        yield tokenizer.decode(seen)[len(said) :]
