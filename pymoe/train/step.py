"""One optimiser step as a pure function of (settings, model, state, text): the same arguments give the same bits.

Gradient accumulation: the rows of a step are split into micro-batches and their gradients averaged.  Cross-entropy
and z-loss are means over tokens, so that changes nothing but rounding; a balance loss is a product of two means and is
taken *within each micro-batch* (its mean over them is minimised), which balances more strictly than over the whole
batch.  The bias update counts the load of the whole step.  Pruned weights (``masking``) are 0 and stay 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import moe
from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import NonFiniteError
from pymoe.backend.namespace import Array
from pymoe.backend.rng import generator
from pymoe.models import lm
from pymoe.train import clip, data, masking, objective
from pymoe.train.masking import Masks
from pymoe.train.settings import TrainSettings, UpdateSettings

DRAWS = 2  # the key of this use of the generator (data.py has 1)


class State(NamedTuple):
    """What a checkpoint has to hold: nothing else carries over from one step to the next."""

    step: int  # updates done
    p: dict[str, Any]
    slots: dict[str, Any]  # of the optimiser
    masks: Masks = {}  # of pruned tensors, by flat name, True = the weight lives; {}: nothing is pruned


class Measured(NamedTuple):
    parts: dict[str, float]  # lm (or the main loss of another model), balance, ...: means over the micro-batches
    rate: float
    norm: float  # of the gradient, before clipping
    load: list[list[int]]  # one row for each MoE layer: tokens that chose each expert

    @property
    def main(self) -> float:
        """The loss of the targets: the first of the parts."""
        return next(iter(self.parts.values()))


class Gradient(NamedTuple):
    """The mean over the micro-batches of one step."""

    dp: dict[str, Any]  # of all weights, pruned ones too
    parts: dict[str, float]  # lm, balance, ...
    load: list[np.ndarray]  # one a MoE layer: tokens that chose each expert, summed


class Batch(NamedTuple):
    """What one forward reads: ids and targets, the draws, and by name what else its model takes (a mask, ...)."""

    ids: Array
    targets: Array
    draws: Any = None
    given: Mapping[str, Any] = {}


def gradient(settings: TrainSettings, cfg: Any, state: State, ids: np.ndarray) -> Gradient:
    """The gradient from which ``advance`` takes its step: at the weights of ``state``, not masked, not clipped."""
    s = settings
    x, targets = data.batch(ids, seed=s.seed, step=state.step, rows=s.rows, window=s.window)
    per = s.rows // s.micro_batches

    def batches() -> Iterator[Batch]:
        for i in range(s.micro_batches):
            rows = slice(i * per, (i + 1) * per)
            draws = lm.draw(generator(s.seed, DRAWS, state.step, i), cfg, per, s.window)
            yield Batch(x[rows], targets[rows], draws)

    return mean(state.p, cfg, s.loss_weights, batches(), s.micro_batches)


def mean(p: dict[str, Any], cfg: Any, weights: Mapping[str, float], batches: Iterable[Batch], n: int) -> Gradient:
    """The mean of the gradients of ``n`` batches of any model of ``pymoe.models``."""
    total: dict[str, Any] = {}
    parts: dict[str, float] = {}
    loads: list[list[np.ndarray]] = []
    for batch in batches:
        out, cache = objective.forward(batch.ids, p, cfg, batch.targets, weights, batch.draws, **batch.given)
        _, dp = objective.backward(1.0 / n, cache)
        total = tree.add(total, dp) if total else dp
        for name, value in out.parts.items():
            parts[name] = parts.get(name, 0.0) + float(value) / n
        loads.append([to_numpy(r.load) for r in out.routing if r is not None])
    return Gradient(total, parts, [sum(layer[1:], layer[0]) for layer in zip(*loads, strict=True)])


def advance(settings: TrainSettings, cfg: Any, state: State, ids: np.ndarray) -> tuple[State, Measured]:
    """The state after one more update.  A loss or gradient that is not finite raises; ``state`` is then still good.

    Masks that are not those of this model are a ShapeError or a DtypeError.
    """
    masking.check(state.p, state.masks)
    return update(settings, state, gradient(settings, cfg, state, ids))


def update(settings: UpdateSettings, state: State, found: Gradient) -> tuple[State, Measured]:
    """``advance`` from a gradient that is already there."""
    s = settings
    dp, parts, load = found
    dp = masking.apply(dp, state.masks)
    clipped, norm = clip.by_global_norm(dp, s.clip) if s.clip else (dp, clip.norm(dp))
    if not (math.isfinite(norm) and all(math.isfinite(v) for v in parts.values())):
        raise NonFiniteError(
            f"training diverged at step {state.step + 1}: loss {next(iter(parts.values())):.4g}, "
            f"gradient norm {norm:.4g}; "
            "start again with a smaller --lr"
        )
    p, slots = s.update(state.p, clipped, state.slots, state.step)
    p = masking.apply(move_selection_bias(p, load, s.bias_rate), state.masks)
    following = State(state.step + 1, p, masking.slots(slots, state.masks), state.masks)
    return following, Measured(parts, s.rate(state.step), norm, [n.tolist() for n in load])


def move_selection_bias(p: dict[str, Any], load: list[np.ndarray], rate: float) -> dict[str, Any]:
    """``moe.bias_update`` in every router that has a selection bias; ``load``: one entry a MoE layer, in order."""
    flat = tree.flatten(p)
    routers = [name.removesuffix("router.weight") for name in flat if name.endswith("router.weight")]
    for prefix, n in zip(routers, load, strict=True):
        name = prefix + "router.selection_bias"
        if name in flat:
            flat[name] = moe.bias_update(flat[name], n, rate)
    return tree.unflatten(flat)


def masked(state: State, masks: Masks) -> State:
    """``state`` with these masks in the place of its own: what they prune is 0 from now on, in the optimiser too.

    A weight that comes back (its mask was False and is True) starts at 0, with moments of 0.
    """
    masking.check(state.p, masks)
    return State(state.step, masking.apply(state.p, masks), masking.slots(state.slots, masks), masks)


def start(settings: TrainSettings, cfg: Any) -> State:
    """The state before the first update."""
    from pymoe.train.optim import OPTIMIZERS

    p = lm.init(generator(settings.seed, 0), cfg, settings.numpy_dtype)
    return State(0, p, OPTIMIZERS[settings.optimizer].init(p))
