"""The vocabulary: every text comes back as it was, no text can say stop, the same texts give the same one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.pipeline.translation import bpe

TEXTS = ["the cat sat on the mat", "die Katze sa\u00df auf der Matte", "\u4eca\u5929\u5929\u6c14\u5f88\u597d"] * 5


@pytest.fixture(scope="module")
def words():
    return bpe.train(TEXTS, 300)


@given(text=st.text())
@settings(deadline=None)
def test_every_text_comes_back(words, text):
    ids = words.encode(text)
    assert words.decode(ids) == text
    assert ids.dtype == np.int64 and len(ids) >= 1
    assert ids.min() >= bpe.SPECIAL and ids.max() < words.size


@pytest.mark.parametrize(
    "text", ["", " ", "  two", "</s>", "<s> [PAD] <unk>", "a\u2028b", "\u0120", "\U0001f600", "\0"]
)
def test_what_looks_special_is_only_text(words, text):
    ids = words.encode(text)
    assert words.decode(ids) == text and ids.min() >= bpe.SPECIAL
    assert words.decode([bpe.START, *ids, bpe.STOP, bpe.PAD]) == text


def test_a_word_is_the_same_tokens_first_and_later(words):
    assert words.encode("the the").tolist() == [*words.encode("the"), *words.encode("the")]


def test_the_same_texts_give_the_same_vocabulary_and_it_can_be_stored(words):
    again = bpe.train(list(TEXTS), 300)
    assert again.to_json() == words.to_json() and 259 < words.size <= 300
    stored = bpe.restore(words.to_json())
    assert stored.encode("die Katze \u2603").tolist() == words.encode("die Katze \u2603").tolist()
    assert stored.size == words.size
    other = bpe.train([*TEXTS, "something else altogether " * 9], 300)
    assert other.to_json() != words.to_json()


def test_bytes_that_are_no_text_become_the_replacement_character(words):
    ids = words.encode("\u00df")
    assert "\ufffd" in words.decode(ids[:-1]) or len(ids) == 1


def test_a_vocabulary_too_small_for_the_bytes_and_a_damaged_one_are_refused(words):
    with pytest.raises(ConfigError, match=r"needs 3 \+ 256 tokens at least, got size=258"):
        bpe.train(TEXTS, 258)
    assert bpe.train(TEXTS, 259).size == 259
    for text in ("", "{}", words.to_json()[:-9], json.dumps(json.loads(words.to_json()) | {"model": 3}), None):
        with pytest.raises(CheckpointError, match="the stored vocabulary cannot be read"):
            bpe.restore(text)
