"""Scores that are summed over training, candidates measured alike, and what a report says of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.surgery import compress, measure, movement, report, targets
from pymoe.surgery.compress import Candidate, Row
from pymoe.surgery.weights import Pattern
from pymoe.train import evaluate
from pymoe.train.settings import TrainSettings
from tests.surgery import models

IDS = models.text(3000, seed=4).ids


def settings(steps=24, **changes):
    return TrainSettings(
        **({"steps": steps, "rows": 3, "window": models.WINDOW, "lr": 5e-3, "warmup": 2, "dtype": "float64"} | changes)
    )


def test_movement_scores_are_the_sum_of_minus_w_g():
    from pymoe.train import data, objective

    cfg, p = models.sparse()
    names = targets.names(p, "experts")
    s = settings(1, optimizer="sgd", momentum=0.0, warmup=0)
    moved = movement.train(p, cfg, names, IDS, s)
    x, y = data.batch(IDS, seed=s.seed, step=0, rows=s.rows, window=s.window)
    _, cache = objective.forward(x, p, cfg, y, s.loss_weights)
    g = tree.flatten(objective.backward(1.0, cache)[1])
    for name in names:
        want = -tree.flatten(p)[name] * g[name]
        assert np.abs(moved.score[name] - want).max() <= 1e-15 + 1e-13 * np.abs(want).max()
    two = movement.train(p, cfg, names, IDS, settings(2, optimizer="sgd", momentum=0.0, warmup=0))
    assert not np.array_equal(two.score[names[0]], moved.score[names[0]])


def loss(cfg, p):
    return evaluate.loss(p, cfg, IDS[:400], window=models.WINDOW, rows=8).loss


def test_every_candidate_is_measured_alike(tmp_path):
    cfg, p = models.sparse()
    which = list(compress.candidates(cfg, [0.5, 0.75], ["magnitude", "wanda", "sparsegpt"], ["reap"]))
    labels = {(c.label, c.level) for c in which}
    assert ("wanda 2:4", 0.5) in labels and ("wanda 1:4", 0.75) in labels and ("magnitude 2x2 blocks", 0.5) in labels
    rows = compress.run(
        p, cfg, which, text=models.text(600), loss=loss, speed_on=IDS[: 2 * models.WINDOW].reshape(2, -1),
        tune=lambda made: made.p,
    )  # fmt: skip
    assert len(rows) == len(which) + 1 and rows[0].zeros == 0
    for row in rows[1:]:
        assert row.tuned == row.loss and row.speed > 0
        if row.family == "experts":
            assert row.parameters < rows[0].parameters
        else:
            assert 0 <= row.level - row.zeros < 0.05  # whole blocks are rounded down
    sparse = [r for r in rows if r.label == "magnitude weights"]
    assert sparse[1].bytes < sparse[0].bytes and sparse[1].parameters < sparse[0].parameters
    made = report.write(str(tmp_path), rows, {"source": "here"})
    assert sorted(path.rsplit("/", 1)[1] for path in made) == ["compress.csv", "compress.json", "compress.md"]
    assert len(json.loads((tmp_path / "compress.json").read_text())["rows"]) == len(rows)
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("matplotlib.image")
    assert image.imread(report.draw(str(tmp_path), rows)).shape[1] > 1000


def test_the_verdict_names_the_best():
    rows = [Row("as it is", "none", 0.0, 0, 1, 1, 1, 1.0, None, 1.0)]
    rows += [Row(n, "weights", s, s, 1, 1, 1, v, t, 1.0) for n, s, v, t in (
        ("a", 0.5, 1.3, 1.05), ("b", 0.5, 1.2, 1.1), ("a", 0.75, 2.0, None))]  # fmt: skip
    said = report.verdict(rows)
    assert said[0] == "at 50%: b loses least, +0.2000 to 1.2000"
    assert said[1].strip() == "after fine-tuning: a, 1.0500 (fine-tuning gave back 0.2500)"
    assert said[2] == "at 75%: a loses least, +1.0000 to 2.0000" and len(said) == 3


def test_the_verdict_says_what_fine_tuning_did_and_to_the_model_as_it_is():
    rows = [Row("as it is", "none", 0.0, 0, 1, 1, 1, 1.0, 1.1, 1.0), Row("a", "units", 0.5, 0, 1, 1, 1, 1.2, 1.25, 1.0)]
    said = report.verdict(rows)[1].strip()
    assert said == (
        "after fine-tuning: a, 1.2500 (fine-tuning cost 0.0500; the model as it is, trained on alike: 1.1000)"
    )


def test_no_candidate_looks_like_the_model_as_it_is():
    assert "*" not in report.MARKERS and "#000000" not in report.COLOURS
    looks = [(report.COLOURS[i % len(report.COLOURS)], report.MARKERS[i % len(report.MARKERS)]) for i in range(30)]
    assert len(set(looks)) == len(looks)


def test_a_stored_model_says_the_same():
    cfg, p = models.sparse()
    for pattern, form in (
        (Pattern(), "csr"), (Pattern("n:m", nm=(1, 4)), "nm"), (Pattern("blocks", block=(4, 4)), "bsr")
    ):  # fmt: skip
        made = compress.make(p, cfg, Candidate("weights", "magnitude", 0.75, pattern), models.text())
        kept = measure.stored(made.p, made.masks, form, nm=pattern.nm, block=pattern.block)
        want = models.logits(cfg, made.p)
        assert np.abs(models.logits(cfg, kept) - want).max() <= 1e-13 * np.abs(want).max()
        assert measure.size(cfg, kept, made.masks).bytes < measure.size(cfg, made.p, made.masks).bytes
    with pytest.raises(ConfigError, match="stored format"):
        measure.stored(p, {}, "zip")
