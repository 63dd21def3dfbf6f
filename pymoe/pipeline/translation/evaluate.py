"""What a translator is worth: held-out loss, its translations, BLEU and chrF by sacrebleu, exact matches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend.errors import DataError, MissingExtraError, install
from pymoe.models import beam, seq2seq
from pymoe.models.seq2seq import Seq2SeqConfig
from pymoe.pipeline.translation import batches
from pymoe.pipeline.translation.batches import Encoded
from pymoe.pipeline.translation.bpe import BPE, START, STOP

TOKENS = 3000  # source tokens times beams that are decoded at a time


def loss(p: dict[str, Any], cfg: Seq2SeqConfig, pairs: Encoded, *, tokens: int = 4000) -> float:
    """The mean cross-entropy in nats a target token (stop included), without smoothing and dropout; NaN of no pairs."""
    plain = dataclasses.replace(cfg, label_smoothing=0.0, dropout=0.0)
    total, n = 0.0, 0
    for b in batches.each_once(pairs, tokens) if len(pairs) else ():
        out, _ = seq2seq.forward(
            b.ids, p, plain, b.decoder_ids, targets=b.targets, mask=b.mask, decoder_mask=b.decoder_mask
        )
        count = int(b.decoder_mask.sum())
        total += float(out.losses[seq2seq.LOSS]) * count
        n += count
    return total / n if n else float("nan")


class Translated(NamedTuple):
    text: str
    score: float  # s(y, x) of ``models.beam``; 0 of an empty line
    cut: bool  # the source was longer than the context: its end was not read


def translate(
    texts: Sequence[str],
    p: dict[str, Any],
    cfg: Seq2SeqConfig,
    bpe: BPE,
    *,
    width: int = 5,
    alpha: float = 0.6,
    beta: float = 0.0,
    step: Callable[[int], None] = lambda n: None,
) -> list[Translated]:
    """The best translation of each text, by beam search; an empty text is empty in every language.

    A target has at most 2 S + 10 tokens for S of the source, and no more than the context; a source of more than the
    context is cut.  ``step`` is told how many texts are done.
    """
    found = [Translated("", 0.0, False)] * len(texts)
    ids = bpe.encode_all(texts)
    full = [i for i, text in enumerate(texts) if text.strip()]
    step(len(texts) - len(full))
    order = sorted(full, key=lambda i: -len(ids[i]))
    room = cfg.context - 1  # for the stop token
    while order:
        longest = min(len(ids[order[0]]), room) + 1
        rows, order = _first(order, max(1, TOKENS // (longest * width)))
        padded, mask = batches.sources([ids[i][:room] for i in rows])
        limits = np.minimum(2 * mask.sum(axis=1) + 10, cfg.context)
        best = beam.search(
            padded, p, cfg, limits.tolist(), start=START, stop=STOP, width=width, alpha=alpha, beta=beta, mask=mask
        )
        for i, hypotheses in zip(rows, best, strict=True):
            text = bpe.decode(hypotheses[0].ids).replace("\n", " ").strip()
            found[i] = Translated(text, hypotheses[0].score, len(ids[i]) > room)
        step(len(rows))
    return found


def _first(order: list[int], n: int) -> tuple[list[int], list[int]]:
    return order[:n], order[n:]


class Scores(NamedTuple):
    bleu: float
    chrf: float
    exact: float  # the share of lines that are the reference, character by character
    lines: int
    bleu_signature: str
    chrf_signature: str

    def __str__(self) -> str:
        return f"BLEU {self.bleu:.2f}  chrF {self.chrf:.2f}  exact {100 * self.exact:.1f} %  ({self.lines:,} lines)"


def score(found: Sequence[str], reference: Sequence[str]) -> Scores:
    """Corpus BLEU and chrF2 as sacrebleu computes them, with its signatures, and exact matches.

    BLEU counts words, so its tokenizer is ``tokenizer(reference)``; the signature names it.

    >>> s = score(["the cat sat on the mat", "a dog"], ["the cat sat on the mat", "the dog"])
    >>> round(s.bleu, 1), s.exact, s.bleu_signature.split("|version")[0]
    (92.4, 0.5, 'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp')
    """
    if len(found) != len(reference):
        raise DataError(
            f"{len(found)} translations and {len(reference)} reference lines: line i of the reference must belong "
            "to line i of the source"
        )
    if not found:
        raise DataError("there is nothing to score: no line was translated")
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise MissingExtraError(f"BLEU and chrF need sacrebleu ({error}): {install('text')}") from None
    bleu, chrf = BLEU(tokenize=tokenizer(reference)), CHRF()
    values = [metric.corpus_score(list(found), [list(reference)]).score for metric in (bleu, chrf)]
    exact = sum(a == b for a, b in zip(found, reference, strict=True)) / len(found)
    signatures = str(bleu.get_signature()), str(chrf.get_signature())
    return Scores(float(values[0]), float(values[1]), exact, len(found), *signatures)


def tokenizer(reference: Sequence[str]) -> str:
    """sacrebleu's tokenizer for a language: its default, or by character where no spaces part the words.

    >>> tokenizer(["ein Hund"]), tokenizer(["\u4e00\u53ea\u72d7"]), tokenizer(["\u3044\u306c"])
    ('13a', 'zh', 'char')
    """
    letters = [c for line in reference for c in line if c.isalpha()]
    kana = sum("\u3040" <= c <= "\u30ff" for c in letters)
    han = sum("\u4e00" <= c <= "\u9fff" for c in letters)
    if 2 * (kana + han) < len(letters) or not letters:
        return "13a"
    return "char" if kana else "zh"
