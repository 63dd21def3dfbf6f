r"""Embedding: a row of the table for each id.

Forward::

    y[n] = W[ids[n]]

Backward, n over all positions that hold the id v::

    dW[v] = Σ_{n: ids[n] = v} dy[n]

The sum runs over the positions in ascending order, sorted by id (``counting_sort``, ``gather``, ``segment_sum``):
no scatter, no lost duplicate, the same bits every time; an id that does not occur has exactly 0.
Source: Bengio et al., *A Neural Probabilistic Language Model*, JMLR 3, 2003, section 2.  Cost: O(N D) forward,
O(N D + V D) backward.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops._rows import rows


class Cache(NamedTuple):
    ids: Array  # (N,) int64, all positions in a row
    vocabulary: int  # V, the rows of the table
    shape: tuple[int, ...]  # of y, (..., D)


def forward(ids: Array, weight: Array) -> tuple[Array, Cache]:
    """y = W[ids]: ids (...) integers in [0, V), weight (V, D) -> y (..., D).  Others are an IndexRangeError.

    >>> import numpy as np
    >>> forward(np.array([2, 0]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))[0]
    array([[5., 6.],
           [1., 2.]])
    """
    xp = namespace(ids, weight)
    check_shape("weight", weight, (None, None))
    checks.floating("weight", weight)
    flat = xp.reshape(ids, (ids.size,))
    checks.index("ids", flat, int(weight.shape[0]))
    flat = xp.astype(flat, xp.int64, copy=False)
    y = kernels.of(weight).gather(weight, flat)  # y[n] = W[ids[n]]
    shape = (*ids.shape, weight.shape[1])
    return xp.reshape(y, shape), Cache(flat, int(weight.shape[0]), shape)


def backward(dy: Array, cache: Cache) -> tuple[None, dict[str, Array]]:
    """dy (..., D) -> None (ids are integers), {"weight": (V, D)}.

    >>> import numpy as np
    >>> _, cache = forward(np.array([2, 0, 2]), np.ones((3, 1)))
    >>> backward(np.array([[1.0], [2.0], [3.0]]), cache)[1]["weight"]
    array([[2.],
           [0.],
           [4.]])
    """
    ids, vocabulary, shape = cache
    check_shape("dy", dy, shape)
    run = kernels.of(dy)
    order, start = run.counting_sort(ids, vocabulary)  # positions sorted by id, ascending within an id
    return None, {"weight": run.segment_sum(run.gather(rows(dy), order), start)}
