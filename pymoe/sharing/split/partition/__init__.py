"""Partition: the F hidden units of a dense feed-forward dealt out to E experts, each unit to one.

>>> import numpy as np
>>> from pymoe.sharing.split import partition
>>> partition.by_gradient(np.array([3.0, 1.0, 2.0, 4.0]), 2)
array([[0, 3],
       [1, 2]])
"""

from pymoe.sharing.split.partition.graph import coactivation
from pymoe.sharing.split.partition.grouping import by_gradient, overlapping, random, residual
from pymoe.sharing.split.partition.kmeans import clustered
from pymoe.sharing.split.partition.units import join, layer, split, take

__all__ = [
    "by_gradient",
    "clustered",
    "coactivation",
    "join",
    "layer",
    "overlapping",
    "random",
    "residual",
    "split",
    "take",
]
