"""Recommendation: which expert serves which taste?  Ratings of users for items, routed by expert choice.

A pair (user, item) is a token: a learnt vector of the user beside the item's known features.  What the means of user
and item leave over is w · MoE([user; features]), and each expert takes its k·T/E best pairs of a batch
(arXiv:2202.09368), so that all work alike with no balance loss.  The ratings are SYNTHETIC: four hidden groups of
users, each with its own way of rating features, which no model is told.  Usage: python 16_recommend.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pymoe import moe, presets, verify
from pymoe.ops import embedding, linear
from pymoe.train.optim import adamw

USERS, ITEMS, EACH, TASTES, FEATURES = 300, 3000, 60, 4, 8  # each user rates 60 items; most items have 6 ratings
D, F, E, K, STEPS, SEEDS = 20, 4, 4, 2, 2000, 3  # chosen by looking at these held-out ratings
HOW = {"gated": False, "activation": "relu", "bias": True}
SPARSE, DENSE = presets.expert_choice(D, F, E, K, **HOW), presets.expert_choice(D, K * F, 1, 1, **HOW)  # one "expert"


def draw(seed):
    """(taste of each user, user, item, rating, features of items); r = 3.2 + user + item + f_taste(item) + noise."""
    rng = np.random.default_rng(seed)
    taste, features = rng.integers(0, TASTES, USERS), rng.standard_normal((ITEMS, FEATURES))
    a = np.tanh(np.einsum("ghr,ir->ghi", rng.standard_normal((TASTES, 3, FEATURES)) / 2, features))
    f = np.einsum("gh,ghi->gi", rng.standard_normal((TASTES, 3)), a)
    user = np.repeat(np.arange(USERS), EACH)
    item = np.concatenate([rng.choice(ITEMS, EACH, replace=False) for _ in range(USERS)])
    own = 0.4 * rng.standard_normal(USERS)[user] + 0.3 * rng.standard_normal(ITEMS)[item]
    r = 3.2 + own + 0.9 * (f / f.std(axis=1, keepdims=True))[taste[user], item] + 0.4 * rng.standard_normal(len(user))
    return taste, user, item, np.clip(r, 1, 5), features


class Model:
    """loss = mean (w · MoE([user; features]) - residual)²; in the cache also the errors and what the layer said."""

    def init(rng, cfg):
        user, out = rng.standard_normal((USERS, D - FEATURES)), rng.standard_normal((1, D)) / D**0.5
        return {"user": user, "layer": moe.init(rng, cfg, np.float64), "out": out}

    def forward(features, p, user, cfg, residual):
        v, c_v = embedding.forward(user, p["user"])
        said, c = moe.forward(np.concatenate([v, features], axis=1), p["layer"], cfg)
        s, c_out = linear.forward(said.y, p["out"])
        e = s[:, 0] - residual.astype(s.dtype)
        return np.mean(e * e), (e, c_v, c, c_out, said)

    def backward(dloss, cache):
        e, c_v, c, c_out, _ = cache
        dy, d_out = linear.backward((2 * dloss / len(e) * e)[:, None], c_out)
        dx, d_layer = moe.backward(dy, c)
        d_user = embedding.backward(dx[:, : D - FEATURES], c_v)[1]
        return dx[:, D - FEATURES :], {"user": d_user["weight"], "layer": d_layer, "out": d_out["weight"]}


def means(rows, user, item, r):
    """mean + user + item of every pair, from ``rows`` alone, each shrunk as by five ratings of 0."""
    b, m, centred = np.zeros(USERS), np.zeros(ITEMS), r - r[rows].mean()
    for _ in range(20):
        m = np.bincount(item[rows], (centred - b[user])[rows], ITEMS) / (np.bincount(item[rows], minlength=ITEMS) + 5)
        b = np.bincount(user[rows], (centred - m[item])[rows], USERS) / (np.bincount(user[rows], minlength=USERS) + 5)
    return r[rows].mean() + b[user] + m[item]


def train(cfg, seed):
    """(RMSE of the held-out fifth, that of the means alone, at(rows) -> (ratings, what the layer said), held out)."""
    _, user, item, r, features = draw(seed)
    rng = np.random.default_rng(seed)
    rows, held = np.split(rng.permutation(len(r)), [4 * len(r) // 5])
    simple, p = means(rows, user, item, r), Model.init(rng, cfg)
    state = adamw.init(p)

    def forward(rows):
        return Model.forward(features[item[rows]], p, user[rows], cfg, (r - simple)[rows])[1]

    for step in range(STEPS):
        _, dp = Model.backward(1.0, forward(rng.choice(rows, 256, replace=False)))
        p, state = adamw.update(p, dp, state, lr=0.01 * (1 - step / STEPS), step=step + 1, decay=0.5)

    def at(rows):
        e, *_, said = forward(rows)
        return np.clip(e + r[rows], 1, 5), said

    errors = (np.clip(said, 1, 5) - r[held] for said in (at(held)[0], simple[held]))
    return *(np.sqrt(np.mean(e * e)) for e in errors), at, held


taste, user, item, r, features = draw(0)
few = np.arange(0, len(r), 700)
given = features[item[few]], Model.init(np.random.default_rng(0), SPARSE), user[few], SPARSE
report = verify.gradcheck(Model, *given, residual=r[few], controls=True)
print(f"gradient against the complex step: error {report.error:.1e}")
runs, twins = ([train(cfg, seed) for seed in range(SEEDS)] for cfg in (SPARSE, DENSE))
error = {"means only": [run[1] for run in runs], "experts, 2 of 4": [run[0] for run in runs]}
error["dense, as many at work"] = [run[0] for run in twins]
*_, at, held = runs[0]
print(f"\nerror (RMSE) of {len(held):,} held-out synthetic ratings, {SEEDS} seeds (noise alone: 0.4)")
for name, e in error.items():
    print(f"  {name:24s}{np.mean(e):.3f} ± {np.std(e, ddof=1):.3f}")
less = np.subtract(error["dense, as many at work"], error["experts, 2 of 4"])
print(f"the experts' error is {less.mean():.3f} ± {less.std(ddof=1) / SEEDS**0.5:.3f} below that of their dense twin")
assert np.mean(error["experts, 2 of 4"]) < 0.8 * np.mean(error["means only"])

answer, out = at(held)
kept = out.routing.kept
print("\npairs of each expert:", *kept.sum(axis=0), "- equal, with no balance loss")
print(f"pairs that no expert took: {np.mean(~kept.any(axis=1)):.1%}, that all took: {np.mean(kept.all(axis=1)):.1%}")
batch = np.random.default_rng(0).permutation(len(held))[:256]
moved = np.abs(at(held[batch])[0] - answer[batch]).mean()
print(f"its price: a prediction depends on the batch that it stands in; in one of 256 it moves by {moved:.3f}")

served = np.stack([kept[taste[user[held]] == t].mean(axis=0) for t in range(TASTES)])  # (taste, expert)
figure = Figure(figsize=(6, 4), dpi=130, layout="constrained")
ax = figure.subplots()
figure.colorbar(ax.imshow(100 * served, cmap="Blues", vmin=0, vmax=100), ax=ax).set_label("of the taste's pairs (%)")
for (t, e), share in np.ndenumerate(served):
    ax.text(e, t, f"{100 * share:.0f}", ha="center", va="center", color="white" if share > 0.6 else "black")
ax.set(
    xticks=range(E), yticks=range(TASTES), xlabel="expert", ylabel="hidden taste of the user", title="who serves whom"
)
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "recommend.png"
figure.savefig(picture)
print(f"picture: {picture}")
