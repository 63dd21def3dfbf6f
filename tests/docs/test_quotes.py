"""What the documentation quotes from the source must stand there, and its examples must print what they show."""

import doctest
import re
import sys
from pathlib import Path

import numpy as np
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


def failures(text, name, out):
    """How many examples of a page print something else; what a page sets for printing arrays ends with it."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    with np.printoptions():
        runner.run(doctest.DocTestParser().get_doctest(text, {}, name, name, 0), out=out)
    return runner.summarize(verbose=False).failed


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_print_what_they_show(page):
    assert failures(page.read_text(encoding="utf-8"), page.name, sys.stdout.write) == 0


def test_a_wrong_number_would_be_seen():
    text = (ROOT / "docs" / "layer.md").read_text(encoding="utf-8").replace("1.0715", "1.0716")
    before = np.get_printoptions()
    assert failures(text, "control", lambda _: None) > 0
    assert np.get_printoptions() == before
