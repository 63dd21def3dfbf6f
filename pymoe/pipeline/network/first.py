r"""Where the features' vectors and the router start: at what the rows themselves say, before any gradient.

::

    U, u     h = x U + u: the D largest singular vectors of x (the article's "reduce"), less the mean, and times the one
             number that makes their variances 1 in the mean; where x has fewer, the other columns of U are N(0, 1)
    R        the centres of a balanced k-means of the directions of h, E of them: R_e = 2 c_e / (T √D ‖c_e‖), so that
             softmax(n Rᵀ), n = rms(h), is softmax(-‖h/‖h‖ - c_e/‖c_e‖‖² / T) up to a constant: c-BTM's rule

The variances stay as different as they are: made equal, they gave noise as much say in the clusters as topics, and the
experts gained half as much (sentiment, held-out loss 0.708 without experts, 0.696 with, 0.704 with equal variances).
A router that starts at random sends like rows to different experts, and nothing that the experts then learn tells it to
stop.  Source: Gururangan et al., *c-BTM*, arXiv:2303.14177, section 2.  Cost: about 8 nnz D flops for U, by a random
range finder with two power iterations (Halko, Martinsson, Tropp, SIAM Review 53, 2011), and 10 N E D for R.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.pipeline import _sklearn as learn
from pymoe.pipeline import subsets

TEMPERATURE = 0.1
ROUNDS = 10  # of k-means


def vectors(x: Any, weight: np.ndarray, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(U (V, D), u (D,)) of x (N, V), weight (N,).

    >>> x = np.random.default_rng(0).standard_normal((50, 3)) * [9, 3, 1] + 5
    >>> u, bias = vectors(x, np.ones(50), 2, np.random.default_rng(0))
    >>> h = x @ u + bias
    >>> bool(np.allclose(h.mean(axis=0), 0, atol=1e-9)), round(float(h.var(axis=0).mean()), 9)
    (True, 1.0)
    """
    u = rng.standard_normal((int(x.shape[1]), d))
    n = min(d, *(int(size) for size in x.shape))
    share = weight / weight.sum()
    _, size, v = learn.randomized_svd(x, n, n_iter=2, random_state=int(rng.integers(2**31 - 1)))
    found = v[size > 1e-6 * max(float(size.max()), 1e-30)].T
    h = np.asarray(x @ found.astype(x.dtype), np.float64)
    variance = float((share @ np.square(h - share @ h)).mean()) if found.size else 0.0
    if variance > 0:
        u[:, : found.shape[1]] = found / variance**0.5
    h = np.asarray(x @ u.astype(x.dtype), np.float64)
    return u, -(share @ h)


def router(h: np.ndarray, experts: int, rng: np.random.Generator) -> np.ndarray | None:
    """R (E, D) of h (N, D); None of fewer rows than experts.

    >>> h = np.array([[9.0, 0.1], [8.0, 0.0], [0.0, 7.0], [0.1, 5.0]])
    >>> r = router(h, 2, np.random.default_rng(0))
    >>> owner = (h @ r.T).argmax(axis=1)
    >>> bool(owner[0] == owner[1] != owner[2] == owner[3])
    True
    """
    if len(h) < experts:
        return None
    centre = subsets.by_cluster(h, experts, rng, max_rounds=ROUNDS, exact=False).centres
    return np.asarray(2 / (TEMPERATURE * h.shape[1] ** 0.5) * subsets.units(centre))
