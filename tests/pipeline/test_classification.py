"""The split, the checks and the scores of a text classifier."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline import classification
from pymoe.pipeline.classification import Settings, split
from pymoe.pipeline.columns import Table

NAMES = {"text": "text", "label": "label"}


def table(texts, labels, groups=None) -> Table:
    return Table("f.csv", "", list(texts), list(labels), groups, list(range(2, len(texts) + 2)), NAMES, ())


def test_the_split_is_stratified_seeded_and_whole():
    labels = ["a"] * 50 + ["b"] * 20 + ["c"] * 3 + ["d"]
    found = split(labels, 0.2, 5)
    assert sorted(found.train + found.test) == list(range(74))
    assert Counter(labels[i] for i in found.test) == {"a": 10, "b": 4, "c": 1}
    assert split(labels, 0.2, 5) == found != split(labels, 0.2, 6)
    assert split(labels, 0.0, 5).test == []
    assert Counter(labels[i] for i in split(labels, 0.99, 0).train) == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_what_cannot_be_learned_from():
    with pytest.raises(DataError, match="every row has the label 'x' .rows: 3..*--label"):
        classification.check(table("abc", "xxx"))
    with pytest.raises(DataError, match="each of the 3 rows has a label of its own"):
        classification.check(table("abc", "xyz"))
    notes = classification.check(table(["a", "b", "A ", "c"], ["x", "x", "y", "x"]))
    assert "one class has one row only ('y')" in notes[0] and "1 text stands with more than one label" in notes[1]


def test_columns_that_are_likely_the_wrong_ones():
    with pytest.raises(DataError, match="every row has the same text.*--text"):
        classification.check(table(["a b", "A  b", "a b"], "xyx"))
    notes = classification.check(table([str(i) for i in range(40)], [f"l{i % 25}" for i in range(40)]))
    assert "25 different labels in 40 rows: is 'label' the column" in notes[0]
    notes = classification.check(table("abcd", ["Good", "good", "bad", "Good"]))
    assert notes[0].endswith("different classes: 'Good', 'good'")


def test_labels_that_were_not_learned():
    some = table("abc", "xyx")
    assert classification.unseen(some, ["x", "y"], leave_out=False) == (some, [])
    with pytest.raises(DataError, match="rows with a label that was not learned: 1 of 3, 'y' .first: line 3; learn"):
        classification.unseen(some, ["x"], leave_out=False)
    kept, notes = classification.unseen(some, ["x"], leave_out=True)
    assert kept.texts == ["a", "c"] and kept.lines == [2, 4] and "left out 1 row with" in notes[0]
    with pytest.raises(DataError, match="not learned: 3 of 3"):
        classification.unseen(some, ["z"], leave_out=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "magic"}, "method must be one of moe, ensemble, dense"),
        ({"experts": 0}, "experts must be an integer of at least 1"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"test_share": 1.0}, r"test_share must lie in \[0, 1\)"),
        ({"subsets": "label"}, "method moe does not look at subsets"),
        ({"method": "dense", "k": 2}, "method dense does not look at k"),
    ],
)
def test_settings_that_make_no_sense(given, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**given)


@pytest.mark.parametrize("method", classification.METHODS)
def test_a_trained_classifier_stands_beside_its_twin_and_the_majority(method):
    rng = np.random.default_rng(0)
    topics = {
        "food": "soup bread rice apple cheese",
        "travel": "train road ticket hotel map",
        "sport": "goal match ball",
    }
    texts, labels = [], []
    for label, words in topics.items():
        for _ in range(25 if label == "food" else 20):
            texts.append(" ".join(rng.choice(words.split(), 2)) + f" {len(texts)}")
            labels.append(label)
    data = table(texts, labels, ["even" if i % 2 else "odd" for i in range(65)])
    told: list[str] = []
    settings = Settings(method=method, experts=None if method == "dense" else 2)
    made = classification.train(data, settings, watch=told.append)
    best = made.scores[method]
    assert best.accuracy > 0.9 and made.scores["always 'food'"].accuracy == 5 / 13
    assert ("dense twin" in made.scores) == (method != "dense")
    assert told[-1] == ("training the dense network" if method == "dense" else "training the dense twin")
    assert made.probabilities.shape == (13, 3) and np.allclose(made.probabilities.sum(1), 1, atol=1e-6)
    again = classification.train(data, settings)
    assert (again.probabilities == made.probabilities).all()
    x = made.encoder.transform(texts[:4])
    weights = classification.routes(made.model, x, ["odd", "even", "new", "odd"])
    assert (weights is None) == (method == "dense")
    if method == "ensemble":
        assert classification.by_group(made.model) and weights[:2].tolist() == [[0.0, 1.0], [1.0, 0.0]]
        assert classification.expert_names(made.model, 2) == ["even", "odd"]


def test_texts_on_both_sides_are_told():
    texts = ["same text", *(f"text number {i}" for i in range(8)), " Same  TEXT"]
    held = table(["same text", "other"], ["x", "y"])
    settings = Settings(method="ensemble", experts=1)
    made = classification.train(table(texts, ["x", "y"] * 5), settings, test=held)
    assert any("1 of 2 held-out texts stand among the learned ones" in note for note in made.notes)
