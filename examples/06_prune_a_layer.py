"""Prune one MoE layer by several methods: how far does its output move, on tokens that no method has seen?

Every method prunes half of each expert's weights.  Who looks at data (Wanda, SparseGPT, REAP) looks at 512 tokens; the
error ‖y - y'‖ / ‖y‖ is measured on 512 others.  Weights are random; inputs have a few strong common factors, as the
activations of a trained model have.
"""

import numpy as np

from pymoe import moe, presets
from pymoe.sparsity import experts, layerwise, masked, masks, scores, statistics, units

rng = np.random.default_rng(0)
cfg = presets.mixtral(d_model=64, d_ff=96, n_experts=8, k=2)
p = moe.init(rng, cfg)
factors = rng.standard_normal((8, 64))
calibration, held_out = (rng.standard_normal((512, 64)) + rng.standard_normal((512, 8)) @ factors for _ in range(2))

y = moe.forward(held_out, p, cfg)[0].y
_, cache = moe.forward(calibration, p, cfg)
seen = statistics.observe(cache, cfg)  # of each expert, its routed tokens only
w = {f"experts.{name}": p["experts"][name] for name in ("gate_up_proj", "down_proj")}
inputs = {"experts.gate_up_proj": seen.x_sumsq, "experts.down_proj": seen.h_sumsq}
wanda = {name: scores.wanda(w[name], inputs[name]) for name in w}


def masked_layer(rule):
    return masked.apply(p, {name: rule(name) for name in w}), cfg


def sparsegpt(**amount):
    return layerwise.prune(calibration, p, cfg, **amount).p, cfg


def narrower(n_keep):
    return units.cut(p, cfg, units.keep(units.scores(p["experts"], cfg), n_keep))


def fewer(n_keep):
    return experts.cut(p, cfg, experts.keep(experts.reap(seen), n_keep))


METHODS = {
    "random": lambda: masked_layer(lambda name: masks.random(rng, w[name].shape, 0.5, by="row")),
    "magnitude": lambda: masked_layer(lambda name: masks.magnitude(w[name], 0.5, by="matrix")),
    "wanda, by row": lambda: masked_layer(lambda name: masks.by_score(wanda[name], 0.5, by="row")),
    "sparsegpt": lambda: sparsegpt(s=0.5),
    "magnitude 2:4": lambda: masked_layer(lambda name: masks.nm(scores.magnitude(w[name]), 2, 4)),
    "wanda 2:4": lambda: masked_layer(lambda name: masks.nm(wanda[name], 2, 4)),
    "sparsegpt 2:4": lambda: sparsegpt(nm=(2, 4)),
    "8 x 8 blocks": lambda: masked_layer(lambda name: masks.blocks(w[name], 0.5, (8, 8))),
    "half the hidden units": lambda: narrower(48),
    "half the experts (REAP)": lambda: fewer(4),
}

print(f"{'method':24s} {'zeros or gone':>13s} {'error':>7s}")
size = sum(a.size for a in w.values())
error = {}
for name, method in METHODS.items():
    pruned, smaller = method()
    left = sum(np.count_nonzero(pruned["experts"][n]) for n in ("gate_up_proj", "down_proj"))
    error[name] = np.linalg.norm(moe.forward(held_out, pruned, smaller)[0].y - y) / np.linalg.norm(y)
    print(f"{name:24s} {1 - left / size:13.2%} {error[name]:7.3f}")
best = min(error, key=error.get)
print(f"\nleast error at one half: {best}")
assert best == "sparsegpt" and error["wanda, by row"] < error["magnitude"] < error["random"]
