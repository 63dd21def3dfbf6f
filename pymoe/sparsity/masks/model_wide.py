"""One pool over all tensors: the layers themselves share the sparsity out.

Sources: Lee et al. (SNIP), arXiv:1810.02340, rank all connections together; Frankle & Carbin, arXiv:1803.03635, call it
global pruning.  Trap: scores must be comparable between layers.  |w| is only where the layers' scales are alike, and a
layer may lose everything.
"""

from __future__ import annotations

from collections.abc import Mapping

from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.sparsity import inputs
from pymoe.sparsity.masks import pools
from pymoe.sparsity.masks.amount import count


def over_model(scores: Mapping[str, Array], s: float) -> dict[str, Array]:
    """{name: mask}: of the N entries of all tensors together exactly ⌊s N⌋ are False, those of the lowest score.

    Of equal scores that of the tensor named first goes first, then the lowest flat index.  Scores of different
    precisions are compared in the wider one.  Errors as ``masks.by_score``, with the tensor's name.
    O(N log N), O(N) compiled where no score is negative; one copy of all scores.

    >>> import numpy as np
    >>> found = over_model({"a": np.array([[1.0, 2.0]]), "b": np.array([2.0, 0.5, 9.0])}, 0.6)
    >>> {name: mask.tolist() for name, mask in found.items()}
    {'a': [[False, False]], 'b': [True, False, True]}
    """
    ranked = {name: inputs.ranked(f"the score of {name}", score) for name, score in scores.items()}
    xp = namespace(*ranked.values()) if ranked else None
    n = count(s, sum(int(v.size) for v in ranked.values()))
    if xp is None:
        return {}
    flat = xp.concat([xp.reshape(v, (-1,)) for v in ranked.values()])
    kept = pools.prune(flat, n, "tensor")
    masks, start = {}, 0
    for name, v in ranked.items():
        masks[name] = xp.reshape(kept[start : start + v.size], v.shape)
        start += v.size
    return masks
