"""Texts with labels in, a scored classifier out; the dense twin and the most frequent class always beside it."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend.errors import ConfigError, DataError, check_integer
from pymoe.backend.rng import generator
from pymoe.pipeline.columns import Table

NAMES = {"moe": "the sparse network", "ensemble": "the sub-models", "dense": "the dense network"}
METHODS = tuple(NAMES)
TWIN = "dense twin"
SMALL = 200  # rows: below, an n-gram of a single text counts too
_SPLIT = 11  # the key of this use of the generator

Watch = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a classifier is trained.  None: the estimator's own default.

    method        moe: one sparse network; ensemble: a sub-model on each subset; dense: the dense network
    experts, k    E experts, K of them for a text
    subsets       ensemble: random, label, cluster, group
    integration   ensemble: how the sub-models' answers become one (``SparseExpertClassifier``)
    test_share    of the rows, held out to score on
    encoder       settings of ``TextEncoder``
    verbose       a bar for the passes of the network
    """

    method: str = "moe"
    experts: int | None = None
    k: int | None = None
    subsets: str | None = None
    integration: str | None = None
    test_share: float = 0.2
    seed: int = 0
    encoder: dict[str, Any] = dataclasses.field(default_factory=dict)
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        for name in ("experts", "k"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name))
        check_integer("seed", self.seed, 0)
        if not 0 <= self.test_share < 1:
            raise ConfigError(f"test_share must lie in [0, 1), 0.2 for one fifth, got {self.test_share}")
        extra = [n for n in ("subsets", "integration") if getattr(self, n) is not None and self.method != "ensemble"]
        if self.method == "dense":
            extra += [n for n in ("experts", "k") if getattr(self, n) is not None]
        if extra:
            raise ConfigError(f"method {self.method} does not look at {', '.join(extra)}: leave it out")


class Split(NamedTuple):
    """Which rows are learned from, and which are held out."""

    train: list[int]
    test: list[int]


class Scores(NamedTuple):
    accuracy: float
    macro_f1: float


class Trained(NamedTuple):
    """A classifier and what it was worth."""

    encoder: Any
    model: Any
    twin: Any  # the dense baseline of equal active size, trained on the same rows; None where the model is dense
    seconds: dict[str, float]  # of encoding, of training the model, of training the twin
    scores: dict[str, Scores]  # by method, TWIN and the most frequent class; empty where nothing is held out
    held_out: Table
    probabilities: np.ndarray  # (N, C) of the held-out rows
    notes: tuple[str, ...]


def split(labels: Sequence[str], share: float, seed: int) -> Split:
    """``share`` of each class held out, drawn by the seed: of n rows round(n share), at least 1 and at most n - 1.

    A class of one row cannot be scored: the row is learned from.

    >>> split(["a"] * 5 + ["b"] * 10 + ["c"], 0.2, seed=0)
    Split(train=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15], test=[0, 13, 14])
    """
    test: list[int] = []
    if share:
        for i, label in enumerate(sorted(set(labels))):
            own = np.array([row for row, other in enumerate(labels) if other == label])
            n = min(max(1, int(len(own) * share + 0.5)), len(own) - 1)
            test += generator(seed, _SPLIT, i).permutation(own)[:n].tolist()
    held = set(test)
    return Split([i for i in range(len(labels)) if i not in held], sorted(test))


def check(table: Table) -> list[str]:
    """What is to be said of ``table`` before it is learned from; DataError if it cannot be."""
    assert table.labels is not None
    count = Counter(table.labels)
    if len(count) < 2:
        raise DataError(
            f"{table.where}: every row has the label {table.labels[0]!r} (rows: {len(table.texts)}), and a classifier "
            f"needs two classes: is {table.names['label']!r} the column of the labels? name it with --label"
        )
    if max(count.values()) == 1:
        raise DataError(
            f"{table.where}: each of the {len(table.texts)} rows has a label of its own, so there is nothing to learn: "
            f"is {table.names['label']!r} the column of the labels? name it with --label"
        )
    if len({_same(text) for text in table.texts}) == 1:
        raise DataError(
            f"{table.where}: every row has the same text, so there is nothing to learn: is {table.names['text']!r} the "
            "column of the texts? name it with --text"
        )
    notes = []
    if len(count) > max(20, len(table.texts) / 2):
        notes.append(
            f"{len(count)} different labels in {len(table.texts)} rows: is {table.names['label']!r} the column of the "
            "labels? name it with --label"
        )
    alike: dict[str, list[str]] = {}
    for label in count:
        alike.setdefault(label.casefold(), []).append(label)
    for spelt in (found for found in alike.values() if len(found) > 1):
        notes.append(f"labels that differ in capitals only are different classes: {', '.join(map(repr, spelt))}")
    single = sorted(label for label, n in count.items() if n == 1)
    if single:
        shown = ", ".join(map(repr, single[:5])) + (", ..." if len(single) > 5 else "")
        what = f"{len(single)} classes have one row each" if len(single) > 1 else "one class has one row only"
        notes.append(f"{what} ({shown}): it is learned from, and cannot be scored")
    of: dict[str, set[str]] = {}
    for text, label in zip(table.texts, table.labels, strict=True):
        of.setdefault(_same(text), set()).add(label)
    unclear = sum(len(found) > 1 for found in of.values())
    if unclear:
        notes.append(f"{unclear} text{'s stand' if unclear > 1 else ' stands'} with more than one label")
    return notes


def unseen(table: Table, classes: Sequence[str], *, leave_out: bool) -> tuple[Table, list[str]]:
    """``table`` where every label is one of ``classes``, and notes; others are left out, or a DataError."""
    assert table.labels is not None
    known = set(classes)
    out = [i for i, label in enumerate(table.labels) if label not in known]
    if not out:
        return table, []
    new = Counter(table.labels[i] for i in out)
    shown = ", ".join(repr(label) for label, _ in new.most_common(5)) + (", ..." if len(new) > 5 else "")
    if not leave_out or len(out) == len(table.texts):
        learned = ", ".join(list(classes)[:10]) + (", ..." if len(classes) > 10 else "")
        raise DataError(
            f"{table.where}: rows with a label that was not learned: {len(out)} of {len(table.texts)}, {shown} (first: "
            f"line {table.lines[out[0]]}; learned: {learned}): train with such rows, correct them, or leave them out "
            "with --skip-bad"
        )
    kept = [i for i in range(len(table.texts)) if table.labels[i] in known]
    return table.take(kept), [
        f"left out {len(out)} row{'s'[: len(out) > 1]} with a label that was not learned: {shown}"
    ]


def train(table: Table, settings: Settings, *, test: Table | None = None, watch: Watch = lambda _: None) -> Trained:
    """Learn from ``table`` and score on ``test``, or on rows held out of it; the dense twin learns the same.

    ``watch`` is told what begins.  The twin is trained even if nothing is held out: a report on another table needs it.
    """
    assert table.labels is not None
    notes = check(table)
    parts = split(table.labels, 0.0 if test is not None else settings.test_share, settings.seed)
    learned, held = table.take(parts.train), table.take(parts.test) if test is None else test
    assert learned.labels is not None and held.labels is not None
    if len(set(learned.labels)) < 2:
        raise DataError(f"{table.where}: nothing is left to learn from with --test-share {settings.test_share}")
    notes += _twice(learned, held)
    model = make(settings, learned.groups is not None)
    _check_choices(model, learned.groups)
    begin = time.perf_counter()
    watch(f"cleaning and encoding {len(learned.texts):,} texts")
    encoder = make_encoder(settings, len(learned.texts))
    x = encoder.fit_transform(learned.texts)
    seconds = {"encoding": time.perf_counter() - begin}
    y = np.array(learned.labels, dtype=object).astype(str)

    def fitted(name: str, made: Any, what: str, groups: list[str] | None) -> Any:
        begin = time.perf_counter()
        watch(f"training {what}")
        fit(made, x, y, groups)
        seconds[name] = time.perf_counter() - begin
        return made

    fitted("training", model, NAMES[settings.method], learned.groups)
    twin = None if settings.method == "dense" else fitted(TWIN, model.dense_twin(), "the dense twin", None)
    scores: dict[str, Scores] = {}
    p = np.zeros((0, len(model.classes_)))
    if held.texts:
        xt = encoder.transform(held.texts)
        p = probabilities(model, xt, held.groups)
        scores[settings.method] = score(held.labels, model.classes_[p.argmax(1)].tolist())
        scores |= beside(twin, xt, held.labels, learned.labels)
    return Trained(encoder, model, twin, seconds, scores, held, p, tuple(notes))


def beside(twin: Any, x: Any, truth: Sequence[str], labels: Sequence[str]) -> dict[str, Scores]:
    """What stands beside a model's score: its dense twin's, and that of always saying the commonest of ``labels``."""
    found = {} if twin is None else {TWIN: score(truth, twin.predict(x).tolist())}
    most = Counter(labels).most_common(1)[0][0]
    return found | {f"always {most!r}": score(truth, [most] * len(truth))}


def make_encoder(settings: Settings, rows: int) -> Any:
    """The ``TextEncoder`` of ``settings``; of few texts it keeps every n-gram."""
    from pymoe.pipeline import TextEncoder

    return TextEncoder(**({"min_count": 1 if rows < SMALL else 2} | settings.encoder))


def make(settings: Settings, grouped: bool) -> Any:
    """The estimator of ``settings``."""
    from pymoe import pipeline

    given = {"n_experts": settings.experts, "k": settings.k, "integration": settings.integration}
    own = {name: value for name, value in given.items() if value is not None}
    if settings.method == "ensemble":
        kind = settings.subsets or ("group" if grouped else "cluster")
        if kind == "group" and not grouped:
            raise ConfigError("subsets group needs the column of the groups: name it with --group")
        if kind == "cluster":
            own.setdefault("integration", "distance")
        return pipeline.SparseExpertClassifier(subsets=kind, random_state=settings.seed, **own)
    made = pipeline.MoEClassifier(random_state=settings.seed, verbose=settings.verbose, **own)
    return made.dense_twin() if settings.method == "dense" else made


def _check_choices(model: Any, groups: list[str] | None) -> None:
    """ConfigError, before anything is trained, where more experts are asked than there are."""
    given = model.get_params()
    experts = len(set(groups)) if groups is not None and by_group(model) else given["n_experts"]
    if given["k"] is not None and given["k"] > experts and not given.get("dense"):
        raise ConfigError(f"k must be at most the number of experts, {experts}, got {given['k']}")


def fit(model: Any, x: Any, y: np.ndarray, groups: list[str] | None) -> None:
    """Train ``model``; groups where it takes a subset for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes is greater")  # ``check`` has said so
        if groups is not None and by_group(model):
            model.fit(x, y, groups=groups)
        else:
            model.fit(x, y)
    if "verbose" in model.get_params():
        model.set_params(verbose=False)  # a folder does not remember who watched


def probabilities(model: Any, x: Any, groups: Sequence[str] | None = None) -> np.ndarray:
    """(N, C); with ``groups`` the expert of a row's group answers, where the model has one for each group."""
    if groups is not None and by_group(model):
        return np.asarray(model.predict_proba(x, groups=list(groups)))
    return np.asarray(model.predict_proba(x))


def expert_names(model: Any, n: int) -> list[str]:
    """Of ``n`` experts: the groups, where each has its own, else numbers."""
    groups = getattr(model, "group_names_", None)
    return [str(g) for g in groups] if groups is not None and len(groups) == n else [str(e) for e in range(n)]


def by_group(model: Any) -> bool:
    """Whether it has an expert for each group."""
    return getattr(model, "subsets", None) == "group"


def routes(model: Any, x: Any, groups: Sequence[str] | None = None) -> np.ndarray | None:
    """(N, E) the weight of each expert in each answer; None where the model has no experts to choose."""
    if not hasattr(model, "route"):
        return None
    try:
        if groups is not None and by_group(model):
            return np.asarray(model.route(x, groups=list(groups)))
        return np.asarray(model.route(x))
    except ConfigError:  # dense, or stacking
        return None


def score(truth: Sequence[str], predicted: Sequence[str]) -> Scores:
    """Accuracy, and F1 averaged over the classes that stand in either.

    >>> score(["a", "a", "b"], ["a", "b", "b"])
    Scores(accuracy=0.6666666666666666, macro_f1=0.6666666666666666)
    """
    from pymoe.pipeline.text import library

    metrics = library.load("sklearn.metrics", "A score")
    f1 = metrics.f1_score(list(truth), list(predicted), average="macro", zero_division=0)
    return Scores(float(metrics.accuracy_score(list(truth), list(predicted))), float(f1))


def _twice(learned: Table, held: Table) -> list[str]:
    seen = {_same(text) for text in learned.texts}
    both = sum(_same(text) in seen for text in held.texts)
    if not both:
        return []
    return [
        f"{both:,} of {len(held.texts):,} held-out texts stand among the learned ones too: for these the score says "
        "nothing about new texts"
    ]


def _same(text: str) -> str:
    """What two copies of a text have in common."""
    return " ".join(text.split()).casefold()
