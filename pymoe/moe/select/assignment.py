r"""Balanced assignment: each token one expert, each expert at most ⌈T / E⌉ tokens, the sum of c as large as can be.

    idx = argmax Σ_t c[t, idx_t] over T real tokens        subject to #{t : idx_t = e} <= ⌈T / E⌉

Solved exactly by ``scipy.optimize.linear_sum_assignment`` on ⌈T / E⌉ copies of every expert, on the host.  Of several
best assignments it is scipy's, the same on every call (not the one with the lowest ids: that is another problem).
For training only: who a token gets depends on the whole batch.  Evaluation is ``topk``, the greedy choice.
Needs k = 1 and finite c.  Source: BASE layers, arXiv:2103.16716.  Cost: O(T³) at worst.
"""

from __future__ import annotations

import numpy as np

from pymoe.backend import device, namespace, to_numpy
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig


def select(c: Array, cfg: RouterConfig, real_token: Array | None = None) -> tuple[Array, None]:
    """c (T, E) -> idx (T, 1); a padding token gets 0.

    >>> cfg = RouterConfig(n_experts=2, k=1, select="assignment")
    >>> select(np.array([[0.9, 0.1], [0.8, 0.3]]), cfg)[0].tolist()  # both want 0: 0.9 + 0.3 beats 0.8 + 0.1
    [[0], [1]]
    """
    if cfg.k != 1:
        raise ConfigError(f"a balanced assignment gives each token one expert: it needs k=1, got k={cfg.k}")
    xp = namespace(c)
    return xp.asarray(
        balanced(to_numpy(c), None if real_token is None else to_numpy(real_token)), device=device(c)
    ), None


def balanced(c: np.ndarray, real_token: np.ndarray | None = None) -> np.ndarray:
    """idx (T, 1) int64 of c (T, E) on the host.

    >>> balanced(np.array([[0.0, 2.0], [0.0, 3.0], [5.0, 9.0], [1.0, 0.0]])).ravel()
    array([0, 1, 1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    idx = np.zeros((c.shape[0], 1), np.int64)
    alive = np.arange(c.shape[0]) if real_token is None else np.flatnonzero(real_token)
    wanted = c[alive]
    if not np.isfinite(wanted).all():
        raise NonFiniteError("a balanced assignment needs finite preferences: an expert that is masked has no price")
    places = -(-alive.size // c.shape[1])
    rows, columns = linear_sum_assignment(np.repeat(wanted, places, axis=1), maximize=True)
    idx[alive[rows], 0] = columns // places
    return idx
