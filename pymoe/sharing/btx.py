r"""Branch-Train-MiX: dense models of one architecture, trained apart, become the experts of one sparse model.

For models 1..E with the parameters θ_i::

    what is no feed-forward (embedding, attention, norms, head):    θ = θ_1 + 1/E Σ_i (θ_i - θ_1), the mean
    feed-forward of each layer:                                      expert i = that of model i
    router of each layer:                                            N(0, std²), or rows of your own

The combine weights are a softmax over the k chosen logits, so identical models give the dense model, to rounding; and
the mean, written as a difference, gives its very bits.  Models of one ancestor mix well; the mean of unrelated ones has
no meaning (``sharing.fuse.align`` first).

Source: Sukhbaatar et al., arXiv:2403.07816, section 3.2 (k = 2 there, the router trained afterwards).  Cost: one pass
over the E models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pymoe.backend import namespace, to_numpy, tree
from pymoe.backend.errors import ConfigError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.models.lm import LMConfig
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.sharing import gates, inputs
from pymoe.sharing.split.copies import config, placed


def mix(
    models: Sequence[Mapping[str, Any]],
    cfg: LMConfig,
    *,
    k: int = 2,
    rng: np.random.Generator | None = None,
    std: float = 0.02,
    routers: Sequence[Array] | None = None,
) -> tuple[dict[str, Any], LMConfig]:
    """(p, LMConfig) for ``models.lm`` of dense parameter trees of one ``cfg``.

    routers: the rows (E, D) of each layer, e.g. stacked ``gates.hidden``; None: drawn from ``rng``.  Trees that differ
    are a ShapeError that names the leaf, NaN a NonFiniteError, a sparse ``cfg``, one model or k > E a ConfigError.

    >>> from pymoe.models import lm
    >>> cfg = LMConfig(vocab=7, d_model=6, n_layers=2, n_heads=3, d_ff=4, context=5)
    >>> models = [lm.init(np.random.default_rng(seed), cfg) for seed in range(3)]
    >>> p, sparse = mix(models, cfg, rng=np.random.default_rng(9))
    >>> p["layers"]["0"]["mlp"]["experts"]["down_proj"].shape, sparse.moe.n_experts, sparse.moe.k
    ((3, 6, 4), 3, 2)
    """
    if cfg.moe is not None:
        raise ConfigError("Branch-Train-MiX takes dense models; these settings have experts already")
    if len(models) < 2:
        raise ConfigError(f"mixing needs at least two models, got {len(models)}")
    flats = [tree.flatten(p) for p in models]
    for i, flat in enumerate(flats):
        _check(i, flat, flats[0])
    if routers is None and rng is None:
        raise ConfigError("new routers are drawn: give rng, e.g. numpy.random.default_rng(0), or routers")
    if routers is not None and len(routers) != cfg.n_layers:
        raise ConfigError(f"routers must hold rows (E, D) for each of the {cfg.n_layers} layers, got {len(routers)}")
    experts = len(models)
    mixed: dict[str, Any] = {}
    for name in flats[0]:
        leaves = [flat[name] for flat in flats]
        parts = name.split(".")
        if parts[0] == "layers" and parts[2] == "mlp":
            mixed[".".join([*parts[:3], "experts", *parts[3:]])] = namespace(*leaves).stack(leaves)
        else:
            mixed[name] = mean(leaves)
    for i, block in enumerate(cfg.stack.blocks):
        assert isinstance(block.feed_forward, FeedForwardConfig)
        inputs.dense(models[0]["layers"][str(i)]["mlp"], block.feed_forward)
        if routers is not None:
            check_shape(f"routers[{i}]", routers[i], (experts, cfg.d_model))
            inputs.finite(f"routers[{i}]", routers[i])
            rows = to_numpy(routers[i])
        else:
            assert rng is not None
            rows = gates.random(rng, experts, cfg.d_model, std=std)
        like = flats[0][f"layers.{i}.mlp.down_proj"]
        mixed[f"layers.{i}.mlp.router.weight"] = placed(rows, like)
    ff = cfg.stack.blocks[0].feed_forward
    assert isinstance(ff, FeedForwardConfig)
    moe = config(ff, ff.d_ff, experts, k)
    return tree.unflatten(mixed), dataclasses.replace(cfg, moe=moe, moe_layers="all")


def mean(arrays: Sequence[Array]) -> Array:
    """a_1 + 1/n Σ (a_i - a_1), summed in double precision and rounded once: of equal arrays those very bits.

    >>> mean([np.array([1.0, 0.1], np.float32), np.array([3.0, 0.1], np.float32)])
    array([2. , 0.1], dtype=float32)
    """
    first, *others = arrays
    xp = namespace(*arrays)
    start = xp.astype(first, xp.float64)
    total = xp.zeros_like(start)
    for other in others:
        total = total + (xp.astype(other, xp.float64) - start)
    return xp.astype(xp.where(total == 0, start, start + total / len(arrays)), first.dtype)


def _check(i: int, flat: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Model i has the leaves of model 0, and all of them are finite."""
    if flat.keys() != first.keys():
        raise ShapeError(
            f"model {i} has another tree than model 0: missing {sorted(first.keys() - flat.keys())}, "
            f"unexpected {sorted(flat.keys() - first.keys())}"
        )
    for name, a in flat.items():
        check_shape(f"{name} of model {i}", a, tuple(first[name].shape))
        inputs.finite(f"{name} of model {i}", a)
