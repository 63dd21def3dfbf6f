r"""The MoE layer on stored sparse weights, with arrays as its parameters: what a gradient check and an optimiser see.

``storage.split`` takes a tree with ``storage.Weight``s apart into arrays (the stored values) and templates (the
structure); this layer puts them together again and is ``moe.forward`` from there on::

    p = join(arrays, templates)          y = moe(x, p)
    d arrays = the parts of dp           dp has a Weight of gradients for each Weight of p

The structure is a decision: it has no gradient.  Cost: that of the layer; joining copies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymoe import storage
from pymoe.backend.namespace import Array
from pymoe.moe import layer
from pymoe.moe.config import MoEConfig
from pymoe.moe.draws import Draws
from pymoe.storage import Weight


def forward(
    x: Array,
    p: Mapping[str, Any],
    cfg: MoEConfig,
    templates: Mapping[str, Weight],
    mask: Array | None = None,
    draws: Draws | None = None,
) -> tuple[layer.Output, layer.Cache]:
    """``moe.forward`` of p and templates from ``storage.split``.

    >>> import numpy as np
    >>> from pymoe import moe, presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> whole = moe.init(np.random.default_rng(0), cfg)
    >>> down = whole["experts"]["down_proj"]
    >>> whole["experts"]["down_proj"] = storage.csr.from_dense(down, down > 0)
    >>> p, templates = storage.split(whole)
    >>> out, cache = forward(np.ones((3, 5)), p, cfg, templates)
    >>> dx, dp = backward(np.ones((3, 5)), cache)
    >>> dp["experts"]["down_proj"]["data"].shape == p["experts"]["down_proj"]["data"].shape
    True
    """
    return layer.forward(x, storage.join(p, templates), cfg, mask, draws)


def backward(dy: Array, cache: layer.Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """dx, and the gradient of each array of p under its name."""
    dx, dp = layer.backward(dy, cache, dlosses)
    return dx, storage.split(dp)[0]
