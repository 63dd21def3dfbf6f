"""Train while the masks change: gradual pruning, the lottery ticket's rounds, RigL's dropping and growing.

========== ================================================================================ ==========================
schedule   masks over the steps                                                             source
========== ================================================================================ ==========================
gradual    ``changes`` times, the last at 3/4 of the steps: magnitude at the sparsity of    arXiv:1710.01878 eq. 1
           the cubic s_f - s_f (1 - t/T)³; what is pruned stays pruned
lottery    ``changes`` rounds of equal length: train, prune by magnitude to                 arXiv:1803.03635 sec. 2;
           1 - (1 - s)^(r/R), rewind what is left to where the training began; then train   late rewinding, 1903.01611
rigl       sparse from the start; ``changes`` times, the last at 3/4 of the steps, drop     arXiv:1911.11134 alg. 1
           the smallest and grow where the dense gradient of that step's batch is largest
========== ================================================================================ ==========================

Every matrix (of each expert by itself) has the same share of zeros.  The state at the end is what is kept: a schedule
that is stopped begins again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import ConfigError
from pymoe.models.lm import LMConfig
from pymoe.sparsity import masks as rules
from pymoe.sparsity.schedule import cubic, lottery, rigl
from pymoe.surgery.calibration import Watch
from pymoe.train import data, masking, objective
from pymoe.train.optim import OPTIMIZERS
from pymoe.train.settings import TrainSettings
from pymoe.train.step import State, advance

SCHEDULES = ("gradual", "lottery", "rigl")
SETTLED = 0.75  # of the steps: the rest trains with masks that stay
ALPHA = 0.3  # RigL's first fraction of drops (its section 3)


def train(
    p: dict[str, Any],
    cfg: LMConfig,
    names: list[str],
    ids: np.ndarray,
    settings: TrainSettings,
    *,
    schedule: str,
    sparsity: float,
    changes: int,
    watch: Watch | None = None,
) -> State:
    """``settings.steps`` steps from ``p``; the matrices ``names`` end with ⌊s N⌋ zeros each."""
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule must be one of {SCHEDULES}, got {schedule!r}")
    if changes < 1 or settings.steps < 2 * (changes + 1):
        raise ConfigError(
            f"{changes} changes of the masks need at least {2 * (changes + 1)} steps of training (and there must be "
            f"one), got {settings.steps} steps"
        )
    state = State(0, p, OPTIMIZERS[settings.optimizer].init(p))
    if schedule == "lottery":
        return _lottery(state, cfg, names, ids, settings, sparsity, changes, watch)
    last = int(SETTLED * settings.steps)
    at = [last * (i + 1) // changes for i in range(changes)]
    if schedule == "rigl":
        state = masked(state, magnitude(state.p, names, sparsity))
    while state.step < settings.steps:
        if state.step in at and schedule == "gradual":
            s = cubic(state.step, begin=0, end=last, final=sparsity)
            state = masked(state, magnitude(state.p, names, s))
        elif state.step in at:
            state = masked(state, _regrown(state, cfg, names, ids, settings, last))
        state, _ = advance(settings, cfg, state, ids)
        if watch is not None:
            watch()
    return state


def magnitude(p: dict[str, Any], names: list[str], sparsity: float) -> masking.Masks:
    """Masks by magnitude, each matrix by itself."""
    flat = tree.flatten(p)
    return {name: to_numpy(rules.magnitude(flat[name], sparsity, by="matrix")) for name in names}


def masked(state: State, masks: masking.Masks) -> State:
    """The state with other masks: what they prune is 0 from now on, in the optimiser's moments too."""
    return State(state.step, masking.apply(state.p, masks), masking.slots(state.slots, masks), masks)


def _regrown(
    state: State, cfg: LMConfig, names: list[str], ids: np.ndarray, s: TrainSettings, last: int
) -> masking.Masks:
    x, targets = data.batch(ids, seed=s.seed, step=state.step, rows=s.rows, window=s.window)
    _, cache = objective.forward(x, state.p, cfg, targets, s.loss_weights)
    g, w = tree.flatten(objective.backward(1.0, cache)[1]), tree.flatten(state.p)
    fraction = rigl.fraction(state.step, alpha=ALPHA, end=last)
    return {name: _by_matrix(state.masks[name], w[name], g[name], fraction) for name in names}


def _by_matrix(mask: Any, w: Any, g: Any, fraction: float) -> np.ndarray:
    """RigL's update, each matrix of a stack by itself."""
    parts = [
        to_numpy(rigl.update(m, a, b, fraction))
        for m, a, b in zip(*(to_numpy(v).reshape(-1, *v.shape[-2:]) for v in (mask, w, g)), strict=True)
    ]
    return np.stack(parts).reshape(mask.shape)


def _lottery(
    state: State,
    cfg: LMConfig,
    names: list[str],
    ids: np.ndarray,
    s: TrainSettings,
    sparsity: float,
    rounds: int,
    watch: Watch | None,
) -> State:
    begin = state.p
    ends = [s.steps * (r + 1) // (rounds + 1) for r in range(rounds)]
    levels = dict(zip(ends, lottery.rounds(sparsity, rounds), strict=True))
    while state.step < s.steps:
        state, _ = advance(s, cfg, state, ids)
        if state.step in levels:
            masks = magnitude(state.p, names, levels[state.step])
            p = lottery.rewind(begin, masks)
            state = State(state.step, p, OPTIMIZERS[s.optimizer].init(p), masks)
        if watch is not None:
            watch()
    return state
