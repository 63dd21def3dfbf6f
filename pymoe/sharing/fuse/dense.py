r"""Experts back to one dense feed-forward: their mean, or all of them side by side.

::

    average        gate = Σ s_e P_e gate_e,  up, down likewise       d_ff = F;   s_e = weight_e / Σ weight, P_e aligns
    concatenate    gate = [gate_1; ...; gate_E],  up likewise,  down = [g_1 down_1, ..., g_E down_E]       d_ff = E F

The mean is an approximation: the layer chose k experts for each token, the dense one cannot.  The concatenation is
Σ_e g_e FFN_e(x) for every x, to the rounding of the longer sum: exact where each expert has one constant gate, so it
undoes ``split.partition`` (all gates 1).  Biases of down_proj are averaged, or added up with the gates.  A shared
expert, which every token passes, is set beside it either way: d_shared more units and its bias.

Source: the mean, soups, arXiv:2203.05482, and Git Re-Basin, arXiv:2209.04836; sparse back to dense, Xue et al.,
arXiv:2201.10890, section 3.1 (summation and averaging of experts).  Cost: one pass, and E assignments where it aligns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.moe import MoEConfig, parameters
from pymoe.moe.experts import names
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.sharing.fuse import align as alignment
from pymoe.sharing.fuse import arithmetic, average
from pymoe.sharing.fuse import experts as single
from pymoe.sharing.split.copies import placed

HOW = ("average", "concatenate")
One = dict[str, np.ndarray]


def to_dense(
    p: Mapping[str, Any],
    cfg: MoEConfig,
    weights: Any = None,
    *,
    how: str = "average",
    align: bool = True,
    scale: float | None = None,
) -> tuple[dict[str, Any], FeedForwardConfig]:
    """(p, FeedForwardConfig) of ``nn.feed_forward``, in the dtype of the experts.

    weights (G,), one for each stored expert.  average: >= 0, only their proportions matter, e.g. Statistics.count; all
    0 or None: each id of the router alike.  concatenate: the constant gates themselves, None: 1 for each id.
    scale: of the routed part's output, what a token's gates add up to; None: ``cfg.router.scale`` for an average
    (exact where gates are normalised; else give Statistics.weight.sum() / Statistics.tokens), 1 for a concatenation.

    >>> from pymoe import moe, presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p = moe.init(np.random.default_rng(0), cfg)
    >>> dense, ff = to_dense(p, cfg)
    >>> wide, ff_wide = to_dense(p, cfg, how="concatenate")
    >>> dense["down_proj"].shape, ff.d_ff, wide["down_proj"].shape, ff_wide.d_ff
    ((5, 6), 6, (5, 24), 24)
    """
    if how not in HOW:
        raise ConfigError(f"how must be one of {HOW}, got {how!r}")
    parameters.check(p, cfg)
    experts = single.unstacked(p["experts"])
    ids = np.ones(cfg.n_stored) if cfg.tied is None else np.bincount(cfg.tied, minlength=cfg.n_stored).astype(float)
    if how == "average":
        w = ids if weights is None else single.numbers(weights, cfg.n_stored)
        w = w if w.any() else ids
        one = _average(experts, w, align)
        factor = cfg.router.scale if scale is None else arithmetic.number("scale", scale)
        parts, gates = [one], [factor]
    else:
        w = ids if weights is None else single.numbers(weights, cfg.n_stored)
        factor = 1.0 if scale is None else arithmetic.number("scale", scale)
        parts, gates = experts, [factor * float(g) for g in w]
    if cfg.d_shared:
        parts, gates = (
            [*parts, {n: single.read("shared." + n, single.whole(a)) for n, a in p["shared"].items()}],
            [*gates, 1.0],
        )
    dense = side_by_side(parts, gates)
    width = dense["down_proj"].shape[1]
    ff = FeedForwardConfig(cfg.d_model, width, cfg.gated, cfg.activation, cfg.bias)
    return {name: placed(dense[name], single.model(a)) for name, a in p["experts"].items()}, ff


def side_by_side(parts: list[One], gates: list[float]) -> One:
    """One feed-forward that computes Σ_i gates_i FFN_i(x)."""
    up, down = names("gate_up_proj" in parts[0])
    halves = 2 if up == "gate_up_proj" else 1

    def rows(name: str) -> np.ndarray:
        """All gates above all ups."""
        return np.concatenate([a for h in range(halves) for a in (np.split(e[name], halves)[h] for e in parts)])

    scaled = [e[down] if g == 1 else g * e[down] for g, e in zip(gates, parts, strict=True)]
    dense = {up: rows(up), down: np.concatenate(scaled, axis=1)}
    if up + "_bias" in parts[0]:
        dense[up + "_bias"] = rows(up + "_bias")
        bias = np.zeros_like(parts[0][down + "_bias"])
        for g, e in zip(gates, parts, strict=True):
            bias = bias + g * e[down + "_bias"]
        dense[down + "_bias"] = bias
    return dense


def _average(experts: list[One], w: np.ndarray, align: bool) -> One:
    """The mean, each expert aligned to the one of largest weight."""
    head = experts[int(np.argmax(w))]
    if align:
        experts = [e if e is head else alignment.apply(e, alignment.permutation(head, e)) for e in experts]
    return average.weighted(experts, w)
