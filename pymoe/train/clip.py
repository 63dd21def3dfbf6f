"""Global-norm clipping: dp <- dp min(1, c / ‖dp‖), ‖dp‖ over all tensors together.

Source: Pascanu et al., arXiv:1211.5063, algorithm 1.  The norm accumulates in double precision: in float32 the squares
of a million entries lose digits, and squares of entries below 1e-23 underflow.
"""

from __future__ import annotations

import math
from typing import Any

from pymoe.backend import accumulator, is_floating, is_numpy, namespace, tree
from pymoe.backend.namespace import Array
from pymoe.backend.tree import Tree

_BLOCK = 1 << 15  # elements widened at a time: stays in the first-level caches, and needs no second copy of dp


def norm(dp: Tree) -> float:
    """‖dp‖ = √(Σ over all tensors and entries of dp²); the zeros of a table of integers are no gradient."""
    return math.sqrt(sum(_squared(leaf) for leaf in tree.flatten(dp).values() if is_floating(leaf)))


def by_global_norm(dp: Tree, limit: float) -> tuple[dict[str, Any], float]:
    """(clipped dp, ‖dp‖ before).  A norm that is not finite clips nothing: the caller must stop, and sees it.

    >>> import numpy as np
    >>> dp, before = by_global_norm({"a": np.array([3.0]), "b": np.array([4.0])}, limit=2.5)
    >>> before, dp["a"].item(), dp["b"].item()
    (5.0, 1.5, 2.0)
    """
    before = norm(dp)
    if not math.isfinite(before) or before <= limit:
        return dict(dp), before
    return tree.map(lambda g: g * (limit / before) if is_floating(g) else g, dp), before


def _squared(g: Array) -> float:
    xp = namespace(g)
    flat = xp.reshape(g, (-1,))
    size = int(flat.shape[0])
    block = _BLOCK if is_numpy(g) else max(size, 1)
    wide = accumulator(g)
    total = 0.0
    for lo in range(0, size, block):
        part = xp.astype(flat[lo : lo + block], wide)
        total += float(xp.vecdot(part, part))
    return total
