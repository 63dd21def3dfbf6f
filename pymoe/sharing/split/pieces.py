r"""Granular upcycling: the dense feed-forward cut into G pieces, each piece copied C times: E = G C fine experts.

Expert c G + g is piece g of copy c.  When is the layer the dense one at the start?  With g_t(c, g) the combine weights
of a token, and every piece scaled by α,

    y_t = α Σ_g (Σ_c g_t(c, g)) piece_g(x_t)        = FFN(x_t)  iff  α Σ_c g_t(c, g) = 1 for every piece g:

each piece must be said, and all pieces equally loudly.  *Virtual groups* do it: the G experts of copy c share one
router row, so they get one logit, and top-k takes a copy whole when k = G j (j copies).  Renormalised softmax weights
are then s_c / (G Σ s) within copy c, the sum over the chosen copies is 1 / G for every piece, and **α = G**.  Any other
k leaves pieces out or says some twice; without the renormalisation Σ_c g_t(c, g) depends on the token, and no α is
right: the first is refused, the second is not offered.

α goes into down_proj, in which the layer is linear: α = G a power of two leaves every other bit as it was.  (Megatron's
converter puts ∛α into gate, up and down each; SiLU is not homogeneous, so that its layer is not the dense one.)  The
bias of down_proj is copied unscaled: Σ g = 1 says it once.

Two copies whose logits agree to rounding can be taken half and half: the G members of a copy have equal rows, but BLAS
may round the same dot product differently in another column.  That has the odds of a tie in a random router.

Source: He et al., *Upcycling Large Language Models into Mixture of Experts*, arXiv:2410.07524, sections 3.2-3.4
("virtual group" initialisation and weight scaling).  Cost: C copies of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.sharing import gates, inputs
from pymoe.sharing.split import partition
from pymoe.sharing.split.copies import Layer, config, placed


def granular(
    dense_p: Mapping[str, Array],
    ff_cfg: FeedForwardConfig,
    *,
    pieces: int,
    copies: int,
    k: int,
    rng: np.random.Generator,
    std: float = 0.02,
    groups: np.ndarray | None = None,
) -> Layer:
    """(p, MoEConfig) of ``pieces * copies`` experts of F / pieces units; equal to the dense layer at the start.

    k must be a multiple of ``pieces`` up to all experts, ``pieces`` must divide F (ConfigError).  groups
    (pieces, F/pieces): which units a piece has; None: runs of neighbours.

    >>> from pymoe import moe
    >>> from pymoe.nn import feed_forward
    >>> rng, ff = np.random.default_rng(0), FeedForwardConfig(d_model=3, d_ff=8)
    >>> dense = feed_forward.init(rng, ff, np.float64)
    >>> p, cfg = granular(dense, ff, pieces=4, copies=3, k=8, rng=rng)
    >>> x = rng.standard_normal((5, 3))
    >>> y, _ = feed_forward.forward(x, dense, ff)
    >>> cfg.n_experts, cfg.d_ff, bool(np.max(np.abs(moe.forward(x, p, cfg)[0].y - y)) <= 1e-15 * np.max(np.abs(y)))
    (12, 2, True)
    """
    inputs.dense(dense_p, ff_cfg)
    size = inputs.divided("hidden units", ff_cfg.d_ff, check_integer("pieces", pieces))
    e = pieces * check_integer("copies", copies)
    if check_integer("k", k) % pieces or k > e:
        raise ConfigError(
            f"k must be a multiple of pieces={pieces} and at most {e}, got {k}: only whole copies of the dense layer "
            "add up to it"
        )
    if groups is None:
        groups = np.arange(ff_cfg.d_ff).reshape(pieces, size)
    check_shape("groups", groups, (pieces, size))
    parts = partition.split({n: a for n, a in dense_p.items() if n != "down_proj_bias"}, groups, ff_cfg.gated)
    parts["down_proj"] = parts["down_proj"] * float(pieces)  # α = G
    xp = namespace(*dense_p.values())
    experts = {name: xp.concat([a] * copies) for name, a in parts.items()}
    if ff_cfg.bias:
        experts["down_proj_bias"] = xp.stack([dense_p["down_proj_bias"]] * e)
    rows = np.repeat(gates.random(rng, copies, ff_cfg.d_model, std=std), pieces, axis=0)
    router = {"weight": placed(rows, dense_p["down_proj"])}
    return {"router": router, "experts": experts}, config(ff_cfg, size, e, k)
