"""``fit`` for a run whose masks change as it goes (``plan``); stopped anywhere, continued, the same bytes at the end.

A change of the masks belongs to the step after it: the saved state is the one before, and the change is made again.
The lottery keeps the state it goes back to in a file of its own beside the checkpoint, ``early.safetensors``.
"""

from __future__ import annotations

import os

from pymoe.backend.errors import CheckpointError
from pymoe.train import fit as loop
from pymoe.train import job, plan
from pymoe.train.data import Corpus
from pymoe.train.fit import Reporter
from pymoe.train.job import Job
from pymoe.train.step import Measured, State

EARLY = "early.safetensors"


def fit(work: Job, state: State, corpus: Corpus, folder: str, reporter: Reporter) -> State:
    """``train.fit.fit`` with the plan of the job; a job without one is trained with the masks that ``state`` has."""
    if work.plan is None:
        return loop.fit(work, state, corpus, folder, reporter)
    own, s = work.plan, work.settings
    plan.moments(own, s.steps)  # a plan without room is refused before anything is written
    path = os.path.join(folder, EARLY)
    early = _early(work, path) if own.kind == "lottery" and state.step > own.rewind else None

    def move(at: State) -> tuple[State, Measured]:
        nonlocal early
        if own.kind == "lottery" and at.step == own.rewind:
            job.save(path, work, at)
            early = at
        return plan.advance(own, s, work.model, at, corpus.train, early)

    return loop.fit(work, state, corpus, folder, reporter, move)


def _early(work: Job, path: str) -> State:
    if not os.path.isfile(path):
        raise CheckpointError(
            f"{path}: no such file: without the weights that the lottery goes back to it cannot go on"
        )
    other, early = job.load(path)
    if other != work:
        raise CheckpointError(f"{path} belongs to another run: use the one of this run")
    return early
