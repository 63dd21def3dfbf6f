r"""Experts back to one dense feed-forward.

``average``       align every expert to the first, then the weighted mean: width F.
``concatenate``   all hidden units side by side, the ways down times the gates: width E F.  Exactly the layer where the
                  gates g_e are constants: y = Σ_e g_e W_d,e h_e = [g_0 W_d,0 ... ] [h_0; ...]   (a partition's inverse)

A shared expert's units join either way (weight 1).  Routing is lost, so ``average`` is a start for training and not the
layer.  Sources: Li et al., arXiv:2310.01334 (averaging needs alignment); the inverse of arXiv:2110.01786.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError
from pymoe.moe import MoEConfig, parameters
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.sharing.fuse import align, average

HOW = ("average", "concatenate")


def to_dense(
    p: Mapping[str, Any], cfg: MoEConfig, weights: Sequence[float] | None = None, *, how: str = "average"
) -> tuple[dict[str, np.ndarray], FeedForwardConfig]:
    """(p, settings) of a dense feed-forward.  weights (E,): for the mean (uniform), or the gates (1 each).

    >>> from pymoe import moe, presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p, dense = to_dense(moe.init(np.random.default_rng(0), cfg), cfg)
    >>> dense.d_ff, p["gate_up_proj"].shape
    (6, (12, 5))
    """
    parameters.check(p, cfg)
    if how not in HOW:
        raise ConfigError(f"how must be one of {HOW}, got {how!r}")
    stacked = {name: to_numpy(a) for name, a in p["experts"].items()}
    each = [{name: a[e] for name, a in stacked.items()} for e in range(cfg.n_stored)]
    gates = np.ones(cfg.n_stored) if weights is None else np.asarray(weights, dtype=np.float64)
    if gates.shape != (cfg.n_stored,) or not np.isfinite(gates).all():
        raise ConfigError(f"{cfg.n_stored} stored experts need as many weights, got {weights!r}")
    if how == "average":
        aligned = [each[0], *(align.apply(one, align.weights(each[0], one)) for one in each[1:])]
        parts = [average.weighted(aligned, gates.tolist())]
    else:
        parts = [_scaled(one, g) for one, g in zip(each, gates, strict=True)]
    if cfg.d_shared:
        parts.append({name: to_numpy(a) for name, a in p["shared"].items()})
    dense = _side_by_side(parts)
    width = dense["down_proj"].shape[1]
    return dense, FeedForwardConfig(cfg.d_model, width, cfg.gated, cfg.activation, cfg.bias)


def _scaled(one: Mapping[str, np.ndarray], g: float) -> dict[str, np.ndarray]:
    return {name: a * a.dtype.type(g) if name.startswith("down_proj") else a for name, a in one.items()}


def _side_by_side(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Σ of feed-forwards as one: hidden units behind one another, gates before ups, biases of the ways down added."""
    if len(parts) == 1:
        return dict(parts[0])
    made = {}
    for name in parts[0]:
        each = [one[name] for one in parts]
        if name == "down_proj":
            made[name] = np.concatenate(each, axis=1)
        elif name == "down_proj_bias":
            made[name] = sum(each[1:], each[0])
        elif name.startswith("gate_up_proj"):
            halves = [np.split(a, 2) for a in each]
            made[name] = np.concatenate([gate for gate, _ in halves] + [up for _, up in halves])
        else:
            made[name] = np.concatenate(each)
    return made
