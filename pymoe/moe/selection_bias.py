"""Loss-free balancing: move the selection bias against the load, once per optimiser step.

    b <- b + δ,      δ_e = u sign(mean(n) - n_e),     n_e tokens that chose expert e in the whole batch, sign(0) = 0
    centred:         δ <- δ - mean(δ)

No gradient.  n counts the *global* batch of one optimiser step, and five things do not belong in it:

1. evaluation: ``add(..., training=False)`` counts nothing (torchtitan #4148)
2. padding: ``out.routing.load`` has none (Megatron #1984, #2121)
3. activations computed again: a micro-batch that was counted is not counted twice (``micro_batch``)
4. an update for each micro-batch: ``add`` up first, one ``update`` a step
5. one worker's counts: ``reduce`` sums them over all (tensor, context and data parallel)

n and its mean are in one unit, so counts and frequencies give the same step.  Moved without centring (Megatron,
DeepSeek-V3, u = 0.001) the biases drift together, which changes no choice; torchtitan centres.  In bfloat16 a bias of
256 cannot move by 0.001 at all: keep it in float32 or wider.  Source: arXiv:2408.15664, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from pymoe.backend import device, namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array


class Counts(NamedTuple):
    """What one optimiser step has counted so far."""

    n: Array  # (n_ids,) int64
    seen: frozenset[Hashable] = frozenset()


def none(bias: Array) -> Counts:
    """The counts at the start of a step, for a bias (n_ids,)."""
    xp = namespace(bias)
    return Counts(xp.zeros(bias.shape, dtype=xp.int64, device=device(bias)))


def add(counts: Counts, load: Array, *, micro_batch: Hashable = None, training: bool = True) -> Counts:
    """The counts with ``out.routing.load`` of one micro-batch; a name that was counted already counts nothing.

    >>> import numpy as np
    >>> counts = none(np.zeros(2))
    >>> for name in ("a", "b", "b"):  # b's activations are computed again in its backward
    ...     counts = add(counts, np.array([3, 1]), micro_batch=name)
    >>> add(counts, np.array([9, 9]), training=False).n
    array([6, 2])
    """
    check_shape("load", load, tuple(counts.n.shape))
    if not training or (micro_batch is not None and micro_batch in counts.seen):
        return counts
    return Counts(counts.n + load, counts.seen if micro_batch is None else counts.seen | {micro_batch})


def update(
    bias: Array,
    load: Array | Counts,
    rate: float,
    *,
    centre: bool = False,
    reduce: Callable[[Array], Array] | None = None,
) -> Array:
    """The new bias (n_ids,), a new array, from the load (n_ids,) or the Counts of the step.

    >>> import numpy as np
    >>> update(np.zeros(3), np.array([4, 2, 0]), 0.25)
    array([-0.25,  0.  ,  0.25])
    >>> update(np.zeros(3), np.array([5, 1, 0]), 0.75, centre=True)
    array([-1. ,  0.5,  0.5])
    """
    load = load.n if isinstance(load, Counts) else load
    xp = namespace(bias, load)
    check_shape("load", load, tuple(bias.shape))
    n = xp.astype(load if reduce is None else reduce(load), xp.float64)
    step = rate * xp.astype(xp.sign(xp.mean(n) - n), bias.dtype)
    return bias + (step - xp.mean(step) if centre else step)
