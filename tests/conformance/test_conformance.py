"""The page of conformance: it names every rule and block, its rows can fail, and what it shows of others is so."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from pymoe.verify import explain
from pymoe.verify.conformance import Block, Measured, page

from . import measure
from .defects import DEFECTS
from .layers import layer
from .presets import preset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"


def test_the_page_has_a_row_for_every_rule_and_every_block() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \|", text, re.M)
    wanted = [e.name for e in explain.entries() if e.kind != "model"] + [*measure.test_vectors.ROWS]
    assert sorted(rows) == sorted(wanted), "make the page anew: python -m pymoe.verify.conformance"
    assert "FAILS" not in text and text.count("| passes |") == len(rows)
    assert all(f"{d.where}\n" in text for d in DEFECTS)


@pytest.mark.parametrize("name", ["deepseek_v3", "switch"])
def test_a_preset_is_measured(name: str) -> None:
    forward, gradient, _ = preset(explain.find(name))
    assert 0 < forward <= 1e-14 and 0 < gradient <= 1e-14


@pytest.mark.slow
def test_a_layer_is_measured_by_its_tests() -> None:
    forward, gradient, file = layer(explain.find("zaya"))
    assert 0 < forward <= 1e-13 and 0 < gradient <= 1e-13 and file.endswith("test_zaya.py")


def test_blocks_are_measured_from_the_stored_numbers() -> None:
    (row,) = [b for b in measure.blocks("deepseek_v32")]
    assert row.passes and row.forward > 0 and row.tensors >= 5
    assert measure.count_blocks() == len(measure.test_vectors.ROWS)


def test_control_an_error_above_its_bound_fails() -> None:
    good = Measured("a", "preset", "-", 1e-14, 1e-14, "-", "")
    assert good.passes
    assert not good._replace(forward=2e-13).passes and not good._replace(gradient=2e-13).passes
    block = Block("a", "a", "E 3", 1e-14, 1e-14, 3, None)
    assert block.passes and not block._replace(loss=2e-12).passes and not block._replace(gradient=2e-12).passes
    assert "FAILS" in page([good._replace(forward=1.0)], [block], [], {}) and "FAILS" not in page([good], [], [], {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(DEFECTS)))
def test_a_defect_shows_what_the_page_says(number: int) -> None:
    pytest.importorskip("transformers")
    d = DEFECTS[number]
    assert len(d.shows.strip().splitlines()) <= 12, "about ten lines"
    with redirect_stdout(io.StringIO()) as said:
        exec(compile(d.shows, d.where, "exec"), {"__name__": "shown"})
    assert said.getvalue().strip() == d.prints.strip()
