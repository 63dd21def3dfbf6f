"""Held-out loss against a loop over the pairs, translations in the order of the texts, scores as sacrebleu's."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import sacrebleu

from pymoe.backend.errors import DataError
from pymoe.models import beam, seq2seq
from pymoe.pipeline.translation import evaluate, job, train
from pymoe.pipeline.translation.bpe import START, STOP
from pymoe.pipeline.translation.translator import Translator
from tests.pipeline.translation import small

TEXT, HELD = small.text(60, 0), small.text(9, 1)


@pytest.fixture(scope="module")
def work():
    return small.work(TEXT, dtype="float64")


@pytest.fixture(scope="module")
def p(work):
    batches, _ = small.made(work, TEXT, HELD)
    state = job.start(work.settings, work.model)
    for _ in range(12):
        state, _ = train.advance(work, batches, state)
    return state.p


def test_held_out_loss_is_the_mean_over_target_tokens(work, p):
    _, data = small.made(work, TEXT, HELD)
    total, n = 0.0, 0
    for source, target in zip(data.held.source, data.held.target, strict=True):
        ids, decoder = np.array([[*source, STOP]]), np.array([[START, *target]])
        logits = seq2seq.forward(ids, p, dataclasses.replace(work.model, dropout=0.0), decoder)[0].logits[0].tolist()
        for row, token in zip(logits, [*target.tolist(), STOP], strict=True):
            total -= row[token] - math.log(math.fsum(math.exp(v) for v in row))
            n += 1
    found = evaluate.loss(p, work.model, data.held)
    assert found == pytest.approx(total / n, rel=1e-12) and found != pytest.approx(1.001 * total / n, rel=1e-12)
    assert evaluate.loss(p, work.model, data.held, tokens=1) == pytest.approx(found, rel=1e-12)
    assert math.isnan(evaluate.loss(p, work.model, data.held.take([])))


def test_every_text_gets_its_own_translation(work, p):
    texts = ["two", "", "one and five and three", "two", "  ", "\u4eca\u5929 \u2603", "seven and six"]
    found = evaluate.translate(texts, p, work.model, work.bpe, width=3)
    assert [one.text for one in (found[1], found[4])] == ["", ""] and found[0] == found[3]
    for text, one in zip(texts, found, strict=True):
        if text.strip():
            ids = work.bpe.encode(text)
            limit = min(2 * (len(ids) + 1) + 10, work.model.context)
            best = beam.search(
                np.array([[*ids, STOP]]), p, work.model, limit, start=START, stop=STOP, width=3, alpha=0.6
            )[0][0]
            assert one.text == work.bpe.decode(best.ids).strip()
            assert one.score == pytest.approx(best.score, rel=1e-11)
    backwards = evaluate.translate(texts[::-1], p, work.model, work.bpe, width=3)
    assert [one.text for one in backwards[::-1]] == [one.text for one in found]


def test_progress_counts_every_text(work, p):
    done: list[int] = []
    evaluate.translate(["one", "", "two and two"], p, work.model, work.bpe, step=done.append)
    assert sum(done) == 3
    assert evaluate.translate([], p, work.model, work.bpe) == []


def test_a_source_longer_than_the_context_is_cut_and_says_so(work, p):
    long = "x" * 1_000_000
    one, two = evaluate.translate([long, "two"], p, work.model, work.bpe, width=1)
    assert one.cut and not two.cut
    begin = work.bpe.decode(work.bpe.encode(long)[:47])
    assert evaluate.translate([begin], p, work.model, work.bpe, width=1)[0] == one._replace(cut=False)


def test_scores_are_sacrebleus():
    found = ["Ein Mann geht.", "Zwei Hunde laufen \u00fcber den Rasen.", "x"]
    right = ["Ein Mann geht.", "Zwei Hunde rennen \u00fcber das Gras.", "y"]
    scores = evaluate.score(found, right)
    assert scores.bleu == sacrebleu.corpus_bleu(found, [right]).score
    assert scores.chrf == sacrebleu.corpus_chrf(found, [right]).score
    assert scores.exact == pytest.approx(1 / 3) and scores.lines == 3
    assert scores.bleu_signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert "nc:6|nw:0" in scores.chrf_signature and str(scores).startswith("BLEU ")
    assert evaluate.score(right, right).bleu == pytest.approx(100)
    chinese = evaluate.score(["\u4eca\u5929\u5929\u6c14\u5f88\u597d"], ["\u4eca\u5929\u5929\u6c14\u4e0d\u597d"])
    assert "tok:zh" in chinese.bleu_signature and 0 < chinese.bleu < 100
    assert evaluate.tokenizer([""]) == "13a" and evaluate.tokenizer(["ein \u72d7 hier"]) == "13a"
    with pytest.raises(DataError, match="3 translations and 2 reference lines"):
        evaluate.score(found, right[:2])
    with pytest.raises(DataError, match="nothing to score"):
        evaluate.score([], [])


def test_the_translator_of_a_folder(work, p, tmp_path):
    state = job.start(work.settings, work.model)._replace(p=p)
    job.save(str(tmp_path / "checkpoint.safetensors"), work, state)
    model = Translator.load(str(tmp_path))
    texts = list(HELD.source)
    assert model.translate(texts) == [t.text for t in evaluate.translate(texts, p, work.model, work.bpe, width=2)]
    assert model.score(texts, HELD.target) == evaluate.score(model.translate(texts), HELD.target)
    assert model.translate(["two"], width=1, alpha=0.0) == [
        evaluate.translate(["two"], p, work.model, work.bpe, width=1)[0].text
    ]
