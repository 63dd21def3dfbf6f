"""Where a model comes from and where the changed one goes: a run of ``pymoe train``, or a Hugging Face folder.

A new folder beside the old one is written, always; nothing that exists is opened for writing.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from pymoe import hf, storage
from pymoe.backend.errors import CheckpointError, ConfigError, DataError
from pymoe.models.lm import LMConfig
from pymoe.storage import forms
from pymoe.train import data, job
from pymoe.train.job import Job
from pymoe.train.optim import OPTIMIZERS
from pymoe.train.plan import Plan
from pymoe.train.settings import TrainSettings
from pymoe.train.step import State

CHECKPOINT = "checkpoint.safetensors"
WINDOW = 128  # tokens of a window of calibration text, at most: a Hugging Face model may have a context of thousands


class Source(NamedTuple):
    """A model and what is needed to write it back in its own form."""

    place: str  # as the user gave it
    cfg: LMConfig
    p: dict[str, Any]
    masks: dict[str, np.ndarray]
    job: Job | None  # of a run
    tokenizer: Any  # of a Hugging Face folder

    @property
    def kind(self) -> str:
        return "a run of pymoe train" if self.job is not None else "a Hugging Face folder"


class Text(NamedTuple):
    """A text as the model's own tokens, its first nine tenths to calibrate on and the last tenth to judge by."""

    source: str
    train: np.ndarray
    held_out: np.ndarray
    window: int


def open_(place: str) -> Source:
    """The model of a run folder, a checkpoint file of a run, or a Hugging Face folder (config.json, safetensors)."""
    if os.path.isfile(os.path.join(place, "config.json")):
        found = hf.read(place)
        return Source(place, found.cfg, found.p, {}, None, found.tokenizer)
    if os.path.isdir(place) and not os.path.isfile(os.path.join(place, CHECKPOINT)):
        raise CheckpointError(
            f"{place} is neither a run ({CHECKPOINT}) nor a Hugging Face folder (config.json): give one of them"
        )
    work, state = job.load(job.find(place))
    return Source(place, work.model, forms.dense(state.p), state.masks | forms.masks(state.p), work, None)


def text(source: Source, file: str | None) -> Text:
    """The calibration text: ``file``, or the text that the run was trained on."""
    if source.job is not None:
        window = source.job.settings.window
        corpus = data.load(file or source.job.source, window=window, known=source.job.vocabulary)
        return Text(corpus.source, corpus.train, corpus.held_out, window)
    if file is None:
        raise ConfigError(f"{source.place} does not say what it was trained on: give a calibration text with --text")
    if source.tokenizer is None:
        raise CheckpointError(f"{source.place} has no tokenizer.json: a text cannot be turned into its tokens")
    ids = source.tokenizer.encode(data.read(file))
    window = min(WINDOW, source.cfg.context)
    n = int(len(ids) * 0.9)
    if min(n, len(ids) - n) < window + 1:
        raise DataError(
            f"{file} is too short: of its {len(ids)} tokens the last tenth must hold a window of {window} + 1, so "
            f"{10 * (window + 1)} are needed: give a longer text"
        )
    return Text(os.path.abspath(file), ids[:n], ids[n:], window)


def beside(place: str, suffix: str, out: str | None) -> str:
    """The new folder: ``out``, or <place>-<suffix>[-2, -3, ...], the first that does not exist."""
    if out is not None:
        return out
    base = os.path.normpath(place)
    if os.path.isfile(base):
        base = os.path.dirname(base) or "."
    if base in (".", ".."):
        base = os.path.abspath(base)
    wanted, n = f"{base}-{suffix}", 1
    while os.path.exists(wanted if n == 1 else f"{wanted}-{n}"):
        n += 1
    return wanted if n == 1 else f"{wanted}-{n}"


def derived(
    source: Source,
    cfg: LMConfig,
    record: dict[str, Any],
    *,
    compare_dense: bool = False,
    settings: TrainSettings | None = None,
    plan: Plan | None = None,
) -> Job:
    """The job of a changed model: that of its run, with the change written into its history."""
    assert source.job is not None
    work = source.job
    return dataclasses.replace(
        work,
        model=cfg,
        compare_dense=compare_dense,
        history=(*work.history, record),
        plan=plan,
        settings=work.settings if settings is None else settings,
    )


def finished(work: Job, p: dict[str, Any], masks: dict[str, np.ndarray]) -> State:
    """The state of a run whose training is over: its parameters, and an optimiser that has seen nothing.

    Where weights are stored sparse there is no optimiser: ``job.trainable`` makes one when it is trained on.
    """
    stored = bool(storage.split(p)[1])
    return State(work.settings.steps, p, {} if stored else OPTIMIZERS[work.settings.optimizer].init(p), masks)


def write(
    source: Source,
    folder: str,
    cfg: LMConfig,
    p: dict[str, Any],
    masks: dict[str, np.ndarray],
    record: dict[str, Any],
) -> None:
    """The changed model in a folder of its own, in the form that ``source`` has."""
    if source.job is None:
        hf.write(folder, cfg, p, like=source.place)
        return
    work = derived(source, cfg, record)
    job.save(os.path.join(folder, CHECKPOINT), work, finished(work, p, masks))
