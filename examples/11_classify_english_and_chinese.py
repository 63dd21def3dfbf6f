"""Classify English and Chinese texts with one model: TextEncoder and MoEClassifier in a scikit-learn pipeline.

The texts are a small set of sentences written for pymoe, positive, neutral and negative: a score on so few says that a
model learns, not how well it would do elsewhere.  On the same splits stand the dense twin, and logistic regression on
the same features and on scikit-learn's own.  ``pymoe classify train FILE`` does this for a file of yours.
Needs pymoe[text] and matplotlib.  Usage: python 11_classify_english_and_chinese.py [FOLDER FOR THE PICTURE]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline

from pymoe.pipeline import MoEClassifier, TextEncoder, builtin, tokenize

SPLITS = 4
table = builtin.load("sentiment")
text, label, language = (np.array(column, dtype=object) for column in (table.texts, table.labels, table.groups))
SAID = ["今天天气很好", "What a lovely day", "The train leaves at nine", "太慢了，我再也不来了"]
print(f"{len(text)} texts.  In tokens:", "; ".join(" | ".join(tokenize(one)) for one in SAID))

WAYS = {
    "experts, 2 of 4": lambda seed: make_pipeline(TextEncoder(), MoEClassifier(random_state=seed)),
    "dense twin": lambda seed: make_pipeline(TextEncoder(), MoEClassifier(dense=True, random_state=seed)),
    "TextEncoder, logistic regression": lambda seed: make_pipeline(TextEncoder(), LogisticRegression()),
    "TfidfVectorizer, logistic regression": lambda seed: make_pipeline(TfidfVectorizer(), LogisticRegression()),
}
KINDS = ("both", "English", "Chinese")
splits = list(StratifiedShuffleSplit(SPLITS, test_size=0.2, random_state=0).split(text, language + label))
score, models = {}, {}
print(f"\nheld-out accuracy, mean of {SPLITS} splits " + "".join(f"{kind:>10s}" for kind in KINDS))
for name, way in WAYS.items():
    found = []
    for seed, (train, held) in enumerate(splits):
        models[name] = way(seed).fit(text[train], label[train])
        right = models[name].predict(text[held]) == label[held]
        found.append([right.mean()] + [right[language[held] == kind].mean() for kind in KINDS[1:]])
    score[name] = np.array(found)
    print(f"  {name:38s}" + "".join(f"{value:10.3f}" for value in score[name].mean(axis=0)))
gain = (score["experts, 2 of 4"] - score["dense twin"])[:, 0]
print(
    f"experts - dense twin: {gain.mean():+.3f} ± {gain.std(ddof=1) / SPLITS**0.5:.3f}; {len(train)} texts to learn from"
)
print("scikit-learn's own words end at spaces, so that it reads Chinese by guessing (1 in 3)")

model = models["experts, 2 of 4"]
print("\nwhat the experts say of new texts, and how sure they are:")
for one, p in zip(SAID, model.predict_proba(SAID), strict=True):
    print(f"  {one}: {model.classes_[p.argmax()]} ({p.max():.2f})")

held = splits[-1][1]
route = model[-1].route(model[:-1].transform(text[held]))  # (N, E) the weight of each expert for each text
kinds = [(which, mood) for which in KINDS[1:] for mood in model.classes_]
share = np.stack([route[(language[held] == which) & (label[held] == mood)].mean(axis=0) for which, mood in kinds])

figure = Figure(figsize=(11, 4), dpi=130, layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
for i, (kind, colour) in enumerate(zip(KINDS, ("#0072B2", "#E69F00", "#999999"), strict=True)):
    bars = left.barh(np.arange(4) + 0.27 * (i - 1), [v.mean(axis=0)[i] for v in score.values()], 0.26, color=colour,
                     label=kind)  # fmt: skip
    left.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
left.set(yticks=range(4), yticklabels=score, xlim=(0, 1), xlabel="held-out accuracy (dashed: guessing)")
left.invert_yaxis()
left.axvline(1 / 3, color="#444444", ls="--", lw=1)
left.legend(frameon=False)
left.spines[["top", "right"]].set_visible(False)
image = right.imshow(100 * share, cmap="cividis", vmin=0, aspect="auto")
right.set(
    xticks=range(share.shape[1]), yticks=range(6), yticklabels=[" ".join(kind) for kind in kinds], xlabel="expert"
)
for (i, e), value in np.ndenumerate(share):
    colour = "white" if value < share.max() / 2 else "black"
    right.text(e, i, f"{100 * value:.0f}", ha="center", va="center", color=colour)
right.set_title("which expert reads what (% of the weight)")
figure.colorbar(image, ax=right)
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "english_and_chinese.png"
figure.savefig(picture)
print(f"\npicture: {picture}")
assert score["experts, 2 of 4"][:, 0].mean() > 0.45 and model.predict(SAID[:1])[0] == "positive"
