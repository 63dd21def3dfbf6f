"""F5.5: parameter sharing: dense layers split into experts, experts and models fused, results integrated.

============== ====================================================================================================
``split``      a dense feed-forward made into experts: copies, partitions, granular pieces, units drawn anew
``gates``      how the router of experts that were never trained together starts
``btx``        dense models mixed: the mean of all but the feed-forwards, which become experts
``fuse``       experts and models merged: means, alignment, groups, task vectors, soups; experts back to dense
``tied``       one tensor read at several names, with the summed gradient
``low_rank``   experts as their mean and low-rank differences
``reduce``     fewer dimensions for data: truncated SVD, random projection
``integrate``  the results of several models made one: votes, averages, mixtures
============== ====================================================================================================

>>> import numpy as np
>>> from pymoe import moe, sharing
>>> from pymoe.nn import feed_forward
>>> rng, ff = np.random.default_rng(0), feed_forward.FeedForwardConfig(d_model=3, d_ff=8)
>>> dense = feed_forward.init(rng, ff, np.float64)
>>> groups = sharing.split.partition.clustered(dense["gate_up_proj"][:8], 4, rng)
>>> p, cfg = sharing.split.partition.layer(dense, ff, groups, k=4)  # all four pieces are the dense layer
>>> x = rng.standard_normal((5, 3))
>>> bool(np.allclose(moe.forward(x, p, cfg)[0].y, feed_forward.forward(x, dense, ff)[0], rtol=1e-13, atol=0))
True
"""

from pymoe.sharing import btx, fuse, gates, integrate, low_rank, reduce, split, tied

__all__ = ["btx", "fuse", "gates", "integrate", "low_rank", "reduce", "split", "tied"]
