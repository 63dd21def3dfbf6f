"""Prune whole experts: score them on calibration tokens, keep the best, cut the layer; or skip choices at run time.

>>> import numpy as np
>>> from pymoe import moe, presets
>>> from pymoe.sparsity import experts, statistics
>>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
>>> p = moe.init(np.random.default_rng(0), cfg)
>>> _, cache = moe.forward(np.random.default_rng(1).standard_normal((50, 5)), p, cfg)
>>> kept = experts.keep(experts.reap(statistics.observe(cache, cfg)), 3)
>>> smaller, smaller_cfg = experts.cut(p, cfg, kept)
>>> smaller_cfg.n_experts
3
"""

from pymoe.sparsity.experts import naee
from pymoe.sparsity.experts.cut import cut
from pymoe.sparsity.experts.scores import ean_mean, ean_sum, frequency, keep, reap, weighted_frequency
from pymoe.sparsity.experts.skipping import skip_threshold

__all__ = [
    "cut",
    "ean_mean",
    "ean_sum",
    "frequency",
    "keep",
    "naee",
    "reap",
    "skip_threshold",
    "weighted_frequency",
]
