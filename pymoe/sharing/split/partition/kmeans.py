r"""Balanced k-means on the rows of the first matrix: units that look for the same thing share an expert.

With v_f the unit vector along row f (a row of zeros stays 0), E centres c, and F/E units for each::

    a = argmin Σ_f ‖v_f - c_{a(f)}‖²  over all assignments with F/E units for each centre    (linear assignment)
    c_e = mean of the v_f with a(f) = e

until no unit changes place.  Neither step lets the sum of squares rise, and there are finitely many assignments, so it
ends; in a local minimum, which the start decides: k-means++ from ``rng`` (the next centre is a row drawn with
probability proportional to its squared distance from the nearest centre so far).

Source: Zhang et al., *MoEfication*, arXiv:2110.01786, section 3.2 (parameter clustering with Malinen and Fränti's
balanced k-means, 2014, which is this assignment); k-means++, Arthur and Vassilvitskii, SODA 2007.  Cost: each round an
F x F assignment, O(F³) at worst.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from pymoe.backend import to_numpy
from pymoe.backend.errors import check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.sharing import inputs
from pymoe.sharing.split.partition.grouping import UNITS


def clustered(rows: Array, e: int, rng: np.random.Generator, *, max_rounds: int = 100) -> np.ndarray:
    """(E, F/E) from rows (F, D): of a gated layer the gate's, else those of up_proj.  The same rng, the same groups.

    >>> rows = np.array([[1.0, 0.1], [0.1, 2.0], [0.0, 3.0], [5.0, 0.0]])
    >>> sorted(clustered(rows, 2, np.random.default_rng(0)).tolist())
    [[0, 3], [1, 2]]
    """
    check_shape("rows", rows, (None, None))
    inputs.finite("rows", rows)
    f = int(rows.shape[0])
    size = inputs.divided(UNITS, f, e)
    check_integer("max_rounds", max_rounds)
    v = unit_rows(to_numpy(rows).astype(np.float64))
    centre = _plus_plus(v, e, rng)
    owner = np.full(f, -1)
    for _ in range(max_rounds):
        cost = _squares(v, centre)
        moved = linear_sum_assignment(np.repeat(cost, size, axis=1))[1] // size
        if (moved == owner).all():
            break
        owner = moved
        centre = np.stack([v[owner == i].mean(0) for i in range(e)])
    return np.stack([np.flatnonzero(owner == i) for i in range(e)])


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Each row divided by its length; a row of zeros stays."""
    largest = np.abs(rows).max(1, keepdims=True, initial=0.0)
    rows = rows / np.where(largest == 0, 1.0, largest)  # no square overflows or vanishes
    length = np.sqrt((rows * rows).sum(1, keepdims=True))
    return rows / np.where(length == 0, 1.0, length)


def _squares(v: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(F, E) ‖v_f - c_e‖² up to ‖v_f‖², which no choice of centre changes."""
    return np.asarray((centre * centre).sum(1) - 2 * (v @ centre.T))


def _plus_plus(v: np.ndarray, e: int, rng: np.random.Generator) -> np.ndarray:
    """(E, D) first centres."""
    chosen = [int(rng.integers(len(v)))]
    nearest = ((v - v[chosen[0]]) ** 2).sum(1)
    for _ in range(1, e):
        total = nearest.sum()
        odds = nearest / total if total > 0 else np.full(len(v), 1 / len(v))  # all rows alike: any will do
        chosen.append(int(rng.choice(len(v), p=odds)))
        nearest = np.minimum(nearest, ((v - v[chosen[-1]]) ** 2).sum(1))
    return v[chosen]
