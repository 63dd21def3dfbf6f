"""The gradient of a real model, on real text, against the complex step: what `train` and `verify` print."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import verify
from pymoe.backend import tree
from pymoe.backend.rng import generator
from pymoe.models import lm
from pymoe.models.lm import LMConfig
from pymoe.storage import forms
from pymoe.train import objective
from pymoe.train.settings import TrainSettings
from pymoe.train.step import Batch

TOLERANCE = 1e-13
DRAWS = 3  # the key of this use of the generator


class Checked(NamedTuple):
    error: float  # the largest of all tensors, relative to the size of the tensor's gradient
    worst: str  # that tensor
    tensors: int
    parameters: int
    tokens: int
    seconds: float


def check(
    p: dict[str, Any],
    cfg: LMConfig,
    settings: TrainSettings,
    ids: np.ndarray,
    *,
    seed: int = 0,
    directions: int = 1,
    tokens: int = 48,
) -> Checked:
    """Compare the backward of the training objective with its complex step, in a float64 copy of this very model.

    Every tensor by itself and all together, along random directions; GradientError if one is off by more than 1e-13.
    """
    window = min(settings.window, tokens // 2, len(ids) // 2 - 1)
    x = np.stack([ids[:window], ids[window : 2 * window]]).astype(np.int64)
    targets = np.stack([ids[1 : window + 1], ids[window + 1 : 2 * window + 1]]).astype(np.int64)
    batch = Batch(x, targets, lm.draw(generator(seed, DRAWS), cfg, *x.shape))
    return of_batch(p, cfg, settings.loss_weights, batch, int(x.size), seed=seed, directions=directions)


def of_batch(
    p: dict[str, Any],
    cfg: Any,
    weights: Mapping[str, float],
    batch: Batch,
    tokens: int,
    *,
    seed: int = 0,
    directions: int = 1,
) -> Checked:
    """``check`` of any model of ``pymoe.models`` on a batch of its own, of so many tokens."""
    begin = time.perf_counter()
    wide = tree.map(lambda a: a.astype(np.float64), forms.dense(p))
    at = (batch.ids, wide, cfg, batch.targets, weights, batch.draws)
    how: dict[str, Any] = {"seed": seed, "tolerance": TOLERANCE, "directions": directions}
    report = verify.directional(objective, *at, **how, **batch.given)
    worst = max(report.errors, key=lambda name: report.errors[name])
    seconds = time.perf_counter() - begin
    return Checked(report.error, worst, len(tree.flatten(p)), report.n_inputs, tokens, seconds)


def sentence(c: Checked, tokens: str = "tokens of this text") -> str:
    """What was measured, for a reader; ``tokens`` says on what."""
    return (
        f"gradient verified: {c.tensors} tensors, {c.parameters:,} parameters, {c.tokens} {tokens}, "
        f"against the complex step in float64: largest error {c.error:.1e} ({c.worst}), allowed {TOLERANCE:.0e}  "
        f"[{c.seconds:.1f} s]"
    )
