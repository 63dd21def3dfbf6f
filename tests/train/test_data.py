"""Text, vocabulary, windows and batches."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymoe.backend.errors import CheckpointError, DataError
from pymoe.train import data, vocabulary


@given(st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])))
def test_text_goes_to_ids_and_back(text):
    words = vocabulary.of(text)
    ids = words.encode(text)
    assert words.decode(ids) == text and ids.dtype == np.uint8
    assert words.size == (len(set(text)) if words.characters else 256)
    assert vocabulary.restore(words.characters) == words


def test_more_than_256_characters_become_bytes():
    many = "".join(chr(0x4E00 + i) for i in range(257))
    assert vocabulary.of(many[:-1]).kind == "characters" and vocabulary.of(many[:-1]).size == 256
    words = vocabulary.of(many)
    assert words.kind == "UTF-8 bytes" and words.decode(words.encode(many)) == many
    assert words.encode(many).tolist() == list(many.encode())
    assert words.decode(words.encode("é")[:1]) == "\ufffd"


def test_an_unknown_character_is_named():
    with pytest.raises(DataError, match="'z' at position 3"):
        vocabulary.of("abc").encode("abcz")


@pytest.mark.parametrize("stored", ["ba", "aa", "a" * 300, None, 3])
def test_a_stored_vocabulary_is_checked(stored):
    with pytest.raises(CheckpointError):
        vocabulary.restore(stored)


def test_the_split_is_contiguous_and_nine_to_one(tmp_path):
    (tmp_path / "t").write_text("abcdefghij" * 30)
    c = data.load(str(tmp_path / "t"), window=7)
    whole = c.vocabulary.encode("abcdefghij" * 30)
    assert len(c.train) == 270 and np.array_equal(np.concatenate([c.train, c.held_out]), whole)


def test_gzip_and_byte_order_mark_are_understood(tmp_path):
    (tmp_path / "plain").write_text("hello é\n" * 40, encoding="utf-8")
    (tmp_path / "mark").write_text("hello é\n" * 40, encoding="utf-8-sig")
    (tmp_path / "packed").write_bytes(gzip.compress(("hello é\n" * 40).encode()))
    assert len({data.load(str(tmp_path / n), window=5).sha256 for n in ("plain", "mark", "packed")}) == 1


def test_the_reference_text_is_there():
    c = data.load(data.TOPICS, window=128)
    assert c.n_bytes > 300_000 and len(c.held_out) > 30_000 and c.vocabulary.kind == "characters"


def test_a_batch_depends_on_its_key_and_on_nothing_else():
    ids = np.arange(250, dtype=np.uint8)
    ids.setflags(write=False)

    def take(seed, step):
        return data.batch(ids, seed=seed, step=step, rows=5, window=6)[0]

    first = take(3, 4)
    take(3, 5), take(9, 9)
    assert np.array_equal(take(3, 4), first)
    assert not np.array_equal(take(3, 5), first) and not np.array_equal(take(4, 4), first)


def test_batches_reach_every_position_and_targets_are_the_next_tokens():
    ids = np.arange(23, dtype=np.uint8)
    seen = set()
    for step in range(200):
        x, y = data.batch(ids, seed=0, step=step, rows=3, window=4)
        assert np.array_equal(y, x + 1)
        seen |= set(y.reshape(-1).tolist())
    assert seen == set(range(1, 23))


@given(n=st.integers(2, 200), window=st.integers(1, 17), rows=st.integers(1, 5))
def test_windows_predict_every_token_but_the_first_exactly_once(n, window, rows):
    ids = np.arange(n, dtype=np.uint8)
    batches = list(data.windows(ids, window=window, rows=rows))
    targets = np.concatenate([y.reshape(-1) for _, y in batches])
    assert sorted(targets.tolist()) == list(range(1, n))
    assert all(np.array_equal(y, x + 1) and x.shape[0] <= rows for x, y in batches)


@given(n=st.integers(30, 250), limit=st.integers(1, 40))
def test_limited_windows_are_full_distinct_and_always_the_same(n, limit):
    ids = np.arange(n, dtype=np.uint8)

    def starts():
        return [int(s) for x, _ in data.windows(ids, window=7, rows=3, limit=limit) for s in x[:, 0]]

    found = starts()
    full = (n - 1) // 7
    assert found == starts() and len(set(found)) == len(found)
    if limit < full:
        assert len(found) == limit and all(s % 7 == 0 for s in found)
