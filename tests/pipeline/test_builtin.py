"""The data to try on: there, clean, the same each time."""

from __future__ import annotations

import functools
from collections import Counter

import pytest

from pymoe.backend.errors import ConfigError
from pymoe.pipeline import builtin
from pymoe.pipeline.builtin.docstrings import TOPICS
from pymoe.pipeline.builtin.languages import LANGUAGES


@functools.cache
def load(name):
    return builtin.load(name)


@pytest.mark.parametrize("name", builtin.SETS)
def test_a_set_has_enough_of_each_class_and_nothing_empty(name):
    table = load(name)
    assert name == "docstrings" or table == builtin.load(name)  # the same each time
    assert len(table.sha256) == 64
    assert len(table.texts) == len(table.labels) == len(table.groups) == len(table.lines)
    assert all(text.strip() for text in table.texts) and len(set(table.texts)) == len(table.texts)
    assert min(Counter(table.labels).values()) >= 10 and table.where == f"built-in: {name}"


def test_languages_are_told_apart_by_what_only_one_of_them_says():
    table = load("languages")
    assert {*table.labels} == {*LANGUAGES.values()} and 8 <= len(LANGUAGES) <= 12
    label = dict(zip(table.texts, table.labels, strict=True))
    assert label["Schweden"] == "German" and label["瑞典"] == "Chinese" and "Angola" not in label


def test_docstrings_have_the_topic_of_their_module():
    table = load("docstrings")
    assert {*table.labels} == {*TOPICS}
    place = dict(zip(table.groups, table.labels, strict=True))
    assert place["asyncio"] == "concurrency" and place["json"] == "files and formats"


def test_the_sentences_are_balanced_and_in_two_languages():
    table = load("sentiment")
    count = Counter(zip(table.groups, table.labels, strict=True))
    assert len(count) == 6 and min(count.values()) >= 60
    for text, group in zip(table.texts, table.groups, strict=True):
        chinese = any("\u4e00" <= c <= "\u9fff" for c in text)
        assert chinese == (group == "Chinese") and len(text) < 120
    assert "hand-written" in table.notes[0]


def test_another_name_is_refused():
    with pytest.raises(ConfigError, match="--data must be one of languages, docstrings, sentiment"):
        builtin.load("news")
