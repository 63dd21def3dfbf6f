"""Unstructured masks with an exact count: by any score, by magnitude, at random.

Rule: of each pool (``by``) of N entries exactly n = ⌊s N⌋ are pruned, those of the lowest score; of equal scores the
lowest flat index goes first.  So masks are nested in s, and masking twice is masking once.

Unlike ``torch.nn.utils.prune.l1_unstructured``: that rounds s N to the nearest integer and leaves ties to ``topk``.
Unlike locuslab/wanda (``lib/prune.py``): that prunes all |w| up to the value at place int(s N), one more and all ties.
"""

from __future__ import annotations

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.sparsity import inputs
from pymoe.sparsity.masks import pools
from pymoe.sparsity.masks.amount import count


def by_score(score: Array, s: float, *, by: str = "tensor") -> Array:
    """The mask of the (1 - s) share of highest scores: score (...) of either sign -> bool (...), True = stays.

    Exactly ⌊s N⌋ of the N entries of each pool are False; of equal scores the lowest flat index is pruned first.
    ConfigError for s outside [0, 1] or an unknown ``by``, DtypeError for integers, NonFiniteError for NaN.
    O(N log N), and O(N) compiled for scores of one sign and pools of a tensor or a matrix.

    >>> import numpy as np
    >>> by_score(np.array([[0.3, -2.0, 0.1], [0.1, 5.0, 0.0]]), 0.5)
    array([[ True, False, False],
           [ True,  True, False]])
    >>> by_score(np.array([[0.3, -2.0, 0.1], [0.1, 5.0, 0.0]]), 0.34, by="row")
    array([[ True, False,  True],
           [ True,  True, False]])
    """
    score = inputs.ranked("score", score)
    _, size = pools.shape("score", tuple(score.shape), by)
    return pools.prune(score, count(s, size), by)


def magnitude(w: Array, s: float, *, by: str = "tensor") -> Array:
    """``by_score(|w|, s, by=by)``: exactly ⌊s N⌋ of each pool of N are False, the smallest |w|, ties by flat index.

    Source: Han et al., arXiv:1506.02626, with the count in place of a threshold.  O(N) compiled for a whole tensor or
    matrix, O(N log D) by row.  Errors as ``by_score``.

    >>> import numpy as np
    >>> magnitude(np.array([[3.0, -1.0], [1.0, -2.0]]), 0.5)
    array([[ True, False],
           [False,  True]])
    """
    values = inputs.ranked("w", w)
    _, size = pools.shape("w", tuple(w.shape), by)
    return pools.smallest(values, count(s, size), by)


def random(rng: np.random.Generator, shape: tuple[int, ...], s: float, *, by: str = "tensor") -> np.ndarray:
    """A mask drawn uniformly among those with exactly ⌊s N⌋ False in each pool: the baseline of every method.

    One uniform draw an entry, ranked as by ``by_score``: the draw for s is nested in the draw for a larger s.

    >>> import numpy as np
    >>> mask = random(np.random.default_rng(0), (4, 5), 0.4, by="row")
    >>> mask.sum(axis=1).tolist()
    [3, 3, 3, 3]
    """
    mask: np.ndarray = by_score(np.asarray(rng.random(shape)), s, by=by)
    return mask
