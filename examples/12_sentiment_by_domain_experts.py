"""Sentiment by domain experts: a sub-model for each domain, put together in every way, beside one model of all.

The sub-models are linear, on TF-IDF rows: W_i = W_0 + Δ_i, one trunk for all domains and a difference for each.  With
PYMOE_DATA set, the texts are its four domains (tweets, films, products, editorials; Hutto and Gilbert 2014); else a
small set of English and Chinese sentences that was written for pymoe, where the domain is the language.
Needs pymoe[text] and matplotlib.  Usage: python 12_sentiment_by_domain_experts.py [FOLDER FOR THE PICTURE]
"""

import gzip
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pymoe.backend.rng import generator
from pymoe.pipeline import SparseExpertClassifier, TextEncoder, builtin

ROWS, SEEDS = 3000, 5  # of PYMOE_DATA at most so many rows, so that the run stays short
DOMAINS = {"amazonReview": "products", "movieReview": "films", "nytEditorial": "editorials", "tweets": "tweets"}


def rated(folder):
    """(text, positive | neutral | negative, domain) of the lines ``id <tab> rating <tab> text``, ratings -4 to 4."""
    for path in sorted((Path(folder) / "sentiment").glob("*.gz")):
        domain = next(name for start, name in DOMAINS.items() if path.name.startswith(start))
        for line in gzip.decompress(path.read_bytes()).decode("utf-8", "replace").splitlines():
            _, rating, text = line.split("\t", 2)
            yield text, "positive" if float(rating) > 0.3 else "negative" if float(rating) < -0.3 else "neutral", domain


if os.environ.get("PYMOE_DATA"):
    rows = list(rated(os.environ["PYMOE_DATA"]))
    rows = [rows[i] for i in generator(0).permutation(len(rows))[:ROWS]]
    seeds = 1
else:
    table = builtin.load("sentiment")
    rows, seeds = list(zip(table.texts, table.labels, table.groups, strict=True)), SEEDS
text, label, domain = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
domains, number = np.unique(domain.astype(str), return_inverse=True)
print(f"{len(text):,} texts:", ", ".join(f"{n:,} {name}" for name, n in zip(domains, np.bincount(number), strict=True)))

INTEGRATIONS = "vote average logit_average accuracy validation gradient stacking gate posterior".split()
score = {}  # name -> one row of accuracies for each seed: of all held-out texts, then of each domain


def note(name, seed, predicted):
    right = predicted == label[held]
    score.setdefault(name, []).append([right.mean(), *(right[number[held] == i].mean() for i in range(len(domains)))])


for seed in range(seeds):
    order = generator(seed).permutation(len(text))
    train, held = order[len(order) // 5 :], order[: len(order) // 5]
    encoder = TextEncoder(min_count=2).fit(text[train])
    x, x_held = encoder.transform(text[train]), encoder.transform(text[held])
    begin = time.perf_counter()
    for integration in INTEGRATIONS:
        model = SparseExpertClassifier(subsets="group", integration=integration, random_state=seed)
        model.fit(x, label[train], groups=domain[train])
        note(integration, seed, model.predict(x_held))
    note("domain known", seed, model.predict(x_held, groups=domain[held]))
    fused = SparseExpertClassifier(subsets="group", sharing="fused", random_state=seed)
    note("fused (BTX)", seed, fused.fit(x, label[train], groups=domain[train]).predict(x_held))
    alone = SparseExpertClassifier(subsets="group", sharing="separate", random_state=seed)
    alone.fit(x, label[train], groups=domain[train])
    note("no shared trunk, average", seed, alone.predict(x_held))
    note("no shared trunk, domain known", seed, alone.predict(x_held, groups=domain[held]))
    note("one model of all", seed, model.dense_twin().fit(x, label[train]).predict(x_held))
    print(f"seed {seed}: {len(train):,} to train on, {x.shape[1]:,} features  [{time.perf_counter() - begin:.0f} s]")

mean = {name: np.mean(values, axis=0) for name, values in score.items()}
print("\nheld-out accuracy" + " " * 21 + "all" + "".join(f"{name:>12s}" for name in domains))
for name, values in mean.items():
    print(f"  {name:32s}" + f"{values[0]:9.3f}" + "".join(f"{value:12.3f}" for value in values[1:]))
gain = np.array(score["average"])[:, 0] - np.array(score["one model of all"])[:, 0]
spread = f" ± {gain.std(ddof=1) / seeds**0.5:.3f} over {seeds} seeds" if seeds > 1 else ""
print(f"the default (a trunk, averaged) against one model of all: {gain.mean():+.3f}{spread}, {len(held):,} held out")

names = list(mean)[::-1]
figure = Figure(figsize=(9, 5.5), dpi=130, layout="constrained")
ax = figure.subplots()
ax.axvline(mean["one model of all"][0], color="#444444", ls="--", lw=1)
styles = zip(domains, ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), "s^vo", strict=False)
for i, (name, colour, marker) in enumerate(styles, start=1):
    ax.scatter([mean[n][i] for n in names], names, s=45, color=colour, marker=marker, label=name)
ax.scatter([mean[n][0] for n in names], names, s=70, color="black", marker="D", label="all", zorder=3)
for row, name in enumerate(names):
    ax.text(1.01, row, f"{mean[name][0]:.3f}", va="center", transform=ax.get_yaxis_transform())
ax.set(xlabel="held-out accuracy, three classes (dashed: one model of all; at the right: all texts)")
ax.grid(axis="y", alpha=0.25)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1))
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "sentiment_by_domain.png"
figure.savefig(picture)
print(f"picture: {picture}")
assert mean["average"][0] > 0.5, "one of three classes, guessed blindly, is 0.33"
