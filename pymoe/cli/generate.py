"""``pymoe generate``: text from a trained model, token by token."""

from __future__ import annotations

import argparse
import codecs
import sys
from collections.abc import Iterator

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.backend.rng import generator
from pymoe.cli import words
from pymoe.models.generate import Sampling, stream
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
    with words.options(OPTIONS):
        sampling = Sampling(args.temperature, args.top_k, args.top_p)
    work, state = job.load(job.find(args.run))
    pieces = text(work, state, args.prompt, args.tokens, sampling, args.seed)
    sys.stdout.write(args.prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0
