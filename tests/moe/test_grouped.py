"""Each expert's rows times its matrix, dense and stored: the same numbers, gradients of the same kind as the weight."""

from __future__ import annotations

from typing import Any

import array_api_strict as strict
import numpy as np
import pytest

from pymoe import storage
from pymoe.moe import grouped

from .frames import frozen, relative

START = frozen(np.array([0, 3, 3, 7]))  # expert 1 has no rows
E, F, D = 3, 4, 6


def frame(kind: str) -> tuple[Any, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    w = rng.standard_normal((E, F, D)) * (rng.random((E, F, D)) < 0.5)
    made = {"array": lambda w: w, "csr": storage.csr.from_dense, "bsr": lambda w: storage.bsr.from_dense(w, (2, 3))}
    return made[kind](frozen(w)), frozen(rng.standard_normal((7, D))), frozen(rng.standard_normal((7, F)))


@pytest.mark.parametrize("kind", ["array", "csr", "bsr"])
def test_one_expert_at_a_time(kind: str) -> None:
    weight, a, dy = frame(kind)
    dense = weight if kind == "array" else weight.dense()
    of = np.repeat(np.arange(E), np.diff(START))
    assert relative(grouped.linear(a, weight, START), [dense[e] @ row for e, row in zip(of, a, strict=True)]) <= 1e-14
    assert (
        relative(grouped.linear_dx(dy, weight, START), [dense[e].T @ r for e, r in zip(of, dy, strict=True)]) <= 1e-14
    )
    dw = grouped.linear_dw(dy, a, weight, START)
    wanted = np.stack([dy[of == e].T @ a[of == e] for e in range(E)])
    if kind == "array":
        assert relative(dw, wanted) <= 1e-14 and not dw[1].any()
    else:
        assert type(dw) is type(weight) and relative(dw.dense(), np.where(weight.mask(), wanted, 0)) <= 1e-14
        assert not dw.expert(1).dense().any()


def test_two_libraries_at_once_are_refused() -> None:
    weight, a, _ = frame("array")
    with pytest.raises(TypeError):
        grouped.linear(a, strict.asarray(weight.copy()), START)
    with pytest.raises(TypeError):
        grouped.linear(strict.asarray(a.copy()), weight, strict.asarray(START.copy()))
