"""Which column is what: by name, by number, by what it is called, by what is in it."""

from __future__ import annotations

import pytest

from pymoe.backend.errors import DataError
from pymoe.pipeline.columns import choose
from pymoe.pipeline.tables import Row, Sheet

LONG = ["a fine film with a good end", "a bore from the first minute on", "no idea what it was about"]


def sheet(*rows: list[str], names: tuple[str, ...] | None = None) -> Sheet:
    return Sheet("f.csv", "csv", "", names, [Row(i, list(row)) for i, row in enumerate(rows, 1)], ())


@pytest.mark.parametrize(
    ("head", "text", "label"),
    [
        (["id", "review", "sentiment"], "review", "sentiment"),
        (["Label", "n", "Text"], "Text", "Label"),
        (["product_title", "review_body", "star_rating"], "review_body", "star_rating"),
        (["编号", "评论", "情感"], "评论", "情感"),
        (["Kommentar", "Note", "Nr"], "Kommentar", "Note"),
    ],
)
def test_names_and_contents(head, text, label):
    def row(i):
        values = {text: f"{LONG[i % 3]} {i}", label: "pos" if i % 2 else "neg"}
        return [values.get(name, f"{i}x") for name in head]

    table = choose(sheet(head, *(row(i) for i in range(12))))
    assert table.names == {"text": text, "label": label}
    assert len(table.texts) == 12 and set(table.labels) == {"pos", "neg"}
    assert sum("is the column" in note for note in table.notes) == 2


def test_without_a_header_columns_have_numbers():
    rows = [[f"{LONG[i % 3]}", "pos" if i % 2 else "neg"] for i in range(12)]
    table = choose(sheet(*rows))
    assert table.names == {"text": "1", "label": "2"} and len(table.texts) == 12
    assert "no header" in table.notes[0]
    assert choose(sheet(*rows), text="2", label="1").texts[0] == "neg"
    assert len(choose(sheet(*rows), header=True, text="1", label="2").texts) == 11
    head = [["1", "2"], *rows]  # a header of numbers that are not the places
    assert choose(sheet(["2", "1"], *rows), header=True, text="2", label="1").texts[0] == LONG[0]
    assert len(choose(sheet(*head), header=False, text="1", label="2").texts) == 13


def test_rows_without_a_text_or_a_label_are_left_out_and_counted():
    table = choose(sheet(["text", "label"], ["a", "x"], [" ", "y"], ["b", ""], ["c", " y  z "]))
    assert table.texts == ["a", "c"] and table.labels == ["x", "y z"] and table.lines == [2, 5]
    assert "left out 2 rows without a text or a label (first: line 3)" in table.notes
    assert choose(sheet(["text", "label"], ["a", "x"], [" ", "y"]), need=("text",)).texts == ["a", " "]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([["text", "label"]], {}, "has a header and no rows"),
        ([["text", "label"], ["a", "x"]], {"text": "review"}, "no column 'review'.*'text', 'label', or its number"),
        ([["text", "label"], ["a", "x"]], {"text": "Text"}, "did you mean 'text'"),
        ([["text", "label"], ["a", "x"]], {"text": "3"}, "no column '3'"),
        ([["text", "label"], ["a", "x"]], {"text": "1", "label": "text"}, "the same column"),
        ([["text", "text"], ["a", "x"]], {}, "more than one column named 'text'.*--text 1"),
        ([["text"], ["a"], ["b"]], {}, "has one column, and a text and a label are needed"),
        ([["text", "label"], ["a", ""], ["", "x"]], {}, "no row with both"),
        ([["x", "z"], *([f"{i} a", f"{i} b"] for i in range(40))], {"header": True}, "no column looks like a label"),
    ],
)
def test_what_cannot_be_chosen(rows, settings, message):
    with pytest.raises(DataError, match=message):
        choose(sheet(*rows), **settings)


def test_columns_of_one_name_by_their_numbers():
    table = choose(sheet(["text", "text"], ["a", "x"], ["b", "y"]), text="1", label="2", header=True)
    assert table.texts == ["a", "b"] and table.labels == ["x", "y"]


def test_a_column_the_model_knows_comes_first():
    rows = [["text", "remark", "label", "dom"], ["a", "b", "x", "m"]]
    known = {"text": "remark", "label": "label", "group": "dom"}
    table = choose(sheet(*rows), known=known, need=("text", "label", "group"))
    assert table.texts == ["b"] and table.groups == ["m"]
    short = sheet(["Ort", "Kommentar"], ["laut", "a, b"])  # one row, and no usual name: the model's name is a header
    assert choose(short, known={"text": "Kommentar"}, need=("text",)).texts == ["a, b"]
    assert choose(sheet(["text"], ["a"]), known=known, need=("text", "group")).texts == ["a"]
