"""The loop: step, record, evaluate, save; whatever stops it, the last checkpoint and its records belong together.

A state only takes the place of the one before when its step has been recorded and, where due, evaluated.  So a state
that is saved on Ctrl-C has all its records, and records beyond the checkpoint are cut off on resume.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from pymoe.io.records import Records
from pymoe.train import evaluate, job, masking
from pymoe.train.data import Corpus
from pymoe.train.job import Job
from pymoe.train.settings import UpdateSettings
from pymoe.train.step import Measured, State, advance


class Reporter(Protocol):
    """Who watches: the command line prints, a test counts."""

    def stepped(self, step: int, measured: Measured) -> None: ...

    def held_out(self, step: int, loss: float) -> None: ...

    def saved(self, step: int) -> None: ...


def fit(
    work: Job,
    state: State,
    corpus: Corpus,
    folder: str,
    reporter: Reporter,
    move: Callable[[State], tuple[State, Measured]] | None = None,
) -> State:
    """Train from ``state`` to the last step, in ``folder``; returns the final state, which is saved.

    ``move``: one step, in the place of ``step.advance``; a function of the state (``sparse_fit``).
    """
    s = work.settings
    if move is None:

        def move(at: State) -> tuple[State, Measured]:
            return advance(s, work.model, at, corpus.train)

    def look(at: State) -> dict[str, float]:
        held = evaluate.loss(at.p, work.model, corpus.held_out, window=s.window, rows=s.rows, limit=s.eval_windows)
        reporter.held_out(at.step, held.loss)
        return {"held_out": held.loss}

    return loop(s, state, folder, reporter, move=move, look=look, save=lambda path, at: job.save(path, work, at))


def loop(
    s: UpdateSettings,
    state: State,
    folder: str,
    reporter: Reporter,
    *,
    move: Callable[[State], tuple[State, Measured]],
    look: Callable[[State], dict[str, float]],
    save: Callable[[str, State], None],
) -> State:
    """``fit`` for any model and data: ``move`` is one step, ``look`` what is measured on held-out data now and then.

    ``save`` writes a state into the file it is given.
    """
    path = os.path.join(folder, "checkpoint.safetensors")
    records = Records(os.path.join(folder, "metrics.jsonl"), keep_to=state.step or -1)

    def keep() -> None:
        records.sync()
        save(path, state)
        reporter.saved(state.step)

    def record(at: State) -> None:
        records.append({"step": at.step, **look(at)})

    saved, saved_at = state.step, time.monotonic()
    try:
        if state.step == 0:
            record(state)
        while state.step < s.steps:
            following, measured = move(state)
            line: dict[str, Any] = {"step": following.step, **measured.parts}
            line |= {"lr": measured.rate, "norm": measured.norm}
            if following.masks:
                line["zeros"] = masking.zeros(following.masks)
            if following.step % s.log_load_every == 0 and measured.load:
                line["expert_load"] = measured.load
            records.append(line)
            if following.step % s.eval_every == 0 or following.step == s.steps:
                record(following)
            state = following
            reporter.stepped(state.step, measured)
            by_steps = s.save_every and state.step % s.save_every == 0
            if by_steps or state.step == s.steps or time.monotonic() - saved_at >= s.save_seconds:
                keep()
                saved, saved_at = state.step, time.monotonic()
    except KeyboardInterrupt:
        if state.step > saved:
            keep()
        raise
    finally:
        records.close()
    return state
