"""Stored weights on a library that has nothing but the array API standard: made, multiplied, turned back."""

from __future__ import annotations

import array_api_strict as strict
import numpy as np
import pytest

from pymoe.backend import to_numpy
from pymoe.storage import bsr, csr, nm

from .cases import BLOCK, KINDS, E, F, M, N, inputs, relative, weight

START = np.array([0, 4, 4, 11])
MAKE = {"csr": csr.from_dense, "bsr": lambda w: bsr.from_dense(w, BLOCK), "nm": lambda w: nm.from_dense(w, N, M)}


@pytest.mark.parametrize("kind", KINDS)
def test_products_and_gradients(kind: str) -> None:
    here = weight(kind, stack=True)
    if kind == "delta":
        there = type(here)(*(strict.asarray(a.copy()) for a in here.parts().values()))
    else:
        there = MAKE[kind](strict.asarray(here.dense()))
    x, dy = inputs(11)
    given = [strict.asarray(a.copy()) for a in (x, dy, START)]
    assert relative(to_numpy(there.grouped(given[0], given[2])), here.grouped(x, START)) <= 1e-13
    assert relative(to_numpy(there.grouped_dx(given[1], given[2])), here.grouped_dx(dy, START)) <= 1e-13
    wanted = here.grouped_dparts(dy, x, START)
    for name, got in there.grouped_dparts(given[1], given[0], given[2]).items():
        assert isinstance(got, type(given[0])) and relative(to_numpy(got), wanted[name]) <= 1e-13
    assert relative(to_numpy(there.dense()), here.dense()) <= 1e-15
    assert np.array_equal(to_numpy(there.mask()), here.mask())
    assert there.expert(E - 1).linear(given[0]).shape == (11, F)
    assert (there + there * 2).nnz == here.nnz
