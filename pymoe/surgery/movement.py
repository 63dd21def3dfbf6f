"""Movement scores: which weights does training push away from zero?

Over steps of plain training of the dense model, with g the gradient before clipping::

    S = -Σ_steps w ⊙ g             w shrinks where w g > 0: those go first

Source: Sanh et al., arXiv:2005.07683, eq. 2 and section 3 (there S also moves the mask while it trains; here the mask
is chosen once, after the last step).  The trained parameters are returned with the scores: a score belongs to the
weights that it was summed along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.models.lm import LMConfig
from pymoe.sparsity import scores
from pymoe.surgery.calibration import Watch
from pymoe.train import clip, data, masking, objective
from pymoe.train.optim import OPTIMIZERS
from pymoe.train.settings import TrainSettings


class Moved(NamedTuple):
    p: dict[str, Any]
    score: dict[str, np.ndarray]


def train(
    p: dict[str, Any],
    cfg: LMConfig,
    names: list[str],
    ids: np.ndarray,
    settings: TrainSettings,
    watch: Watch | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
) -> Moved:
    """``settings.steps`` steps from ``p`` on ``ids``, the scores of the tensors ``names`` summed on the way.

    ``masks``: what is pruned already, and stays 0.
    """
    s = settings
    total = {name: np.zeros(tree.flatten(p)[name].shape) for name in names}
    slots = OPTIMIZERS[s.optimizer].init(p)
    for step in range(s.steps):
        x, targets = data.batch(ids, seed=s.seed, step=step, rows=s.rows, window=s.window)
        _, cache = objective.forward(x, p, cfg, targets, s.loss_weights)
        _, dp = objective.backward(1.0, cache)
        w, g = tree.flatten(p), tree.flatten(dp)
        total = {n: t + scores.movement(_wide(w[n]), _wide(g[n])) for n, t in total.items()}
        dp = masking.apply(dp, masks or {})
        dp = clip.by_global_norm(dp, s.clip)[0] if s.clip else dp
        p, slots = s.update(p, dp, slots, step)
        p = masking.apply(p, masks or {})
        if watch is not None:
            watch()
    return Moved(p, total)


def _wide(a: Any) -> np.ndarray:
    return to_numpy(a).astype(np.float64)
