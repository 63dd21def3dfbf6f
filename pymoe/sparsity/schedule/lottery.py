"""The lottery ticket: train, prune a part of what is left, set the survivors back, and train again.

Each of n rounds prunes the same part of the weights that are left, so after round r::

    s_r = 1 - (1 - s)^(r/n)

Source: Frankle & Carbin, arXiv:1803.03635, section 2 (iterative pruning with resetting); rewinding to an early step
instead of the initial values: Frankle et al., arXiv:1912.05671.  ``p0`` is either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymoe.backend.errors import check_integer, check_share
from pymoe.backend.namespace import Array
from pymoe.sparsity import masked


def rounds(s: float, n: int) -> list[float]:
    """[s_1, ..., s_n], ascending, the last exactly s, so that ``masks.count`` of it is exact.

    >>> rounds(0.75, 2)
    [0.5, 0.75]
    """
    s, n = check_share("s", s), check_integer("n", n)
    return [*(1 - (1 - s) ** (r / n) for r in range(1, n)), s]


def rewind(p0: Mapping[str, Any], masks: Mapping[str, Array]) -> dict[str, Any]:
    """The tree p0 where kept, exactly 0 elsewhere; a tensor without a mask is p0's own, all of it.

    masks {flat name: bool}.  Errors as ``masked.apply``.

    >>> import numpy as np
    >>> rewind({"a": {"w": np.array([1.0, 2.0])}}, {"a.w": np.array([False, True])})
    {'a': {'w': array([0., 2.])}}
    """
    return masked.apply(p0, masks)
