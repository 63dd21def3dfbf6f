"""Merge eight experts of a layer into three: who belongs together, and why their hidden units must be aligned first.

The layer is made so that the answer is known: eight experts descend from three ancestors, each with its own small
differences and its hidden units in an order of its own.
"""

import numpy as np

from pymoe import moe, presets
from pymoe.sharing import fuse
from pymoe.sparsity import statistics

D, F, E, G = 16, 24, 8, 3
rng = np.random.default_rng(0)
cfg = presets.mixtral(d_model=D, d_ff=F, n_experts=E, k=2)
p = moe.init(rng, cfg)
ancestors = [{name: w[g] for name, w in p["experts"].items()} for g in range(G)]
descends_from = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def descendant(g):
    """The ancestor's units in another order, and 5 % of noise."""
    one = fuse.align.apply(ancestors[g], rng.permutation(F))
    return {name: w + 0.05 * w.std() * rng.standard_normal(w.shape) for name, w in one.items()}


family = [descendant(g) for g in descends_from]
p["experts"] = {name: np.stack([one[name] for one in family]) for name in p["experts"]}

x = rng.standard_normal((500, D))  # calibration tokens
held_out = rng.standard_normal((500, D))
y = moe.forward(held_out, p, cfg)[0].y
seen = statistics.observe(moe.forward(x, p, cfg)[1], cfg, hessians=True)

by_output = fuse.hcsmoe.groups(statistics.mean_outputs(x, p, cfg), G)  # what they say
by_router = fuse.msmoe.groups(statistics.logits(x, p, cfg), seen.count, G)  # how they are chosen
print("ancestor of each expert     ", *descends_from)
print("groups by mean outputs      ", *by_output)
print("groups by the router        ", *by_router, "(this router is random: it knows no families)")


def error(how, group_of, align):
    """‖y' - y‖ / ‖y‖ of the merged layer on tokens that it was not merged with."""
    q, merged = fuse.merge_groups(
        p, cfg, group_of, how, statistics=seen, align=align, **({"x": x} if how == "zipit" else {})
    )
    assert merged.tied == tuple(group_of) and merged.n_stored == G
    return np.linalg.norm(moe.forward(held_out, q, merged)[0].y - y) / np.linalg.norm(y)


print("\nrelative error of the output    aligned   not aligned")
for how in ("uniform", "frequency", "regmean"):
    print(f"{how:<28}{error(how, by_output, True):11.3f}{error(how, by_output, False):14.3f}")
print(f"{'zipit (pairs units itself)':<28}{error('zipit', by_output, False):11.3f}")
print(f"{'frequency, router groups':<28}{error('frequency', by_router, True):11.3f}")

dense, ff = fuse.to_dense(p, cfg, seen.count)
print(f"\none dense layer of all eight: {ff.d_ff} hidden units in place of {E * F}; it cannot choose any more")
assert (
    np.array_equal(by_output, descends_from)
    and error("uniform", by_output, True) < error("uniform", by_output, False) / 5
)
