"""Where a model comes from and where the changed one goes: a run of ``pymoe train``, or a Hugging Face folder.

A new folder beside the old one is written, always; nothing that exists is opened for writing.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, NamedTuple

import numpy as np

from pymoe import hf, storage
from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from pymoe.models.lm import LMConfig
from pymoe.moe import MoEConfig
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
    sha256: str = ""  # of a run's text: training that is stopped goes on with the same


def open_(place: str) -> Source:
    """The model of a run folder, a checkpoint file of a run, or a Hugging Face folder (config.json, safetensors)."""
    if os.path.isfile(os.path.join(place, "config.json")):
        found = hf.read(place)
        _finite(place, found.p)
        return Source(place, found.cfg, found.p, {}, None, found.tokenizer)
    if os.path.isdir(place) and not os.path.isfile(os.path.join(place, CHECKPOINT)):
        raise CheckpointError(
            f"{place} is neither a run ({CHECKPOINT}) nor a Hugging Face folder (config.json): give one of them"
        )
    work, state = job.load(job.find(place))
    _finite(place, state.p)
    return Source(place, work.model, forms.dense(state.p), state.masks | forms.masks(state.p), work, None)


def _finite(place: str, p: dict[str, Any]) -> None:
    """NonFiniteError that says where: with such a weight no score, no average and no loss means anything."""
    for name, leaf in tree.flatten(storage.split(p)[0]).items():
        bad = ~np.isfinite(leaf)
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise NonFiniteError(
                f"{place}: {name} holds {leaf[where]} at {where}: this model is broken; take an earlier checkpoint"
            )


def same_kind(first: Source, other: Source) -> None:
    """ConfigError unless weights of the two can be averaged: one architecture, and the same tokens by number."""
    if other.cfg != first.cfg:
        raise ConfigError(f"{other.place} has another architecture than {first.place}: only equal ones can be merged")
    if _vocabulary(first) != _vocabulary(other):
        raise ConfigError(
            f"{other.place} has other tokens than {first.place}, so the same row of its embedding means another thing: "
            "only models of one vocabulary can be merged"
        )


def _vocabulary(source: Source) -> Any:
    """What two models must have in common; of a Hugging Face folder the bytes of its tokenizer.json."""
    if source.job is not None:
        return source.job.vocabulary
    path = os.path.join(source.place, "tokenizer.json")
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        return file.read()


def unpruned(source: Source, what: str) -> None:
    """ConfigError if weights of ``source`` are pruned: ``what`` would fill the zeros up again, or lose their masks."""
    if source.masks:
        raise ConfigError(f"{source.place} has pruned weights: {what} first and prune after, or the zeros are lost")


def said(source: Source, cfg: LMConfig, p: dict[str, Any]) -> tuple[LMConfig, dict[str, Any]]:
    """The model in words that the form of ``source`` has: a Hugging Face folder has no tied experts, only copies."""
    if source.job is not None or not any(m.tied for m in cfg.moe_settings):
        return cfg, p
    blocks, layers = dict(p["layers"]), []
    for i, block in enumerate(cfg.stack.blocks):
        m = block.feed_forward
        if not isinstance(m, MoEConfig):
            continue
        if m.tied is not None:
            mlp = blocks[str(i)]["mlp"]
            copies = {name: w[np.asarray(m.tied)] for name, w in mlp["experts"].items()}
            blocks[str(i)] = blocks[str(i)] | {"mlp": mlp | {"experts": copies}}
        layers.append(dataclasses.replace(m, tied=None))
    one = layers[0] if all(m == layers[0] for m in layers) else tuple(layers)
    return dataclasses.replace(cfg, moe=one), p | {"layers": blocks}


def writable(source: Source, cfg: LMConfig) -> None:
    """ConfigError if the form of ``source`` cannot say ``cfg``: better before hours of work than after."""
    if source.job is None:
        with open(os.path.join(source.place, "config.json"), "rb") as file:
            hf.model_config.to_hf(cfg, json.loads(file.read()))


def text(source: Source, file: str | None) -> Text:
    """The calibration text: ``file``, or the text that the run was trained on."""
    if source.job is not None:
        window = source.job.settings.window
        corpus = data.load(file or source.job.source, window=window, known=source.job.vocabulary)
        if file is None and corpus.sha256 != source.job.sha256:
            raise DataError(
                f"{corpus.source} is no longer the text that {source.place} was trained on, so that what was held out "
                "then is not now: give that text with --text, or this one, to use it nevertheless"
            )
        return Text(corpus.source, corpus.train, corpus.held_out, window, corpus.sha256)
    if file is None:
        raise ConfigError(f"{source.place} does not say what it was trained on: give a calibration text with --text")
    if source.tokenizer is None:
        raise CheckpointError(f"{source.place} has no tokenizer.json: a text cannot be turned into its tokens")
    ids = source.tokenizer.encode(data.read(file))
    if len(ids) and int(ids.max()) >= source.cfg.vocab:
        raise CheckpointError(
            f"the tokenizer.json of {source.place} has token {int(ids.max())}, and the model has {source.cfg.vocab}: "
            "they do not belong together"
        )
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
    text: Text | None = None,
) -> Job:
    """The job of a changed model: that of its run, with the change written into its history.

    ``text``: what it is trained on from now, where that is another one.
    """
    assert source.job is not None
    work = source.job
    return dataclasses.replace(
        work,
        model=cfg,
        compare_dense=compare_dense,
        history=(*work.history, record),
        plan=plan,
        source=work.source if text is None else text.source,
        sha256=work.sha256 if text is None else text.sha256,
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
