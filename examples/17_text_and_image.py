"""Text and image in one layer: a noisy picture of a digit, and a word about it that is not always right.

Each example has two tokens, the picture and a description in English or Chinese; the same eight experts serve both,
two a token, and nobody tells them which is which.  Either kind alone is compared with both together, and the experts
with the dense layer that has as many hidden units at work.  The pictures are scikit-learn's digits, blurred by noise;
the descriptions are drawn here.  Needs pymoe[text] and matplotlib.  Usage: python 17_text_and_image.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from pymoe import moe, presets, verify
from pymoe.nn import feed_forward
from pymoe.ops import cross_entropy, linear, mean_pool
from pymoe.pipeline import TextEncoder
from pymoe.train.optim import adamw

D, F, E, K, STEPS, SEEDS = 32, 8, 8, 2, 400, 3
SPARSE = moe, presets.mixtral(D, F, E, K, gated=False, activation="relu", bias=True, losses=("balance",))
DENSE = feed_forward, feed_forward.FeedForwardConfig(D, K * F, gated=False, activation="relu", bias=True, std=0.2)
KINDS = {"image": [True, False], "text": [False, True], "both": [True, True]}  # which tokens are there
ENGLISH = "zero one two three four five six seven eight nine".split()
CHINESE = "零 一 二 三 四 五 六 七 八 九".split()
SAYINGS = {
    "English": (["a handwritten {}", "this looks like a {}", "the digit {}, I think"], ENGLISH),
    "Chinese": (["手写的{}", "这个数字是{}", "看起来像{}"], CHINESE),
}


def describe(rng, digit):
    """(text, language): of four descriptions one names another digit, and one says nothing of it."""
    language = ("English", "Chinese")[rng.integers(2)]
    forms, names = SAYINGS[language]
    luck = rng.random()
    if luck < 0.25:
        return forms[rng.integers(len(forms))].format("digit" if language == "English" else "字"), language
    named = rng.integers(10) if luck < 0.5 else digit
    return forms[rng.integers(len(forms))].format(names[named]), language


def model(layer, cfg):
    def init(rng, width):
        def matrix(n_out, n_in):
            return {"weight": rng.standard_normal((n_out, n_in)) / n_in**0.5, "bias": np.zeros(n_out)}

        p = {"image": matrix(D, 64), "text": matrix(D, width), "out": matrix(10, D)}
        return p | {"layer": layer.init(rng, cfg, np.float64)}

    def forward(image, text, p, y, there):
        h_image, c_image = linear.forward(image, **p["image"])
        h_text, c_text = linear.forward(text, **p["text"])
        h = np.stack([h_image, h_text], axis=1)  # (B, 2, D) two tokens
        said, c = layer.forward(h, p["layer"], cfg, *([there] if layer is moe else []))
        pooled, c_pool = mean_pool.forward(h + (said.y if layer is moe else said), there)
        z, c_out = linear.forward(pooled, **p["out"])
        loss, c_loss = cross_entropy.forward(z, y)
        if layer is moe:
            loss = loss + 0.02 * said.losses["balance"]
        return loss, (c_image, c_text, c, c_pool, c_out, c_loss, z, said)

    def backward(dloss, cache):
        c_image, c_text, c, c_pool, c_out, c_loss, _, _ = cache
        dpooled, out = linear.backward(cross_entropy.backward(dloss, c_loss)[0], c_out)
        dh, _ = mean_pool.backward(dpooled, c_pool)
        dh_layer, own = layer.backward(dh, c, *([{"balance": 0.02 * dloss}] if layer is moe else []))
        dh = dh + dh_layer
        dimage, of_image = linear.backward(dh[:, 0], c_image)
        dtext, of_text = linear.backward(dh[:, 1], c_text)
        return dimage, dtext, {"image": of_image, "text": of_text, "out": out, "layer": own}

    return SimpleNamespace(init=init, forward=forward, backward=backward)


def train(kind, seed, there):
    """(held-out accuracy, routing of the held-out tokens, their languages); ``there``: which tokens it is given."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits))
    rows, held = np.split(order, [2 * len(order) // 3])
    said, language = zip(*(describe(rng, d) for d in digits), strict=True)
    text = TextEncoder(char_ngrams=None).fit([said[i] for i in rows]).transform(said).toarray().astype(float) * 4
    image = pixels + 0.5 * rng.standard_normal(pixels.shape)

    def at(batch, p):
        return kind.forward(image[batch], text[batch], p, digits[batch], np.broadcast_to(there, (len(batch), 2)))

    p = kind.init(rng, text.shape[1])
    state = adamw.init(p)
    for step in range(STEPS):
        _, _, dp = kind.backward(1.0, at(rng.choice(rows, 64, replace=False), p)[1])
        p, state = adamw.update(p, dp, state, decay=1.0, lr=0.003 * (1 - step / STEPS), step=step + 1)
    *_, z, out = at(held, p)[1]
    return np.mean(z.argmax(axis=1) == digits[held]), out, np.array(language)[held]


pixels, digits = load_digits(return_X_y=True)
pixels = pixels / 16 - 0.3
rng = np.random.default_rng(0)
print("descriptions:", "; ".join(f"{d}: {describe(rng, d)[0]}" for d in digits[:7]))

sparse, dense = model(*SPARSE), model(*DENSE)
given = pixels[:3], rng.standard_normal((3, 5)), sparse.init(rng, 5), digits[:3], np.ones((3, 2), bool)
print(f"gradient against the complex step: error {verify.gradcheck(sparse, *given, controls=True).error:.1e}\n")

accuracy, last = {}, {}
for kind, there in KINDS.items():
    for name, way in (("experts", sparse), ("dense", dense)):
        runs = [train(way, seed, there) for seed in range(SEEDS)]
        accuracy[kind, name], last[kind, name] = np.array([run[0] for run in runs]), runs[-1]
    both = (f"{name} {a.mean():.3f} ± {a.std(ddof=1):.3f}" for (k, name), a in accuracy.items() if k == kind)
    print(f"{kind:6s} held-out accuracy over {SEEDS} seeds:", ", ".join(both))
gain = accuracy["both", "experts"] - accuracy["image", "experts"]
print(f"what a text that is right three times in five adds to the picture: {gain.mean():.3f}")
assert accuracy["both", "experts"].mean() > accuracy["image", "experts"].mean() > accuracy["text", "experts"].mean()

_, out, language = last["both", "experts"]
weight = np.zeros((2 * len(language), E))  # of each token, the picture first, then its text
np.put_along_axis(weight, out.routing.idx, out.routing.weight, axis=1)
rows = {
    "image": weight[0::2],
    "English": weight[1::2][language == "English"],
    "Chinese": weight[1::2][language == "Chinese"],
}
share = np.stack([w.mean(axis=0) for w in rows.values()])
order = np.lexsort((-share.max(axis=0), share.argmax(axis=0)))
print("\nweight of each expert, in percent (nobody told them what is a picture):")
for name, of_kind in zip(rows, share[:, order], strict=True):
    print(f"  {name:8s}" + "".join(f"{100 * w:6.0f}" for w in of_kind))

figure = Figure(figsize=(10, 3.8), dpi=130, layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=[1, 1.3])
for shift, (name, colour) in zip((-0.2, 0.2), (("experts", "#0072B2"), ("dense", "#E69F00")), strict=True):
    mean = [accuracy[kind, name].mean() for kind in KINDS]
    spread = [accuracy[kind, name].std(ddof=1) for kind in KINDS]
    left.bar(np.arange(3) + shift, mean, 0.38, yerr=spread, capsize=3, color=colour, label=name)
    for at, value in enumerate(mean):
        left.text(at + shift, 0.03, f"{value:.2f}", ha="center", color="white" if name == "experts" else "black")
left.set(xticks=range(3), xticklabels=["image alone", "text alone", "both"], ylabel="held-out accuracy", ylim=(0, 1))
left.legend(frameon=False, ncols=2)
left.spines[["top", "right"]].set_visible(False)
image = right.imshow(100 * share[:, order], cmap="cividis", vmin=0, vmax=100 * share.max(), aspect="auto")
right.set(xticks=range(E), xticklabels=order, yticks=range(3), yticklabels=rows, xlabel="expert")
for (i, e), value in np.ndenumerate(share[:, order]):
    colour = "white" if value < share.max() / 2 else "black"
    right.text(e, i, f"{100 * value:.0f}", ha="center", va="center", color=colour)
figure.colorbar(image, ax=right).set_label("of the weight (%)")
right.set_title("which expert reads what")
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "text_and_image.png"
figure.savefig(picture)
print(f"picture: {picture}")
