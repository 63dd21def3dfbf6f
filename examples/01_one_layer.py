"""One sparse layer, forward and backward: who was chosen, what it cost, and where the gradient goes."""

import numpy as np

from pymoe import moe, presets

rng = np.random.default_rng(0)
cfg = presets.mixtral(d_model=16, d_ff=32, n_experts=8, k=2)
p = moe.init(rng, cfg)
x = rng.standard_normal((5, 16))

out, cache = moe.forward(x, p, cfg)
print("chosen experts, best first, and their weights:")
for token, (idx, weight) in enumerate(zip(out.routing.idx, out.routing.weight, strict=True)):
    print(f"  token {token}: " + ", ".join(f"expert {e} x {w:.3f}" for e, w in zip(idx, weight, strict=True)))
print("tokens of each expert:", out.routing.load.tolist())
print("losses:", {name: round(float(value), 4) for name, value in out.losses.items()})

dy = rng.standard_normal(out.y.shape)  # what the layers above would hand down
dx, dp = moe.backward(dy, cache, {"balance": 0.01})
print("\ngradients, by name (an expert nobody chose gets exactly 0):")
for e in range(8):
    print(f"  expert {e}: |d gate_up_proj| = {np.abs(dp['experts']['gate_up_proj'][e]).max():.4f}")
print(f"  router:   |d weight|       = {np.abs(dp['router']['weight']).max():.4f}")
print(f"  input:    |dx|             = {np.abs(dx).max():.4f}")
assert all((out.routing.load[e] == 0) == (not dp["experts"]["gate_up_proj"][e].any()) for e in range(8))
