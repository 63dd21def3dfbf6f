"""What a training is (model, settings, vocabulary, texts) and how it lies in a checkpoint together with a state."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from pymoe.backend.errors import CheckpointError, PymoeError
from pymoe.backend.rng import generator
from pymoe.io import checkpoint
from pymoe.models import seq2seq
from pymoe.models.seq2seq import Seq2SeqConfig
from pymoe.pipeline.translation import bpe
from pymoe.pipeline.translation.bpe import BPE
from pymoe.pipeline.translation.settings import TranslateSettings
from pymoe.train.optim import OPTIMIZERS
from pymoe.train.step import State

KIND = "translation"


@dataclass(frozen=True)
class Text:
    """Where parallel text came from, and what it was: files, or one ``cldr:`` name; of training, validation, test."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]
    sha256: str  # of all sentences


@dataclass(frozen=True)
class Job:
    """Everything that stays the same from the first step to the last."""

    name: str
    model: Seq2SeqConfig
    settings: TranslateSettings
    bpe: BPE
    text: Text
    compare_dense: bool
    environment: dict[str, Any]  # versions and threads at the start: the same bits need the same ones


def start(settings: TranslateSettings, model: Seq2SeqConfig) -> State:
    """The state before the first update."""
    p = seq2seq.init(generator(settings.seed, 0), model, settings.numpy_dtype)
    return State(0, p, OPTIMIZERS[settings.optimizer].init(p))


def save(path: str, job: Job, state: State) -> None:
    """Write job and state atomically."""
    meta = {
        "kind": KIND,
        "name": job.name,
        "model": job.model.to_dict(),
        "settings": dataclasses.asdict(job.settings),
        "bpe": job.bpe.to_json(),
        "text": dataclasses.asdict(job.text),
        "compare_dense": job.compare_dense,
        "environment": job.environment,
        "step": state.step,
    }
    checkpoint.save(path, checkpoint.pack(model=state.p, optimizer=state.slots), meta)


def load(path: str) -> tuple[Job, State]:
    """The job and state of a checkpoint; CheckpointError if it is damaged or not a translator's."""
    tensors, meta = checkpoint.load(path)
    if meta.get("kind") != KIND:
        raise CheckpointError(
            f"{path} is a {meta.get('kind', 'checkpoint')}, not a translator: give the folder that "
            "`pymoe translate train` made"
        )
    try:
        text = meta["text"]
        job = Job(
            meta["name"],
            Seq2SeqConfig.from_dict(meta["model"]),
            TranslateSettings(**meta["settings"]),
            bpe.restore(meta["bpe"]),
            Text(tuple(text["train"]), tuple(text["valid"]), tuple(text["test"]), text["sha256"]),
            meta["compare_dense"],
            meta["environment"],
        )
        done = int(meta["step"])
    except (KeyError, TypeError, ValueError, AttributeError, PymoeError) as error:
        raise CheckpointError(f"{path}: its settings cannot be read by this version of pymoe: {error}") from None
    if job.model.vocab != job.bpe.size:
        raise CheckpointError(f"{path}: a vocabulary of {job.bpe.size} for a model of {job.model.vocab} tokens")
    like = start(job.settings, job.model)
    extra = sorted(name for name in tensors if not name.startswith(("model.", "optimizer.")))
    if extra:
        raise CheckpointError(f"{path}: not a checkpoint of a translator: it also holds {extra[:3]}")
    p = checkpoint.unpack(tensors, "model", like.p, path)
    return job, State(done, p, checkpoint.unpack(tensors, "optimizer", like.slots, path))


def find(place: str) -> str:
    """The checkpoint of ``place``: a model folder, or the file itself."""
    if os.path.isdir(place):
        inside = os.path.join(place, "checkpoint.safetensors")
        if not os.path.isfile(inside):
            raise CheckpointError(
                f"{place} holds no checkpoint.safetensors, so it is no translator: give the folder that "
                "`pymoe translate train` made, see `ls runs`"
            )
        return inside
    if not os.path.exists(place):
        raise CheckpointError(
            f"{place}: no such model: give the folder that `pymoe translate train` made, see `ls runs`"
        )
    return place
