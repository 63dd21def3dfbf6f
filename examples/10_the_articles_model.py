"""The article's model, mended: sub-models 100 -> 50 -> 10 on subsets, their answers added up, ŷ = Σ w_i(x) f_i(x).

The article's code stacks a (32, 50) and a (32, 10) array, which stops it, and its worked example is added up wrongly.
Here every f_i is a whole 100 -> 50 -> 10 network, forward and backward are by hand, and the gradient is verified before
anything is trained.  Usage: python 10_the_articles_model.py [FOLDER FOR THE PICTURE]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pymoe import verify
from pymoe.backend import tree
from pymoe.ops import linear, mixture, mixture_nll, relu, softmax
from pymoe.train.optim import adam

IN, HIDDEN, OUT, M = 100, 50, 10, 4  # the article's sizes, and four sub-models
STEPS = (
    1000  # everything on the topics costs 8,000 steps of one network of the article's size, the wide one 4 times that
)


class Model:  # loss = -log ŷ[y], ŷ = Σ w_i softmax(f_i(x)), f_i(x) = relu(x U_iᵀ + a_i) V_iᵀ + b_i, w = softmax(x Gᵀ)
    @staticmethod
    def forward(x, p, y):
        h, c_h = relu.forward(x @ p["U"].mT + p["a"])  # (M, N, HIDDEN)
        z = h @ p["V"].mT + p["b"]  # (M, N, OUT)
        v, c_gate = linear.forward(x, p["G"])
        w, c_w = softmax.forward(v)  # (N, M)
        loss, c_loss = mixture_nll.forward(z, w.T, y)
        return loss, (x, p, h, c_h, c_gate, c_w, c_loss, softmax.forward(z)[0], w.T)

    @staticmethod
    def backward(dloss, cache):
        x, p, h, c_h, c_gate, c_w, c_loss, _, _ = cache
        dz, d = mixture_nll.backward(dloss, c_loss)
        dx, gate = linear.backward(softmax.backward(d["weight"].T, c_w)[0], c_gate)
        du, _ = relu.backward(dz @ p["V"], c_h)
        dp = {"V": dz.mT @ h, "b": dz.sum(axis=1, keepdims=True), "U": du.mT @ x, "a": du.sum(axis=1, keepdims=True)}
        return dx + (du @ p["U"]).sum(axis=0), dp | {"G": gate["weight"]}


def start(seed, m=1, hidden=HIDDEN):
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal((m, hidden, IN)) / IN**0.5, rng.standard_normal((m, OUT, hidden)) / hidden**0.5
    return {"U": u, "a": np.zeros((m, 1, hidden)), "V": v, "b": np.zeros((m, 1, OUT)), "G": np.zeros((m, IN))}


def train(p, x, y, steps, unseen=None):
    """Adam with the article's rate on batches of its 32 rows; with ``unseen`` rows also (step, loss, loss on them)."""
    rng, state, curve = np.random.default_rng(0), adam.init(p), []
    for step in range(steps):
        if unseen is not None and step % 5 == 0:
            curve.append((step, Model.forward(x, p, y)[0], Model.forward(unseen[0], p, unseen[1])[0]))
        batch = rng.choice(len(x), 32, replace=False)
        _, dp = Model.backward(1.0, Model.forward(x[batch], p, y[batch])[1])
        p, state = adam.update(p, dp, state, lr=0.001, step=step + 1)
    return p, np.array(curve)


rng = np.random.default_rng(0)
x0, y0 = rng.standard_normal((32, IN)), rng.integers(0, OUT, 32)  # the article's data: random rows, random labels
report = verify.gradcheck(Model, x0, start(1, M), y0, controls=True)
print(f"gradient of all {tree.size(start(1, M)):,} parameters against the complex step: error {report.error:.1e}")
said, _ = mixture.forward(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0.6, 0.4]))
print(f"0.6·(0.9, 0.1) + 0.4·(0.8, 0.2) = {tuple(said.round(12).tolist())}, where the article prints (0.54, 0.26)")
unseen = rng.standard_normal((1000, IN)), rng.integers(0, OUT, 1000)
noise = train(start(0), x0, y0, 101, unseen)[1]
print(f"\nrandom labels, 100 epochs: loss {noise[0, 1]:.2f} -> {noise[-1, 1]:.2f}; on rows it has not seen", end=" ")
print(f"{noise[0, 2]:.2f} -> {noise[-1, 2]:.2f} (always guessing 1/10 costs {np.log(OUT):.2f}): learnt by heart")

# data with something to learn: four topics, in each another rule from x to y.  So made that subsets can help.
topics, rules, topic = 0.6 * rng.standard_normal((M, IN)), rng.standard_normal((M, OUT, IN)), rng.integers(0, M, 8000)
x = topics[topic] + rng.standard_normal((8000, IN))
y = np.argmax(np.einsum("nci,ni->nc", rules[topic], x - topics[topic]), axis=1)
subsets = [np.flatnonzero(topic[:7000] == i) for i in range(M)]
alone = [train(start(i), x[rows], y[rows], STEPS)[0] for i, rows in enumerate(subsets)]
apart = {name: np.concatenate([p[name] for p in alone]) for name in alone[0]} | {"G": np.zeros((M, IN))}
gated, whole = train(apart, x[:7000], y[:7000], STEPS)[0], train(start(1, M), x[:7000], y[:7000], 2 * STEPS)[0]
single, wide = (train(start(9, 1, hidden), x[:7000], y[:7000], 8 * STEPS)[0] for hidden in (HIDDEN, M * HIDDEN))
(f, equal), (g, w), *others = (
    Model.forward(x[7000:], p, y[7000:])[1][-2:] for p in (apart, gated, whole, single, wide)
)
scratch, narrow, large = (mixture.forward(*other)[0] for other in others)
one = tree.size(single) - IN  # of one sub-model, which needs no gate
ANSWERS = {  # what answers -> (ŷ on the held-out rows, parameters that run for a row)
    "sub-model 0 alone": (f[0], one),
    "equal weights": (mixture.forward(f, equal)[0], M * one),
    "learnt gate w(x)": (mixture.forward(g, w)[0], M * (one + IN)),
    "learnt gate, best one only": (g[w.argmax(axis=0), np.arange(1000)], one + M * IN),
    "all from scratch, no subsets": (scratch, M * (one + IN)),
    "one network, hidden 50": (narrow, one),
    "one network, hidden 200": (large, tree.size(wide) - IN),
}
accuracy = {name: np.mean(p.argmax(axis=1) == y[7000:]) for name, (p, _) in ANSWERS.items()}
print(f"\n{'four topics, 1,000 held-out rows':34s}{'accuracy':>9s}{'loss':>8s}{'parameters that run':>22s}")
for name, (p, size) in ANSWERS.items():
    print(f"  {name:32s}{accuracy[name]:9.3f}{-np.log(p[np.arange(1000), y[7000:]]).mean():8.3f}{size:22,}")
print("one weight a model cannot know which topic a row is of; w(x) can, and then one sub-model in four is enough")
assert noise[-1, 1] < noise[0, 1] / 2 and accuracy["learnt gate w(x)"] > accuracy["one network, hidden 200"]

figure = Figure(figsize=(10, 4), dpi=130, layout="constrained")
left, right = figure.subplots(1, 2)
left.plot(*noise[:, :2].T, color="#0072B2", marker="o", ms=3, label="the 32 training rows")
left.plot(*noise[:, ::2].T, color="#D55E00", marker="s", ms=3, label="rows it has not seen")
left.axhline(np.log(OUT), color="#999999", ls=":", label="always guessing 1/10")
left.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None), title="the article's random labels")
left.legend(frameon=False)
bars = right.barh(list(accuracy), list(accuracy.values()), color=["#0072B2"] * 5 + ["#E69F00"] * 2)
right.bar_label(bars, fmt="%.2f", padding=3)
right.invert_yaxis()
right.set(xlabel="held-out accuracy (chance: 0.10)", xlim=(0, 1), title="four topics, each with its own rule")
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "the_articles_model.png"
figure.savefig(picture)
print(f"\npicture: {picture}")
