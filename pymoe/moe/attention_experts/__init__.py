"""Attention whose projections are experts: a layer each, with ``Config``, ``init``, ``forward``, ``backward``.

``moa``: an expert is a query and an output projection (MoA, JetMoe).  ``switch_head``: each head mixes its own (values
and outputs, as published).  ``spread`` is what both are made of.

>>> import numpy as np
>>> from pymoe.moe import RouterConfig
>>> cfg = moa.Config(d_model=6, n_heads=2, d_head=4, router=RouterConfig(5, 2, score_at="chosen"))
>>> out, cache = moa.forward(np.ones((1, 3, 6)), moa.init(np.random.default_rng(0), cfg), cfg)
>>> out.y.shape, sorted(out.losses)
((1, 3, 6), ['balance', 'z'])
"""

from pymoe.moe.attention_experts import moa, spread, switch_head

__all__ = ["moa", "spread", "switch_head"]
