"""A routing rule of your own in 20 lines: score s = z² / Σ z², put into the layer and verified with it.

A rule is a module: formulas, forward, backward.  Here it is a namespace; in a file of its own it would be
``my_rule.py`` and ``score=my_rule``.
"""

import types
from typing import NamedTuple

import numpy as np

from pymoe import moe, presets, verify

# --- the rule -----------------------------------------------------------------------------------------------------


class Cache(NamedTuple):
    z: np.ndarray  # (T, E)
    s: np.ndarray  # (T, E)
    n: np.ndarray  # (T, 1) Σ z²


def forward(z):
    """s = z² / n, n = Σ z²."""
    n = np.sum(z * z, axis=1, keepdims=True)
    return z * z / n, Cache(z, z * z / n, n)


def backward(ds, cache):
    """dz = 2 z (ds - ⟨ds, s⟩) / n."""
    z, s, n = cache
    return 2 * z * (ds - np.sum(ds * s, axis=1, keepdims=True)) / n, {}


squared = types.SimpleNamespace(forward=forward, backward=backward)
# --- that is all; the layer takes it as it is -----------------------------------------------------------------------

rng = np.random.default_rng(0)
cfg = presets.mixtral(d_model=6, d_ff=4, n_experts=5, k=2, score=squared, losses=("balance", "z", "importance"))
p = moe.init(rng, cfg)
x = rng.standard_normal((7, 6))

out, _ = moe.forward(x, p, cfg)
print("first token: experts", out.routing.idx[0].tolist(), "with weights", out.routing.weight[0].round(4).tolist())
print(verify.gradcheck(squared, rng.standard_normal((3, 5)), controls=True))
report = verify.gradcheck(moe, x, p, cfg, controls=True)
print(report)
assert report.error < 1e-13
