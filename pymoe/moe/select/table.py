"""The experts of a token stand in a table by its id: nothing is compared and nothing is learned in the choice.

    idx[t] = table[token_id[t]]

Only the choice is fixed: the weights are still scores of the chosen, so the logits have a gradient.  The table is a
buffer of integers without a gradient; a row may name an expert twice, and then its two choices add up.  Every chosen
score can underflow, and the norm is then 0/0: ``weigh`` gives 0.

Source: Roller et al., *Hash Layers for Large Sparse Models*, arXiv:2106.04426; with learned weights in transformers,
``models/deepseek_v4``, whose table is zeros until a checkpoint is loaded.
"""

from __future__ import annotations

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig


def select(
    c: Array,
    cfg: RouterConfig,
    real_token: Array | None = None,
    *,
    table: Array | None = None,
    token_ids: Array | None = None,
) -> tuple[Array, None]:
    """table (V, k), token_ids (T,) -> idx (T, k); of c (T, E) only T is looked at.

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=3, k=1, select="table", table_size=2)
    >>> select(np.ones((3, 3)), cfg, table=np.array([[2], [0]]), token_ids=np.array([1, 1, 0]))
    (array([[0],
           [0],
           [2]]), None)
    """
    if table is None or token_ids is None:
        raise ConfigError("select='table' looks up the token ids: give Given(token_ids=...), shape (T,)")
    xp = namespace(table, token_ids)
    token_ids = xp.reshape(token_ids, (-1,))
    check_shape("token_ids", token_ids, (c.shape[0],))
    kernels.checks.index("token_ids", token_ids, cfg.table_size)
    kernels.checks.index("router.table", table, cfg.n_ids)
    return xp.astype(xp.take(table, token_ids, axis=0), xp.int64), None
