"""The article's model, mended: sub-models 100 -> 50 -> 10 on subsets, their answers added up, ŷ = Σ w_i f_i(x).

The article's code stacks a (32, 50) and a (32, 10) array, which stops it, and its worked example is added up wrongly.
Here every f_i is a whole 100 -> 50 -> 10 network, forward and backward are written from pymoe's ops, and the gradient
is verified before anything is trained.  Usage: python 10_the_articles_model.py [FOLDER FOR THE PICTURE]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pymoe import verify
from pymoe.backend import tree
from pymoe.ops import cross_entropy, linear, mixture, mixture_nll, relu, softmax
from pymoe.sharing import integrate
from pymoe.train.optim import adam

IN, HIDDEN, OUT, M = 100, 50, 10, 4  # the article's sizes, and four sub-models


class Network:  # f(x) = relu(x W1ᵀ + b1) W2ᵀ + b2
    @staticmethod
    def forward(x, p):
        a, c_up = linear.forward(x, **p["up"])
        h, c_h = relu.forward(a)
        z, c_down = linear.forward(h, **p["down"])
        return z, (c_up, c_h, c_down)

    @staticmethod
    def backward(dz, cache):
        c_up, c_h, c_down = cache
        dh, down = linear.backward(dz, c_down)
        dx, up = linear.backward(relu.backward(dh, c_h)[0], c_up)
        return dx, {"up": up, "down": down}


class Alone:  # loss = -log softmax(f(x))[y]
    @staticmethod
    def forward(x, p, y):
        z, c = Network.forward(x, p)
        loss, c_loss = cross_entropy.forward(z, y)
        return loss, (c, c_loss)

    @staticmethod
    def backward(dloss, cache):
        return Network.backward(cross_entropy.backward(dloss, cache[1])[0], cache[0])


class Together:  # loss = -log ŷ[y],  ŷ = Σ_i w_i(x) softmax(f_i(x)),  w(x) = softmax(x Gᵀ + b)
    @staticmethod
    def forward(x, p, y):
        z, c = zip(*(Network.forward(x, p[f"f{i}"]) for i in range(M)), strict=True)
        v, c_gate = linear.forward(x, **p["gate"])
        w, c_w = softmax.forward(v)
        loss, c_loss = mixture_nll.forward(np.stack(z), w.T, y)
        return loss, (c, c_gate, c_w, c_loss)

    @staticmethod
    def backward(dloss, cache):
        c, c_gate, c_w, c_loss = cache
        dz, d = mixture_nll.backward(dloss, c_loss)
        dx, gate = linear.backward(softmax.backward(d["weight"].T, c_w)[0], c_gate)
        f = [Network.backward(dz_i, c_i) for dz_i, c_i in zip(dz, c, strict=True)]
        return sum((part[0] for part in f), dx), {f"f{i}": part[1] for i, part in enumerate(f)} | {"gate": gate}


def layer(rng, n_in, n_out):
    return {"weight": rng.standard_normal((n_out, n_in)) / n_in**0.5, "bias": np.zeros(n_out)}


def start(seed, hidden=HIDDEN):
    rng = np.random.default_rng(seed)
    return {"up": layer(rng, IN, hidden), "down": layer(rng, hidden, OUT)}


def train(model, p, x, y, held, steps):
    """Adam with the article's rate on batches of its 32 rows; also (step, loss, held-out loss), twenty times."""
    rng, state, curve = np.random.default_rng(0), adam.init(p), []
    for step in range(steps + 1):
        if step % (steps // 20) == 0:
            curve.append((step, model.forward(x, p, y)[0], model.forward(held[0], p, held[1])[0]))
        batch = rng.choice(len(x), 32, replace=False)
        _, dp = model.backward(1.0, model.forward(x[batch], p, y[batch])[1])
        p, state = adam.update(p, dp, state, lr=0.001, step=step + 1)
    return p, np.array(curve)


# the gradient, before anything is trained
rng = np.random.default_rng(0)
x0, y0 = rng.standard_normal((32, IN)), rng.integers(0, OUT, 32)  # the article's data: random rows, random labels
scratch = {f"f{i}": start(i) for i in range(M)} | {"gate": layer(rng, IN, M)}
report = verify.gradcheck(Together, x0, scratch, y0, controls=True)
print(f"gradient of all {tree.size(scratch):,} parameters against the complex step: error {report.error:.1e}")

# the article's worked example
said, _ = mixture.forward(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0.6, 0.4]))
print(f"0.6·(0.9, 0.1) + 0.4·(0.8, 0.2) = {tuple(said.round(12).tolist())}, where the article prints (0.54, 0.26)")

# the article's training: the loss falls, but there is nothing in the data to learn
unseen = rng.standard_normal((1000, IN)), rng.integers(0, OUT, 1000)
_, noise = train(Alone, start(0), x0, y0, unseen, 100)
print(f"\nrandom labels, 100 epochs: loss {noise[0, 1]:.2f} -> {noise[-1, 1]:.2f}; on rows it has not seen", end=" ")
print(f"{noise[0, 2]:.2f} -> {noise[-1, 2]:.2f} (always guessing 1/10 costs {np.log(OUT):.2f}): learnt by heart")

# data with something to learn: four topics, in each another rule from x to y.  So made that subsets can help.
topics, rules = 0.6 * rng.standard_normal((M, IN)), rng.standard_normal((M, OUT, IN))
topic = rng.integers(0, M, 9000)
x = topics[topic] + rng.standard_normal((9000, IN))
y = np.argmax(np.einsum("nci,ni->nc", rules[topic], x - topics[topic]), axis=1)
seen, valid, held = slice(7000), slice(7000, 8000), (x[8000:], y[8000:])
STEPS = 1000  # everything below costs 8,000 steps of one network of the article's size, the wide one four times that

subset = [np.flatnonzero(topic[seen] == i) for i in range(M)]
f = [train(Alone, start(i), x[rows], y[rows], held, STEPS)[0] for i, rows in enumerate(subset)]
z_valid, z = (np.stack([Network.forward(rows, p)[0] for p in f]) for rows in (x[valid], held[0]))
gateless = {f"f{i}": p for i, p in enumerate(f)} | {"gate": {"weight": np.zeros((M, IN)), "bias": np.zeros(M)}}
mixed, _ = train(Together, gateless, x[seen], y[seen], held, STEPS)
whole, _ = train(Together, scratch, x[seen], y[seen], held, 2 * STEPS)
narrow, wide = (train(Alone, start(9, h), x[seen], y[seen], held, 8 * STEPS)[0] for h in (HIDDEN, M * HIDDEN))


def answer(p, sparse=False):
    """ŷ (N, OUT), of all sub-models or of the one with the largest w_i(x) only."""
    w = softmax.forward(linear.forward(held[0], **p["gate"])[0])[0]
    w = (w == w.max(axis=1, keepdims=True)).astype(float) if sparse else w
    probs = softmax.forward(np.stack([Network.forward(held[0], p[f"f{i}"])[0] for i in range(M)]))[0]
    return mixture.forward(probs, w.T)[0]


probs, lam = softmax.forward(z)[0], integrate.stacked_weights(z_valid, y[valid])
one = tree.size(f[0])
ANSWERS = {  # what answers -> (ŷ on the held-out rows, parameters that run for a row)
    "sub-model 0 alone": (probs[0], one),
    "equal weights": (integrate.weighted_average(probs), M * one),
    "weights from validation": (integrate.weighted_average(probs, lam), M * one),
    "learnt gate w(x)": (answer(mixed), tree.size(mixed)),
    "learnt gate, best one only": (answer(mixed, sparse=True), one + tree.size(mixed["gate"])),
    "all from scratch, no subsets": (answer(whole), tree.size(whole)),
    "one network, hidden 50": (softmax.forward(Network.forward(held[0], narrow)[0])[0], tree.size(narrow)),
    "one network, hidden 200": (softmax.forward(Network.forward(held[0], wide)[0])[0], tree.size(wide)),
}
print(f"\n{'four topics, 1,000 held-out rows':34s}{'accuracy':>9s}{'loss':>8s}{'parameters that run':>22s}")
accuracy = {name: np.mean(p.argmax(axis=1) == held[1]) for name, (p, _) in ANSWERS.items()}
for name, (p, size) in ANSWERS.items():
    loss = -np.log(p[np.arange(1000), held[1]]).mean()
    print(f"  {name:32s}{accuracy[name]:9.3f}{loss:8.3f}{size:22,}")
print("one weight a model cannot know which topic a row is of; w(x) can, and then one sub-model in four is enough")
assert noise[-1, 1] < noise[0, 1] / 2 and accuracy["learnt gate w(x)"] > accuracy["one network, hidden 200"]

figure = Figure(figsize=(10, 4), dpi=130, layout="constrained")
left, right = figure.subplots(1, 2)
left.axhline(np.log(OUT), color="#999999", ls=":", label="always guessing 1/10")
left.plot(noise[:, 0], noise[:, 1], color="#0072B2", marker="o", ms=3, label="the 32 training rows")
left.plot(noise[:, 0], noise[:, 2], color="#D55E00", marker="s", ms=3, label="rows it has not seen")
left.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None), title="the article's random labels")
left.legend(frameon=False)
names = list(accuracy)[::-1]
colours = ["#E69F00" if "one network" in name else "#0072B2" for name in names]
right.barh(names, [accuracy[name] for name in names], color=colours)
for row, name in enumerate(names):
    right.text(accuracy[name] + 0.01, row, f"{accuracy[name]:.2f}", va="center")
right.set(xlabel="held-out accuracy (dashed: chance)", xlim=(0, 1), title="four topics, each with its own rule")
right.axvline(1 / OUT, color="#444444", ls="--", lw=1)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "the_articles_model.png"
figure.savefig(picture)
print(f"\npicture: {picture}")
