r"""The rows of each expert filled up to a multiple: the layout that tiled grouped products want, and nothing else.

With n_e rows of expert e in the plan, A the multiple::

    n'_e = A ⌈n_e / A⌉                 expert e owns rows start'[e]:start'[e+1] of the padded array
    pad:    xs'[r'] = xs[r] where r' holds row r, and exactly 0 elsewhere
    unpad:  xs[r]   = xs'[r']          what stands in the padding, even NaN, is not read

Each is the other's backward.  Values and gradients are those of the unpadded rows: a zero row adds nothing to a product
W xs or to dW = Σ dy ⊗ xs, and a bias that a kernel adds to it is never read back; an expert without rows gets no rows.
A kernel whose padding rows are not zero has a wrong dW, and no output shows it.  Source: MegaBlocks, arXiv:2211.15841
(blocks of 128 rows).  Cost: one pass over the rows each way; at most E (A - 1) rows more.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import device, namespace
from pymoe.backend.errors import check_integer
from pymoe.backend.namespace import Array
from pymoe.moe.plan import Plan


class Padded(NamedTuple):
    source: Array  # (N',) padded row r' holds row source[r'] of the plan; -1: a row of zeros
    place: Array  # (N,) row r of the plan sits in padded row place[r]
    start: Array  # (E+1,) expert e owns padded rows start[e]:start[e+1]


def make(plan: Plan, multiple: int) -> Padded:
    """The layout of a plan.

    >>> import numpy as np
    >>> from pymoe.moe import plan
    >>> make(plan.make(np.array([[2], [0], [2], [2]]), None, 3), 2)
    Padded(source=array([ 0, -1,  1,  2,  3, -1]), place=array([0, 2, 3, 4]), start=array([0, 2, 2, 6]))
    """
    check_integer("the multiple that rows are padded to", multiple)
    xp, start = namespace(plan.start), plan.start
    where = {"dtype": start.dtype, "device": device(start)}
    count = start[1:] - start[:-1]
    wide = (count + (multiple - 1)) // multiple * multiple
    ends = xp.concat([xp.zeros((1,), **where), xp.cumulative_sum(wide)])
    rows = xp.arange(int(plan.token.shape[0]), **where)
    place = rows + xp.take(ends - start, xp.searchsorted(start[1:], rows, side="right"))
    padded = xp.arange(int(ends[-1]), **where)
    expert = xp.searchsorted(ends[1:], padded, side="right")
    within = padded - xp.take(ends, expert)
    row = within + xp.take(start, expert)
    return Padded(xp.where(within < xp.take(count, expert), row, xp.full_like(row, -1)), place, ends)


def pad(rows: Array, layout: Padded) -> Array:
    """(N', D) of rows (N, D).

    >>> import numpy as np
    >>> from pymoe.moe import plan
    >>> pad(np.array([[5.0], [6.0]]), make(plan.make(np.array([[0], [1]]), None, 2), 2)).ravel()
    array([5., 0., 6., 0.])
    """
    padded: Array = kernels.of(rows).combine(rows, None, layout.source[:, None])
    return padded


def unpad(rows: Array, layout: Padded) -> Array:
    """(N, D) of rows (N', D).

    >>> import numpy as np
    >>> from pymoe.moe import plan
    >>> unpad(np.array([[5.0], [np.nan], [6.0], [np.nan]]), make(plan.make(np.array([[0], [1]]), None, 2), 2)).ravel()
    array([5., 6.])
    """
    own: Array = kernels.of(rows).gather(rows, layout.place)
    return own
