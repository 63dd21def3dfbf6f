"""Which matrices of a model a command may prune: by the flat names of its parameter tree.

============== =====================================================================================================
what           matrices
============== =====================================================================================================
experts        those of the routed experts
feed-forward   those of routed and shared experts and of dense feed-forwards
all            those, and the projections of attention
============== =====================================================================================================

Embeddings, norms, biases and routers are never pruned: together they are small, and every token passes them.
"""

from __future__ import annotations

from typing import Any

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError

WHAT = ("experts", "feed-forward", "all")


def names(p: tree.Tree, what: str) -> list[str]:
    """The flat names, in the order of the tree.

    >>> import numpy as np
    >>> from pymoe import presets
    >>> from pymoe.models import lm
    >>> moe = presets.mixtral(d_model=6, d_ff=4, n_experts=3, k=2)
    >>> cfg = lm.LMConfig(vocab=7, d_model=6, n_layers=1, n_heads=3, context=5, moe=moe)
    >>> names(lm.init(np.random.default_rng(0), cfg), "experts")
    ['layers.0.mlp.experts.gate_up_proj', 'layers.0.mlp.experts.down_proj']
    """
    if what not in WHAT:
        raise ConfigError(f"what to prune must be one of {WHAT}, got {what!r}")
    found = [name for name, leaf in tree.flatten(p).items() if _prunable(name, leaf, what)]
    if not found:
        raise ConfigError(f"this model has no matrices of {what!r}: choose another of {WHAT}")
    return found


def _prunable(name: str, leaf: Any, what: str) -> bool:
    parts = name.split(".")
    if not parts[-1].endswith("_proj") or len(leaf.shape) < 2:
        return False
    if "experts" in parts:
        return True
    if "mlp" in parts:
        return what in ("feed-forward", "all")
    return what == "all"
