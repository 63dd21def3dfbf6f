"""Make experts of one dense feed-forward, three ways: what is equal at the start, and what k < E loses.

u is the unit roundoff of float64, 2⁻⁵³.  The dense layer is made so that its hidden units have something to cluster:
they look in six directions, in random order, and the tokens come from there too.
"""

import numpy as np

from pymoe import moe
from pymoe.nn import feed_forward
from pymoe.sharing import gates
from pymoe.sharing.split import drop_upcycle, granular, partition, upcycle

D, F, E = 16, 96, 6
rng = np.random.default_rng(0)
ff = feed_forward.FeedForwardConfig(D, F, activation="relu")
topics = rng.standard_normal((E, D))
topic = rng.permutation(F) % E  # of each hidden unit
gate = topics[topic] + 0.5 * rng.standard_normal((F, D))
up = rng.standard_normal((F, D))
dense = {"gate_up_proj": np.concatenate([gate, up]) / 4, "down_proj": rng.standard_normal((D, F)) / 10}
x = topics[rng.integers(0, E, 400)] + 0.7 * rng.standard_normal((400, D))
y, cache = feed_forward.forward(x, dense, ff)
h = cache.c_down.x  # (400, F) the hidden units
U = 2.0**-53


def off(layer):
    """max |y' - y| in u of max |y|."""
    p, cfg = layer
    return np.abs(moe.forward(x, p, cfg)[0].y - y).max() / (U * np.abs(y).max())


def lost(layer):
    """‖y' - y‖ / ‖y‖."""
    p, cfg = layer
    return np.linalg.norm(moe.forward(x, p, cfg)[0].y - y) / np.linalg.norm(y)


groups = {
    "random": partition.random(rng, F, E),
    "clustered": partition.clustered(dense["gate_up_proj"][:F], E, rng),
    "coactivation": partition.coactivation(h, E),
}
print("equal to the dense layer at the start, largest difference in u:")
print(f"  copies, 2 of {E}                     {off(upcycle(dense, ff, E, 2, rng=rng)):8.1f}")
print(f"  3 pieces of each of 4 copies, 6 of 12{off(granular(dense, ff, pieces=3, copies=4, k=6, rng=rng)):8.1f}")
for name, units in groups.items():
    print(f"  {name + ' partition, all ' + str(E):<37}{off(partition.layer(dense, ff, units, E)):8.1f}")
starts = [upcycle(dense, ff, E, 2, rng=rng), granular(dense, ff, pieces=3, copies=4, k=6, rng=rng)]
assert max(off(start) for start in starts) < 64
assert max(off(partition.layer(dense, ff, units, E)) for units in groups.values()) < 64
assert np.array_equal(partition.join(partition.split(dense, groups["random"], True), groups["random"])["down_proj"],
                      dense["down_proj"])  # fmt: skip

print("\nwhat is lost when only k pieces run, ‖y' - y‖ / ‖y‖:")
print("  partition     router    " + "".join(f"  k = {k}" for k in range(1, E + 1)))
table = {}
for name, units in groups.items():
    for router, rows in (("centre", "centre"), ("fitted", 1e-3 * gates.fitted(x[:200], h[:200], units))):
        table[name, router] = [lost(partition.layer(dense, ff, units, k, router=rows)) for k in range(1, E)]
        table[name, router] += [lost(partition.layer(dense, ff, units, E))]  # nothing to choose: all gates are 1
        print(f"  {name:<14}{router:<10}" + "".join(f"{v:7.3f}" for v in table[name, router]))
assert table["clustered", "centre"][1] < table["random", "centre"][1]
assert all(losses[-1] < 1e-14 for losses in table.values())

print("\ndrop-upcycling, a share of each copy's units drawn anew:")
for ratio in (0.0, 0.25, 0.5, 1.0):
    new = drop_upcycle(dense, ff, E, 2, ratio=ratio, rng=np.random.default_rng(1))
    print(f"  ratio {ratio:4.2f}   ‖y' - y‖ / ‖y‖ = {lost(new):.3f}")
