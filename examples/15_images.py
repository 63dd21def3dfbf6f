"""Which expert takes which digit?  A sparse layer: two of eight experts read each of scikit-learn's 8 x 8 images.

z = W_out (h + MoE(h)), h = W_in x: the layer as it is, forward and backward by hand, beside the dense layer with as
many hidden units at work.  Five seeds, each with its own third of the images held out.  Needs scikit-learn and
matplotlib.  Usage: python 15_images.py [FOLDER FOR THE PICTURE]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from pymoe import moe, presets, verify
from pymoe.ops import cross_entropy, linear
from pymoe.train.optim import adamw

D, F, E, K, STEPS, SEEDS = 32, 8, 8, 2, 600, 5
pixels, digit = load_digits(return_X_y=True)
pixels = pixels / 16 - 0.3  # grey values 0 to 16; their mean is about 0.3 of that
N_TRAIN = 2 * len(digit) // 3
HOW = {"gated": False, "activation": "relu", "bias": True, "losses": ("balance",)}
WAYS = {"experts": presets.mixtral(D, F, E, K, **HOW), "dense": presets.mixtral(D, K * F, 1, 1, **HOW)}  # one "expert"


class Model:
    def init(rng, cfg):
        def matrix(n_out, n_in):
            return {"weight": rng.standard_normal((n_out, n_in)) / n_in**0.5, "bias": np.zeros(n_out)}

        return {"in": matrix(D, pixels.shape[1]), "layer": moe.init(rng, cfg, np.float64), "out": matrix(10, D)}

    def forward(x, p, y, cfg):
        h, c_in = linear.forward(x, **p["in"])
        said, c = moe.forward(h, p["layer"], cfg)
        z, c_out = linear.forward(h + said.y, **p["out"])
        loss, c_loss = cross_entropy.forward(z, y)
        return loss + 0.02 * said.losses["balance"], (c_in, c, c_out, c_loss, z, said)  # so that no expert is idle

    def backward(dloss, cache):
        c_in, c, c_out, c_loss, _, _ = cache
        dh, out = linear.backward(cross_entropy.backward(dloss, c_loss)[0], c_out)
        dh_layer, own = moe.backward(dh, c, {"balance": 0.02 * dloss})
        dx, inner = linear.backward(dh + dh_layer, c_in)
        return dx, {"in": inner, "layer": own, "out": out}


def train(cfg, seed):
    """(held-out accuracy, held-out digits, cache of the forward on them)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digit))
    rows, held = order[:N_TRAIN], order[N_TRAIN:]
    p = Model.init(rng, cfg)
    state = adamw.init(p)
    for step in range(STEPS):
        batch = rng.choice(rows, 64, replace=False)
        _, dp = Model.backward(1.0, Model.forward(pixels[batch], p, digit[batch], cfg)[1])
        p, state = adamw.update(p, dp, state, lr=0.003 * (1 - step / STEPS), step=step + 1)
    cache = Model.forward(pixels[held], p, digit[held], cfg)[1]
    return np.mean(cache[4].argmax(axis=1) == digit[held]), held, cache


start = Model.init(np.random.default_rng(0), WAYS["experts"])
report = verify.gradcheck(Model, pixels[:3], start, digit[:3], WAYS["experts"], controls=True)
print(f"gradient against the complex step: error {report.error:.1e}")
runs = {name: [train(cfg, seed) for seed in range(SEEDS)] for name, cfg in WAYS.items()}
accuracy = {name: np.array([run[0] for run in runs[name]]) for name in runs}
for name, of_seed in accuracy.items():
    print(f"{name:8s} held-out accuracy {of_seed.mean():.3f} ± {of_seed.std(ddof=1):.3f} over {SEEDS} seeds")
gain = accuracy["experts"] - accuracy["dense"]
print(
    f"{K * F} hidden units at work in both; experts - dense: {gain.mean():+.3f} ± {gain.std(ddof=1) / SEEDS**0.5:.3f}."
)
print("So easy a task does not need experts, but it shows them:")

_, held, cache = runs["experts"][0]
routing = cache[5].routing
weight = np.zeros((len(held), E))  # w[n, e], 0 where e was not chosen
np.put_along_axis(weight, routing.idx, routing.weight, axis=1)
share = np.stack([weight[digit[held] == d].mean(axis=0) for d in range(10)])  # (10, E): of each digit's weight
order = np.argsort(share.argmax(axis=0), kind="stable")  # experts by the digit that they serve most
share, weight = share[:, order], weight[:, order]
for e in range(E):
    most = np.argsort(-share[:, e])[:3]
    print(f"  expert {order[e]}: " + ", ".join(f"digit {d} ({share[d, e]:.0%} of its weight)" for d in most))
assert share.max(axis=1).mean() > 2 / E, "each digit has a favourite expert"

figure = Figure(figsize=(8, 7.3), dpi=130, layout="constrained")
figure.suptitle("Held-out digits and the experts that read them")
grid = figure.add_gridspec(2, E + 1, height_ratios=[1, 7], width_ratios=[1] * E + [0.25])
for e in range(E):
    ax = figure.add_subplot(grid[0, e])
    ax.imshow((weight[:, e] @ pixels[held] / weight[:, e].sum()).reshape(8, 8), cmap="gray_r")
    ax.set(xticks=[], yticks=[])
    if e == 0:
        ax.set_ylabel("mean of\nwhat it\nreads", rotation=0, ha="right", va="center")
ax = figure.add_subplot(grid[1, :E])
image = ax.imshow(100 * share, cmap="cividis", vmin=0, vmax=100, aspect="auto")
ax.set(xticks=range(E), xticklabels=order, yticks=range(10), xlabel="expert", ylabel="digit")
for d in range(10):
    for e in range(E):
        colour = "white" if share[d, e] < 0.5 else "black"
        ax.text(e, d, f"{100 * share[d, e]:.0f}", ha="center", va="center", color=colour)
figure.colorbar(image, cax=figure.add_subplot(grid[1, E])).set_label("of the digit's weight, to this expert (%)")
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "images.png"
figure.savefig(picture)
print(f"picture: {picture}")
