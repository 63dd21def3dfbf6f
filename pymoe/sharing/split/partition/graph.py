r"""The co-activation graph: units that are active on the same tokens share an expert.

::

    active_tf = |h_tf| > threshold
    A_ij = number of tokens on which i and j are both active          (F, F), the edge; A_ii does not count
    maximise Σ_e Σ_{i < j in e} A_ij  over all groupings into E groups of F/E units

That problem is NP-hard; what is done here, with no draw, so that equal h give equal groups:

1. *Grow.*  A group starts with the free unit that has most edge weight to the free units, and takes the free unit with
   most weight to the group until it is full.  So group after group; ties go to the lowest unit.
2. *Swap.*  Unit by unit, the exchange with a unit of another group that gains most weight is made, if it gains any
   (Kernighan and Lin's exchange, 1970), until a round changes nothing.  Weights are whole numbers and every exchange
   gains at least 1, so it ends, where no single exchange would gain.

The threshold is by default the median of |h|: of ReLU, most of whose outputs are 0, that leaves "not zero"; a smooth or
gated activation is never exactly 0, and with a threshold of 0 every edge would be T.

Source: Zhang et al., *MoEfication*, arXiv:2110.01786, section 3.2 (co-activation graph split; the authors give the
graph to METIS and then move surplus units at random to balance it).  Cost: T F² to count, F² for the growth and for
each round of exchanges; the graph is held as F² float32.
"""

from __future__ import annotations

import numpy as np

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError, DataError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.sharing import inputs
from pymoe.sharing.split.partition.grouping import UNITS

EXACT = 1 << 24  # float32 counts are exact up to here


def coactivation(h: Array, e: int, *, threshold: float | None = None, max_rounds: int = 50) -> np.ndarray:
    """(E, F/E) from the hidden units h (T, F) of T tokens.  No token is a DataError.

    >>> h = np.array([[1.0, 0.0, 2.0, 0.0], [3.0, 0.0, 1.0, 0.0], [0.0, 5.0, 0.0, 1.0]])
    >>> coactivation(h, 2)
    array([[0, 2],
           [1, 3]])
    """
    check_shape("h", h, (None, None))
    inputs.finite("h", h)
    tokens, f = (int(n) for n in h.shape)
    size = inputs.divided(UNITS, f, e)
    check_integer("max_rounds", max_rounds)
    if not tokens:
        raise DataError("co-activation needs tokens, got none: run a text through the layer first")
    magnitude = np.abs(to_numpy(h))
    if threshold is None:
        threshold = float(np.median(magnitude))
    elif not threshold >= 0:
        raise ConfigError(f"threshold must be a number of at least 0, got {threshold!r}")
    graph = edges(magnitude > threshold)
    return refined(grown(graph, e, size), graph, max_rounds)


def edges(active: np.ndarray) -> np.ndarray:
    """(F, F) float32: on how many tokens both units are active; 0 on the diagonal.

    >>> edges(np.array([[True, True, False], [True, True, True]]))
    array([[0., 2., 1.],
           [2., 0., 1.],
           [1., 1., 0.]], dtype=float32)
    """
    if active.shape[0] >= EXACT:
        raise ConfigError(
            f"co-activation counts up to {EXACT - 1} tokens exactly, got {active.shape[0]}: take a sample"
        )
    counted = active.astype(np.float32)
    graph: np.ndarray = counted.T @ counted
    np.fill_diagonal(graph, 0)
    return graph


def weight_within(graph: np.ndarray, groups: np.ndarray) -> float:
    """Σ_e Σ_{i < j in e} A_ij, what the split wants large.

    >>> weight_within(np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 5.0], [1.0, 5.0, 0.0]]), np.array([[0, 2], [1, 1]]))
    1.0
    """
    return float(sum(graph[np.ix_(units, units)].sum(dtype=np.float64) for units in groups) / 2)


def grown(graph: np.ndarray, e: int, size: int) -> np.ndarray:
    """(E, F/E): group by group, unit by unit, the one with most weight to those inside."""
    f = len(graph)
    free = np.ones(f, bool)
    groups = np.empty((e, size), np.int64)
    for group in groups:
        inside = np.zeros(f)
        pull = graph.sum(1, where=free, dtype=np.float64)  # the first: most weight to the free ones
        for i in range(size):
            group[i] = unit = int(np.argmax(np.where(free, pull, -1.0)))
            free[unit] = False
            pull = inside = inside + graph[unit]
    return np.sort(groups, axis=1)


def refined(groups: np.ndarray, graph: np.ndarray, max_rounds: int) -> np.ndarray:
    """``groups`` after exchanges of two units, each of which gains weight, until none does."""
    e, size = groups.shape
    f = e * size
    owner = np.empty(f, np.int64)
    owner[groups] = np.arange(e)[:, None]
    to_group = np.stack([graph[units].sum(0, dtype=np.float64) for units in groups], axis=1)  # (F, E) weight to each
    each = np.arange(f)
    for _ in range(max_rounds):
        changed = False
        for i in range(f):
            a = owner[i]
            gain = to_group[i, owner] - to_group[i, a] + to_group[:, a] - to_group[each, owner] - 2.0 * graph[i]
            gain[owner == a] = 0
            j = int(np.argmax(gain))
            if gain[j] > 0:
                b = owner[j]
                owner[i], owner[j] = b, a
                moved = graph[j].astype(np.float64) - graph[i]
                to_group[:, a] += moved
                to_group[:, b] -= moved
                changed = True
        if not changed:
            break
    return np.stack([np.flatnonzero(owner == group) for group in range(e)])
