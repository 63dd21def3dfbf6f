r"""Which rows each sub-model is trained on, as explicit index arrays: random, by label, by group, by cluster.

============== ========================================================================================== =============
rule           subsets of N rows                                                                          sizes
============== ========================================================================================== =============
random         dealt out from a permutation                                                               differ by <= 1
by_label       whole classes: the largest first, to the subset with the fewest rows so far                as they fall
by_group       one for each value of a given column: domain, source, language                             as they are
by_cluster     balanced k-means on rows of length 1                                                       differ by <= 1
============== ========================================================================================== =============

Every row is in one subset; with ``overlap`` each subset gets ⌊overlap · (rows it lacks)⌋ of the others' too, drawn
without replacement.  by_label without overlap makes experts that know their own classes only: all they can say to a row
of another class is how unlike it is, so give an overlap, or a trunk.

by_cluster, v_n the rows divided by their length (a row of zeros stays), E centres c::

    a = argmin Σ_n ‖v_n - c_{a(n)}‖²       over assignments with ⌊N/E⌋ or ⌈N/E⌉ rows for each centre
    c_e = mean of the v_n with a(n) = e

from a k-means++ start, until the cost does not fall.  Up to ``EXACT`` rows the assignment is the best there is (linear
assignment, O(N³)); above, rows are taken by what they would lose if they missed their nearest centre, most first, each
to its nearest centre with room (O(N E + N log N)), and the round counts only if the cost falls.  At prediction a row is
compared with the centres (``distances``, ``sharing.integrate.cluster_weights``).

Sources: Gururangan et al., *c-BTM*, arXiv:2303.14177, section 2.1 (balanced k-means on TF-IDF rows); the best balanced
assignment, Malinen and Fränti, 2014; k-means++, Arthur and Vassilvitskii, SODA 2007; domains as experts, Gururangan et
al., *DEMix*, arXiv:2108.05036.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
from scipy.optimize import linear_sum_assignment

from pymoe.backend.errors import ConfigError, DataError, check_integer, check_shape, check_share
from pymoe.sharing.split.partition.kmeans import unit_rows
from pymoe.sparsity.masks.amount import count

EXACT = 600  # rows; the assignment of 600 takes about 0.1 s

Rows = list[np.ndarray]


def random(n: int, parts: int, rng: np.random.Generator, *, overlap: float = 0.0) -> Rows:
    """``parts`` ascending index arrays over n rows, sizes differ by at most 1.

    >>> [rows.tolist() for rows in random(7, 3, np.random.default_rng(0))]
    [[1, 2, 6], [4, 5], [0, 3]]
    """
    _enough(n, parts)
    order = rng.permutation(n)
    return _more([np.sort(order[i::parts]) for i in range(parts)], n, overlap, rng)


def by_label(y: Any, parts: int, rng: np.random.Generator, *, overlap: float = 0.0) -> Rows:
    """Whole classes for each subset; y (N,) of any labels, ``parts`` at most as many as there are classes.

    >>> [rows.tolist() for rows in by_label(["b", "a", "a", "c", "a", "b"], 2, np.random.default_rng(0))]
    [[1, 2, 4], [0, 3, 5]]
    """
    classes, label = np.unique(np.asarray(y), return_inverse=True)
    if check_integer("the number of subsets", parts) > len(classes):
        raise ConfigError(f"{parts} subsets by label need as many classes, got {len(classes)}: make fewer subsets")
    sizes = np.bincount(label, minlength=len(classes))
    held = np.zeros(parts, np.int64)
    owner = np.zeros(len(classes), np.int64)
    for c in np.argsort(-sizes, kind="stable"):
        owner[c] = int(np.argmin(held))  # the first of equals
        held[owner[c]] += sizes[c]
    return _more([np.flatnonzero(owner[label] == i) for i in range(parts)], len(label), overlap, rng)


def by_group(groups: Any) -> tuple[Rows, list[Any]]:
    """(index arrays, the groups' names in ascending order) of a column (N,).

    >>> rows, names = by_group(["film", "tweet", "film"])
    >>> [r.tolist() for r in rows], names
    ([[0, 2], [1]], ['film', 'tweet'])
    """
    values = np.asarray(groups)
    if values.ndim != 1 or not len(values):
        raise DataError(f"groups must be one value a row, got shape {values.shape}")
    names, label = np.unique(values, return_inverse=True)
    return [np.flatnonzero(label == i) for i in range(len(names))], names.tolist()


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Subsets by cluster: rows, centres (E, D), and the cost Σ ‖v - c‖² after each round, which never rises."""

    rows: Rows
    centres: np.ndarray
    costs: tuple[float, ...]


def by_cluster(
    x: Any, parts: int, rng: np.random.Generator, *, max_rounds: int = 30, exact: bool | None = None
) -> Clusters:
    """Balanced k-means of x (N, D), dense or scipy.sparse; exact: None: up to ``EXACT`` rows.

    >>> x = np.array([[1.0, 0.1], [0.1, 2.0], [0.0, 3.0], [5.0, 0.0]])
    >>> found = by_cluster(x, 2, np.random.default_rng(0))
    >>> sorted(rows.tolist() for rows in found.rows)
    [[0, 3], [1, 2]]
    """
    n = int(x.shape[0])
    _enough(n, parts)
    check_integer("max_rounds", max_rounds)
    exact = n <= EXACT if exact is None else exact
    v = units(x)
    centre = _plus_plus(v, parts, rng)
    owner = balanced(squares(v, centre), exact)
    kept, costs = owner, list[float]()
    for _ in range(max_rounds):
        new = _means(v, owner, parts)
        now = _cost(v, new, owner)
        if costs and now >= costs[-1]:  # only by rounding
            owner = kept
            break
        centre, kept = new, owner
        costs.append(now)
        cost = squares(v, centre)
        owner = balanced(cost, exact)
        if cost[np.arange(n), owner].sum() >= cost[np.arange(n), kept].sum():
            owner = kept
            break
    else:
        owner = kept
    return Clusters([np.flatnonzero(owner == i) for i in range(parts)], centre, tuple(costs))


def distances(x: Any, centres: np.ndarray) -> np.ndarray:
    """(E, N) squared distances of the rows of x, divided by their length, to the centres (E, D).

    >>> distances(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [[0.0], [2.0]]
    """
    check_shape("centres", centres, (None, int(x.shape[1])))
    return np.ascontiguousarray(squares(units(x), centres).T)


def units(x: Any) -> Any:
    """The rows of x divided by their length, in double precision: an array, or CSR."""
    if not scipy.sparse.issparse(x):
        return unit_rows(np.asarray(x, np.float64))
    x = scipy.sparse.csr_array(x).astype(np.float64)
    largest = np.asarray(abs(x).max(axis=1).todense()).reshape(-1)
    scaled = scipy.sparse.diags_array(1 / np.where(largest == 0, 1.0, largest)) @ x  # no square overflows or vanishes
    length = np.sqrt(np.asarray(scaled.power(2).sum(axis=1)).reshape(-1))
    return scipy.sparse.csr_array(scipy.sparse.diags_array(1 / np.where(length == 0, 1.0, length)) @ scaled)


def squares(v: Any, centre: np.ndarray) -> np.ndarray:
    """(N, E) ‖v_n - c_e‖², never below 0."""
    own = v.power(2).sum(axis=1) if scipy.sparse.issparse(v) else (v * v).sum(axis=1)
    found = np.asarray(own).reshape(-1, 1) + (centre * centre).sum(axis=1) - 2 * np.asarray(v @ centre.T)
    return np.asarray(np.maximum(found, 0.0))


def balanced(cost: np.ndarray, exact: bool) -> np.ndarray:
    """(N,) the owner of each row, ⌊N/E⌋ or ⌈N/E⌉ rows for each: of the least Σ cost, or greedily.

    >>> balanced(np.array([[0.0, 9.0], [1.0, 2.0], [0.0, 5.0]]), exact=True)
    array([0, 1, 0])
    """
    n, parts = cost.shape
    most = -(-n // parts)
    if exact:  # a place for each row and some for rows that are not there, at most one in each subset
        spare = parts * most - n
        wide = np.repeat(cost, most, axis=1)
        absent = np.full((spare, parts * most), cost.max(initial=0.0) * (n + 1) + 1.0)
        absent[:, most - 1 :: most] = 0.0
        places: np.ndarray = linear_sum_assignment(np.concatenate([wide, absent]))[1]
        return np.asarray(places[:n] // most)
    near = np.sort(cost, axis=1)
    loss = near[:, 1] - near[:, 0] if parts > 1 else near[:, 0]
    prefer = np.argsort(cost, axis=1, kind="stable")
    room = [n // parts] * parts
    extra = n % parts
    owner = np.empty(n, np.int64)
    for row in np.argsort(-loss, kind="stable"):
        for e in prefer[row]:
            if room[e] > 0 or (room[e] == 0 and extra > 0):
                extra -= room[e] == 0
                room[e] -= 1
                owner[row] = e
                break
    return owner


def _means(v: Any, owner: np.ndarray, parts: int) -> np.ndarray:
    """(E, D) the mean of each subset."""
    n = len(owner)
    pick = scipy.sparse.csr_array((np.ones(n), (owner, np.arange(n))), shape=(parts, n))
    total = pick @ v
    total = total.toarray() if scipy.sparse.issparse(total) else total
    found: np.ndarray = total / np.bincount(owner, minlength=parts)[:, None]
    return found


def _cost(v: Any, centre: np.ndarray, owner: np.ndarray) -> float:
    return float(squares(v, centre)[np.arange(len(owner)), owner].sum())


def _plus_plus(v: Any, parts: int, rng: np.random.Generator) -> np.ndarray:
    """(E, D) first centres: each the next row drawn by its squared distance from the nearest so far."""

    def row(i: int) -> np.ndarray:
        found: np.ndarray = v[[i]].toarray() if scipy.sparse.issparse(v) else v[[i]]
        return found

    n = int(v.shape[0])
    chosen = [row(int(rng.integers(n)))]
    nearest = squares(v, chosen[0])[:, 0]
    for _ in range(1, parts):
        total = nearest.sum()
        odds = nearest / total if total > 0 else np.full(n, 1 / n)  # all rows alike: any will do
        chosen.append(row(int(rng.choice(n, p=odds))))
        nearest = np.minimum(nearest, squares(v, chosen[-1])[:, 0])
    return np.concatenate(chosen)


def _more(rows: Rows, n: int, overlap: float, rng: np.random.Generator) -> Rows:
    """Each subset with its share of the rows that it lacks."""
    if not check_share("overlap", overlap):
        return rows
    wider = []
    for own in rows:
        others = np.setdiff1d(np.arange(n), own)
        drawn = rng.choice(others, count(overlap, len(others)), replace=False)
        wider.append(np.sort(np.concatenate([own, drawn])))
    return wider


def _enough(n: int, parts: int) -> None:
    if check_integer("the number of subsets", parts) > n:
        raise DataError(f"{parts} subsets need a row each, got n_samples = {n}: make fewer subsets, or give more data")
