"""``pymoe verify``: is the gradient of this trained model right?  Or: would the tests notice a wrong line?"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import numpy as np

import pymoe
from pymoe.backend.errors import ConfigError, DataError
from pymoe.backend.rng import generator
from pymoe.cli import gradients
from pymoe.models.count import count_parameters
from pymoe.train import data, job, size
from pymoe.train.job import Job


def run(args: argparse.Namespace) -> int:
    if args.mutate:
        if args.run is not None:
            raise ConfigError("--mutate takes no run: it breaks pymoe's own source")
        return _mutate()
    if args.run is None:
        raise ConfigError("give a run folder or a checkpoint, e.g. `pymoe verify runs/default-1`, or --mutate")
    if args.directions < 1 or args.seed < 0:
        raise ConfigError("--directions must be at least 1 and --seed not negative")
    path = job.find(args.run)
    work, state = job.load(path)
    count = count_parameters(work.model, state.p)
    print(f"{path}, step {state.step}: {size.describe(work.model)}")
    print(f"{count.total:,} parameters, {count.active:,} active for a token")
    ids, tokens = _text(work)
    checked = gradients.check(state.p, work.model, work.settings, ids, seed=args.seed, directions=args.directions)
    print(gradients.sentence(checked, tokens))
    return 0


def _mutate() -> int:
    """The mutation run of the source tree; an installed package has no tests to judge a mutant by."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(pymoe.__file__)))
    script = os.path.join(root, "tests", "mutation", "run.py")
    if not os.path.isfile(script):
        raise ConfigError("--mutate needs the source tree with its tests: clone the repository and run it there")
    return subprocess.run([sys.executable, script], check=False).returncode


def _text(work: Job) -> tuple[np.ndarray, str]:
    """(ids, what they are): the held-out text of the run; without it (moved, changed) tokens drawn at random."""
    try:
        corpus = data.load(work.source, window=work.settings.window, known=work.vocabulary)
        if corpus.sha256 == work.sha256:
            return corpus.held_out, "tokens of its held-out text"
    except DataError:
        pass
    print(f"the text of this run ({work.source}) is not as it was: checking on random tokens", file=sys.stderr)
    drawn = generator(work.settings.seed, 5).integers(0, work.vocabulary.size, 4 * work.settings.window)
    return drawn, "random tokens"
