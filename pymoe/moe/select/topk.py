"""Token choice: each token takes its k best experts::

    idx[t] = the k largest of c[t], descending, ties to the lowest id

Source: arXiv:1701.06538, eq. 5.
"""

from __future__ import annotations

from pymoe import kernels
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig


def select(c: Array, cfg: RouterConfig, real_token: Array | None = None) -> tuple[Array, None]:
    """c (T, E) -> idx (T, k).

    >>> import numpy as np
    >>> select(np.array([[0.1, 0.7, 0.2]]), RouterConfig(n_experts=3, k=2))
    (array([[1, 2]]), None)
    """
    return kernels.of(c).topk(c, cfg.k), None
