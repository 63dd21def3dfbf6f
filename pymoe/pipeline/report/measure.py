"""What there is to say of a classifier's answers: scores, confusions, what each expert does, and the errors.

An expert *leads* a text when its weight there is the largest; of equal weights the lowest number leads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pymoe.pipeline import classification
from pymoe.pipeline.classification import Scores
from pymoe.pipeline.columns import Table
from pymoe.pipeline.report import routing
from pymoe.pipeline.text import library


class PerClass(NamedTuple):
    label: str
    precision: float
    recall: float
    f1: float
    texts: int


class PerExpert(NamedTuple):
    name: str  # its number, or its group
    weight: float  # mean over all texts
    leads: int  # texts
    accuracy: float | None  # of the texts it leads
    classes: list[tuple[str, int]]  # of the texts it leads, most frequent first


class Confused(NamedTuple):
    truth: str
    predicted: str
    times: int
    examples: list[tuple[int, float, str]]  # line, probability, text; the surest first


class Report(NamedTuple):
    title: str
    where: str
    texts: int
    classes: list[str]
    scores: dict[str, Scores]  # the model first
    per_class: list[PerClass]
    confusion: np.ndarray  # (C, C) truth x answer
    experts: list[PerExpert]  # empty where there are none to choose
    by_class: np.ndarray  # (E, C) mean weight of expert e on the texts of class c
    groups: list[tuple[str, int, Scores]]
    confused: list[Confused]
    notes: tuple[str, ...]


def measure(
    table: Table,
    classes: Sequence[str],
    p: np.ndarray,
    weights: np.ndarray | None,
    *,
    title: str,
    method: str = "model",
    beside: dict[str, Scores] | None = None,
    expert_names: Sequence[str] | None = None,
    errors: int = 20,
    notes: Sequence[str] = (),
) -> Report:
    """The report of answers ``p`` (N, C) and ``weights`` (N, E) of experts on ``table``.

    ``beside``: scores of others on the same rows (``classification.beside``).  ``errors``: how many texts are shown.
    """
    assert table.labels is not None
    truth = table.labels
    predicted = [classes[i] for i in p.argmax(axis=1)]
    metrics = library.load("sklearn.metrics", "A report")
    parts = metrics.precision_recall_fscore_support(truth, predicted, labels=list(classes), zero_division=0)
    rows = zip(classes, *parts, strict=True)
    per_class = [PerClass(c, float(right), float(found), float(f1), int(n)) for c, right, found, f1, n in rows]
    scores = {method: classification.score(truth, predicted)} | (beside or {})
    experts, by_class = _experts(truth, predicted, classes, weights, expert_names)
    if weights is not None and not experts and weights.shape[1] > 1:
        notes = [*notes, f"the {weights.shape[1]} experts have the same weights in every answer"]
    absent = sum(c.texts == 0 for c in per_class)
    if absent:
        what = "has" if absent == 1 else "have"
        note = f"{absent} of the {len(classes)} learned classes {what} no text here: where such a class is answered"
        notes = [*notes, f"{note}, it counts in macro-F1 as 0"]
    return Report(
        title, table.where, len(truth), list(classes), scores, per_class,
        metrics.confusion_matrix(truth, predicted, labels=list(classes)),
        experts, by_class, _groups(table, predicted), _confused(table, predicted, p.max(axis=1), errors), tuple(notes),
    )  # fmt: skip


def _experts(
    truth: list[str],
    predicted: list[str],
    classes: Sequence[str],
    weights: np.ndarray | None,
    names: Sequence[str] | None,
) -> tuple[list[PerExpert], np.ndarray]:
    if weights is None or weights.shape[1] < 2 or (len(weights) > 1 and (np.ptp(weights, axis=0) < 1e-9).all()):
        return [], np.zeros((0, len(classes)))
    y = np.array(truth, dtype=object)
    right = y == np.array(predicted, dtype=object)
    leader = weights.argmax(axis=1)
    found = []
    for e in range(weights.shape[1]):
        own = leader == e
        n = int(own.sum())
        accuracy = float(right[own].mean()) if n else None
        found.append(
            PerExpert(
                str(e) if names is None else names[e],
                float(weights[:, e].mean()),
                n,
                accuracy,
                Counter(y[own]).most_common(),
            )
        )
    return found, routing.by_class(weights, y, classes)


def _groups(table: Table, predicted: list[str]) -> list[tuple[str, int, Scores]]:
    if table.groups is None or table.labels is None:
        return []
    found = []
    for name in sorted(set(table.groups)):
        own = [i for i, group in enumerate(table.groups) if group == name]
        both = [table.labels[i] for i in own], [predicted[i] for i in own]
        found.append((name, len(own), classification.score(*both)))
    return found


def _confused(table: Table, predicted: list[str], sure: np.ndarray, errors: int) -> list[Confused]:
    """Pairs of classes, the most frequent first; ``errors`` texts are dealt out to them in turn."""
    assert table.labels is not None
    wrong: dict[tuple[str, str], list[int]] = {}
    for i, pair in enumerate(zip(table.labels, predicted, strict=True)):
        if pair[0] != pair[1]:
            wrong.setdefault(pair, []).append(i)
    pairs = sorted(wrong.items(), key=lambda item: (-len(item[1]), item[0]))
    each = max(1, min(5, errors // max(1, min(len(pairs), errors))))
    found = []
    for (truth, answer), rows in pairs:
        rows = sorted(rows, key=lambda i: (-float(sure[i]), i))[: min(each, max(0, errors))]
        errors -= len(rows)
        examples = [(table.lines[i], float(sure[i]), table.texts[i]) for i in rows]
        found.append(Confused(truth, answer, len(wrong[truth, answer]), examples))
    return found
