"""Taylor, adjoint, identities, differences, directional: each with what it must refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pymoe import kernels, ops, verify
from pymoe.backend.errors import ConfigError, GradientError
from pymoe.kernels import reference as k
from pymoe.verify import DecisionError
from pymoe.verify.quotients import EXTENDED

from .broken import OP, B, Layer, Op, P, W, X, backward_with, one_entry


def test_taylor_has_order_two_and_a_fault_has_order_one() -> None:
    right = verify.taylor(OP, X, W, B)
    assert 1.95 <= right.rate <= 2.05
    assert set(right.rows) == {"(jointly)", "x", "w", "b"}
    assert all(row.remainder > 0 for rows in right.rows.values() for row in rows)
    with pytest.raises(GradientError, match="falls with order 1.0"):
        verify.taylor(backward_with(lambda dx, g, c: (1.1 * dx, g)), X, W, B)
    assert verify.controls(verify.taylor, OP, X, W, B).of == 12


def test_taylor_of_a_linear_parameter_looks_at_the_remainder_itself() -> None:
    right = verify.taylor(ops.linear, X, W, B)
    assert right.linear == ("x", "w", "b") or right.linear == ("x", "weight", "bias")
    assert "linear" in str(right) and "rate" in str(right)
    wrong = SimpleNamespace(
        forward=ops.linear.forward,
        backward=lambda dy, c: (ops.linear.backward(dy, c)[0] * (1 + 1e-9), ops.linear.backward(dy, c)[1]),
    )
    with pytest.raises(GradientError):
        verify.taylor(wrong, X, W, B)


def test_taylor_takes_smaller_steps_near_a_boundary_and_says_so_when_it_cannot() -> None:
    close = {**P, "router": {"weight": P["router"]["weight"].copy()}}
    close["router"]["weight"][1] = close["router"]["weight"][0] * (1 + 1e-4)  # every token that likes 0 is near 1
    taylor = verify.taylor(Layer(), X, close, 1.5)
    assert min(rows[0].t for rows in taylor.rows.values()) < 1e-2
    close["router"]["weight"][1] = close["router"]["weight"][0] * (1 + 1e-14)
    with pytest.raises(DecisionError, match="ties"):
        verify.taylor(Layer(), X, close, 1.5)


def test_adjoint_is_exact_on_integers() -> None:
    slot = np.array([[0, 3], [2, -1], [1, 4]])
    combine = SimpleNamespace(
        forward=lambda ys, w: (k.combine(ys, w, slot), (ys, w)),
        backward=lambda dy, c: (
            np.stack(
                [sum(c[1][t, j] * dy[t] for t in range(3) for j in range(2) if slot[t, j] == r) for r in range(5)]
            ),
            {"w": k.combine_dweight(dy, c[0], slot)},
        ),
    )
    for name in ("ys", "w"):
        report = verify.adjoint(combine, np.ones((5, 4)), np.ones((3, 2)), of=name)
        assert report.error == 0.0
    assert verify.adjoint(ops.linear, X, W).error == 0.0


def test_adjoint_refuses_a_wrong_transpose_and_what_is_not_linear() -> None:
    def off_by(error: float) -> Any:
        return SimpleNamespace(
            forward=ops.linear.forward, backward=lambda dy, c: (ops.linear.backward(dy, c)[0] + error, {"weight": W})
        )

    for error in (1.0, 1e-9):
        with pytest.raises(GradientError, match="not the transpose"):
            verify.adjoint(off_by(error), X, W)
    with pytest.raises(GradientError, match="not linear"):
        verify.adjoint(ops.tanh, X)
    with pytest.raises(GradientError, match="not linear"):
        verify.adjoint(ops.linear, X, W, B)  # affine
    with pytest.raises(ConfigError, match="of must be"):
        verify.adjoint(ops.linear, X, W, of="bias")


def test_identities_hold() -> None:
    assert verify.identities(OP, X, W, B).error < 1e-13
    assert verify.identities(ops.linear, X, W, homogeneous={"x": 1, "weight": 1}).error < 1e-13
    report = verify.identities(ops.relu_squared, X + 0.1 * np.sign(X), homogeneous={"x": 2})
    assert report.errors["euler x"] < 1e-13


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda dx, g, c: (dx + 1e-12, g), "0 G"),
        (lambda dx, g, c: (np.abs(dx), g), "-1 G"),
        (lambda dx, g, c: (dx * np.abs(dx), g), "G"),
        (lambda dx, g, c: (np.where(np.abs(dx) > 1, dx, 0), g), "G"),
        (lambda dx, g, c: (dx.astype(np.float32), g), "float32"),
        (lambda dx, g, c: (dx, {"w": g["w"]}), "missing"),
    ],
)
def test_identities_refuse_what_is_not_linear_in_the_cotangent(change: Any, words: str) -> None:
    with pytest.raises(GradientError, match=words):
        verify.identities(backward_with(change), X, W, B)


def test_euler_sees_a_thousandth_and_knows_its_names() -> None:
    wrong = SimpleNamespace(
        forward=ops.linear.forward,
        backward=lambda dy, c: (ops.linear.backward(dy, c)[0] * 1.001, {"weight": dy.T @ X.astype(dy.dtype)}),
    )
    assert verify.identities(wrong, X, W).error < 1e-13  # linear in the cotangent all the same
    with pytest.raises(GradientError, match="euler x"):
        verify.identities(wrong, X, W, homogeneous={"x": 1})
    with pytest.raises(GradientError, match="euler x"):
        verify.identities(ops.linear, X, W, homogeneous={"x": 2})
    with pytest.raises(ConfigError, match="homogeneous"):
        verify.identities(ops.linear, X, W, homogeneous={"bias": 1})


@pytest.mark.parametrize("precision, limit", [("longdouble", 1e-12), ("float64", 1e-10)])
def test_differences_judge_without_complex_arithmetic(precision: str, limit: float) -> None:
    if precision == "longdouble" and not EXTENDED:
        pytest.skip("numpy.longdouble is not an 80-bit type here")
    report = verify.differences(OP, X, W, B, precision=precision)
    assert report.error < limit and precision in report.mode
    assert verify.controls(verify.differences, OP, X, W, B).of == 12
    with pytest.raises(GradientError, match="'w'"):
        verify.differences(one_entry("w", (2, 0), 1 + 1e-8), X, W, B, precision=precision)


def test_differences_see_what_is_not_analytic() -> None:
    """f(x) = conj-like maps fool the complex step: x.real + 3j x.imag has the complex slope 3 and the real slope 1."""
    fooled = SimpleNamespace(
        forward=lambda x: (np.real(x) + 3j * np.imag(x) if np.iscomplexobj(x) else x * 1, x),
        backward=lambda dy, c: (3 * dy, {}),
    )
    assert verify.gradcheck(fooled, X).error < 1e-13
    with pytest.raises(GradientError, match="four-point difference"):
        verify.differences(fooled, X)


def test_differences_need_distance_from_ties_and_fall_back_where_there_is_no_long_double() -> None:
    tied = {**P, "router": {"weight": P["router"]["weight"].copy()}}
    tied["router"]["weight"][1] = tied["router"]["weight"][0]
    with pytest.raises(DecisionError, match="away from ties"):
        verify.differences(Layer(), X, tied, 1.5)
    with kernels.using("reference"):
        assert "float64" in verify.differences(ops.gelu, X).mode  # scipy's erf
    with pytest.raises(ConfigError, match="precision"):
        verify.differences(ops.gelu, X, precision="float16")


def test_directional_at_a_million_parameters_sees_a_thousandth_in_one_row() -> None:
    r = np.random.default_rng(1)
    x, w, b = r.standard_normal((3, 500)), r.standard_normal((2000, 500)) / 500, r.standard_normal(2000)
    report = verify.directional(OP, x, w, b)
    assert report.n_inputs > 1e6 and report.error < 1e-14

    def row(dx: Any, g: dict[str, Any], c: Any) -> Any:
        w = g["w"].copy()
        w[1234] *= 1.001
        return dx, {**g, "w": w}

    with pytest.raises(GradientError, match=r"'w' at \[1234, "):
        verify.directional(backward_with(row), x, w, b)


def test_controls_refuse_a_check_that_sees_nothing() -> None:
    with pytest.raises(GradientError, match="although the gradient was broken on purpose"):
        verify.controls(lambda *a, **kw: None, OP, X, W, B)
    with pytest.raises(GradientError, match="'w' by 0.1%"):
        verify.controls(verify.gradcheck, OP, X, W, B, tolerance=1e-2)
    assert verify.controls(verify.gradcheck, OP, X, W, B, size=1e-9).caught == 12


def test_controls_need_a_check_that_passes_first() -> None:
    with pytest.raises(GradientError, match="is wrong"):
        verify.controls(verify.gradcheck, one_entry("x", (0, 0), 2.0), X, W, B)


def test_no_check_passes_a_forward_of_which_backward_knows_nothing() -> None:
    wrong = Op(forward=lambda x, w, b: (OP.forward(x, w, b)[0] * 1.001, OP.forward(x, w, b)[1]))
    for check in (verify.gradcheck, verify.directional, verify.differences, verify.taylor):
        with pytest.raises(GradientError):
            check(wrong, X, W, B)
