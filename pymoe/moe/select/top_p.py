r"""Top-p: a token takes the fewest experts that together hold the share p* of its scores; hard tokens take more.

    ranked descending, ties to the lowest id:   kept[j] = Σ_{i < j} c_i < p* Σ_e c_e,     j < k

The expert at which the sum reaches p* is taken too, so the first always is.  k caps the number; k = E does not.  A
token of which no score is left (all 0) takes none.

Source: Huang et al., *Harder Tasks Need More Experts*, arXiv:2403.07652, beside which it has an entropy loss: without
one a router that spreads its scores gets more experts for every token, and nothing holds it back.
"""

from __future__ import annotations

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig


def select(c: Array, cfg: RouterConfig, real_token: Array | None = None) -> tuple[Array, Array]:
    """c (T, E), none negative -> idx (T, k), kept (T, k).

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=3, k=3, select="top_p", top_p=0.75)
    >>> select(np.array([[0.5, 0.125, 0.375], [0.125, 0.75, 0.125]]), cfg)
    (array([[0, 2, 1],
           [1, 0, 2]]), array([[ True,  True, False],
           [ True, False, False]]))
    """
    xp = namespace(c)
    idx = kernels.of(c).topk(c, cfg.k)
    ranked = xp.take_along_axis(c, idx, axis=1)
    before = xp.cumulative_sum(ranked, axis=1) - ranked
    return idx, before < cfg.top_p * xp.sum(c, axis=1, keepdims=True)
