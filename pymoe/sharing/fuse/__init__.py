"""Fuse experts and models: means with and without alignment, groups of experts, task vectors, spheres, soups, dense.

=================== ================================================================================================
``average``         uniform, weighted, Fisher, RegMean: one expert of several
``align``           hidden units in the order of another expert's: Git Re-Basin, by weights or by activations
``zipit``           hidden units paired across and within experts
``msmoe``           groups round the most used experts, by the router's logits
``hcsmoe``          groups by hierarchical clustering of mean outputs
``merge_groups``    the groups of one MoE layer merged by any of these means, the ids tied
``to_dense``        the experts of a layer as one dense feed-forward
``arithmetic``      base + λ Σ differences;  ``ties``: trimmed, with a vote;  ``dare``: dropped at random, rescaled
``slerp``           between two tensors along the sphere;  ``multislerp``: the weighted mean on it
``soup``            the mean of whole models: of all, or greedily of those that help
=================== ================================================================================================

>>> import numpy as np
>>> from pymoe import moe, presets
>>> from pymoe.sharing import fuse
>>> from pymoe.sparsity import statistics
>>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
>>> p, x = moe.init(np.random.default_rng(0), cfg), np.random.default_rng(1).standard_normal((50, 5))
>>> seen = statistics.observe(moe.forward(x, p, cfg)[1], cfg)
>>> group_of = fuse.msmoe.groups(statistics.logits(x, p, cfg), seen.count, n_groups=2)
>>> merged, merged_cfg = fuse.merge_groups(p, cfg, group_of, "frequency", statistics=seen)
>>> merged_cfg.n_experts, merged_cfg.n_stored
(4, 2)
"""

from pymoe.sharing.fuse import align, arithmetic, average, dare, hcsmoe, msmoe, soup, ties, zipit
from pymoe.sharing.fuse.dense import to_dense
from pymoe.sharing.fuse.layer import merge_groups
from pymoe.sharing.fuse.sphere import multislerp, slerp

__all__ = [
    "align",
    "arithmetic",
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
