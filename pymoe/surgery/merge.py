"""Merge the experts of a model into fewer, into one dense feed-forward, or several models into one.

Inside one model (``experts``): groups of experts become one each, layer by layer.  The router keeps its rows, and the
ids of a group are tied to one stored expert (``MoEConfig.tied``).  ``to_dense``: every layer's experts become one dense
feed-forward.  Several models (``models``): soups, task arithmetic, TIES, DARE, SLERP on equal architectures, or
Branch-Train-MiX of dense models into a sparse one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import ConfigError
from pymoe.models.lm import LMConfig
from pymoe.moe import MoEConfig
from pymoe.sharing import btx, fuse
from pymoe.sparsity import statistics
from pymoe.surgery import calibration
from pymoe.surgery.calibration import Calibration, Watch
from pymoe.surgery.experts import moe_layers, with_layers

GROUPINGS = ("m-smoe", "hc-smoe")
AVERAGES = ("uniform", "frequency", "fisher", "regmean", "ties", "zipit")
DIFFERENCES = ("arithmetic", "ties", "dare", "dare-ties")
MODELS = ("uniform", *DIFFERENCES, "slerp", "multislerp", "btx")


class Merged(NamedTuple):
    p: dict[str, Any]
    cfg: LMConfig
    groups: dict[int, list[int]]  # block -> the group of every stored expert


def experts(
    p: dict[str, Any],
    cfg: LMConfig,
    *,
    grouping: str,
    n_groups: int | None = None,
    in_all: int | None = None,
    text: Calibration,
    how: str = "frequency",
    align: bool = True,
    watch: Watch | None = None,
) -> Merged:
    """Every MoE layer's experts in ``n_groups`` groups (M-SMoE or HC-SMoE), each group merged into one by ``how``.

    in_all, in the place of n_groups: so many experts in all layers together, shared out by their use
    (``msmoe.share_out``).
    """
    if grouping not in GROUPINGS:
        raise ConfigError(f"grouping must be one of {GROUPINGS}, got {grouping!r}")
    if how not in AVERAGES:
        raise ConfigError(f"how to average must be one of {AVERAGES}, got {how!r}")
    layers, found = moe_layers(cfg), {}
    if (n_groups is None) == (in_all is None):
        raise ConfigError(f"give the groups of every layer or those in all: got n_groups={n_groups}, in_all={in_all}")
    seen = calibration.routed(p, cfg, text, hessians=how == "regmean", watch=watch)
    if in_all is not None:
        each = fuse.msmoe.share_out([to_numpy(seen[i].count) for i in layers], in_all)
    else:
        assert n_groups is not None
        each = [n_groups] * len(layers)
    blocks = dict(p["layers"])
    for (i, m), n in zip(layers.items(), each, strict=True):
        mlp = blocks[str(i)]["mlp"]
        x = calibration.layer_inputs(p, cfg, text, i, watch)
        if grouping == "m-smoe":
            group_of = fuse.msmoe.groups(statistics.logits(x, mlp, m), seen[i].count, n, tied=m.tied)
        else:
            group_of = fuse.hcsmoe.groups(statistics.mean_outputs(x, mlp, m), n)
        extra: dict[str, Any] = {}
        if how == "fisher":
            names = [f"layers.{i}.mlp.experts.{name}" for name in mlp["experts"]]
            squares = calibration.gradients(p, cfg, text, names, watch=watch).square
            extra["fisher"] = {name.rsplit(".", 1)[1]: square for name, square in squares.items()}
        if how == "zipit":
            extra["x"] = x
        merged, layers[i] = fuse.merge_groups(mlp, m, group_of, how=how, statistics=seen[i], align=align, **extra)
        blocks[str(i)] = blocks[str(i)] | {"mlp": merged}
        found[i] = [int(g) for g in group_of]
    return Merged(p | {"layers": blocks}, with_layers(cfg, layers), found)


def to_dense(
    p: dict[str, Any],
    cfg: LMConfig,
    *,
    text: Calibration | None = None,
    watch: Watch | None = None,
) -> Merged:
    """Every MoE layer's experts averaged into one dense feed-forward, by frequency where a text tells it."""
    layers = moe_layers(cfg)
    seen = {} if text is None else calibration.routed(p, cfg, text, watch=watch)
    blocks, widths = dict(p["layers"]), set()
    for i, m in layers.items():
        weights = to_numpy(seen[i].count).astype(np.float64) if i in seen else None
        dense, ff = fuse.to_dense(blocks[str(i)]["mlp"], m, weights)
        widths.add(ff.d_ff)
        blocks[str(i)] = blocks[str(i)] | {"mlp": dense}
    if len(layers) < cfg.n_layers or len(widths) != 1:
        widths |= {b.feed_forward.d_ff for b in cfg.stack.blocks if not isinstance(b.feed_forward, MoEConfig)}
    if len(widths) != 1:
        raise ConfigError(f"one dense width is needed for all layers, got {sorted(widths)}")
    one = next(iter(layers.values()))
    dense_cfg = dataclasses.replace(
        cfg, moe=None, moe_layers="all", d_ff=widths.pop(), gated=one.gated, activation=one.activation
    )
    return Merged(p | {"layers": blocks}, dense_cfg, {})


def models(
    trees: list[dict[str, Any]],
    cfg: LMConfig,
    *,
    how: str,
    rng: np.random.Generator,
    k: int = 2,
    base: dict[str, Any] | None = None,
    density: float = 0.2,
    scale: float = 1.0,
    t: float = 0.5,
    weights: list[float] | None = None,
) -> Merged:
    """Several models of one architecture as one.

    uniform: the mean (or by ``weights``); arithmetic, ties, dare, dare-ties: differences to ``base`` summed, trimmed,
    dropped; slerp: two models, at ``t``; multislerp: any number; btx: dense models side by side as experts.
    """
    if how not in MODELS:
        raise ConfigError(f"how must be one of {MODELS}, got {how!r}")
    if len(trees) < 2:
        raise ConfigError(f"merging models needs at least two, got {len(trees)}")
    if how == "btx":
        p, sparse = btx.mix(trees, cfg, k=k, rng=rng)
        return Merged(p, sparse, {})
    flats = [{n: to_numpy(a) for n, a in tree.flatten(p).items()} for p in trees]
    for other in flats[1:]:
        unlike = [n for n in flats[0] if n not in other or other[n].shape != flats[0][n].shape]
        if unlike or other.keys() != flats[0].keys():
            raise ConfigError(f"the models differ in architecture, e.g. in {(unlike or sorted(other))[0]!r}")
    if how in DIFFERENCES and base is None:
        raise ConfigError(f"{how!r} merges differences to a common base model: give it (--base)")
    if how == "slerp" and len(trees) != 2:
        raise ConfigError(f"slerp goes from one model to another: give two, got {len(trees)}; multislerp takes more")
    start = {} if base is None else {n: to_numpy(a) for n, a in tree.flatten(base).items()}
    each = [1 / len(trees)] * len(trees) if weights is None else weights
    merged = {}
    for name, first in flats[0].items():
        these = [flat[name] for flat in flats]
        if how == "uniform":
            value = fuse.average.weighted([{"w": a} for a in these], each)["w"]
        elif how == "arithmetic":
            value = fuse.arithmetic.merge(start[name], these, weights=weights, scale=scale)
        elif how == "ties":
            value = fuse.ties.merge(start[name], these, density=density, weights=weights, scale=scale)
        elif how in ("dare", "dare-ties"):
            masks = [fuse.dare.draw(rng, a.shape, 1 - density) for a in these]
            value = fuse.dare.merge(
                start[name], these, masks, rate=1 - density, weights=weights, scale=scale, elect=how == "dare-ties"
            )
        elif how == "slerp":
            value = fuse.slerp(these[0], these[1], t)
        else:
            value = fuse.multislerp(these, each)
        merged[name] = np.asarray(value).astype(first.dtype)
    return Merged(tree.unflatten(merged), cfg, {})
