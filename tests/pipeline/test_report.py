"""A report: its numbers against counts by hand, its HTML against texts that would like to run, its pictures."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pymoe.pipeline import classification
from pymoe.pipeline.columns import Table
from pymoe.pipeline.report import fonts, page, pictures, text
from pymoe.pipeline.report.measure import measure

EVIL = '<script>alert("1")</script> & <b>天气</b>\x1b[31m'
CLASSES = ["a", "b", EVIL]
TRUTH = ["a", "a", "a", "b", "b", EVIL, EVIL]
ANSWER = [0, 0, 1, 1, 1, 0, 2]
LEADER = [0, 0, 1, 1, 1, 1, 1]


def report(errors=20, weights=True, names=None):
    p = np.full((7, 3), 0.1)
    p[range(7), ANSWER] = [0.8, 0.5, 0.6, 0.8, 0.8, 0.9, 0.8]
    w = np.full((7, 2), 0.25)
    w[range(7), LEADER] = 0.75
    groups = ["m", "m", "n", "n", "n", "n", "n"]
    table = Table(f"where {EVIL}", "", [f"text {i} {EVIL}" for i in range(7)], TRUTH, groups, list(range(2, 9)), {}, ())
    return measure(
        table, CLASSES, p, w if weights else None, title=f"Report {EVIL}", errors=errors, expert_names=names,
        notes=[EVIL], beside=classification.beside(None, None, TRUTH, TRUTH),
    )  # fmt: skip


def test_the_numbers():
    found = report()
    assert found.scores["model"].accuracy == pytest.approx(5 / 7)
    assert found.scores["always 'a'"].accuracy == pytest.approx(3 / 7)
    assert found.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert [(c.precision, c.recall, c.texts) for c in found.per_class] == [
        (pytest.approx(2 / 3), pytest.approx(2 / 3), 3), (pytest.approx(2 / 3), 1.0, 2), (1.0, 0.5, 2),
    ]  # fmt: skip
    one, two = found.experts
    assert (one.leads, one.accuracy, one.classes) == (2, 1.0, [("a", 2)])
    assert (two.leads, two.accuracy, two.classes[0][1]) == (5, pytest.approx(3 / 5), 2)
    assert one.weight == pytest.approx((2 * 0.75 + 5 * 0.25) / 7)
    assert found.by_class.sum(axis=0) == pytest.approx(np.ones(3))
    assert found.by_class[0, 0] == pytest.approx((2 * 0.75 + 0.25) / 3)
    assert [(g, n, s.accuracy) for g, n, s in found.groups] == [("m", 2, 1.0), ("n", 5, pytest.approx(0.6))]
    assert [(c.truth, c.predicted, c.times) for c in found.confused] == [(EVIL, "a", 1), ("a", "b", 1)]
    assert found.confused[0].examples == [(7, 0.9, f"text 5 {EVIL}")]


def test_how_many_errors_are_shown():
    assert sum(len(c.examples) for c in report(errors=1).confused) == 1
    assert sum(len(c.examples) for c in report(errors=0).confused) == 0
    assert [c.times for c in report(errors=0).confused] == [1, 1]


def test_experts_that_always_say_as_much_are_a_note():
    table = Table("w", "", ["x", "y"], ["a", "b"], None, [1, 2], {}, ())
    found = measure(table, ["a", "b"], np.eye(2), np.full((2, 4), 0.25), title="t")
    assert found.experts == [] and "the 4 experts have the same weights" in found.notes[0]
    assert report(weights=False).experts == []
    one = measure(table.take([0]), ["a", "b"], np.eye(2)[:1], np.array([[0.75, 0.25]]), title="t")
    assert [e.leads for e in one.experts] == [1, 0] and len(one.notes) == 1  # one text varies in nothing
    assert "1 of the 2 learned classes has no text here" in one.notes[0]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_text_that_would_like_to_run_stays_text():
    html = page.page(report())
    assert "<script" not in html and "<b>" not in html and "default-src 'none'" in html
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &lt;b&gt;天气" in html
    tags = Tags()
    tags.feed(html)
    assert not tags.open and not {"script", "img", "link", "iframe", "a", "b"} & {*tags.seen}
    assert EVIL in "".join(tags.text)
    assert "http://" not in html and "https://" not in html and "src=" not in html.replace("default-src=", "")


def test_the_terminal_is_not_steered_and_columns_are_straight():
    lines = list(text.lines(report(names=["左", "right"])))
    assert not any("\x1b" in line for line in lines)
    table = lines[lines.index(next(line for line in lines if "mean weight" in line)) :][:3]
    assert len({text.width(line[: line.index("0.")]) for line in table[1:]}) == 1
    assert any("a taken for b: 1" in line for line in lines)


@pytest.mark.parametrize("classes", [3, 40])
def test_pictures_are_drawn_whatever_the_labels(tmp_path, classes):
    rng = np.random.default_rng(0)
    names = ["天气", "a $price$ & more", EVIL, *(f"class number {i}" for i in range(37))][:classes]
    truth = [names[i % classes] for i in range(120)]
    table = Table("w", "", ["t"] * 120, truth, None, list(range(120)), {}, ())
    weights = rng.dirichlet([1.0] * 5, 120)
    found = measure(table, names, rng.dirichlet([1.0] * classes, 120), weights, title="t")
    made, legend = pictures.draw(str(tmp_path), found)
    for line in legend:
        assert line in page.page(found, legend) and line not in page.page(found)
    assert [Path(path).read_bytes()[:8] for path in made] == [b"\x89PNG\r\n\x1a\n"] * 2
    assert len(page.page(found)) > 3000


@pytest.fixture
def a_font(tmp_path, monkeypatch):
    """A font of three characters that no other has, as if it had just been installed."""
    from matplotlib import font_manager

    builder = pytest.importorskip("fontTools.fontBuilder")
    pen = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen(None)
    for draw, point in zip((pen.moveTo, pen.lineTo, pen.lineTo), ((0, 0), (900, 0), (0, 900)), strict=True):
        draw(point)
    pen.closePath()
    names = [".notdef", *(f"u{ord(c):04X}" for c in "天气好")]
    made = builder.FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(names)
    made.setupCharacterMap({ord(c): name for c, name in zip("天气好", names[1:], strict=True)})
    made.setupGlyf(dict.fromkeys(names, pen.glyph()))
    made.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    made.setupHorizontalHeader(ascent=900, descent=-100)
    made.setupNameTable({"familyName": "Three Letters", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.save(tmp_path / "three.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    files = [str(tmp_path / name) for name in ("broken.ttf", "three.ttf")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))


def test_a_font_of_the_system_is_found_and_what_none_has_is_numbered(a_font, monkeypatch):
    from matplotlib import font_manager

    found = fonts.drawn(["Küche", "天气", "天好 $", "\U0002ceb0好", "\n"], "class")
    ours = "Three Letters" in found.families
    assert found.families[0] == "DejaVu Sans" and (ours or len(found.families) == 2)  # or this machine has a CJK font
    assert found.labels[:3] == ["Küche", "天气", "天好 \\$"] and found.labels[4] == "class 5"
    assert not ours or (found.labels[3], found.legend[0]) == ("class 4", "class 4: \U0002ceb0好")

    plain = [f for f in font_manager.fontManager.ttflist if "DejaVu" in f.name or "Last Resort" in f.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", plain)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    found = fonts.drawn(["Küche", "天气"], "class")  # a font of empty boxes does not count
    assert found == (["DejaVu Sans"], ["Küche", "class 2"], ["class 2: 天气"])
