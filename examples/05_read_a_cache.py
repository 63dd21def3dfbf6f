"""What does a backward remember?  Every cache is a named tuple of arrays: print it, measure it, use it.

For the author of a kernel: these are the intermediates to compare with, in float64, by name.
"""

import numpy as np

from pymoe import moe, presets


def walk(name, value, seen):
    """Print each array of a cache once, with its name, shape and size."""
    if isinstance(value, np.ndarray):
        again = "  (a reference to one above)" if id(value) in seen else ""
        seen.setdefault(id(value), value)
        print(f"  {name:38s} {str(value.shape):14s} {value.dtype!s:8s} {value.nbytes:8d} bytes{again}")
    elif hasattr(value, "_fields"):
        for field in value._fields:
            walk(f"{name}.{field}", getattr(value, field), seen)
    elif isinstance(value, dict):
        for key, item in value.items():
            walk(f"{name}[{key!r}]", item, seen)


rng = np.random.default_rng(0)
cfg = presets.deepseek_v3(d_model=12, d_ff=10, n_experts=8, k=3, n_group=4, topk_group=2, d_shared=7)
p = moe.init(rng, cfg)
x = rng.standard_normal((6, 12))
out, cache = moe.forward(x, p, cfg)

seen = {}
print("the cache of one DeepSeek-V3 layer (references, not copies):")
walk("cache", cache, seen)
plan = cache.experts.plan
print("\nrows of each expert:", np.diff(plan.start).tolist())
print("row r holds token:  ", plan.token.tolist())
print("slot of (t, j):     ", plan.slot.tolist())

# the output, once more, from the cache alone: y_t = Σ_j g_tj o_slot(t, j) + shared expert
e = cache.experts
gate, up = e.a[:, :10], e.a[:, 10:]
h = gate / (1 + np.exp(-gate)) * up
expert = np.repeat(np.arange(8), np.diff(plan.start))
o = np.einsum("nf,ndf->nd", h, p["experts"]["down_proj"][expert])
routed = np.einsum("tk,tkd->td", e.g, o[plan.slot])
gate, up = cache.shared.a[:, :7], cache.shared.a[:, 7:]
shared = (gate / (1 + np.exp(-gate)) * up) @ p["shared"]["down_proj"].T
print("\nrebuilt from the cache, difference to the layer:", f"{np.abs(routed + shared - out.y).max():.1e}")
assert np.abs(routed + shared - out.y).max() < 1e-14
