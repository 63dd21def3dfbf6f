"""The quadratic problem that SparseGPT and OBS share, and what they give back."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from pymoe.sparsity import pruned

from .given import frozen, inputs, normal


def test_the_error_is_that_of_the_outputs():
    """Σ_f Δ h Δᵀ with h = 2/T xᵀx is 2/T ‖x Δᵀ‖²."""
    x, delta = inputs(9, 4), normal(3, 4)
    h = 2 / 9 * (x.T @ x)
    assert np.isclose(pruned.error(delta, h), 2 / 9 * np.sum((x @ delta.T) ** 2), rtol=1e-13, atol=0)
    assert pruned.error(frozen([[1.0, 2.0]]), frozen([[3.0, 1.0], [1.0, 5.0]])) == 3 + 4 + 20


def test_the_result_is_zero_where_pruned_and_its_error_that_of_its_own_values():
    before, after = frozen([[1.0, 2.0]]), frozen([[np.pi, 7.0]])
    mask, h = frozen([[True, False]]), frozen([[1.0, 0.5], [0.5, 2.0]])
    found = pruned.result(before, after, mask, h, before.astype("f4"))
    assert found.w.dtype == np.float32 and found.w.tolist() == [[float(np.float32(np.pi)), 0.0]]
    delta = found.w.astype("f8") - before
    assert found.error == pruned.error(delta, h) and found.mask is mask
    assert pruned.result(before, after, mask, h, before.astype("c16")).w.dtype == np.float64


def test_the_problem_is_in_double_precision():
    w, h = pruned.problem(np.ones((2, 3), "f4"), np.eye(3, dtype="f4"))
    assert w.dtype == h.dtype == np.float64 and w.shape == (2, 3) and h.shape == (3, 3)
    assert pruned.problem(np.empty((2, 0)), np.empty((0, 0)))[0].shape == (2, 0)


def test_float32_hessians_are_symmetric_to_their_rounding():
    h = np.array([[1.0, 0.5], [0.5 + 1e-6, 1.0]])
    pruned.problem(np.ones((1, 2)), h.astype("f4"))
    with pytest.raises(ConfigError, match="h must be symmetric"):
        pruned.problem(np.ones((1, 2)), h)
    h[1, 0] = 0.5 + 1e-9
    pruned.problem(np.ones((1, 2)), h)
    with pytest.raises(ConfigError, match="h must be symmetric"):
        pruned.problem(np.ones((1, 2)), np.array([[1.0, 0.5], [0.51, 1.0]], "f4"))


def test_refusals():
    one, eye = np.ones((1, 2)), np.eye(2)
    with pytest.raises(ShapeError, match=r"w must have shape \(\*, \*\)"):
        pruned.problem(np.ones(2), eye)
    with pytest.raises(ShapeError, match=r"h must have shape \(2, 2\), got \(3, 3\)"):
        pruned.problem(one, np.eye(3))
    with pytest.raises(NonFiniteError, match=r"w is NaN at \(0, 1\)"):
        pruned.problem(np.array([[1.0, np.nan]]), eye)
    with pytest.raises(NonFiniteError, match=r"w is infinite at \(0, 1\)"):
        pruned.problem(np.array([[1.0, np.inf]]), eye)
    with pytest.raises(NonFiniteError, match=r"h is infinite at \(1, 1\)"):
        pruned.problem(one, np.diag([1.0, -np.inf]))
    with pytest.raises(NonFiniteError, match=r"h is NaN at \(0, 0\)"):
        pruned.problem(one, np.diag([np.nan, 1.0]))
    with pytest.raises(DtypeError):
        pruned.problem(one, np.eye(2, dtype=int))
