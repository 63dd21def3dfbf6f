"""Training a translator: one step as a function of values, the loop, and how many steps fit into a time.

J = cross-entropy of the targets, smoothed, + balance Σ of the MoE layers (``train.objective``); padding has no part in
any of them.  A step is ``train.step.update`` of the gradient of the batch that (seed, step) names, with the dropout
that (seed, step) draws: stopped anywhere and continued, the same bits.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple, Protocol

from pymoe.backend.errors import DataError
from pymoe.backend.rng import generator
from pymoe.models import seq2seq
from pymoe.pipeline.translation import batches, evaluate, job
from pymoe.pipeline.translation.batches import Batches, Encoded
from pymoe.pipeline.translation.job import Job
from pymoe.pipeline.translation.pairs import Pairs
from pymoe.train import fit as loop
from pymoe.train import step as steps
from pymoe.train.step import Batch, Measured, State

TRIAL = 12  # steps that are timed, the first two of them not
SPARE = 0.04  # of a time budget
LOOKS = 11  # at the held-out pairs, on the way
LOOK = 3.0  # a look takes about so many times its loss: the greedy translations take the rest


class Data(NamedTuple):
    """The texts of a training, as sentences and as ids; ``held`` are the held-out pairs that fit into the context."""

    train: Encoded
    valid: Pairs
    held: Encoded
    left_out: int  # pairs to train on that are longer than the context


class Reporter(loop.Reporter, Protocol):
    """Who watches."""

    def scored(self, step: int, loss: float, bleu: float | None) -> None: ...


def prepared(work: Job, train: Pairs, valid: Pairs) -> Data:
    """The texts as ids of the job's vocabulary."""
    context = work.model.context
    coded = [Encoded(work.bpe.encode_all(t.source), work.bpe.encode_all(t.target)) for t in (train, valid)]
    fit_in = [batches.fitting(c, context) for c in coded]
    learned, held = (c.take(rows) for c, rows in zip(coded, fit_in, strict=True))
    if not len(held):
        raise DataError(
            f"{' and '.join(valid.where)}: no held-out pair has at most {context - 1} tokens a side: give shorter "
            "sentences, or a longer --context"
        )
    return Data(learned, valid, held.take(range(min(len(held), work.settings.loss_pairs))), len(train) - len(learned))


def batch_of(work: Job, made: Batches, step: int) -> Batch:
    """What step ``step`` learns from: a batch, its masks, its draws."""
    b = made.at(step)
    rng = generator(work.settings.seed, steps.DRAWS, step)
    draws = seq2seq.draw(rng, work.model, b.ids.shape[0], b.ids.shape[1], b.decoder_ids.shape[1])
    given = {"decoder_ids": b.decoder_ids, "mask": b.mask, "decoder_mask": b.decoder_mask}
    return Batch(b.ids, b.targets, draws, given)


def advance(work: Job, made: Batches, state: State) -> tuple[State, Measured]:
    """The state after one more update."""
    one = batch_of(work, made, state.step)
    found = steps.mean(state.p, work.model, work.settings.loss_weights, [one], 1)
    return steps.update(work.settings, state, found)


def fit(work: Job, state: State, made: Batches, data: Data, folder: str, reporter: Reporter) -> State:
    """Train from ``state`` to the last step, in ``folder``; returns the final state, which is saved."""
    s = work.settings
    sample = data.valid.take(range(min(len(data.valid), s.bleu_pairs)))

    def look(at: State) -> dict[str, float]:
        measured = {"held_out": evaluate.loss(at.p, work.model, data.held)}
        if len(sample) and at.step:  # an untrained model babbles up to the limit, and has no BLEU
            found = evaluate.translate(sample.source, at.p, work.model, work.bpe, width=1)
            measured["bleu"] = evaluate.score([t.text for t in found], sample.target).bleu
        reporter.scored(at.step, measured["held_out"], measured.get("bleu"))
        return measured

    def move(at: State) -> tuple[State, Measured]:
        return advance(work, made, at)

    def save(path: str, at: State) -> None:
        job.save(path, work, at)

    return loop.loop(s, state, folder, reporter, move=move, look=look, save=save)


def steps_in(minutes: float, work: Job, made: Batches, data: Data) -> int:
    """How many steps fit into the time, on this machine as it is now: a few are taken and timed, and thrown away.

    The looks at the held-out pairs are timed too.  At least 10 steps, however little the time.
    """
    state, timed = job.start(work.settings, work.model), 0.0
    n = min(TRIAL, max(3, len(made)))
    for i in range(n):
        begin = time.perf_counter()
        state, _ = advance(work, made, state._replace(step=i))
        timed += time.perf_counter() - begin if i >= 2 else 0.0
    begin = time.perf_counter()
    evaluate.loss(state.p, work.model, data.held)
    looks = LOOKS * LOOK * (time.perf_counter() - begin)
    return max(10, int((60 * minutes * (1 - SPARE) - looks) / (timed / (n - 2))))


def checkpoint_of(folder: str) -> str:
    """The file of a folder's state."""
    return os.path.join(folder, "checkpoint.safetensors")
