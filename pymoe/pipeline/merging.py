r"""Training rows in an order of their own: equal rows merged, their weights added, sorted by a keyed hash of the row.

So a row of weight 2 is the same as two rows of weight 1, a row of weight 0 as none, and the order in which the rows
come changes no bit of the result, whatever is drawn: random subsets, held-out rows and first centres are drawn of rows
in the hash's order, and ``random_state`` is the key.  Rows that are equal but for their class stay apart, always in the
same subset.  Cost: a BLAKE2b of each row's nonzeros, about 2 µs.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import scipy.sparse


@dataclasses.dataclass(frozen=True)
class Merged:
    """rows of the caller's X (R,) that stand for all, their weight (R,), their id (R,) among the distinct rows, and the
    place (N,) of each of the caller's rows among these R; -1: it has no weight."""

    rows: np.ndarray
    weight: np.ndarray
    distinct: np.ndarray
    place: np.ndarray


def merge(x: Any, labels: np.ndarray, weight: np.ndarray, seed: int) -> Merged:
    """x (N, D) dense or CSR, labels (N, L) integers, weight (N,) >= 0.

    >>> x = np.array([[1.0, 2.0], [0.0, 5.0], [1.0, 2.0], [7.0, 7.0]])
    >>> found = merge(x, np.array([[0], [1], [0], [1]]), np.array([1.0, 2.0, 3.0, 0.0]), 0)
    >>> sorted(zip(found.rows.tolist(), found.weight.tolist())), len(found.rows)
    ([(0, 4.0), (1, 2.0)], 2)
    """
    (alive,) = np.nonzero(weight > 0)
    digests = _digests(x[alive], seed)
    keys = [*(labels[alive, i] for i in range(labels.shape[1] - 1, -1, -1)), digests[:, 1], digests[:, 0]]
    order = np.lexsort(keys)  # stable: of equal rows the caller's first stands for all
    sorted_keys = np.stack([np.asarray(k)[order].astype(np.uint64) for k in keys])
    new = np.ones(len(order), bool)
    new[1:] = (sorted_keys[:, 1:] != sorted_keys[:, :-1]).any(axis=0)
    new_row = np.ones(len(order), bool)
    new_row[1:] = (sorted_keys[-2:, 1:] != sorted_keys[-2:, :-1]).any(axis=0)
    first = np.flatnonzero(new)
    place = np.full(len(weight), -1)
    place[alive[order]] = np.cumsum(new) - 1
    total = np.add.reduceat(weight[alive[order]], first) if len(first) else np.zeros(0)
    return Merged(alive[order[first]], total, (np.cumsum(new_row) - 1)[first], place)


def held_out(y: np.ndarray, distinct: np.ndarray, share: float) -> np.ndarray:
    """(R,) bool: about ``share`` of the distinct rows of each class, evenly spaced in the hash's order.

    Of m rows of a class ⌊share m⌋ are held out; where that is none of any class, the last row of the largest class that
    has two.  One row of a class is always trained on.

    >>> held_out(np.array([0, 0, 0, 0, 1]), np.arange(5), 0.5).tolist()
    [False, True, False, True, False]
    """
    found = np.zeros(len(y), bool)
    for c in np.unique(y):
        (at,) = np.nonzero(y == c)
        m = len(at)
        quota = np.floor(share * np.arange(m + 1) + 1e-9)
        found[at] = np.diff(quota) > 0
    sizes = np.bincount(y)
    if not found.any() and sizes.max() > 1:
        found[np.flatnonzero(y == sizes.argmax())[-1]] = True
    # equal rows of several classes go together, with their first
    first = np.unique(distinct, return_index=True)[1]
    return np.asarray(found[first][distinct])


def folds(y: np.ndarray, distinct: np.ndarray, parts: int) -> np.ndarray:
    """(R,) the fold of each row, 0 to parts - 1: the rows of each class are dealt out in turn, equal rows together.

    >>> folds(np.array([0, 0, 1, 0, 1]), np.arange(5), 2).tolist()
    [0, 1, 1, 0, 0]
    """
    order = np.argsort(y, kind="stable")
    dealt = np.empty(len(y), np.int64)
    dealt[order] = np.arange(len(y)) % parts
    first = np.unique(distinct, return_index=True)[1]
    return np.asarray(dealt[first][distinct])


def _digests(x: Any, seed: int) -> np.ndarray:
    """(N, 2) uint64 of the columns and values of each row's nonzeros; equal for dense and sparse, float32 and 64."""
    x = scipy.sparse.csr_array(x).astype(np.float64)
    x.sum_duplicates()
    x.eliminate_zeros()
    columns, values = np.ascontiguousarray(x.indices, np.int64), np.ascontiguousarray(x.data)
    key = int(seed).to_bytes(16, "little", signed=False)
    found = b"".join(
        hashlib.blake2b(columns[a:b].tobytes() + values[a:b].tobytes(), digest_size=16, key=key).digest()
        for a, b in zip(x.indptr[:-1].tolist(), x.indptr[1:].tolist(), strict=True)
    )
    return np.frombuffer(found, np.uint64).reshape(-1, 2)
