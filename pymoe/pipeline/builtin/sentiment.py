"""A small hand-written set for demonstration: short sentences in English and Chinese, written for pymoe.

About daily things (meals, films, parcels, trains, work); not a sample of anything: a score on it says that a model
learns, not how well it would do on the reviews of a shop.
"""

from __future__ import annotations

from importlib import resources


def rows() -> list[tuple[str, str, str]]:
    """(sentence, positive | neutral | negative, English | Chinese)."""
    text = resources.files("pymoe.pipeline.builtin").joinpath("sentiment.tsv").read_text(encoding="utf-8")
    found = []
    for line in text.splitlines()[1:]:
        language, label, sentence = line.split("\t")
        found.append((sentence, label, language))
    return found
