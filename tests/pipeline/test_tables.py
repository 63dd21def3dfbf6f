"""Tables as people have them: every form reads the same rows, and what is broken is named with its line."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path

import pytest

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline import tables

ROWS = [
    ["text", "label"],
    ["schön, sehr gut", "ja"],
    ['er sagte "nein"; dann\nging er', "nein"],
    ["天气\u2028很好 😀", "ja"],
    ["a\ttab and | bar", "nein"],
]


def cells(path: Path, **settings) -> list[list[str]]:
    sheet = tables.read(str(path), **settings)
    return ([list(sheet.names)] if sheet.names else []) + [row.cells for row in sheet.rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", [".csv", "", ".txt"])
def test_every_delimiter_with_quotes_and_newlines(tmp_path, delimiter, ending):
    path = tmp_path / f"a{ending}"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(ROWS)
    assert cells(path) == ROWS
    assert [row.line for row in tables.read(str(path)).rows] == [1, 2, 3, 5, 6]


def test_jsonl_an_array_and_gzip(tmp_path):
    objects = [dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]
    for name, text in {
        "a.jsonl": "\n".join(json.dumps(o, ensure_ascii=False) for o in objects),
        "b.json": json.dumps(objects),
        "c": "\n".join(map(json.dumps, objects)),
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert cells(tmp_path / name) == ROWS
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        assert cells(tmp_path / f"{name}.gz") == ROWS


def test_json_values_become_fields(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1}\n\n{"label": null, "more": [1], "text": "\\ud83d"}\n')
    sheet = tables.read(str(tmp_path / "a.jsonl"))
    assert sheet.names == ("text", "label", "more")
    assert [r.cells for r in sheet.rows] == [["a", "1", ""], ["?", "", "[1]"]]
    assert [r.line for r in sheet.rows] == [1, 3]


def test_a_tsv_with_plain_quotes(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('good\t"Never closed\nbad\tanother "one\ngood\tthird\n')
    sheet = tables.read(str(path))
    assert [r.cells[1] for r in sheet.rows] == ['"Never closed', 'another "one', "third"]
    assert "quotes are not closed" in sheet.notes[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "gb18030"])
def test_encodings(tmp_path, encoding):
    text = "text,label\n" + ("süß,ja\n" if encoding == "latin-1" else "天气,ja\n")
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(encoding))
    name = "utf-8" if encoding == "utf-8-sig" else encoding
    assert cells(path, encoding=name)[1][0] == text[11:13] + ("ß" if encoding == "latin-1" else "")
    if name != "utf-8":
        with pytest.raises(DataError, match=r"--encoding"):
            tables.read(str(path))


def test_crlf_old_mac_and_blank_lines(tmp_path):
    for newline in ("\r\n", "\r", "\n\n"):
        (tmp_path / "a.csv").write_bytes(newline.join(["text,label", "a b,x", "c d,y", ""]).encode())
        assert cells(tmp_path / "a.csv") == [["text", "label"], ["a b", "x"], ["c d", "y"]]


def test_empty_fields_at_the_end_are_no_fields(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,x,,\nb,y\n,,,,\n")
    assert cells(tmp_path / "a.csv") == [["text", "label"], ["a", "x"], ["b", "y"]]


def test_the_first_line_that_a_spreadsheet_writes_for_itself_is_no_row(tmp_path):
    (tmp_path / "a.csv").write_text("sep=;\r\ntext;label\r\na, b, c;x\r\n", newline="")
    sheet = tables.read(str(tmp_path / "a.csv"))
    assert [(r.line, r.cells) for r in sheet.rows] == [(2, ["text", "label"]), (3, ["a, b, c", "x"])]


BROKEN = {
    "empty": (b"", "is empty: give a table"),
    "blank": (b" \n\n", "is empty: give a table"),
    "a NUL": (b"text,label\na,x\nb\0,y\n", "line 3 has a NUL character"),
    "latin-1": (b"text,label\na,x\ncaf\xe9,y\n", r"\(byte 18, in line 3, is 0xe9\).*iconv -f LATIN1"),
    "UTF-16": ("text,label\na,x\n".encode("utf-16"), "--encoding utf-16"),
    "ragged": (b"text,label\na,x\nb,c,d\n", "line 3 has 3 fields, the first line has 2"),
    "an open quote": (b'text,label\na,x\n"b,y\nc,z\n,,,\n', "line 3: a quote is opened and never closed"),
    "gzip cut short": (gzip.compress(b"text,label\na,x\n" * 99)[:-20], "damaged gzip"),
    "long": (
        b"text,label\na,x\n" + b"b" * 100_001 + b",y\n",
        "line 3 has a field of 100,001 characters.*--longest",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(tmp_path, case):
    content, message = BROKEN[case]
    path = tmp_path / ("a.csv.gz" if "gzip" in case else "a.csv")
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        tables.read(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "line 2 is no JSON .*--skip-bad"),
        ('{"text": "a"}\n[1]\n', "line 2 is no JSON object but list"),
        ('[{"text": "a"}, 3]', r"\(the entry 2\) is no object but int"),
        ("nothing\n", "line 1 is no JSON"),
        ("[" * 5000, "line 1 is no JSON"),
    ],
)
def test_json_that_is_broken(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        tables.read(str(tmp_path / "a.jsonl"))


def test_bad_rows_are_left_out_when_asked_and_counted(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,c,d\ne,y\n")
    sheet = tables.read(str(tmp_path / "a.csv"), skip_bad=True)
    assert [r.line for r in sheet.rows] == [1, 2, 4] and "left out 1 row" in sheet.notes[0]
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nx\n')
    assert "first: line 2" in tables.read(str(tmp_path / "a.jsonl"), skip_bad=True).notes[0]


def test_a_long_text_is_cut_when_asked(tmp_path):
    (tmp_path / "a.txt").write_text("short\n" + "x" * 1_000_000)
    sheet = tables.read(str(tmp_path / "a.txt"), form="lines", cut=True)
    assert len(sheet.rows[1].cells[0]) == tables.LONGEST and "1,000,000 characters" in sheet.notes[0]
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("text,label\n" + "x" * 300_000 + ",y\n")
    assert len(tables.read(str(tmp_path / "a.csv"), longest=400_000).rows[1].cells[0]) == 300_000
    assert csv.field_size_limit() == before


def test_places_that_are_no_file(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        tables.read(str(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        tables.read(str(tmp_path / "none.csv"))
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(ConfigError, match="--encoding 'klingon' is not known"):
        tables.read(str(tmp_path / "a.csv"), encoding="klingon")
    with pytest.raises(ConfigError, match="--encoding 'rot13'"):
        tables.read(str(tmp_path / "a.csv"), encoding="rot13")
    with pytest.raises(ConfigError, match="--format must be one of"):
        tables.read(str(tmp_path / "a.csv"), form="xlsx")


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_read_or_refused(tmp_path, seed):
    """Nothing else than DataError, whatever the bytes."""
    rng = random.Random(seed)
    alphabet = [b'"', b",", b"\n", b"\t", b"a", b"{", b"}", b"[", b":", b"\xff", "天".encode(), b"\r", b"1", b";"]
    for ending in (".csv", ".tsv", ".jsonl", ""):
        for _ in range(30):
            path = tmp_path / f"a{ending}"
            path.write_bytes(b"".join(rng.choices(alphabet, k=rng.randint(1, 60))))
            try:
                sheet = tables.read(str(path))
            except DataError as error:
                assert str(path) in str(error)
            else:
                assert all(len(r.cells) == len(sheet.rows[0].cells) for r in sheet.rows)
