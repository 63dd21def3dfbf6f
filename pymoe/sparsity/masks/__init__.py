"""Masks: bool arrays of a weight's shape, True where it stays; every rule says its count and how it breaks ties.

================ =================================================== ==============================================
rule             pruned, exactly                                     of equal ones goes first
================ =================================================== ==============================================
``by_score``     ⌊s N⌋ lowest scores of each pool of N               the lowest flat index
``magnitude``    ⌊s N⌋ smallest magnitudes of each pool              the lowest flat index
``random``       ⌊s N⌋ of each pool, drawn uniformly                 (no ties)
``over_model``   ⌊s N⌋ lowest of all tensors together                the tensor named first, the lowest flat index
``rows``, ``columns``, ``heads``, ``blocks``  ⌊s g⌋ of the g groups of each matrix, by norm, the lowest group
``nm``           m - n of each m neighbours                          the highest column (the lowest is kept)
``threshold``    all |w| < t                                         (they share one fate)
================ =================================================== ==============================================

>>> import numpy as np
>>> from pymoe.sparsity import masks
>>> w = np.array([[3.0, -1.0, 0.5, 2.0]])
>>> np.where(masks.magnitude(w, 0.5), w, 0.0)
array([[3., 0., 0., 2.]])
"""

from pymoe.sparsity.masks.amount import count
from pymoe.sparsity.masks.cutoff import quantile, threshold
from pymoe.sparsity.masks.fit import check
from pymoe.sparsity.masks.model_wide import over_model
from pymoe.sparsity.masks.patterns import nm
from pymoe.sparsity.masks.ranked import by_score, magnitude, random
from pymoe.sparsity.masks.structured import blocks, columns, heads, rows

__all__ = [
    "blocks",
    "by_score",
    "check",
    "columns",
    "count",
    "heads",
    "magnitude",
    "nm",
    "over_model",
    "quantile",
    "random",
    "rows",
    "threshold",
]
