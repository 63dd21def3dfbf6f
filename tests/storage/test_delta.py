"""Delta: a mean and a low-rank difference; what is refused; with no difference, the bits of the mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import kernels
from pymoe.backend.errors import DtypeError, ShapeError
from pymoe.storage import Delta

from .cases import D, E, F, R, frozen, inputs, relative, weight

START = frozen(np.array([0, 4, 4, 11]))


def test_dense_is_the_mean_and_the_product() -> None:
    w = weight("delta", stack=True)
    assert w.nnz == F * D + E * R * (F + D) and w.size == E * F * D
    for e in range(E):
        assert relative(w.dense()[e], w.mean + np.einsum("fr,rd->fd", w.a[e], w.b[e])) <= 1e-15
        assert np.array_equal(w.expert(e).mean, w.mean)


def test_without_a_difference_the_bits_are_those_of_equal_experts() -> None:
    """U4."""
    w, (x, dy) = weight("delta", stack=True), inputs(11)
    w = w.like({"mean": w.mean, "a": np.zeros_like(w.a), "b": w.b})
    equal = np.ascontiguousarray(np.broadcast_to(w.mean, (E, F, D)))
    k = kernels.of(x)
    assert np.array_equal(w.grouped(x, START), k.grouped_linear(x, equal, START))
    assert np.array_equal(w.grouped_dx(dy, START), k.grouped_linear_dx(dy, equal, START))
    dp = w.grouped_dparts(dy, x, START)
    each = k.grouped_linear_dw(dy, x, START)
    assert np.array_equal(dp["mean"], each[0] + each[1] + each[2]) and not dp["b"].any() and dp["a"].any()


def test_the_rank_may_be_zero() -> None:
    w = Delta(np.ones((F, D)), np.zeros((E, F, 0)), np.zeros((E, 0, D)))
    x, dy = inputs(11)
    assert relative(w.grouped(x, START), np.repeat(x.sum(1)[:, None], F, 1)) <= 1e-14
    assert {k: v.shape for k, v in w.grouped_dparts(dy, x, START).items()} == {
        "mean": (F, D),
        "a": (E, F, 0),
        "b": (E, 0, D),
    }


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"mean": np.ones(F)}, ShapeError, "mean must have shape"),
        ({"mean": np.ones((F, D), int)}, DtypeError, "floating"),
        ({"a": np.ones((E, F + 1, R))}, ShapeError, "a must have shape"),
        ({"a": np.ones(F)}, ShapeError, r"a must have shape \(E, 6, r\)"),
        ({"b": np.ones((E, R + 1, D))}, ShapeError, "b must have shape"),
        ({"b": np.ones((R, D))}, ShapeError, "b must have shape"),
        ({"b": np.ones((E, R, D), np.float32)}, DtypeError, "share one dtype"),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    given = {"mean": np.ones((F, D)), "a": np.ones((E, F, R)), "b": np.ones((E, R, D))} | changes
    with pytest.raises(error, match=words):
        Delta(**given)
