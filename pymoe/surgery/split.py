"""Split the feed-forwards of a dense model into experts: by copy, by partition, granular, or with fresh units.

========== ========================================================================= =========================
how        experts of each layer                                                     equal to the dense model
========== ========================================================================= =========================
copy       E copies (sparse upcycling, arXiv:2212.05055)                             at the start, to rounding
partition  E pieces of F/E hidden units (MoEfication, LLaMA-MoE), k of them at work  with k = E
granular   ``copies`` of ``pieces`` pieces (arXiv:2410.07524)                        at the start
drop       E copies, a share of each one's units drawn anew (arXiv:2502.19261)       with ratio 0
========== ========================================================================= =========================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError
from pymoe.models.lm import LMConfig
from pymoe.moe import MoEConfig
from pymoe.nn import feed_forward
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.sharing import split
from pymoe.surgery import calibration
from pymoe.surgery.calibration import Calibration, Watch

HOW = ("copy", "partition", "granular", "drop")
GROUPINGS = ("random", "clustered", "coactivation", "gradient")


class Split(NamedTuple):
    p: dict[str, Any]
    cfg: LMConfig


def experts(
    p: dict[str, Any],
    cfg: LMConfig,
    *,
    how: str,
    n_experts: int,
    k: int,
    rng: np.random.Generator,
    grouping: str = "clustered",
    pieces: int = 2,
    ratio: float = 0.5,
    text: Calibration | None = None,
    watch: Watch | None = None,
) -> Split:
    """The model with every dense feed-forward turned into ``n_experts`` experts, of which a token passes ``k``."""
    if how not in HOW:
        raise ConfigError(f"how must be one of {HOW}, got {how!r}")
    dense = {i: b.feed_forward for i, b in enumerate(cfg.stack.blocks) if isinstance(b.feed_forward, FeedForwardConfig)}
    if not dense or cfg.moe is not None:
        raise ConfigError("this model already has experts: split takes a dense model (`pymoe merge` makes one)")
    if how == "granular" and n_experts % pieces:
        raise ConfigError(f"granular: the pieces must divide the experts, got {n_experts} experts and {pieces} pieces")
    make: Callable[[dict[str, Any], FeedForwardConfig, int], tuple[dict[str, Any], MoEConfig]]
    if how == "copy":

        def make(q: dict[str, Any], ff: FeedForwardConfig, i: int) -> tuple[dict[str, Any], MoEConfig]:
            return split.upcycle(q, ff, n_experts, k, rng=rng)
    elif how == "drop":

        def make(q: dict[str, Any], ff: FeedForwardConfig, i: int) -> tuple[dict[str, Any], MoEConfig]:
            return split.drop_upcycle(q, ff, n_experts, k, ratio=ratio, rng=rng)
    elif how == "granular":

        def make(q: dict[str, Any], ff: FeedForwardConfig, i: int) -> tuple[dict[str, Any], MoEConfig]:
            return split.granular(q, ff, pieces=pieces, copies=n_experts // pieces, k=k, rng=rng)
    else:

        def make(q: dict[str, Any], ff: FeedForwardConfig, i: int) -> tuple[dict[str, Any], MoEConfig]:
            groups = _groups(q, ff, n_experts, grouping, rng, p, cfg, i, text)
            return split.partition.layer(q, ff, groups, k, rng)

    layers, settings = dict(p["layers"]), []
    for i, ff in dense.items():
        mlp, one = make(layers[str(i)]["mlp"], ff, i)
        layers[str(i)] = layers[str(i)] | {"mlp": mlp}
        settings.append(one)
        if watch is not None:
            watch()
    same = all(one == settings[0] for one in settings)
    return Split(p | {"layers": layers}, dataclasses.replace(cfg, moe=settings[0] if same else tuple(settings)))


def _groups(
    q: dict[str, Any],
    ff: FeedForwardConfig,
    n_experts: int,
    grouping: str,
    rng: np.random.Generator,
    p: dict[str, Any],
    cfg: LMConfig,
    layer: int,
    text: Calibration | None,
) -> np.ndarray:
    """(E, F/E) hidden units of each expert."""
    if grouping not in GROUPINGS:
        raise ConfigError(f"grouping must be one of {GROUPINGS}, got {grouping!r}")
    if grouping == "random":
        return split.partition.random(rng, ff.d_ff, n_experts)
    up = to_numpy(q[ff.up_name])
    if grouping == "clustered":
        return split.partition.clustered(up[: ff.d_ff], n_experts, rng)
    if text is None:
        raise ConfigError(f"grouping {grouping!r} looks at activations: give a calibration text")
    if grouping == "coactivation":
        _, cache = feed_forward.forward(calibration.layer_inputs(p, cfg, text, layer), q, ff)
        return split.partition.coactivation(to_numpy(cache.c_down.x), n_experts)
    return split.partition.by_gradient(_importance(p, cfg, ff, layer, text), n_experts)


def _importance(p: dict[str, Any], cfg: LMConfig, ff: FeedForwardConfig, layer: int, text: Calibration) -> np.ndarray:
    """(F,) how much the loss feels each hidden unit, to first order (LLaMA-MoE, arXiv:2406.16554, section 3.1).

    The derivative of the loss by a gate on unit f is Σ_t h_tf dh_tf = Σ_d W_df dW_df with W the down_proj: taken batch
    by batch, its magnitudes summed.
    """
    name = f"layers.{layer}.mlp.down_proj"
    w = to_numpy(p["layers"][str(layer)]["mlp"]["down_proj"]).astype(np.float64)
    return sum(
        (np.abs((w * g[name]).sum(0)) for g in calibration.batch_gradients(p, cfg, text, [name])), np.zeros(ff.d_ff)
    )
