r"""Experts that are copies of a dense feed-forward: sparse upcycling, and drop-upcycling that draws some units anew.

Sparse upcycling::

    W_e = W for every e,     W_r ~ N(0, std²),     g = softmax over the k chosen logits

    y = Σ_j g_j FFN(x) = FFN(x)             because Σ_j g_j = 1
    Σ_e dW_e = dW of the dense layer,    dW_r = 0     (all experts say the same: no choice is better than another)

How exactly: the weights and their sum add at most 2k roundings, |y - FFN(x)| <= 2k u |FFN(x)|, of which 3 u are seen
with k = 2 and 6 u with k = 8; with k = 1 the weight is 1 and adds none.  Beside that BLAS may add up the products of an
expert's rows in another order than those of all rows (bits are kept where the products are exact).

Without the renormalisation Σ_j g_j < 1 and the layer is *not* the dense one at the start; with k = 1 and the
renormalisation g = 1 exactly, but the router then never learns from the output (``moe.weigh``).  A capacity that drops
tokens breaks the equality too.

Drop-upcycling: of each copy ⌊ratio · F⌋ hidden units, drawn for each expert by itself, are drawn anew from
N(μ, σ²), μ and σ the mean and standard deviation of what is dropped, matrix by matrix (gate, up, down; and the bias of
gate and up)::

    S_e ⊂ {0..F-1},  |S_e| = ⌊ratio F⌋
    gate[S_e, :], up[S_e, :], down[:, S_e]  ~  N(mean, std²) of those same entries of the dense matrix

The units are the same ones in all three matrices: a unit is either the dense layer's or new.  (The authors' published
conversion script draws other units for each matrix, so that almost no unit stays whole; their paper does not.)

Sources: Komatsuzaki et al., *Sparse Upcycling*, arXiv:2212.05055, sections 3.1 and 4.2.4 (combine weights);
Nakamura et al., *Drop-Upcycling*, arXiv:2502.19261, section 3.2.  Cost: E copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend import device, namespace, to_numpy
from pymoe.backend.errors import ConfigError, check_integer, check_share
from pymoe.backend.namespace import Array
from pymoe.moe import MoEConfig, RouterConfig
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.sharing import gates, inputs
from pymoe.sparsity import masks

Layer = tuple[dict[str, Any], MoEConfig]


def upcycle(
    dense_p: Mapping[str, Array],
    ff_cfg: FeedForwardConfig,
    n_experts: int,
    k: int,
    *,
    rng: np.random.Generator,
    std: float = 0.02,
) -> Layer:
    """(p, MoEConfig) of a layer whose ``n_experts`` experts are the dense layer; equal to it at the start.

    dense_p as of ``nn.feed_forward``; the router's rows come from ``rng``.  Another tree is a ShapeError, NaN a
    NonFiniteError, k > n_experts a ConfigError.

    >>> from pymoe import moe
    >>> from pymoe.nn import feed_forward
    >>> rng, ff = np.random.default_rng(0), FeedForwardConfig(d_model=3, d_ff=4)
    >>> dense = feed_forward.init(rng, ff, np.float64)
    >>> p, cfg = upcycle(dense, ff, n_experts=5, k=2, rng=rng)
    >>> x = rng.standard_normal((6, 3))
    >>> y, y_dense = moe.forward(x, p, cfg)[0].y, feed_forward.forward(x, dense, ff)[0]
    >>> bool(np.max(np.abs(y - y_dense)) <= 3 * 2**-53 * np.max(np.abs(y_dense)))
    True
    """
    inputs.dense(dense_p, ff_cfg)
    cfg = config(ff_cfg, ff_cfg.d_ff, n_experts, k)
    xp = namespace(*dense_p.values())
    router = placed(gates.random(rng, n_experts, ff_cfg.d_model, std=std), dense_p["down_proj"])
    return {
        "router": {"weight": router},
        "experts": {name: xp.stack([a] * n_experts) for name, a in dense_p.items()},
    }, cfg


def drop_upcycle(
    dense_p: Mapping[str, Array],
    ff_cfg: FeedForwardConfig,
    n_experts: int,
    k: int,
    *,
    ratio: float,
    rng: np.random.Generator,
    std: float = 0.02,
) -> Layer:
    """``upcycle`` with ⌊ratio · F⌋ hidden units of each copy drawn anew; ratio 0 gives its very bits (same seed).

    ratio in [0, 1], read as the decimal it prints as (0.29 of 100 units is 29); 1 keeps nothing but the statistics.

    >>> from pymoe.nn import feed_forward
    >>> ff = FeedForwardConfig(d_model=3, d_ff=4)
    >>> dense = feed_forward.init(np.random.default_rng(0), ff, np.float64)
    >>> p, _ = drop_upcycle(dense, ff, 2, 1, ratio=0.5, rng=np.random.default_rng(6))
    >>> [(d == dense["down_proj"]).all(0).tolist() for d in p["experts"]["down_proj"]]  # which units are the dense ones
    [[False, True, True, False], [True, True, False, False]]
    """
    check_share("ratio", ratio)
    p, cfg = upcycle(dense_p, ff_cfg, n_experts, k, rng=rng, std=std)
    f = ff_cfg.d_ff
    n = masks.count(ratio, f)
    if n == 0:
        return p, cfg
    stacks = {name: to_numpy(a).copy() for name, a in p["experts"].items()}
    for e in range(n_experts):
        units = np.sort(rng.permutation(f)[:n])
        for name, stack in stacks.items():
            for part in _parts(stack[e], name, ff_cfg):
                dropped = part[units].astype(np.float64)
                part[units] = rng.normal(dropped.mean(), dropped.std(), dropped.shape)
    return p | {"experts": {name: placed(a, dense_p["down_proj"]) for name, a in stacks.items()}}, cfg


def _parts(a: np.ndarray, name: str, cfg: FeedForwardConfig) -> list[np.ndarray]:
    """Views of one expert's array, each with the F hidden units on its first axis."""
    if name == "down_proj":
        return [a.T]
    if name == "down_proj_bias":  # belongs to no unit
        return []
    return [a[: cfg.d_ff], a[cfg.d_ff :]] if cfg.gated else [a]


def config(ff_cfg: FeedForwardConfig, d_ff: int, n_experts: int, k: int, **router: Any) -> MoEConfig:
    """The settings of a sparse layer with the dense one's activation; renormalised softmax unless told otherwise."""
    check_integer("n_experts", n_experts)
    check_integer("k", k)
    if k > n_experts:
        raise ConfigError(f"k must not exceed n_experts: got k={k}, n_experts={n_experts}")
    rule = RouterConfig(int(n_experts), int(k), **({"norm": "l1"} | router))
    return MoEConfig(ff_cfg.d_model, d_ff, rule, ff_cfg.gated, ff_cfg.activation, ff_cfg.bias)


def placed(a: np.ndarray, like: Array) -> Array:
    """``a`` in the dtype, the library and on the device of ``like``."""
    xp = namespace(like)
    return xp.astype(xp.asarray(a, device=device(like)), like.dtype)
