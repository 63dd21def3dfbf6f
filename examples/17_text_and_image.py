"""Text and image in one layer: a noisy picture of a digit, and a word about it that is not always right.

Each example has two tokens, the picture and a description in English or Chinese; the same eight experts serve both,
two a token, and nobody tells them which is which.  Either kind alone is compared with both together, and the experts
with the dense layer that has as many hidden units at work.  The pictures are scikit-learn's digits, blurred by noise;
the descriptions are drawn here.  Needs pymoe[text] and matplotlib.  Usage: python 17_text_and_image.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from pymoe import moe, presets, verify
from pymoe.ops import cross_entropy, linear, mean_pool
from pymoe.pipeline import TextEncoder
from pymoe.train.optim import adamw

D, F, E, K, STEPS, SEEDS = 32, 8, 8, 2, 400, 3
HOW = {"gated": False, "activation": "relu", "bias": True, "losses": ("balance",)}
WAYS = {"experts": presets.mixtral(D, F, E, K, **HOW), "dense": presets.mixtral(D, K * F, 1, 1, **HOW)}  # one "expert"
KINDS = {"image": [True, False], "text": [False, True], "both": [True, True]}  # which tokens are there
SAYINGS = {
    "English": "a handwritten {};like a {};a {}, I think;zero one two three four five six seven eight nine digit",
    "Chinese": "手写的{};这个数字是{};看起来像{};零 一 二 三 四 五 六 七 八 九 字",
}


def describe(rng, digit):
    """(text, language): of four descriptions one names another digit, and one says nothing of it."""
    language = ("English", "Chinese")[rng.integers(2)]
    *forms, names = SAYINGS[language].split(";")
    said = rng.choice([10, rng.integers(10), digit], p=[0.25, 0.25, 0.5])  # 10: just "digit"
    return rng.choice(forms).format(names.split()[said]), language


class Model:
    """z = W_out mean over the tokens of (h + MoE(h)), h = W_in x; a token is [picture; 0] or [0; text]."""

    def init(rng, width, cfg):
        inner, out = rng.standard_normal((D, width)) / 8, rng.standard_normal((10, D)) / D**0.5
        return {"in": inner, "layer": moe.init(rng, cfg, np.float64), "out": out}

    def forward(x, p, y, there, cfg):
        h, c_in = linear.forward(x, p["in"])  # (B, 2, D)
        said, c = moe.forward(h, p["layer"], cfg, there)
        pooled, c_pool = mean_pool.forward(h + said.y, there)
        z, c_out = linear.forward(pooled, p["out"])
        loss, c_loss = cross_entropy.forward(z, y)
        return loss + 0.02 * said.losses["balance"], (c_in, c, c_pool, c_out, c_loss, z, said)  # no expert without work

    def backward(dloss, cache):
        c_in, c, c_pool, c_out, c_loss, _, _ = cache
        dpooled, out = linear.backward(cross_entropy.backward(dloss, c_loss)[0], c_out)
        dh, _ = mean_pool.backward(dpooled, c_pool)
        dh_layer, layer = moe.backward(dh, c, {"balance": 0.02 * dloss})
        dx, inner = linear.backward(dh + dh_layer, c_in)
        return dx, {"in": inner["weight"], "layer": layer, "out": out["weight"]}


def train(cfg, seed, there):
    """(held-out accuracy, routing of the held-out tokens, their languages); ``there``: which tokens it is given."""
    rng = np.random.default_rng(seed)
    rows, held = np.split(rng.permutation(len(digits)), [2 * len(digits) // 3])
    said, language = zip(*(describe(rng, d) for d in digits), strict=True)
    text = 4 * TextEncoder(char_ngrams=None).fit([said[i] for i in rows]).transform(said).toarray().astype(float)
    x = np.zeros((len(digits), 2, 64 + text.shape[1]))
    x[:, 0, :64], x[:, 1, 64:] = pixels + 0.5 * rng.standard_normal(pixels.shape), text

    def at(batch, p):
        return Model.forward(x[batch], p, digits[batch], np.broadcast_to(there, (len(batch), 2)), cfg)[1]

    p = Model.init(rng, x.shape[2], cfg)
    state = adamw.init(p)
    for step in range(STEPS):
        _, dp = Model.backward(1.0, at(rng.choice(rows, 64, replace=False), p))
        p, state = adamw.update(p, dp, state, decay=1.0, lr=0.003 * (1 - step / STEPS), step=step + 1)
    *_, z, out = at(held, p)
    return np.mean(z.argmax(axis=1) == digits[held]), out, np.array(language)[held]


pixels, digits = load_digits(return_X_y=True)
pixels, rng = pixels / 16 - 0.3, np.random.default_rng(0)
print("descriptions:", "; ".join(f"{d}: {describe(rng, d)[0]}" for d in digits[:7]))
given = rng.standard_normal((3, 2, 70)), Model.init(rng, 70, WAYS["experts"]), digits[:3], np.ones((3, 2), bool)
report = verify.gradcheck(Model, *given, WAYS["experts"], controls=True)
print(f"gradient against the complex step: error {report.error:.1e}\n")
mean = {}
for kind, there in KINDS.items():
    runs = {name: [train(cfg, seed, there) for seed in range(SEEDS)] for name, cfg in WAYS.items()}
    for name, of_seeds in runs.items():
        accuracy = np.array([run[0] for run in of_seeds])
        mean[kind, name], spread = accuracy.mean(), accuracy.std(ddof=1)
        print(f"{kind:6s} {name:8s} held-out accuracy over {SEEDS} seeds: {accuracy.mean():.3f} ± {spread:.3f}")
assert mean["both", "experts"] > mean["image", "experts"] > mean["text", "experts"]

_, out, language = runs["experts"][-1]  # of both
weight = np.zeros((2 * len(language), E))  # of each token, the picture first, then its text
np.put_along_axis(weight, out.routing.idx, out.routing.weight, axis=1)
share = {"image": weight[0::2].mean(axis=0)} | {name: weight[1::2][language == name].mean(axis=0) for name in SAYINGS}
share = {name: 100 * w for name, w in share.items()}
print("\nweight of each expert, in percent (nobody told them what is a picture):")
for name, of_kind in share.items():
    print(f"  {name:8s}" + "".join(f"{w:6.0f}" for w in of_kind))

figure = Figure(figsize=(7, 3.8), dpi=130, layout="constrained")
ax, bottom = figure.subplots(), np.zeros(E)
for (name, of_kind), colour in zip(share.items(), ("#0072B2", "#E69F00", "#D55E00"), strict=True):
    ax.bar(np.arange(E), of_kind, bottom=bottom, color=colour, label=name)
    bottom = bottom + of_kind
ax.set(xlabel="expert", ylabel="of each kind's weight (%), stacked", title="which expert reads what")
ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "text_and_image.png"
figure.savefig(picture)
print(f"picture: {picture}")
