"""A mask must be bool and of the weight's shape."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import DtypeError, ShapeError
from pymoe.sparsity import masks


def test_what_fits_and_what_does_not():
    w = np.ones((2, 3))
    masks.check(w, np.zeros((2, 3), bool))
    with pytest.raises(ShapeError, match=r"mask must have shape \(2, 3\), got \(6,\)"):
        masks.check(w, np.ones(6, bool))
    with pytest.raises(DtypeError, match="mask must be bool, True where a weight stays, got int64"):
        masks.check(w, np.ones((2, 3), int))
    with pytest.raises(DtypeError, match="that of up must be bool"):
        masks.check(w, w, "that of up")
    with pytest.raises(DtypeError, match="expected an array"):
        masks.check(w, [[True] * 3] * 2)
