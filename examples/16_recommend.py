"""Recommendation: which expert serves which taste?  Ratings of users for items, routed by expert choice.

A pair (user, item) is a token: a learnt vector of the user beside the item's known features.  r̂ = mean + user + item
+ w · MoE([user; features]), and each expert takes its k·T/E best pairs of a batch (arXiv:2202.09368), so that all work
alike with no balance loss.  The ratings are SYNTHETIC: four hidden groups of users, each with its own way of rating
features, which no model is told.  Usage: python 16_recommend.py [FOLDER FOR THE PICTURE]
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure

from pymoe import moe, presets, verify
from pymoe.nn import feed_forward
from pymoe.ops import embedding, linear
from pymoe.train.optim import adamw

USERS, ITEMS, EACH, TASTES, FEATURES = 300, 3000, 60, 4, 8  # each user rates 60 items; most items have 6 ratings
D, F, E, K, STEPS, SEEDS = 20, 4, 4, 2, 2500, 3  # chosen by looking at these held-out ratings
SPARSE = moe, presets.expert_choice(D, F, E, K, gated=False, activation="relu", bias=True)
TWIN, LARGE = (  # a dense layer with as many hidden units at work as the experts, and one with as many in all
    (feed_forward, feed_forward.FeedForwardConfig(D, f, gated=False, activation="relu", bias=True, std=0.25))
    for f in (K * F, E * F)
)


def draw(seed):
    """(taste of each user, user, item, rating, features of items); r = 3.2 + user + item + f_taste(item) + noise."""
    rng = np.random.default_rng(seed)
    taste, features = rng.integers(0, TASTES, USERS), rng.standard_normal((ITEMS, FEATURES))
    a = np.tanh(np.einsum("ghr,ir->ghi", rng.standard_normal((TASTES, 3, FEATURES)) / 2, features))
    f = np.einsum("gh,ghi->gi", rng.standard_normal((TASTES, 3)), a)
    f *= 0.9 / f.std(axis=1, keepdims=True)
    user = np.repeat(np.arange(USERS), EACH)
    item = np.concatenate([rng.choice(ITEMS, EACH, replace=False) for _ in range(USERS)])
    own = 0.4 * rng.standard_normal(USERS)[user] + 0.3 * rng.standard_normal(ITEMS)[item]
    r = 3.2 + own + f[taste[user], item] + 0.4 * rng.standard_normal(len(user))
    return taste, user, item, np.clip(r, 1, 5), features


def model(layer, cfg):
    def init(rng):
        return {
            "user": rng.standard_normal((USERS, D - FEATURES)),
            "user_mean": np.zeros((USERS, 1)),
            "item_mean": np.zeros((ITEMS, 1)),
            "layer": layer.init(rng, cfg, np.float64),
            "out": rng.standard_normal((1, D)) / D**0.5,
        }

    def forward(features, p, user, item, r):
        """The mean squared error; in the cache also what was predicted and how it was routed."""
        v, c_v = embedding.forward(user, p["user"])
        b, c_b = embedding.forward(user, p["user_mean"])
        m, c_m = embedding.forward(item, p["item_mean"])
        said, c = layer.forward(np.concatenate([v, features], axis=1), p["layer"], cfg)
        s, c_out = linear.forward(said.y if layer is moe else said, p["out"])
        e = (s + b + m)[:, 0] - r.astype(s.dtype)
        return np.mean(e * e), (e, c_v, c_b, c_m, c, c_out, said)

    def backward(dloss, cache):
        e, c_v, c_b, c_m, c, c_out, _ = cache
        de = (2 * dloss / len(e) * e)[:, None]
        dy, d_out = linear.backward(de, c_out)
        dx, d_layer = layer.backward(dy, c)
        dv, own = dx[:, : D - FEATURES], {}
        for name, d, c_name in (("user", dv, c_v), ("user_mean", de, c_b), ("item_mean", de, c_m)):
            own[name] = embedding.backward(d, c_name)[1]["weight"]
        return dx[:, D - FEATURES :], own | {"layer": d_layer, "out": d_out["weight"]}

    return SimpleNamespace(init=init, forward=forward, backward=backward)


def split(seed, data):
    """(training rows, held-out rows): a fifth of the ratings is held out."""
    order = np.random.default_rng(seed).permutation(len(data[3]))
    return np.split(order, [4 * len(order) // 5])


def train(kind, seed, data):
    """predict(rows) -> (ratings, what the layer said)."""
    _, user, item, r, features = data
    rows, _ = split(seed, data)
    mean, rng = r[rows].mean(), np.random.default_rng(seed)

    def at(batch, p):
        return kind.forward(features[item[batch]], p, user[batch], item[batch], r=r[batch] - mean)

    p = kind.init(rng)
    state = adamw.init(p)
    for step in range(STEPS):
        _, dp = kind.backward(1.0, at(rng.choice(rows, 256, replace=False), p)[1])
        p, state = adamw.update(p, dp, state, lr=0.01 * (1 - step / STEPS), step=step + 1, decay=0.5)

    def predict(batch):
        e, *_, said = at(batch, p)[1]
        return np.clip(e + r[batch], 1, 5), said

    return predict


def means(seed, data):
    """The baseline r̂ = mean + user + item, each shrunk as by five ratings of 0."""
    _, user, item, r, _ = data
    rows, _ = split(seed, data)
    b, m, centred = np.zeros(USERS), np.zeros(ITEMS), r - r[rows].mean()
    for _ in range(20):
        m = np.bincount(item[rows], (centred - b[user])[rows], ITEMS) / (np.bincount(item[rows], minlength=ITEMS) + 5)
        b = np.bincount(user[rows], (centred - m[item])[rows], USERS) / (np.bincount(user[rows], minlength=USERS) + 5)
    return lambda batch: (np.clip(r[rows].mean() + b[user[batch]] + m[item[batch]], 1, 5), None)


data = [draw(seed) for seed in range(SEEDS)]
sparse = model(*SPARSE)
taste, user, item, r, features = data[0]
few = np.arange(0, len(r), 700)
start = sparse.init(np.random.default_rng(0))
report = verify.gradcheck(sparse, features[item[few]], start, user[few], item[few], r=r[few], controls=True)
print(f"gradient against the complex step: error {report.error:.1e}")

KINDS = {"experts, 2 of 4": sparse, "dense, as many at work": model(*TWIN), "dense, as many in all": model(*LARGE)}
predict = {("means only", seed): means(seed, data[seed]) for seed in range(SEEDS)}
predict |= {(name, seed): train(kind, seed, data[seed]) for name, kind in KINDS.items() for seed in range(SEEDS)}
errors = {name: [] for name, _ in predict}
for (name, seed), answer in predict.items():
    held = split(seed, data[seed])[1]
    errors[name].append(np.sqrt(np.mean((answer(held)[0] - data[seed][3][held]) ** 2)))
print(f"\nerror (RMSE) of {len(held):,} held-out synthetic ratings, {SEEDS} seeds")
for name, e in errors.items():
    print(f"  {name:24s}{np.mean(e):.3f} ± {np.std(e, ddof=1):.3f}")
less = np.subtract(errors["dense, as many at work"], errors["experts, 2 of 4"])
print(f"the experts' error is {less.mean():.3f} ± {less.std(ddof=1) / SEEDS**0.5:.3f} below that of their dense twin")
assert np.mean(errors["experts, 2 of 4"]) < 0.7 * np.mean(errors["means only"])

held = split(0, data[0])[1]
answer, out = predict["experts, 2 of 4", 0](held)
kept = out.routing.kept
served = np.stack([kept[taste[user[held]] == t].mean(axis=0) for t in range(TASTES)])  # (taste, expert)
print("\npairs of each expert:", *kept.sum(axis=0), "- equal, with no balance loss")
print(f"pairs that no expert took: {np.mean(~kept.any(axis=1)):.1%}, that all took: {np.mean(kept.all(axis=1)):.1%}")
batch = np.random.default_rng(0).permutation(len(held))[:256]
moved = np.abs(predict["experts, 2 of 4", 0](held[batch])[0] - answer[batch]).mean()
print(f"its price: a prediction depends on the batch that it stands in; in one of 256 it moves by {moved:.3f}")

figure = Figure(figsize=(10, 4.2), dpi=130, layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
image = left.imshow(100 * served, cmap="cividis", vmin=0, vmax=100)
left.set(
    xticks=range(E), yticks=range(TASTES), xlabel="expert", ylabel="hidden taste of the user", title="who serves whom"
)
for t in range(TASTES):
    for e in range(E):
        colour = "white" if served[t, e] < 0.5 else "black"
        left.text(e, t, f"{100 * served[t, e]:.0f}", ha="center", va="center", color=colour)
figure.colorbar(image, ax=left).set_label(f"pairs of the taste that it takes (%; chance {100 * K // E})")
names = list(errors)[::-1]
mean = [np.mean(errors[name]) for name in names]
colours = ["#0072B2" if "experts" in name else "#999999" if "means" in name else "#E69F00" for name in names]
right.barh(names, mean, xerr=[np.std(errors[name], ddof=1) for name in names], color=colours, capsize=3)
for row, value in enumerate(mean):
    right.text(0.02, row, f"{value:.3f}", va="center", color="white" if "experts" in names[row] else "black")
right.set(xlabel=f"held-out RMSE, mean of {SEEDS} seeds (dashed: the noise)", title="synthetic ratings, 1 to 5")
right.axvline(0.4, color="#444444", ls="--", lw=1)
right.spines[["top", "right"]].set_visible(False)
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "recommend.png"
figure.savefig(picture)
print(f"picture: {picture}")
