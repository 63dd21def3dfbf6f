"""Prune whole experts, hidden units of experts, or choices at run time: the model gets smaller, or a token pays less.

Every MoE layer keeps the same number of experts (units), chosen layer by layer.  The methods and their sources stand in
``pymoe.sparsity.experts``; NAEE is judged by the error it makes in the layer's output on the calibration text, each
layer on what the pruned layers before it let through.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError
from pymoe.models import lm
from pymoe.models.lm import LMConfig
from pymoe.moe import MoEConfig
from pymoe.sparsity import experts, masks, units
from pymoe.surgery import calibration
from pymoe.surgery.calibration import Calibration, Watch

SCORES: dict[str, Callable[..., Any]] = {
    "frequency": experts.frequency,
    "weighted-frequency": experts.weighted_frequency,
    "ean-sum": experts.ean_sum,
    "ean-mean": experts.ean_mean,
    "reap": experts.reap,
}
SEARCHES: dict[str, Callable[..., Any]] = {"naee": experts.naee.exhaustive, "naee-greedy": experts.naee.greedy}
METHODS = (*SCORES, *SEARCHES)


class Cut(NamedTuple):
    p: dict[str, Any]
    cfg: LMConfig
    kept: dict[int, np.ndarray]  # block -> the old ids (of experts, or (E, F') of units) that stayed


def moe_layers(cfg: LMConfig) -> dict[int, MoEConfig]:
    """The settings of the MoE layers, by the number of their block; ConfigError if there is none."""
    found = {i: b.feed_forward for i, b in enumerate(cfg.stack.blocks) if isinstance(b.feed_forward, MoEConfig)}
    if not found:
        raise ConfigError("this model is dense: it has no experts; `pymoe split` makes them")
    return found


def with_layers(cfg: LMConfig, layers: dict[int, MoEConfig]) -> LMConfig:
    """``cfg`` with these MoE layers: one setting where all are equal, else one for each."""
    each = tuple(layers[i] for i in sorted(layers))
    return dataclasses.replace(cfg, moe=each[0] if all(m == each[0] for m in each) else each)


def tries(cfg: LMConfig, method: str, sparsity: float) -> dict[int, int]:
    """How many sets of experts a search looks at in each block; {} for a method that scores."""
    if method not in SEARCHES:
        return {}
    found = {}
    for i, m in moe_layers(cfg).items():
        left = m.n_stored - masks.count(sparsity, m.n_stored)
        found[i] = math.comb(m.n_stored, left) if method == "naee" else sum(range(left + 1, m.n_stored + 1))
    return found


def prune(
    p: dict[str, Any],
    cfg: LMConfig,
    *,
    method: str,
    sparsity: float,
    text: Calibration,
    watch: Watch | None = None,
) -> Cut:
    """⌊s E⌋ experts less in every MoE layer; router rows, biases and shared statistics are cut with them."""
    if method not in METHODS:
        raise ConfigError(f"method must be one of {METHODS}, got {method!r}")
    layers = moe_layers(cfg)
    n_keep = {i: m.n_stored - masks.count(sparsity, m.n_stored) for i, m in layers.items()}
    gone = [i for i, n in n_keep.items() if n == 0]
    if gone:
        raise ConfigError(f"sparsity {sparsity} leaves no expert in block {gone[0]}: a MoE layer needs one")
    kept: dict[int, np.ndarray] = {}
    if method in SCORES:
        seen = calibration.routed(p, cfg, text, watch=watch)
        kept = {
            i: experts.keep(SCORES[method](seen[i]), n_keep[i], n_group=m.router.n_group) for i, m in layers.items()
        }
        for i, ids in kept.items():
            p, layers[i] = _cut(p, i, layers[i], ids)
    else:
        for i in list(layers):
            x = calibration.layer_inputs(p, with_layers(cfg, layers), text, i, watch)
            kept[i] = SEARCHES[method](x, _mlp(p, i), layers[i], n_keep[i], watch=watch)
            p, layers[i] = _cut(p, i, layers[i], kept[i])
    return Cut(p, with_layers(cfg, layers), {i: to_numpy(ids) for i, ids in kept.items()})


def prune_units(p: dict[str, Any], cfg: LMConfig, *, sparsity: float) -> Cut:
    """⌊s F⌋ hidden units less in every expert, those of the smallest norms: the experts get narrower."""
    layers, kept = moe_layers(cfg), {}
    for i, m in layers.items():
        left = m.d_ff - masks.count(sparsity, m.d_ff)
        if left == 0:
            raise ConfigError(f"sparsity {sparsity} leaves no hidden unit in block {i}: an expert needs one")
        score = to_numpy(units.scores(_mlp(p, i)["experts"], m))
        kept[i] = np.sort(np.argsort(-score, axis=1, kind="stable")[:, :left], axis=1)
        cut, layers[i] = units.cut(_mlp(p, i), m, kept[i])
        p = _with_mlp(p, i, cut)
    return Cut(p, with_layers(cfg, layers), kept)


def skip(
    p: dict[str, Any], cfg: LMConfig, *, text: Calibration, watch: Watch | None = None
) -> tuple[LMConfig, dict[int, float]]:
    """Dynamic skipping (NAEE, arXiv:2402.14800): each layer's threshold is the median of w₁/w₀ over the text.

    (settings, thresholds): the parameters stay; about half of the second choices are no longer computed.
    """
    layers = moe_layers(cfg)
    few = [i for i, m in layers.items() if m.k < 2]
    if few:
        raise ConfigError(f"skipping drops second choices, and block {few[0]} has k = 1: nothing to skip")
    weights: dict[int, list[np.ndarray]] = {i: [] for i in layers}
    for x, _ in text.batches():
        out, _ = lm.forward(x, p, cfg)
        for i in layers:
            weights[i].append(to_numpy(out.routing[i].weight)[:, :2])
        if watch is not None:
            watch()
    found = {i: float(experts.skip_threshold(np.concatenate(w))) for i, w in weights.items()}
    for i, m in layers.items():
        layers[i] = dataclasses.replace(m, router=dataclasses.replace(m.router, skip=found[i]))
    return with_layers(cfg, layers), found


def _mlp(p: dict[str, Any], layer: int) -> dict[str, Any]:
    found: dict[str, Any] = p["layers"][str(layer)]["mlp"]
    return found


def _with_mlp(p: dict[str, Any], layer: int, mlp: dict[str, Any]) -> dict[str, Any]:
    block = p["layers"][str(layer)] | {"mlp": mlp}
    return p | {"layers": p["layers"] | {str(layer): block}}


def _cut(p: dict[str, Any], layer: int, m: MoEConfig, ids: Any) -> tuple[dict[str, Any], MoEConfig]:
    cut, smaller = experts.cut(_mlp(p, layer), m, ids)
    return _with_mlp(p, layer, cut), smaller
