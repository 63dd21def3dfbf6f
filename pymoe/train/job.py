"""What a run is (model, settings, text) and how it lies in a checkpoint together with a state."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymoe import storage
from pymoe.backend.errors import CheckpointError, PymoeError
from pymoe.io import checkpoint
from pymoe.models.lm import LMConfig
from pymoe.storage import forms
from pymoe.train import masking, step, vocabulary
from pymoe.train.optim import OPTIMIZERS
from pymoe.train.plan import Plan
from pymoe.train.settings import TrainSettings
from pymoe.train.step import State
from pymoe.train.vocabulary import Vocabulary

KIND = "language model"


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
    history: tuple[dict[str, Any], ...] = ()  # what was done to the model between trainings: pruned, split, merged
    plan: Plan | None = None  # how its masks change as it trains


def save(path: str, job: Job, state: State) -> None:
    """Write job and state atomically.

    Masks, a history and a plan stand in the file only where there are some.  A state with sparse stored weights
    (``pymoe.storage``) is written as it is stored, without its optimiser: it is there to be used, not trained on.
    """
    arrays, templates = storage.split(state.p)
    meta = {
        "kind": KIND,
        "name": job.name,
        "model": job.model.to_dict(),
        "settings": dataclasses.asdict(job.settings),
        "vocabulary": job.vocabulary.characters,
        "data": {"source": job.source, "sha256": job.sha256},
        "compare_dense": job.compare_dense,
        "environment": job.environment,
        "step": state.step,
    }
    tensors = checkpoint.pack(model=arrays, optimizer={} if templates else state.slots, mask=state.masks)
    if job.history:
        meta["history"] = list(job.history)
    if job.plan is not None:
        meta["plan"] = job.plan.to_dict()
    if templates:
        meta["stored"] = {name: forms.describe(w) for name, w in templates.items()}
        for name, w in templates.items():
            tensors |= {f"model.{name}.{part}": a for part, a in forms.arrays(w).items()}
            tensors.pop(f"mask.{name}", None)  # the structure says it
    checkpoint.save(path, tensors, meta)


def load(path: str) -> tuple[Job, State]:
    """The job and state of a checkpoint; CheckpointError if it is damaged or not a language model's."""
    tensors, meta = checkpoint.load(path)
    if meta.get("kind", KIND) != KIND:
        raise CheckpointError(
            f"{path} is a {meta['kind']} model, not a {KIND}: give the folder that `pymoe train` made"
        )
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
            _history(meta.get("history", [])),
            Plan.from_dict(meta["plan"]) if "plan" in meta else None,
        )
        stored = dict(meta.get("stored", {}))
        done = meta["step"]
    except (KeyError, TypeError, ValueError, AttributeError, PymoeError) as error:
        raise CheckpointError(f"{path}: its settings cannot be read by this version of pymoe: {error}") from None
    if job.model.vocab != job.vocabulary.size:
        raise CheckpointError(f"{path}: {job.vocabulary.size} characters for a model of {job.model.vocab} tokens")
    like = step.start(job.settings, job.model)
    weights = {name: _stored(tensors, name, said, path) for name, said in stored.items()}
    for name, w in weights.items():
        tensors = {n: a for n, a in tensors.items() if not n.startswith(f"model.{name}.")}
        tensors[f"model.{name}"] = w  # type: ignore[assignment]  # has the shape and dtype that are compared
    p = checkpoint.unpack(tensors, "model", like.p, path)
    slots = {} if stored else checkpoint.unpack(tensors, "optimizer", like.slots, path)
    masks = {n.removeprefix("mask."): a for n, a in tensors.items() if n.startswith("mask.")}
    extra = sorted(n for n in tensors if not n.startswith(("model.", "optimizer.", "mask.")))
    if extra:
        raise CheckpointError(f"{path}: not a checkpoint of a language model: it also holds {extra[:3]}")
    try:
        masking.check(p, masks)
    except PymoeError as error:
        raise CheckpointError(f"{path}: {error}") from None
    wrong = masking.broken(p, masks)
    if wrong is not None:
        raise CheckpointError(f"{path}: {wrong} is not 0 where its mask says that it is pruned: use another copy")
    return job, State(done, p, slots, masks)


def _history(said: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(said, list) or not all(isinstance(record, dict) for record in said):
        raise CheckpointError("its history is not a list of records")
    return tuple(said)


def trainable(job: Job, state: State) -> State:
    """``state`` with every stored weight as an array and its structure as a mask, and an optimiser that starts anew.

    A state without stored weights is returned as it is.
    """
    _, templates = storage.split(state.p)
    if not templates:
        return state
    p = forms.dense(state.p)
    return State(state.step, p, OPTIMIZERS[job.settings.optimizer].init(p), state.masks | forms.masks(state.p))


def _stored(tensors: Mapping[str, Any], name: str, said: Any, path: str) -> storage.Weight:
    """The sparse stored weight ``name``; CheckpointError if its arrays are not what the settings say."""
    prefix = f"model.{name}."
    try:
        return forms.restore(said, {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)})
    except (PymoeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the stored weight {name} is damaged: {error}") from None


def find(place: str) -> str:
    """The checkpoint of ``place``: a run folder, or the file itself."""
    if os.path.isdir(place):
        inside = os.path.join(place, "checkpoint.safetensors")
        if not os.path.isfile(inside):
            folder = os.path.isfile(os.path.join(place, "config.json"))
            hint = "; it is a Hugging Face folder, which prune, split, merge and compress take" if folder else ""
            raise CheckpointError(f"{place} holds no checkpoint.safetensors, so it is not a run{hint}: see `ls runs`")
        return inside
    if not os.path.exists(place):
        raise CheckpointError(f"{place}: no such run or checkpoint: see `ls runs`")
    return place
