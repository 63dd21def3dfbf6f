"""Rules that do not fit score -> select -> weigh: a layer of its own each, with ``init``, ``forward``, ``backward``.

A rule is a module with a frozen ``Config``; ``init(rng, cfg)``; ``forward(x, p, cfg, mask, draws) -> (out, cache)``
with out.y, out.losses, and what it decided; ``backward(dy, cache, dlosses) -> (dx, dp)``.  ``RULES`` names them all.

>>> sorted(RULES)[:1], RULES["sparse_mixer"].__name__
(['product_keys'], 'pymoe.moe.rules.sparse_mixer')
"""

from __future__ import annotations

from typing import Any

from pymoe.moe.rules import product_keys, sparse_mixer, zaya

RULES: dict[str, Any] = {"product_keys": product_keys, "sparse_mixer": sparse_mixer, "zaya": zaya}

__all__ = ["RULES", "product_keys", "sparse_mixer", "zaya"]
