"""HC-SMoE's groups: hierarchical clustering of the experts' mean outputs on calibration tokens, average linkage.

    d(A, B) = mean of ‖o_a - o_b‖₂ over a in A, b in B         o_e the mean output of expert e over all tokens
    join the two closest clusters until ``n_groups`` are left

Exactly ``n_groups`` come out, whatever ties there are: the merges of SciPy's linkage are applied in their order (a cut
by ``fcluster`` may give fewer).  Groups are numbered by their lowest expert.  Source: Chen et al., arXiv:2410.08589,
section 3.2.  Traps of published code: 'ward' on distances that are not squared; k-means with an empty cluster.  Cost:
O(E² D).
"""

from __future__ import annotations

import numpy as np

from pymoe.backend.errors import ConfigError, check_shape
from pymoe.sharing import inputs

METHODS = ("average", "single", "complete")


def groups(mean_outputs: np.ndarray, n_groups: int, method: str = "average") -> np.ndarray:
    """group_of (E,) from mean outputs (E, D).

    >>> groups(np.array([[0.0], [5.0], [0.1], [5.3]]), 2)
    array([0, 1, 0, 1])
    """
    from scipy.cluster.hierarchy import linkage

    inputs.finite("mean_outputs", mean_outputs)
    check_shape("mean_outputs", mean_outputs, (None, None))
    experts = mean_outputs.shape[0]
    if not 1 <= n_groups <= experts:
        raise ConfigError(f"between 1 and {experts} groups can be made of {experts} experts, got {n_groups!r}")
    if method not in METHODS:
        raise ConfigError(f"method must be one of {METHODS}, got {method!r}")
    clusters: dict[int, list[int]] = {e: [e] for e in range(experts)}
    if experts > 1:
        merges = linkage(mean_outputs.astype(np.float64), method=method, metric="euclidean")
        for step in range(experts - n_groups):
            a, b = int(merges[step, 0]), int(merges[step, 1])
            clusters[experts + step] = clusters.pop(a) + clusters.pop(b)
    group_of = np.empty(experts, dtype=np.int64)
    for g, members in enumerate(sorted(clusters.values(), key=min)):
        group_of[members] = g
    return group_of
