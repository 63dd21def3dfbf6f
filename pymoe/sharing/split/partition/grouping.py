r"""Which hidden units go together: at random, or by how much the loss feels them.

A grouping of F units into E experts is an integer array (E, F/E): every unit stands in it once, ascending in its row.

by_gradient     score (F,): the units in descending order, cut into E runs: expert 0 has what matters most.
                score (E, F), a row for each cluster of the data: the largest score of all first, each unit goes to the
                expert whose score it is unless that one is full (greedy; every unit once)
overlapping     score (E, F): each expert takes its own F/E best units, whoever else has them ("sharing, inner")
residual        score (E, F): the units that most experts want become a shared expert that every token passes, and
                ``by_gradient`` deals out the others ("sharing, inter")

The score of LLaMA-MoE is the first-order change of the loss, Σ_t |h_tf dh_tf|, summed over the tokens of a cluster.
Ties: the lowest unit first, and of experts the lowest.  Source: Zhu et al., *LLaMA-MoE*, arXiv:2406.16554, section 3.1.
Cost: a sort of the scores.
"""

from __future__ import annotations

import numpy as np

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError, ShapeError, check_integer
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.sharing import inputs

UNITS = "hidden units"


def random(rng: np.random.Generator, f: int, e: int) -> np.ndarray:
    """(E, F/E) units dealt out by a permutation of ``rng``; e must divide f (ConfigError).

    >>> random(np.random.default_rng(0), 6, 3)
    array([[2, 3],
           [4, 5],
           [0, 1]])
    """
    size = inputs.divided(UNITS, f, e)
    return np.sort(rng.permutation(f).reshape(e, size), axis=1)


def by_gradient(score: Array, e: int) -> np.ndarray:
    """(E, F/E) units by importance, score (F,) or (E, F); see the module for the two rules.

    >>> by_gradient(np.array([1.0, 9.0, 3.0, 3.0, 0.0, 7.0]), 3)
    array([[1, 5],
           [2, 3],
           [0, 4]])
    >>> by_gradient(np.array([[5.0, 4.0, 3.0, 0.0], [9.0, 0.0, 1.0, 0.0]]), 2)  # expert 1 wants unit 0 most
    array([[1, 2],
           [0, 3]])
    """
    score = _score(score, e)
    f = score.shape[-1]
    size = inputs.divided(UNITS, f, e)
    if score.ndim == 1:
        return np.sort(np.argsort(-score, kind="stable").reshape(e, size), axis=1)
    owner = np.full(f, -1)
    free = [size] * e
    for place in np.argsort(-score.T.ravel(), kind="stable"):  # of equal scores the lowest unit, then expert
        unit, expert = divmod(int(place), e)
        if owner[unit] < 0 and free[expert]:
            owner[unit] = expert
            free[expert] -= 1
    return np.stack([np.flatnonzero(owner == expert) for expert in range(e)])


def overlapping(score: Array, e: int) -> np.ndarray:
    """(E, F/E): each expert's own best units.  No partition: the pieces do not add up to the dense layer.

    >>> overlapping(np.array([[5.0, 4.0, 3.0, 0.0], [9.0, 0.0, 1.0, 0.0]]), 2)
    array([[0, 1],
           [0, 2]])
    """
    score = _score(score, e)
    if score.ndim != 2:
        raise ShapeError(f"overlapping experts need a score for each of them, ({e}, F), got {score.shape}")
    size = inputs.divided(UNITS, score.shape[1], e)
    return np.sort(np.argsort(-score, axis=1, kind="stable")[:, :size], axis=1)


def residual(score: Array, e: int, n_shared: int) -> tuple[np.ndarray, np.ndarray]:
    """(shared (n_shared,), groups (E, (F - n_shared)/E)) of score (E, F).

    Round by round, each expert names its s = (F - n_shared) / E best units that are left; those named most often are
    shared (the lowest first when places run out), until n_shared are.  ``by_gradient`` deals out the rest.  The shared
    expert and all pieces add up to the dense layer: ``layer(..., shared=...)``.

    >>> residual(np.array([[5.0, 4.0, 3.0, 0.0], [9.0, 0.0, 1.0, 2.0]]), 2, 2)
    (array([0, 1]), array([[2],
           [3]]))
    """
    score = _score(score, e)
    if score.ndim != 2:
        raise ShapeError(f"the residual rule needs a score for each expert, ({e}, F), got {score.shape}")
    f = score.shape[1]
    if check_integer("n_shared", n_shared, 0) >= f:
        raise ConfigError(f"n_shared must leave units for the experts: got {n_shared} of {f}")
    size = inputs.divided(f"{UNITS} that are not shared", f - n_shared, e)
    shared = np.zeros(f, bool)
    while (places := n_shared - int(shared.sum())) > 0:
        left = np.flatnonzero(~shared)
        named = np.zeros(f, np.int64)
        for row in score[:, left]:
            named[left[np.argsort(-row, kind="stable")[:size]]] += 1
        shared[np.flatnonzero(named == named.max())[:places]] = True
    rest = np.flatnonzero(~shared)
    return np.flatnonzero(shared), rest[by_gradient(score[:, rest], e)]


def check(groups: np.ndarray, f: int, e: int | None = None) -> np.ndarray:
    """``groups`` as int64 (E, F/E) that holds every unit of range(f) once; else ShapeError, DtypeError, ConfigError.

    >>> check(np.array([[0, 1], [1, 2]]), 4)
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ConfigError: groups must hold each of the 4 hidden units once: unit 1 stands there 2 times
    """
    groups = to_numpy(groups)
    if groups.ndim != 2 or (e is not None and groups.shape[0] != e):
        raise ShapeError(f"groups must have shape ({'E' if e is None else e}, F/E), got {groups.shape}")
    once(groups.ravel(), f, "groups")
    return groups.astype(np.int64)


def once(units: np.ndarray, f: int, name: str) -> None:
    """ConfigError unless ``units`` are range(f) in some order."""
    checks.index(name, units, f)
    count = np.bincount(units, minlength=f)
    if not (count == 1).all():
        unit = int(np.argmax(count != 1))
        raise ConfigError(
            f"{name} must hold each of the {f} hidden units once: unit {unit} stands there {count[unit]} times"
        )


def _score(score: Array, e: int) -> np.ndarray:
    """(F,) or (E, F) as float64; NaN has no rank."""
    score = to_numpy(score)
    check_integer("the number of experts", e)
    if score.ndim not in (1, 2) or (score.ndim == 2 and score.shape[0] != e):
        raise ShapeError(f"score must have shape (F,) or ({e}, F), got {score.shape}")
    inputs.finite("score", score)
    return np.asarray(score, np.float64)
