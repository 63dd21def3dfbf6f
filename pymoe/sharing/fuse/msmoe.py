"""M-SMoE's groups: around the experts that are used most, by how alike the router treats them.

    dominant = the ``n_groups`` ids of largest count            (ties: the lowest id)
    every other expert joins the dominant one with the largest cosine of their columns of router logits (T, E)

Then each group is aligned to its dominant expert and averaged by frequency (``merge.merge_groups``).  Groups are
numbered in the order of their dominant experts' ids.  Source: Li et al., arXiv:2310.01334, section 3.2, eq. 3.  Cost:
O(T E G).
"""

from __future__ import annotations

import numpy as np

from pymoe.backend.errors import ConfigError, check_shape
from pymoe.sharing import inputs


def groups(router_logits: np.ndarray, count: np.ndarray, n_groups: int) -> np.ndarray:
    """group_of (E,); of equal cosines the dominant expert of the lowest id takes the expert.

    >>> z = np.array([[1.0, 0.0, 0.9], [0.0, 1.0, 0.1]])
    >>> groups(z, np.array([5, 4, 1]), 2)
    array([0, 1, 0])
    """
    inputs.finite("router_logits", router_logits)
    experts = router_logits.shape[-1]
    check_shape("router_logits", router_logits, (None, experts))
    check_shape("count", count, (experts,))
    if not 1 <= n_groups <= experts:
        raise ConfigError(f"between 1 and {experts} groups can be made of {experts} experts, got {n_groups!r}")
    dominant = np.sort(np.argsort(-np.asarray(count), kind="stable")[:n_groups])
    z = router_logits.astype(np.float64)
    length = np.sqrt((z * z).sum(0))
    u = z / np.where(length > 0, length, 1.0)
    group_of = np.argmax(u.T @ u[:, dominant], axis=1)
    group_of[dominant] = np.arange(n_groups)
    return group_of
