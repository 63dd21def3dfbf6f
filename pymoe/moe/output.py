r"""What becomes of the routed sum: joined with the shared experts, normalised, given a bias.

Forward, m the routed sum and f the shared output, both (T, D)::

    v = scale m  +  f        or (scale m + f) / 2 where ``shared`` is "average"
    y = [norm(v)] (+ b)                                   0 for a padding token

Backward, dy of a padding token taken as 0::

    db = Σ dy        dv through the norm        dm = scale dv        df = dv        (both halved in the average)

scale is the router's where its ``scale_at`` is "output" (Beam, Laguna, MiniMax-M3, Step-3.7: on the routed sum only),
else 1.  Sources: published code; average, Cohere2; norm, A.X-K1; bias, JetMoe, arXiv:2404.07413.  Cost: one pass over
memory each; v is kept where it is normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.moe import norms
from pymoe.moe.config import MoEConfig
from pymoe.ops._rows import column_sum


class Cache(NamedTuple):
    cfg: MoEConfig
    norm: norms.Cache | None  # of v (T, D)
    mask: Array | None  # (T,)


def forward(
    m: Array, f: Array | None, p: Mapping[str, Array], cfg: MoEConfig, mask: Array | None = None
) -> tuple[Array, Cache]:
    """y (T, D) of m and f (T, D); p may hold "norm" and "bias" (D,).

    >>> import numpy as np
    >>> from pymoe.moe import RouterConfig
    >>> cfg = MoEConfig(2, 3, RouterConfig(4, 2), d_shared=3, shared="average", output_bias=True)
    >>> forward(np.array([[1.0, 2.0]]), np.array([[3.0, 0.0]]), {"bias": np.array([10.0, 0.0])}, cfg)[0]
    array([[12.,  1.]])
    """
    xp = namespace(m)
    v = m if cfg.router.scale_at == "weights" else m * cfg.router.scale
    if f is not None:
        v = v + f if cfg.shared != "average" else (v + f) * 0.5
    c_norm = None
    if cfg.output_norm is not None:
        v, c_norm = norms.forward(v, p["norm"], cfg.output_norm)
    if cfg.output_bias:
        v = v + p["bias"]
    if mask is not None and (cfg.output_bias or cfg.latent_bias):
        v = xp.where(mask[:, None], v, xp.zeros_like(v))
    return v, Cache(cfg, c_norm, mask)


def backward(dy: Array, cache: Cache) -> tuple[Array, Array, dict[str, Array]]:
    """dm and df (T, D), and the gradients of p.

    >>> import numpy as np
    >>> from pymoe.moe import RouterConfig
    >>> cfg = MoEConfig(2, 3, RouterConfig(4, 2), d_shared=3, shared="average", output_bias=True)
    >>> _, cache = forward(np.array([[1.0, 2.0]]), np.array([[3.0, 0.0]]), {"bias": np.array([10.0, 0.0])}, cfg)
    >>> backward(np.array([[1.0, 4.0]]), cache)
    (array([[0.5, 2. ]]), array([[0.5, 2. ]]), {'bias': array([1., 4.])})
    """
    cfg, c_norm, mask = cache
    xp = namespace(dy)
    if mask is not None:
        dy = xp.where(mask[:, None], dy, xp.zeros_like(dy))
    dp = {"bias": column_sum(dy)} if cfg.output_bias else {}
    if c_norm is not None:
        dy, dp["norm"] = norms.backward(dy, c_norm)
    df = dy * 0.5 if cfg.shared == "average" else dy
    return (df if cfg.router.scale_at == "weights" else df * cfg.router.scale), df, dp
