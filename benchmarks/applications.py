"""Text classification beside scikit-learn's baseline and the dense twin, on real data, one split, one machine.

``PYMOE_DATA=FOLDER python benchmarks/applications.py [--only sentiment topics domains] [--seeds 1] [--rows N]``

sentiment   three classes (rating > 0.3, < -0.3, between), tweets, films, products and editorials; 80/20 by seed.
            Needs PYMOE_DATA (its folder ``sentiment``); a line that is not UTF-8 is read as Latin-1
domains     of the same texts: which of the four sources a text is from, 6,000 to train on and 1,600 to judge by
topics      the topic of a docstring of the standard library (``pymoe.pipeline.builtin``), 80/20 by seed

Every contender gets the same texts and its defaults: nothing is tuned on what it is judged by.  Printed: accuracy and
macro-F1 on the held-out texts, seconds of training (encoding included, one process), and the accuracy in each source.
The experts by domain are told the source of a training text only, never that of a text to judge.
Translation: ``benchmarks/translation.py``.  Where sparsity pays: ``benchmarks/experts.py``.
"""

from __future__ import annotations

import argparse
import gzip
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

TASKS = ("sentiment", "domains", "topics")
SOURCES = {
    "tweets": "tweets", "films": "movieReviewSnippets", "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}  # fmt: skip


class Texts(NamedTuple):
    texts: np.ndarray  # (N,) str
    labels: np.ndarray  # (N,)
    groups: np.ndarray | None  # (N,) the source of each, where the texts have one
    train: np.ndarray  # indices
    held_out: np.ndarray


def ratings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(texts, mean ratings, sources) of all four files."""
    texts, rating, source = [], [], []
    for name, stem in SOURCES.items():
        path = os.path.join(os.environ["PYMOE_DATA"], "sentiment", f"{stem}_GroundTruth.txt.gz")
        with gzip.open(path, "rb") as file:
            for raw in file:
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError:
                    line = raw.decode("latin-1")
                fields = line.rstrip("\r\n").split("\t", 2)
                if len(fields) == 3:
                    texts.append(fields[2])
                    rating.append(float(fields[1]))
                    source.append(name)
    return np.array(texts, dtype=object), np.array(rating), np.array(source)


def load(task: str, seed: int, rows: int | None = None) -> Texts:
    """The texts of a task and their split; rows: of so many of them only."""
    rng = np.random.default_rng(seed)
    if task == "topics":
        from pymoe.pipeline import builtin

        table = builtin.load("docstrings")
        texts, labels = np.array(table.texts, dtype=object), np.array(table.labels)
        groups = None
    else:
        texts, rating, groups = ratings()
        labels = np.where(rating > 0.3, "positive", np.where(rating < -0.3, "negative", "neutral"))
        if task == "domains":
            labels, groups = groups, None
    order = rng.permutation(len(texts))[:rows]
    if task == "domains":
        order = order[:7600]
    train = min(6000, int(0.8 * len(order))) if task == "domains" else int(0.8 * len(order))
    return Texts(texts, labels, groups, order[:train], order[train:])


def contenders(data: Texts) -> dict[str, Callable[[], Any]]:
    """name -> how a fitted model is made of the training texts."""
    from sklearn.dummy import DummyClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from pymoe.pipeline import MoEClassifier, SparseExpertClassifier, TextEncoder

    x, y = list(data.texts[data.train]), data.labels[data.train]

    def plain(*steps: Any) -> Callable[[], Any]:
        return lambda: make_pipeline(*steps).fit(x, y)

    def by_source() -> Any:
        model = make_pipeline(TextEncoder(), SparseExpertClassifier(subsets="group", integration="posterior"))
        assert data.groups is not None
        return model.fit(x, y, sparseexpertclassifier__groups=data.groups[data.train])

    logistic = LogisticRegression(max_iter=1000)
    network = MoEClassifier(random_state=0)
    made = {
        "most frequent class": plain(TfidfVectorizer(), DummyClassifier()),
        "TF-IDF words 1-2, logistic": plain(TfidfVectorizer(ngram_range=(1, 2)), logistic),
        "TF-IDF characters 2-5, logistic": plain(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)), logistic),
        "TextEncoder, logistic": plain(TextEncoder(), logistic),
        "pymoe, dense twin": plain(TextEncoder(), network.dense_twin()),
        "pymoe, sparse, end to end": plain(TextEncoder(), network),
    }
    if data.groups is not None:
        made["pymoe, experts by source"] = by_source
    return made


def judge(task: str, seed: int, rows: int | None) -> None:
    from sklearn.metrics import f1_score

    data = load(task, seed, rows)
    x, y = list(data.texts[data.held_out]), data.labels[data.held_out]
    names = [] if data.groups is None else list(SOURCES)
    print(
        f"\n{task}, seed {seed}: {len(data.train):,} texts to train on, {len(y):,} held out, "
        f"{len(set(data.labels.tolist()))} classes",
        flush=True,
    )
    print(f"  {'':32s} {'accuracy':>8s} {'macro-F1':>8s} {'seconds':>8s}" + "".join(f" {n:>10s}" for n in names))
    for name, fit in contenders(data).items():
        begin = time.perf_counter()
        model = fit()
        taken = time.perf_counter() - begin
        said = model.predict(x)
        line = f"  {name:32s} {np.mean(said == y):8.4f} {f1_score(y, said, average='macro'):8.4f} {taken:8.1f}"
        if data.groups is not None:
            group = data.groups[data.held_out]
            line += "".join(f" {np.mean((said == y)[group == n]):10.4f}" for n in names)
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="splits by the seeds 0 to N - 1 (1)")
    parser.add_argument("--rows", type=int, metavar="N", help="only so many of the texts (all)")
    options = parser.parse_args()
    if options.seeds < 1 or (options.rows is not None and options.rows < 50):
        parser.error("--seeds must be at least 1, --rows at least 50")
    for task in options.only:
        if task != "topics" and "PYMOE_DATA" not in os.environ:
            print(f"\n{task} is left out: set PYMOE_DATA to the folder of the data")
            continue
        for seed in range(options.seeds):
            judge(task, seed, options.rows)


if __name__ == "__main__":
    main()
