"""The experts of a token are handed in: a choice made elsewhere, by a data set, a task, or another router.

    idx[t] = given.idx[t]

The weights are still scores of the chosen, so the logits have a gradient.  A row may name an expert twice.  Source:
transformers, ``models/vitpose_backbone`` (one expert for each data set).
"""

from __future__ import annotations

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig


def select(
    c: Array, cfg: RouterConfig, real_token: Array | None = None, *, idx: Array | None = None
) -> tuple[Array, None]:
    """idx (T, k), checked; of c (T, E) only T is looked at.

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=3, k=1, select="given")
    >>> select(np.ones((2, 3)), cfg, idx=np.array([[2], [0]]))
    (array([[2],
           [0]]), None)
    """
    if idx is None:
        raise ConfigError("select='given' is handed the choice: give Given(idx=...), shape (T, k)")
    check_shape("given.idx", idx, (c.shape[0], cfg.k))
    kernels.checks.index("given.idx", idx, cfg.n_ids)
    xp = namespace(idx)
    return xp.astype(idx, xp.int64, copy=False), None
