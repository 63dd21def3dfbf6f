"""Rules that do not fit score -> select -> weigh: a layer of its own each, with ``init``, ``forward``, ``backward``.

A rule is a module with a frozen ``Config``; ``init(rng, cfg)``; ``forward(x, p, cfg, mask, draws) -> (out, cache)``
with out.y, out.losses, and what it decided; ``backward(dy, cache, dlosses) -> (dx, dp)``.  ``RULES`` names them all.

>>> sorted(RULES)[:1], RULES["sparse_mixer"].__name__
(['cosine'], 'pymoe.moe.rules.sparse_mixer')
"""

from __future__ import annotations

from typing import Any

from pymoe.moe.rules import cosine, dselect_k, mixture_of_depths, product_keys, remoe, sparse_mixer, zaya

RULES: dict[str, Any] = {
    "cosine": cosine,
    "dselect_k": dselect_k,
    "mixture_of_depths": mixture_of_depths,
    "product_keys": product_keys,
    "remoe": remoe,
    "sparse_mixer": sparse_mixer,
    "zaya": zaya,
}

__all__ = ["RULES", "cosine", "dselect_k", "mixture_of_depths", "product_keys", "remoe", "sparse_mixer", "zaya"]
