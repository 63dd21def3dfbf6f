"""What a run is (model, settings, text) and how it lies in a checkpoint together with a state."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from pymoe.backend.errors import CheckpointError, PymoeError
from pymoe.io import checkpoint
from pymoe.models.lm import LMConfig
from pymoe.train import step, vocabulary
from pymoe.train.settings import TrainSettings
from pymoe.train.step import State
from pymoe.train.vocabulary import Vocabulary


@dataclass(frozen=True)
class Job:
    """Everything that stays the same from the first step to the last."""

    name: str
    model: LMConfig
    settings: TrainSettings
    vocabulary: Vocabulary
    source: str  # of the text: ``data.TOPICS`` or a file
    sha256: str  # of the text
    compare_dense: bool
    environment: dict[str, Any]  # versions and threads at the start: the same bits need the same ones


def save(path: str, job: Job, state: State) -> None:
    """Write job and state atomically."""
    meta = {
        "kind": "language model",
        "name": job.name,
        "model": job.model.to_dict(),
        "settings": dataclasses.asdict(job.settings),
        "vocabulary": job.vocabulary.characters,
        "data": {"source": job.source, "sha256": job.sha256},
        "compare_dense": job.compare_dense,
        "environment": job.environment,
        "step": state.step,
    }
    checkpoint.save(path, checkpoint.pack(model=state.p, optimizer=state.slots), meta)


def load(path: str) -> tuple[Job, State]:
    """The job and state of a checkpoint; CheckpointError if it is damaged or not a language model's."""
    tensors, meta = checkpoint.load(path)
    try:
        job = Job(
            meta["name"],
            LMConfig.from_dict(meta["model"]),
            TrainSettings(**meta["settings"]),
            vocabulary.restore(meta["vocabulary"]),
            meta["data"]["source"],
            meta["data"]["sha256"],
            meta["compare_dense"],
            meta["environment"],
        )
        done = meta["step"]
    except (KeyError, TypeError, ValueError, AttributeError, PymoeError) as error:
        raise CheckpointError(f"{path}: its settings cannot be read by this version of pymoe: {error}") from None
    if job.model.vocab != job.vocabulary.size:
        raise CheckpointError(f"{path}: {job.vocabulary.size} characters for a model of {job.model.vocab} tokens")
    like = step.start(job.settings, job.model)
    p = checkpoint.unpack(tensors, "model", like.p, path)
    slots = checkpoint.unpack(tensors, "optimizer", like.slots, path)
    extra = sorted(n for n in tensors if not n.startswith(("model.", "optimizer.")))
    if extra:
        raise CheckpointError(f"{path}: not a checkpoint of a language model: it also holds {extra[:3]}")
    return job, State(done, p, slots)


def find(place: str) -> str:
    """The checkpoint of ``place``: a run folder, or the file itself."""
    if os.path.isdir(place):
        inside = os.path.join(place, "checkpoint.safetensors")
        if not os.path.isfile(inside):
            raise CheckpointError(f"{place} holds no checkpoint.safetensors, so it is not a run: see `ls runs`")
        return inside
    if not os.path.exists(place):
        raise CheckpointError(f"{place}: no such run or checkpoint: see `ls runs`")
    return place
