"""A small parallel text, and a small job on it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pymoe.pipeline.translation import bpe, job, train
from pymoe.pipeline.translation.batches import Batches
from pymoe.pipeline.translation.job import Job
from pymoe.pipeline.translation.pairs import Pairs
from pymoe.pipeline.translation.settings import PRESETS, config

NUMBERS = {
    "one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "f\u00fcnf", "six": "sechs",
    "seven": "sieben",
}  # fmt: skip


def text(n: int = 60, seed: int = 0) -> Pairs:
    """Sums in words, of 1 to 4 numbers: "two and five" -> "zwei und f\u00fcnf"."""
    rng = np.random.default_rng(seed)
    source = []
    while len(source) < n:
        chosen = rng.choice(list(NUMBERS), int(rng.integers(1, 5)))
        source.append(" and ".join(map(str, chosen)))
    target = [" und ".join(NUMBERS[word] for word in line.split(" and ")) for line in source]
    return Pairs(tuple(source), tuple(target), ("numbers",))


def work(pairs: Pairs, *, steps: int = 12, **changes: Any) -> Job:
    """A job of the preset "tiny" with one dense layer beside the sparse one, dropout and smoothing."""
    words = bpe.train([*pairs.source, *pairs.target], 290)
    sizes = PRESETS["tiny"].sizes._replace(layers=2, every=2)
    settings = dataclasses.replace(
        PRESETS["tiny"].settings(steps), eval_every=5, save_every=3, log_load_every=2, **changes
    )
    about = job.Text(("numbers",), (), (), pairs.sha256)
    return Job("t", config(sizes, words.size), settings, words, about, False, {})


def made(work: Job, pairs: Pairs, held: Pairs) -> tuple[Batches, train.Data]:
    data = train.prepared(work, pairs, held)
    return Batches(data.train, tokens=work.settings.batch_tokens, seed=work.settings.seed), data
