"""What the documentation quotes from the source must stand there, and its examples must print what they show."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
QUOTE = re.compile(r"<!-- from (\S+) -->\n```\w*\n(.*?)```", re.S)


def quotes(text):
    return QUOTE.findall(text)


def missing(text):
    return [
        (path, line)
        for path, code in quotes(text)
        for line in code.splitlines()
        if line.strip() and line not in source(path)
    ]


def source(path):
    return (ROOT / path).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_quoted_lines_stand_in_the_source(page):
    assert missing(page.read_text(encoding="utf-8")) == []


def test_a_changed_line_would_be_seen():
    text = (ROOT / "docs" / "layer.md").read_text(encoding="utf-8")
    assert len(quotes(text)) >= 8
    assert missing(text.replace("dx = dx_experts + dx_router", "dx = dx_experts - dx_router"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_print_what_they_show(page):
    text = page.read_text(encoding="utf-8")
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_a_wrong_number_would_be_seen():
    text = (ROOT / "docs" / "layer.md").read_text(encoding="utf-8").replace("1.0715", "1.0716")
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(doctest.DocTestParser().get_doctest(text, {}, "control", "control", 0), out=lambda _: None)
    assert runner.summarize(verbose=False).failed > 0
