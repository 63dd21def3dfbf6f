"""Every row against what transformers computed and ``vectors.npz`` keeps: the same proof, without torch."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pymoe.hf import blocks
from tests.hf.blocks import compare
from tests.hf.blocks.drawn import fingerprint, normal, parameter, shadow
from tests.hf.blocks.make_vectors import NUMBERS, TEXT

DOCUMENT = json.loads(TEXT.read_text())
ROWS = DOCUMENT["rows"]


@pytest.fixture(scope="module")
def stored() -> Any:
    with np.load(NUMBERS) as found:
        return {name: found[name] for name in found.files}


def result_of(row: dict[str, Any], flat: np.ndarray) -> Any:
    """What ``reference.run`` gave, from the numbers of a row and the names of what they came from."""
    found, at = {}, 0
    for name, *shape in row["numbers"]:
        n = int(np.prod(shape))
        found[name], at = flat[at : at + n].reshape(shape), at + n
    assert at == len(flat)
    state = {name: parameter(name, tuple(shape), row["labels"][0]) for name, *shape in row["state"]}
    state |= {name[6:]: a.astype(np.int64) for name, a in found.items() if name.startswith("state ")}
    x, dy = (normal(name, tuple(row["shape"]), row["labels"][1]) for name in ("x", "dy"))
    assert fingerprint({"x": x, "dy": dy, **state}) == row["inputs"], "NumPy draws other numbers: make the vectors anew"
    inputs = {name[6:]: a for name, a in found.items() if name.startswith("input ")}
    return SimpleNamespace(
        state=state, x=x, dy=dy, y=found["y"], dx=found["dx"], logits=found.get("logits"), weight=found["weight"],
        idx=found["idx"].astype(np.int64), aux=found.get("aux"), aux_dx=found.get("aux_dx"), inputs=inputs,
        dinputs={name[7:]: a for name, a in found.items() if name.startswith("dinput ")},
        grads={name[2:]: a for name, a in found.items() if name.startswith("d ")},
    )  # fmt: skip


def errors(row: dict[str, Any], result: Any) -> dict[str, float]:
    return compare.errors(row["config"], result, row["part"], row["layer"], row["factor"], shadow)


def test_the_numbers_are_those_that_the_text_describes() -> None:
    assert hashlib.sha256(NUMBERS.read_bytes()).hexdigest() == DOCUMENT["made"]["sha256"]
    assert {blocks.config(r["config"], part=r["part"], layer=r["layer"]).family for r in ROWS.values()} == set(
        blocks.FAMILIES
    )


@pytest.mark.parametrize("name", ROWS)
def test_a_block(name: str, stored: Any) -> None:
    found = errors(ROWS[name], result_of(ROWS[name], stored[name]))
    assert max(found.values()) < compare.TOLERANCE, found


@pytest.mark.parametrize("what", ["y", "dx", "weight", "logits", "aux"])
def test_control_a_number_that_is_off_by_a_little_is_seen(what: str, stored: Any) -> None:
    result = result_of(ROWS["mixtral"], stored["mixtral"])
    setattr(result, what, getattr(result, what) * (1 + 3e-12))
    assert errors(ROWS["mixtral"], result)[what] > compare.TOLERANCE


def test_control_one_entry_of_a_gradient_that_is_off_is_seen_in_its_shadow() -> None:
    a = normal("a", (9, 10, 8), "control")
    b = a.copy()
    b[4, 7, 3] += 1e-9 * np.abs(a).max()
    assert compare.error(shadow("a", b), shadow("a", a)) > 1e-11
