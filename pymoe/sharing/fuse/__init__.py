"""Fusing: experts into fewer, a layer into a dense one, several models into one.

- ``average``, ``align``: means of experts, and the permutation of hidden units that comes first;
- ``msmoe``, ``hcsmoe``: which experts belong together; ``merge_groups`` merges them, ``to_dense`` all of them;
- ``ties``, ``dare``, ``slerp``, ``multislerp``, ``zipit``, ``soup``: models (and experts) from one ancestor.
"""

from pymoe.sharing.fuse import align, average, dare, hcsmoe, msmoe, soup, ties, zipit
from pymoe.sharing.fuse.dense import to_dense
from pymoe.sharing.fuse.merge import merge_groups
from pymoe.sharing.fuse.sphere import multislerp, slerp

__all__ = [
    "align",
    "average",
    "dare",
    "hcsmoe",
    "merge_groups",
    "msmoe",
    "multislerp",
    "slerp",
    "soup",
    "ties",
    "to_dense",
    "zipit",
]
