r"""RigL: train at a constant sparsity, and now and then exchange: drop small weights, grow where the loss pulls.

With A the active entries of one tensor and n = ⌊fraction · \|A\|⌋::

    drop:   the n of smallest \|w\| in A                 of equal ones the lowest flat index first
    grow:   the n of largest \|g\| outside what is left  (just dropped ones may come back), the lowest flat index first

so \|A\| stays exactly what it was.  g is the *dense* gradient at the masked weights: ``moe.backward`` of the layer with
masked parameters, not that of ``masked``.  A grown weight starts at 0 (it is 0: masked).  The shares of the layers are
given by Erdős-Rényi, which leaves more to small layers.

Source: Evci et al., arXiv:1911.11134, algorithm 1 and section 3; Mocanu et al., arXiv:1707.04780 (Erdős-Rényi).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, ShapeError, check_integer, check_shape, check_share
from pymoe.backend.namespace import Array
from pymoe.sparsity import inputs
from pymoe.sparsity.masks import pools
from pymoe.sparsity.masks.amount import count
from pymoe.sparsity.masks.fit import check


def update(mask: Array, w: Array, g: Array, fraction: float) -> Array:
    """The new mask: n = ⌊fraction · active⌋ entries dropped and as many grown, all three of one shape.  O(N log N).

    >>> import numpy as np
    >>> mask = np.array([True, True, True, False, False])
    >>> update(mask, np.array([3.0, -0.1, 2.0, 0.0, 0.0]), np.array([0.0, 0.5, 0.0, -4.0, 1.0]), 0.34)
    array([ True, False,  True,  True, False])
    """
    check(w, mask)
    check_shape("g", g, tuple(w.shape))
    xp = namespace(mask, w, g)
    active = xp.reshape(mask, (1, -1))
    n = count(check_share("fraction", fraction), int(xp.sum(xp.astype(mask, xp.int64))))
    size = xp.reshape(xp.abs(inputs.ranked("w", w)), (1, -1))
    pull = xp.reshape(xp.abs(inputs.ranked("g", g)), (1, -1))
    left = active & ~pools.lowest(size, n, active)
    return xp.reshape(left | pools.lowest(-pull, n, ~left), mask.shape)


def fraction(step: int, *, alpha: float, end: int) -> float:
    """α/2 (1 + cos(π t/T)): the share to exchange at step t, α at first, 0 from step T = end on.

    >>> fraction(0, alpha=0.3, end=100), round(fraction(50, alpha=0.3, end=100), 3), fraction(100, alpha=0.3, end=100)
    (0.3, 0.15, 0.0)
    """
    alpha, end = check_share("alpha", alpha), check_integer("end", end)
    if step < 0:
        raise ConfigError(f"step must not be negative, got {step}")
    return 0.0 if step >= end else alpha / 2 * (1 + math.cos(math.pi * step / end))


def erdos_renyi(shapes: Mapping[str, tuple[int, ...]], s: float, *, kernel: bool = False) -> dict[str, float]:
    """{name: sparsity} of tensors (..., F, D), with mean s over all weights and density ε (F + D) / (F D), at most 1.

    ε is such that Σ density · N = (1 - s) Σ N.  Leading axes are experts, each a matrix of its own; with kernel=True
    (ERK) they are the axes of a convolution's kernel, density ε Σ axes / Π axes.  For matrices the two are one.
    The masks have ``masks.count`` of each share; so all together miss (1 - s) Σ N by less than one entry a tensor.

    >>> found = erdos_renyi({"up": (4, 8), "down": (8, 16)}, 0.5)
    >>> {name: round(s, 4) for name, s in found.items()}  # 12 ε + 24 ε = 80 would keep 26.7 of 32
    {'up': 0.1667, 'down': 0.5833}
    """
    share = check_share("s", s)
    sizes, raw = {}, {}
    for name, shape in shapes.items():
        if len(shape) < 2 or not all(shape):
            raise ShapeError(f"Erdős-Rényi needs matrices (..., F, D) with entries; {name} has shape {tuple(shape)}")
        axes = shape if kernel else shape[-2:]
        sizes[name], raw[name] = math.prod(shape), sum(axes) / math.prod(axes)
    budget = (1 - share) * sum(sizes.values())
    density: dict[str, float] = {}
    rest = set(shapes)
    while rest:
        epsilon = budget / sum(raw[name] * sizes[name] for name in shapes if name in rest)
        full = {name for name in rest if epsilon * raw[name] >= 1}
        if not full:
            density |= {name: epsilon * raw[name] for name in rest}
            break
        density |= dict.fromkeys(full, 1.0)
        budget -= sum(sizes[name] for name in full)
        rest -= full
    return {name: 1 - density[name] for name in shapes}
