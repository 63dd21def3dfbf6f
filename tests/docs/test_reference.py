"""docs/reference.md has a row for every op, score, selection, loss and preset, and its presets say what they are."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

from pymoe import ops, presets, sharing, sparsity
from pymoe.hf import blocks, models
from pymoe.hf.model_config import FAMILIES
from pymoe.moe import losses, score, select
from pymoe.moe.rules import RULES
from pymoe.sharing import fuse
from pymoe.storage.forms import FORMS
from pymoe.train.plan import KINDS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")


def modules(package) -> list[str]:
    return [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]


# the head of the table's first column, and the names it must have
TABLES = {
    "op": modules(ops),
    "score (`RouterConfig.score`)": list(score.SCORES),
    "selection (`RouterConfig.select`)": list(select.SELECTORS),
    "rule": list(RULES),
    "loss": modules(losses),
    "preset": list(presets.PRESETS),
    "form": list(FORMS),
    "schedule": list(KINDS),
    "family": list(FAMILIES),
    "block": list(blocks.FAMILIES),
    "decoder": [*models.FAMILIES, models.switch.NAME],
}
# the pages that have tables of their own, and what must be named there in backticks
PAGES = {
    "sparsity.md": [
        *sparsity.masks.__all__,
        "cubic",
        "one_shot",
        "lottery",
        "rigl",
        "masked",
        "units",
        "layerwise",
        "obs",
        "sparsegpt",
    ],
    "expert_pruning.md": list(sparsity.experts.__all__),
    "merging.md": [*fuse.__all__, "tied"],
    "splitting.md": [
        *sharing.split.__all__,
        *sharing.split.partition.__all__,
        "gates",
        "btx",
        "low_rank",
        "reduce",
        "integrate",
    ],
}


def rows(page: str, head: str) -> dict[str, list[str]]:
    """{name: the other cells} of the table whose first column is called ``head``."""
    found = re.search(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\|\n((?:\|.*\n)*)", page, re.M)
    assert found is not None, f"no table of {head}"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    return {first.strip("`"): others for first, *others in cells}


def differences(page: str) -> list[str]:
    """Every name without a row, every row without a name, every row with an empty cell."""
    found = []
    for head, names in TABLES.items():
        table = rows(page, head)
        found += [f"{head}: {name}" for name in sorted(table.keys() ^ set(names))]
        found += [f"{head}: {name} has an empty cell" for name, cells in table.items() if not all(cells)]
    return found


def wrong_presets(page: str) -> list[str]:
    """Presets whose row does not say their score, selection, normalisation and losses."""
    wrong = []
    for name, cells in rows(page, "preset").items():
        r = presets.PRESETS[name](d_model=8, d_ff=6).router
        said = cells[0], cells[1], cells[2].split(",")[0], cells[3]
        if said != (r.score, r.select, r.norm, ", ".join(r.losses) or "none"):
            wrong.append(name)
    return wrong


def test_every_public_name_has_a_row() -> None:
    assert differences(PAGE) == []


def unnamed(page: str, names: list[str]) -> list[str]:
    """Names that stand nowhere on the page, alone or with what belongs to them."""
    said = set(re.findall(r"[A-Za-z_]+", page))
    return [name for name in names if name not in said]


@pytest.mark.parametrize("page", list(PAGES))
def test_the_pages_name_everything_public(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert unnamed(text, PAGES[page]) == []
    gone = PAGES[page][0]
    assert unnamed(re.sub(rf"\b{gone}\b", "", text), PAGES[page]) == [gone]  # control


def test_the_presets_are_what_their_rows_say() -> None:
    assert wrong_presets(PAGE) == []


@pytest.mark.parametrize(("head", "name"), [(head, names[-1]) for head, names in TABLES.items()])
def test_control_a_missing_row_is_found(head: str, name: str) -> None:
    line = next(line for line in re.findall(rf"^\| `{name}` \|.*\n", PAGE, re.M) if name in rows(PAGE, head))
    before, after = PAGE.split(f"| {head} |", 1)
    broken = f"{before}| {head} |" + re.sub(rf"^\| `{name}` \|.*\n", "", after, count=1, flags=re.M)
    assert line and differences(broken) == [f"{head}: {name}"]


def test_control_a_wrong_preset_is_found() -> None:
    assert wrong_presets(PAGE.replace("| `mixtral` | softmax |", "| `mixtral` | sigmoid |")) == ["mixtral"]
