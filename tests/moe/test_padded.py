"""Rows filled up to a multiple: a layout, so values and gradients are those without it."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import kernels
from pymoe.backend.errors import ConfigError
from pymoe.moe import padded, plan

from .frames import U64, relative

RNG = np.random.default_rng(0)
IDX = np.array([[4, 0], [4, 2], [0, 4], [4, 2], [2, 4], [4, 0], [4, 2]])  # 1, 3 and 5 are empty


@pytest.mark.parametrize(
    "kept", [None, RNG.random(IDX.shape) < 0.6, np.zeros(IDX.shape, bool)], ids=["all", "some", "none"]
)
@pytest.mark.parametrize("multiple", [1, 2, 3, 7, 8, 128])
@pytest.mark.parametrize("shift", [0, 1], ids=["the last is empty", "the first is empty"])
def test_a_loop_agrees(multiple: int, kept: np.ndarray | None, shift: int) -> None:
    plan_ = plan.make(IDX + shift, kept, 6)
    layout = padded.make(plan_, multiple)
    source, start = [], [0]
    for e in range(6):
        rows = list(range(plan_.start[e], plan_.start[e + 1]))
        source += rows + [-1] * (-len(rows) % multiple)
        start.append(len(source))
    assert layout.source.tolist() == source and layout.start.tolist() == start
    assert layout.place.tolist() == [source.index(r) for r in range(len(plan_.token))]
    rows = RNG.standard_normal((len(plan_.token), 3))
    wide = padded.pad(rows, layout)
    assert not wide[layout.source < 0].any() and padded.unpad(wide, layout).tobytes() == rows.tobytes()


@pytest.mark.parametrize("multiple", [1, 4, 7])
def test_products_and_their_gradients_do_not_see_it(multiple: int) -> None:
    plan_ = plan.make(IDX, None, 6)
    layout = padded.make(plan_, multiple)
    x, w, bias = (RNG.standard_normal(s) for s in ((14, 3), (6, 4, 3), (6, 4)))
    dy = RNG.standard_normal((14, 4))
    kernel = kernels.of(x)
    expert = np.repeat(np.arange(6), np.diff(layout.start))
    wide = padded.pad(x, layout)
    y = padded.unpad(kernel.grouped_linear(wide, w, layout.start) + bias[expert], layout)
    per_row = np.repeat(np.arange(6), np.diff(plan_.start))
    assert relative(y, kernel.grouped_linear(x, w, plan_.start) + bias[per_row]) <= 4 * U64
    dwide = padded.pad(dy, layout)  # the backward of unpad
    dw = kernel.grouped_linear_dw(dwide, wide, layout.start)
    assert relative(dw, kernel.grouped_linear_dw(dy, x, plan_.start)) <= 16 * U64 and not dw[[1, 3, 5]].any()
    assert relative(kernel.segment_sum(dwide, layout.start), kernel.segment_sum(dy, plan_.start)) <= 16 * U64
    dx = padded.unpad(kernel.grouped_linear_dx(dwide, w, layout.start), layout)
    assert relative(dx, kernel.grouped_linear_dx(dy, w, plan_.start)) <= 4 * U64
    dirty = wide.copy()
    dirty[layout.source < 0] = 1.0
    dirty_dy = dwide.copy()
    dirty_dy[layout.source < 0] = 1.0
    if multiple > 1:  # control: padding that is not zero shows in dW
        assert relative(kernel.grouped_linear_dw(dirty_dy, dirty, layout.start), dw) > 0.1


def test_the_two_are_adjoint() -> None:
    layout = padded.make(plan.make(IDX, None, 6), 4)
    a, b = RNG.standard_normal((14, 3)), RNG.standard_normal((len(layout.source), 3))
    assert abs(np.sum(padded.pad(a, layout) * b) - np.sum(a * padded.unpad(b, layout))) <= 1e-13


def test_the_multiple_is_a_positive_integer() -> None:
    with pytest.raises(ConfigError, match="must be an integer of at least 1, got 0"):
        padded.make(plan.make(IDX, None, 6), 0)
