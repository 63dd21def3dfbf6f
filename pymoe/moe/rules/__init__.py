"""Rules that do not fit score -> select -> weigh: a layer of its own each, with ``init``, ``forward``, ``backward``.

A rule is a module with a frozen ``Config``; ``init(rng, cfg)``; ``forward(x, p, cfg, mask, draws) -> (out, cache)``
with out.y, out.losses, and what it decided; ``backward(dy, cache, dlosses) -> (dx, dp)``.  ``RULES`` names them all.

>>> sorted(RULES)[:1], RULES["sparse_mixer"].__name__
(['base_layer'], 'pymoe.moe.rules.sparse_mixer')
"""

from __future__ import annotations

from typing import Any

from pymoe.moe.rules import (
    base_layer,
    cosine,
    dselect_k,
    experts_choose,
    merged,
    mixture_of_depths,
    product_keys,
    remoe,
    soft_moe,
    sparse_mixer,
    st_moe,
    zaya,
)

RULES: dict[str, Any] = {
    "base_layer": base_layer,
    "cosine": cosine,
    "dselect_k": dselect_k,
    "experts_choose": experts_choose,
    "merged": merged,
    "mixture_of_depths": mixture_of_depths,
    "product_keys": product_keys,
    "remoe": remoe,
    "soft_moe": soft_moe,
    "sparse_mixer": sparse_mixer,
    "st_moe": st_moe,
    "zaya": zaya,
}

__all__ = [
    "RULES",
    "base_layer",
    "cosine",
    "dselect_k",
    "experts_choose",
    "merged",
    "mixture_of_depths",
    "product_keys",
    "remoe",
    "soft_moe",
    "sparse_mixer",
    "st_moe",
    "zaya",
]
