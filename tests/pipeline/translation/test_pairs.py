"""Parallel text: what is read, what is left out, what is refused and where; names and dates."""

from __future__ import annotations

import gzip

import pytest

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline.translation import cldr, pairs, sources


def files(folder, *texts: str | bytes) -> list[str]:
    paths = []
    for i, text in enumerate(texts):
        path = folder / f"f{i}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        paths.append(str(path))
    return paths


def test_two_files_line_by_line(tmp_path):
    found = pairs.read(files(tmp_path, "one\r\n two \n\nfour\n", "eins\nzwei\ndrei\nvier"))
    assert found.source == ("one", "two", "four") and found.target == ("eins", "zwei", "vier")
    assert found.empty == 1 and len(found) == 3
    assert found.where == (str(tmp_path / "f0"), str(tmp_path / "f1"))


def test_gzip_a_byte_order_mark_and_line_breaks_of_other_kinds(tmp_path):
    zipped = gzip.compress("\ufeffa\u2028b\x0cc\nd\n".encode())
    found = pairs.read(files(tmp_path, zipped, "x\u0085y\nz\n"))
    assert found.source == ("a\u2028b\x0cc", "d") and found.target == ("x\u0085y", "z")


def test_one_file_of_two_columns(tmp_path):
    found = pairs.read(files(tmp_path, "one\teins\r\n\ntwo\t zwei\nthree\t\n"))
    assert found.source == ("one", "two") and found.target == ("eins", "zwei") and found.empty == 2


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("a\nb\n", "x\n"), "f0 has 2 lines and .*f1 has 1: line i"),
        (("a\tb\nc\n",), "f0, line 2: columns parted by a tab: 1, where two are needed, .* target: 'c'; give two f"),
        (("a\tb\tc\n",), "line 1: columns parted by a tab: 3, where"),
        (("x" * 2_000_000,), r"line 1: columns parted by a tab: 1, .* 'x{57}\.\.\.'"),
        (("\n \n", "a\nb\n"), "no pair is left: the source side of every pair is empty"),
        (("a\nb\n", "\n\n"), "the target side of every pair is empty"),
        (("a\n\n", "\nb\n"), "the one side of every pair is empty"),
        (("", "a\n"), "f0 is empty"),
        (("a\n", "caf\u00e9\n".encode("latin-1")), "f1 is not UTF-8 .*iconv"),
        (("a\n", b"a\0b"), "f1 is binary"),
        (("a\n", "b\n", "c\n"), "one file of two columns, or two files line by line, got 3 files"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, texts, message):
    with pytest.raises(DataError, match=message):
        pairs.read(files(tmp_path, *texts))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        pairs.read([str(tmp_path / "nothing"), *files(tmp_path, "a\n")])


def test_no_held_out_sentence_is_one_that_was_trained_on():
    source = [f"s{i // 3}" for i in range(90)]  # every sentence three times
    text = pairs.of(source, [f"t{i}" for i in range(90)], ["x"])
    train, held = pairs.hold_out(text, share=0.2, most=100, seed=1)
    assert len(train) + len(held) == 90 and len(held) == 18
    assert not set(train.source) & set(held.source)
    assert sorted(train.target + held.target) == sorted(text.target)
    assert pairs.hold_out(text, share=0.2, most=100, seed=1) == (train, held)
    assert pairs.hold_out(text, share=0.2, most=100, seed=2)[1] != held
    assert len(set(pairs.hold_out(text, share=0.9, most=4, seed=1)[1].source)) == 4
    with pytest.raises(DataError, match="all source sentences are the same"):
        pairs.hold_out(pairs.of(["a", "a"], ["b", "c"], ["x"]), share=0.1, most=9, seed=0)


def test_names_and_dates_are_held_out_by_kind_and_never_seen():
    parts = cldr.load("en-de", seed=0, dates=90)
    assert len(parts.dates) == 9 and len(parts.names) > 100
    assert not set(parts.train.source) & set(parts.held_out.source)
    assert len(set(parts.train.source)) == len(parts.train)
    both = dict(zip(parts.train.source, parts.train.target, strict=True))
    both |= dict(zip(parts.held_out.source, parts.held_out.target, strict=True))
    assert both["Germany"] == "Deutschland" and both["Chilean Peso"] == "Chilenischer Peso"
    assert cldr.load("en-de", seed=0, dates=90) == parts and cldr.load("en-de", seed=1, dates=90) != parts


def test_another_pair_and_one_that_does_not_exist():
    parts = cldr.load("en-zh", dates=20)
    both = dict(zip(parts.train.source + parts.names.source, parts.train.target + parts.names.target, strict=True))
    assert both["Germany"] == "\u5fb7\u56fd"
    for pair in ("en", "en-de-fr", "en-en", "../x-de", "en-xx", ""):
        with pytest.raises(ConfigError, match="the pair"):
            cldr.load(pair)


def test_the_texts_of_a_training_are_found_again_or_seen_to_have_changed(tmp_path):
    lines = [f"{i} a" for i in range(40)]
    train = files(tmp_path, "\n".join(lines), "\n".join(line.upper() for line in lines))
    texts = sources.from_files(train, seed=3)
    assert len(texts.train) == 38 and len(texts.valid) == 2 and list(texts.tests) == ["held-out"]
    assert sources.again(texts.about, 3) == texts
    with_all = sources.from_files(train, train, train, seed=3)
    assert len(with_all.train) == 40 and list(with_all.tests) == ["test"]
    assert sources.again(with_all.about, 3) == with_all
    (tmp_path / "f1").write_text("\n".join(lines))
    assert sources.again(texts.about, 3).about.sha256 != texts.about.sha256
    built_in = sources.built_in("en-fr", 1)
    assert sources.again(built_in.about, 1) == built_in and list(built_in.tests) == ["dates", "names"]
