r"""HC-SMoE: groups of experts whose mean outputs are near each other, by hierarchical clustering.

With o_e = 1/T Σ_t f_e(x_t) (E, D), the mean output of expert e over ALL calibration tokens, whoever was routed there
(``sparsity.statistics.mean_outputs``)::

    d(A, B) = 1/(|A| |B|) Σ_{a in A, b in B} ‖o_a - o_b‖₂          average linkage

Start with E groups of one; join the two nearest, E - n_groups times.  There are always exactly n_groups groups: the
tree is cut by the number of joins (``fcluster(..., "maxclust")`` cuts by distance, and where distances are equal it
gives fewer).  Which of several equally near pairs is joined first is SciPy's choice, the same at each call.

Source: Chen et al., arXiv:2410.08589, section 3.2 (average linkage and Euclidean distance are their choice; k-means, of
which a cluster may come out empty, is one of those they compare).  "ward" here is SciPy's, of the outputs themselves; a
matrix of plain distances must not be given to a formula that is for squared ones.  Cost: O(E² D).
"""

from __future__ import annotations

import numpy as np

from pymoe.backend.errors import ConfigError, check_shape
from pymoe.backend.namespace import Array
from pymoe.sharing.fuse import experts as single

METHODS = ("average", "single", "complete", "ward")


def groups(mean_outputs: Array, n_groups: int, method: str = "average") -> np.ndarray:
    """group_of (E,) of mean_outputs (E, D); groups are numbered by the lowest id in them.

    >>> groups(np.array([[0.0, 0.0], [5.0, 5.0], [0.1, 0.0], [9.0, 0.0]]), 3)
    array([0, 1, 0, 2])
    >>> groups(np.zeros((4, 2)), 3)  # all equal, and still three groups
    array([0, 0, 1, 2])
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {METHODS}, got {method!r}")
    check_shape("mean_outputs", mean_outputs, (None, None))
    o = single.read("mean_outputs", mean_outputs)
    e = len(o)
    keep = single.n_groups(n_groups, e)
    if keep == e:
        return np.arange(e)
    from scipy.cluster.hierarchy import linkage

    members = {i: [i] for i in range(e)}
    for step, (a, b) in enumerate(linkage(o, method=method, metric="euclidean")[: e - keep, :2]):
        members[e + step] = members.pop(int(a)) + members.pop(int(b))
    label = np.empty(e, dtype=np.int64)
    for name, ids in members.items():
        label[ids] = name
    return single.numbered(label)
