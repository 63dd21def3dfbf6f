"""F4.5: which weights, units and experts of a layer may go: masks, scores, compensation, schedules, whole experts.

============== ======================================================================================================
part           what it does
============== ======================================================================================================
``scores``     how much each weight is worth: magnitude, SNIP, Taylor, movement, Wanda
``masks``      a score into a bool mask with an exact count: unstructured, structured, N:M, over a whole model
``sparsegpt``  mask and compensate, column by column; ``obs``: greedy, the exact optimum, and refitting for small layers
``layerwise``  SparseGPT on the experts of one layer, each with the tokens routed to it
``schedule``   when: one shot, cubic, lottery rounds with rewinding, RigL
``masked``     the layer with masks as an argument, forward and backward
``units``      hidden units: scores, and cutting them out
``statistics`` what a forward saw of each expert; ``experts``: whole experts scored, searched, cut out, skipped
============== ======================================================================================================

>>> import numpy as np
>>> from pymoe import sparsity
>>> w = np.array([[0.5, -3.0], [2.0, 1.0]])
>>> sparsity.masks.by_score(sparsity.scores.wanda(w, np.array([9.0, 1.0])), 0.5, by="row")
array([[False,  True],
       [ True, False]])
"""

from pymoe.sparsity import (
    experts,
    layerwise,
    masked,
    masks,
    obs,
    schedule,
    scores,
    sparsegpt,
    statistics,
    units,
)
from pymoe.sparsity.pruned import Pruned

__all__ = [
    "Pruned",
    "experts",
    "layerwise",
    "masked",
    "masks",
    "obs",
    "schedule",
    "scores",
    "sparsegpt",
    "statistics",
    "units",
]
