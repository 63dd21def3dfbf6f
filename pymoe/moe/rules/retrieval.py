r"""Product keys: the best of n² experts from the scores of two halves, n each.

Forward, s (R, 2, n) the scores of both halves, K <= n::

    (a_i, i), (b_j, j) = top-K of each half          s_{(i, j)} = a_i + b_j,  id = i n + j
    idx = top-K of the K² sums                       descending, ties to the lowest id
    g   = softmax over the K sums, or σ of each

No id that is not among the K² can be among the best K of n²: K others would have a better half (up to the rounding of
the sum).  Backward::

    dv = g ⊙ (dg - ⟨g, dg⟩), or g (1 - g) ⊙ dg
    ds[0, i] = Σ of dv over the chosen with first half i      ds[1, j] the same with the second half

idx is constant.  Source: Lample et al., arXiv:1907.05242.  Cost: R (n log n + K² log K), never n².
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pymoe import kernels
from pymoe.backend import device, namespace, real
from pymoe.backend.namespace import Array
from pymoe.ops import sigmoid, softmax


class Cache(NamedTuple):
    idx: Array  # (R, K)
    n: int
    competing: bool
    g: Any  # cache of the softmax or the sigmoid


def forward(s: Array, k: int, *, competing: bool = True) -> tuple[tuple[Array, Array], Cache]:
    """((idx, g), cache): idx (R, K), g (R, K) of s (R, 2, n); competing: softmax, else σ.

    >>> import numpy as np
    >>> (idx, g), _ = forward(np.array([[[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]]]), 2)  # sums 3 + 2 and 3 + 1
    >>> idx, g.round(3)
    (array([[3, 5]]), array([[0.731, 0.269]]))
    """
    xp = namespace(s)
    n = int(s.shape[2])
    kernel = kernels.of(s)
    first, second = (kernel.topk(s[:, half, :], k) for half in (0, 1))
    ids = xp.reshape(first[:, :, None] * n + second[:, None, :], (-1, k * k))
    order = xp.argsort(ids, axis=1, stable=True)  # by id, so that of equal sums the lowest id comes first
    ids = xp.take_along_axis(ids, order, axis=1)
    sums = real(_sums(s, ids, n))
    idx = xp.take_along_axis(ids, kernel.topk(sums, k), axis=1)
    v = _sums(s, idx, n)
    g, cache = (softmax if competing else sigmoid).forward(v)
    return (idx, g), Cache(idx, n, competing, cache)


def backward(dg: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """ds (R, 2, n) from dg (R, K); no parameters."""
    idx, n, competing, g_cache = cache
    xp = namespace(dg, idx)
    dv, _ = (softmax if competing else sigmoid).backward(dg, g_cache)
    column = xp.arange(n, dtype=idx.dtype, device=device(idx))[None, :]
    halves = []
    for half in (idx // n, idx % n):
        total = xp.zeros((int(idx.shape[0]), n), dtype=dv.dtype, device=device(dv))
        for j in range(int(idx.shape[1])):  # two choices may share a half: a sum, in ascending order
            total = total + xp.where(column == half[:, j][:, None], dv[:, j][:, None], xp.zeros_like(total))
        halves.append(total)
    return xp.stack(halves, axis=1), {}


def _sums(s: Array, ids: Array, n: int) -> Array:
    """s[r, 0, id // n] + s[r, 1, id % n] of ids (R, ...)."""
    xp = namespace(s)
    return xp.take_along_axis(s[:, 0, :], ids // n, axis=1) + xp.take_along_axis(s[:, 1, :], ids % n, axis=1)
