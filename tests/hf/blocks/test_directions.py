"""The gradient of every family's block along a direction through x and all its parameters, by the complex step.

Not against transformers: f(x + i h v) / h with h = 1e-200 has no error of its own, so it judges pymoe's backward to the
last digits, with the settings and the numbers of the stored rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import hf
from pymoe.backend import tree
from pymoe.hf import blocks
from tests.hf.blocks.compare import given
from tests.hf.blocks.test_vectors import ROWS, result_of, stored  # noqa: F401

STEP = 1e-200


def check(name: str, stored: Any, broken: float = 1.0) -> float:  # noqa: F811
    """|complex step - ⟨gradient, v⟩|, relative to the sum of the absolute terms of the product."""
    row = ROWS[name]
    result = result_of(row, stored[name])
    cfg = hf.config(row["config"], part=row["part"], layer=row["layer"])
    run, flat = blocks.module_of(cfg), tree.flatten(hf.load(result.state, cfg))
    rng = np.random.default_rng(0)
    v = {n: rng.standard_normal(a.shape) for n, a in flat.items() if a.dtype.kind == "f"}
    vx = rng.standard_normal(result.x.shape)
    moved = {n: a + 1j * STEP * v[n] if n in v else a for n, a in flat.items()}
    others = given(result.inputs)
    out, _ = run.forward(result.x + 1j * STEP * vx, tree.unflatten(moved), cfg, **others)
    _, cache = run.forward(result.x, tree.unflatten(flat), cfg, **others)
    dx, dp, *_ = run.backward(result.dy, cache)
    d = tree.flatten(dp)
    products = [broken * dx * vx, *(d[n] * v[n] for n in v)]
    along = float(np.sum(np.imag(out.y) / STEP * result.dy))
    return abs(along - sum(float(a.sum()) for a in products)) / sum(float(np.abs(a).sum()) for a in products)


@pytest.mark.parametrize("name", ROWS)
def test_the_gradient_along_a_direction(name: str, stored: Any) -> None:  # noqa: F811
    assert check(name, stored) < 1e-13


@pytest.mark.parametrize("name", ["deepseek_v3", "inkling", "zaya", "muse_spark"])
def test_control_a_gradient_that_is_off_by_a_thousandth_is_seen(name: str, stored: Any) -> None:  # noqa: F811
    assert check(name, stored, 1.001) > 1e-8
