"""Tokens of every kind, on English, Chinese, both, emoji, combining marks and right-to-left text; stop words."""

import logging
import os
import subprocess
import sys
import time

import jieba
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe.backend.errors import ConfigError, DataError, MissingExtraError
from pymoe.pipeline.text import languages, library, stop_words, tokenize
from pymoe.pipeline.text.bpe import BytePairs
from pymoe.pipeline.text.preparation import Preparation

ENGLISH = "Don't stop: state-of-the-art, 3.5 stars!!"
CHINESE = "今天天气很好，我们去公园。"
MIXED = "我爱Python3编程 and T恤"
EMOJI = "ok 👍🏽👨\u200d👩\u200d👧 🇩🇪🇨 1\ufe0f\u20e3"
MARKS = "cafe\u0301 हिन्दी \u0301 z"
ARABIC = "می\u200cخواهم، שלום"

CASES = [
    ("auto", ENGLISH, ["Don't", "stop", "state", "of", "the", "art", "3", "5", "stars"]),
    ("words", ENGLISH, ["Don't", "stop", "state", "of", "the", "art", "3", "5", "stars"]),
    ("auto", "don\u2019t '90s rock 'n' roll", ["don't", "90s", "rock", "n", "roll"]),
    ("auto", CHINESE, ["今天天气", "很", "好", "我们", "去", "公园"]),
    ("words", CHINESE, ["今天天气很好", "我们去公园"]),
    ("chinese", CHINESE, ["今天天气", "很", "好", "我们", "去", "公园"]),
    ("auto", MIXED, ["我", "爱", "Python3", "编程", "and", "T", "恤"]),
    ("words", MIXED, ["我爱Python3编程", "and", "T恤"]),
    ("chinese", MIXED, ["我", "爱", "Python3", "编程", "and", "T恤"]),
    ("auto", EMOJI, ["ok", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "1\ufe0f\u20e3"]),
    ("auto", MARKS, ["cafe\u0301", "हिन्दी", "z"]),
    ("auto", ARABIC, ["می\u200cخواهم", "שלום"]),
    ("auto", "東京タワーへ行く", ["東京", "タワーへ", "行", "く"]),
    ("auto", "𠮷野家 한국어 ไทย", ["𠮷", "野家", "한국어", "ไทย"]),
    ("characters", "e\u0301a 👨\u200d👩\u200d👧!", ["e\u0301", "a", " ", "👨\u200d👩\u200d👧"]),
    ("characters", "天气 好", ["天", "气", " ", "好"]),
    ("bytes", "a气", ["<0x61>", "<0xE6>", "<0xB0>", "<0x94>"]),
    ("auto", "", []),
    ("auto", " .,! ", []),
]


@pytest.mark.parametrize(("kind", "text", "expected"), CASES, ids=repr)
def test_tokens_of_every_kind(kind, text, expected):
    assert tokenize(text, kind) == expected


def test_punctuation_is_kept_where_asked():
    assert tokenize("Good :-) ... 5€!好。", punctuation=True) == ["Good", ":-)", "...", "5", "€!", "好", "。"]
    assert tokenize("好。 ok!", "chinese", punctuation=True) == ["好", "。", "ok", "!"]
    assert tokenize("a, b", "characters", punctuation=True) == ["a", ",", " ", "b"]


@settings(max_examples=200, deadline=None)
@given(st.text(), st.sampled_from(["auto", "words"]))
def test_words_lose_nothing_but_space_and_marks_that_stand_alone(text, kind):
    found = "".join(tokenize(text, kind, punctuation=True))
    letters = [c for c in text.replace("\u2019", "'") if c.isalnum()]
    assert [c for c in found if c.isalnum()] == letters


def test_a_long_text_is_cut_as_a_short_one_is():
    for kind in ("auto", "chinese"):
        assert (
            tokenize("今天天气很好 extraordinary T恤。" * 99, kind)
            == tokenize("今天天气很好 extraordinary T恤。", kind) * 99
        )
    assert "".join(tokenize("龘" * 1000)) == "龘" * 1000


def test_users_words_in_jieba_do_not_change_ours_and_ours_not_theirs():
    try:
        jieba.add_word("很好我们", freq=10**9)
        assert tokenize("很好我们") == ["很", "好", "我们"]
    finally:
        jieba.del_word("很好我们")


def test_jieba_is_silent_and_leaves_no_file(tmp_path):
    code = "from pymoe.pipeline.text import tokenize; print(tokenize('今天天气很好'))"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONUTF8": "1"},
        check=True,
    )
    assert run.stdout == "['今天天气', '很', '好']\n"
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == []
    assert logging.getLogger().level == logging.WARNING


@pytest.mark.parametrize("line", ["今天天气很好，" * 48_000, "龘" * 100_000, "a" * 10**6, "'" * 10**6, "a'" * 500_000])
def test_a_line_of_a_megabyte_takes_a_second_or_two(line):
    tokenize("好")  # the dictionary is there
    start = time.process_time()
    tokenize(line, punctuation=True)
    assert time.process_time() - start < 8  # 0.1 to 2 s here; 100,000 unknown characters at once take 25 s


@pytest.mark.parametrize("line", ["🇩" * 250_000, "👨\u200d" * 140_000, "e" + "\u0301" * 10**5, "天" * 333_000])
def test_a_line_of_characters_too(line):
    start = time.process_time()
    tokenize(line, "characters")
    assert time.process_time() - start < 3


def test_byte_pairs_come_back_as_the_text_and_are_the_same_every_time():
    texts = [ENGLISH, CHINESE, MIXED, EMOJI, MARKS, ARABIC] * 3
    pieces = BytePairs.train(texts, 300)
    assert BytePairs.train(texts, 300).json == pieces.json
    assert len(pieces.all) == len(set(pieces.all)) == 300
    for text in [*texts, "never seen: 龘\0"]:
        assert pieces.text(pieces.cut(text)) == text
        assert set(pieces.cut(text)) <= set(pieces.all)
    assert len(pieces.cut(CHINESE)) < len(CHINESE.encode())
    assert BytePairs(pieces.json).cut(MIXED) == pieces.cut(MIXED)


def test_stop_words_of_many_languages():
    assert len(languages()) >= 50
    assert {"the", "is", "don't"} <= stop_words("en")
    assert {"的", "了"} <= stop_words("zh") and "的" not in stop_words("en")
    assert stop_words(["en", "zh"]) == stop_words("en") | stop_words("zh")
    assert stop_words([]) == frozenset()
    assert all(word == word.lower() for word in stop_words("tr"))
    tokens = Preparation(stop_words=["en", "zh"]).tokens_of("The weather 的 天气")
    assert tokens == ["weather", "天气"]
    assert Preparation(stop_words={"weather"}).tokens_of("The weather") == ["the"]


def test_errors_say_what_to_do():
    with pytest.raises(ConfigError, match="auto, words, chinese, characters, bytes, got 'word'"):
        tokenize("a", "word")
    with pytest.raises(DataError, match="one str, got list"):
        tokenize(["a"])
    with pytest.raises(ConfigError, match="no stop words for 'english'; the codes are af, ar"):
        stop_words("english")
    with pytest.raises(ConfigError, match="bpe_size must be an integer of at least 257, got 100"):
        BytePairs.train(["a"], 100)
    with pytest.raises(MissingExtraError, match=r"Reading minds needs the library no_such_library .*\[text\]"):
        library.load("no_such_library", "Reading minds")
