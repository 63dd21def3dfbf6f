"""The permutation, made once from the decisions and used by dispatch and combine in both directions.

    rows 0..N-1 are the kept (token, choice) pairs, sorted by expert, ascending token and choice within an expert
    dispatch:  xs[r] = x[token[r]]                 its backward is a combine:   dx[t] = Σ_j dxs[slot[t, j]]
    combine:   y[t] = Σ_j g[t, j] ys[slot[t, j]]   its backward is a dispatch:  dys[r] = g_r dy[token[r]]

Both in gather form: one writer a row, fixed order, no scatter and no atomics.  O(T K + E).
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.namespace import Array


class Plan(NamedTuple):
    token: Array  # (N,) row r holds a copy of token[r]
    pair: Array  # (N,) row r is choice pair[r] = t K + j
    slot: Array  # (T, K) choice (t, j) sits in row slot[t, j]; -1: dropped
    start: Array  # (E+1,) expert e owns rows start[e]:start[e+1]


def make(idx: Array, kept: Array | None, experts: int) -> Plan:
    """Plan of idx (T, K) with the choices not ``kept`` left out.

    >>> import numpy as np
    >>> make(np.array([[2, 0], [0, 1]]), None, 3)
    Plan(token=array([0, 1, 1, 0]), pair=array([1, 2, 3, 0]), slot=array([[3, 0],
           [1, 2]]), start=array([0, 2, 3, 4]))
    """
    xp = namespace(idx)
    k = int(idx.shape[1])
    kernel = kernels.of(idx)
    kernels.checks.index("idx", idx, experts)
    ids = idx if kept is None else xp.where(kept, idx, xp.full_like(idx, experts))  # the dropped sort behind the last
    order, start = kernel.counting_sort(xp.reshape(ids, (-1,)), experts + 1)
    row, _ = kernel.counting_sort(order, int(idx.size))  # the inverse permutation
    slot = xp.reshape(row, idx.shape)
    start = start[: experts + 1]
    if kept is not None:
        order = order[: int(start[-1])]
        slot = xp.where(kept, slot, xp.full_like(slot, -1))
    return Plan(order // k, order, slot, start)
