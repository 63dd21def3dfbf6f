"""A plan: at which steps of training the masks change, and how.  The state after a step depends on no more than before.

========== ================================================================================= =========================
kind       masks over the steps                                                              source
========== ================================================================================= =========================
one_shot   by magnitude before the first step; then they stay                                arXiv:1506.02626, fig. 2
gradual    ``changes`` times, the last after ``settled`` of the steps: by magnitude at the   arXiv:1710.01878, eq. 1
           sparsity s_f - s_f (1 - t/T)³; what is pruned stays pruned
lottery    ``changes`` rounds: train, prune by magnitude to 1 - (1 - s)^(r/R), set what is   arXiv:1803.03635, sec. 2;
           left back to where it was at step ``rewind``, and train again, with the same      arXiv:1912.05671
           batches and rates; after the last round once more
rigl       by magnitude before the first step; then ``changes`` times, all before            arXiv:1911.11134, alg. 1
           ``settled`` of the steps, drop the smallest and grow where the dense gradient of
           that step's batch is largest; as many as were dropped
========== ================================================================================= =========================

Each matrix of the tensors ``names`` (in a stack: of each expert) is a pool of its own and ends with exactly ⌊s N⌋
zeros; s is the same for all, or larger where a matrix is larger (``share="erdos_renyi"``).  Masks of other tensors stay
as they are, and so does what was pruned before, except under rigl, which lets any weight grow.  The lottery needs one
thing more than the state: ``early``, the state at step ``rewind``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pymoe.backend import namespace, to_numpy, tree
from pymoe.backend.errors import ConfigError, ShapeError, check_integer, check_share
from pymoe.backend.namespace import Array
from pymoe.sparsity import masks as rules
from pymoe.sparsity.schedule import cubic, lottery, rigl
from pymoe.train import step
from pymoe.train.masking import Masks
from pymoe.train.settings import TrainSettings
from pymoe.train.step import Measured, State

KINDS = ("one_shot", "gradual", "lottery", "rigl")
SHARES = ("uniform", "erdos_renyi")


@dataclass(frozen=True)
class Plan:
    """What is pruned, how far, and when.

    kind            of ``KINDS``
    names           flat names of the tensors whose matrices are pruned
    sparsity        s at the end, in [0, 1]
    changes         how often the masks change (lottery: rounds; one_shot: 1)
    share           of ``SHARES``: the same s for every tensor, or Erdős-Rényi's
    settled         gradual, rigl: the masks change within this share of the steps
    alpha           rigl: the share of the living weights that the first exchange takes, falling along a cosine
    rewind          lottery: the step to whose weights each round goes back
    """

    kind: str
    names: tuple[str, ...]
    sparsity: float
    changes: int = 1
    share: str = "uniform"
    settled: float = 0.75
    alpha: float = 0.3
    rewind: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, KINDS), ("share", self.share, SHARES)):
            if value not in known:
                raise ConfigError(f"{name} must be one of {known}, got {value!r}")
        if isinstance(self.names, str) or not all(isinstance(name, str) for name in self.names) or not self.names:
            raise ConfigError(f"names must be a tuple of flat names of tensors, at least one, got {self.names!r}")
        object.__setattr__(self, "names", tuple(self.names))
        for name, least in (("changes", 1), ("rewind", 0)):
            check_integer(name, getattr(self, name), least)
        for name in ("sparsity", "settled", "alpha"):
            check_share(name, getattr(self, name))
        if self.kind == "one_shot" and self.changes != 1:
            raise ConfigError(f"one_shot changes the masks once, got changes={self.changes}: leave it out")
        if self.kind != "lottery" and self.rewind:
            raise ConfigError(
                f"only the lottery goes back to earlier weights, got rewind={self.rewind} for {self.kind}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"names": list(self.names)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The inverse of ``to_dict``."""
        return cls(**{**values, "names": tuple(values["names"])})


def moments(plan: Plan, steps: int) -> tuple[int, ...]:
    """The steps before which the masks change, ascending; ConfigError if ``steps`` has no room for them.

    >>> moments(Plan("gradual", ("w",), 0.8, changes=3), 40)
    (10, 20, 30)
    >>> moments(Plan("rigl", ("w",), 0.8, changes=2), 40)
    (0, 10, 20)
    >>> moments(Plan("lottery", ("w",), 0.8, changes=3), 40), moments(Plan("lottery", ("w",), 0.8, 3, rewind=4), 40)
    ((10, 20, 30), (13, 22, 31))
    """
    n, last = plan.changes, int(plan.settled * steps)
    if plan.kind == "one_shot":
        found: tuple[int, ...] = (0,)
    elif plan.kind == "gradual":
        found = tuple(last * (i + 1) // n for i in range(n))
    elif plan.kind == "rigl":
        found = (0, *(last * (i + 1) // (n + 1) for i in range(n)))
    else:
        length = _round(plan, steps)
        found = tuple(length + i * (length - plan.rewind) for i in range(n))
    room = len(set(found)) == len(found) and found[-1] < steps and (plan.kind != "gradual" or found[0] > 0)
    if not room or (plan.kind == "lottery" and _round(plan, steps) <= plan.rewind):
        raise ConfigError(
            f"{n} changes of the masks ({plan.kind}) have no room in {steps} steps: take more steps, or fewer changes"
        )
    return found


def _round(plan: Plan, steps: int) -> int:
    """The steps of a round of the lottery from its very start; later rounds begin ``rewind`` steps into it."""
    return (steps + plan.changes * plan.rewind) // (plan.changes + 1)


def advance(
    plan: Plan, settings: TrainSettings, cfg: Any, state: State, ids: np.ndarray, early: State | None = None
) -> tuple[State, Measured]:
    """``step.advance`` after the change of the masks that is due before this step, if any.

    ``early``: the lottery's state at step ``plan.rewind``; it may be None until the first round ends.
    """
    state = ready(plan, settings, cfg, state, ids, early)
    if plan.kind != "lottery":
        return step.advance(settings, cfg, state, ids)
    own, begin = _within(plan, settings, state.step)
    following, measured = step.advance(own, cfg, state._replace(step=state.step - begin), ids)
    return following._replace(step=state.step + 1), measured


def _within(plan: Plan, s: TrainSettings, at: int) -> tuple[TrainSettings, int]:
    """The settings of one round of the lottery, and the step at which the round of step ``at`` would have begun."""
    past = [moment for moment in moments(plan, s.steps) if moment <= at]
    length = _round(plan, s.steps)
    begin = past[-1] - plan.rewind if past else 0
    return dataclasses.replace(s, steps=length, warmup=min(s.warmup, length - 1)), begin


def ready(
    plan: Plan, settings: TrainSettings, cfg: Any, state: State, ids: np.ndarray, early: State | None = None
) -> State:
    """``state`` with the masks with which its next step is taken."""
    due = moments(plan, settings.steps)
    if state.step not in due:
        return state
    flat = {name: leaf for name, leaf in tree.flatten(state.p).items() if name in plan.names}
    if len(flat) < len(plan.names):
        raise ShapeError(f"the plan prunes {sorted(set(plan.names) - flat.keys())}, and the model has no such tensors")
    shares = _shares(plan, flat)
    nth = due.index(state.step)
    if plan.kind == "rigl" and nth:
        return _with(state, _exchanged(plan, settings, cfg, state, ids))
    if plan.kind == "gradual":
        end = due[-1]
        shares = {name: cubic(state.step, begin=0, end=end, final=s) for name, s in shares.items()}
    if plan.kind == "lottery":
        shares = {name: lottery.rounds(s, plan.changes)[nth] for name, s in shares.items()}
    made = {name: _smallest(w, state.masks.get(name), shares[name]) for name, w in flat.items()}
    if plan.kind != "lottery":
        return _with(state, made)
    if early is None or early.step != plan.rewind:
        raise ConfigError(f"the lottery goes back to step {plan.rewind}: give the state of that step")
    return _with(state._replace(p=early.p, slots=early.slots), made)


def _with(state: State, made: Masks) -> State:
    return step.masked(state, state.masks | made)


def _shares(plan: Plan, flat: Mapping[str, Array]) -> dict[str, float]:
    if plan.share == "uniform":
        return dict.fromkeys(flat, plan.sparsity)
    return rigl.erdos_renyi({name: tuple(w.shape) for name, w in flat.items()}, plan.sparsity)


def _smallest(w: Array, mask: Array | None, share: float) -> Array:
    """The mask without the smallest magnitudes of each matrix; what is pruned already goes first and stays pruned."""
    xp = namespace(w)
    if mask is None:
        return rules.by_score(xp.abs(w), share, by="matrix")
    return mask & rules.by_score(xp.where(mask, xp.abs(w), -1.0), share, by="matrix")


def _exchanged(plan: Plan, s: TrainSettings, cfg: Any, state: State, ids: np.ndarray) -> Masks:
    """RigL's update of every matrix, with the gradient that the next step would have without masks."""
    fraction = rigl.fraction(state.step, alpha=plan.alpha, end=max(1, math.ceil(plan.settled * s.steps)))
    w, g = tree.flatten(state.p), tree.flatten(step.gradient(s, cfg, state, ids).dp)
    return {name: _by_matrix(state.masks[name], w[name], g[name], fraction) for name in plan.names}


def _by_matrix(mask: Array, w: Array, g: Array, fraction: float) -> np.ndarray:
    stacks = [to_numpy(a).reshape(-1, *a.shape[-2:]) for a in (mask, w, g)]
    made = np.stack([rigl.update(m, own, pull, fraction) for m, own, pull in zip(*stacks, strict=True)])
    return np.reshape(made, mask.shape)
