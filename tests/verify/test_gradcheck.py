"""gradcheck passes what is right and refuses what is wrong, whatever is wrong with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pymoe import ops, verify
from pymoe.backend.errors import ConfigError, GradientError
from pymoe.verify import DecisionError

from .broken import OP, B, Layer, Op, P, W, X, backward_with, one_entry

MODES = ("jacobian", "gradient", "directional")


@pytest.mark.parametrize("mode", MODES)
def test_a_right_backward_passes_and_every_planted_fault_is_caught(mode: str) -> None:
    report = verify.gradcheck(OP, X, W, B, mode=mode, controls=True)
    assert report.error < 1e-14
    assert report.mode == mode
    assert (report.n_inputs, report.n_outputs) == (53, 21)
    assert {"x", "w", "b"} <= set(report.errors)
    assert "12 of 12 planted faults caught" in str(report)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name, position", [("x", (6, 4)), ("w", (2, 0)), ("b", (1,))])
@pytest.mark.parametrize("size", [1e-3, 1e-9])
def test_a_fault_in_one_entry_is_named_with_both_numbers(
    mode: str, name: str, position: tuple[int, ...], size: float
) -> None:
    with pytest.raises(GradientError) as caught:
        verify.gradcheck(one_entry(name, position, 1 + size), X, W, B, mode=mode, seed=3)
    message = str(caught.value)
    shape = {"x": X, "w": W, "b": B}[name].shape
    for part in (repr(name), str(list(position)), f"shape {shape}", "seed 3", "tolerance 1e-13", "complex step says"):
        assert part in message, message


@pytest.mark.parametrize("mode", MODES)
def test_a_row_swap_between_equal_norms_is_seen(mode: str) -> None:
    broken = backward_with(lambda dx, g, c: (dx[::-1].copy(), g))
    with pytest.raises(GradientError, match="'x'"):
        verify.gradcheck(broken, X, W, B, mode=mode)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda dx, g, c: (dx, {"w": g["w"]}), "missing ['b']"),
        (lambda dx, g, c: (dx, {**g, "c": g["b"]}), "unexpected ['c']"),
        (lambda dx, g, c: (dx, {**g, "w": g["w"].T}), "has shape (5, 3), not (3, 5)"),
        (lambda dx, g, c: (dx.astype(np.float32), g), "'x' is float32, but 'x' is float64"),
        (lambda dx, g, c: (None, g), "must be an array, got NoneType"),
        (lambda dx, g, c: (dx * np.nan, g), "nan"),
        (lambda dx, g, c: dx, "must return a tuple"),
        (lambda dx, g, c: (dx, g["w"], g["b"], 1), "a tuple of 4"),
    ],
)
def test_wrong_keys_shapes_dtypes_and_nan(change: Any, words: str) -> None:
    for mode in MODES:
        with pytest.raises(GradientError) as caught:
            verify.gradcheck(backward_with(change), X, W, B, mode=mode)
        assert words.lower() in str(caught.value).lower()


def test_creep_to_float64_is_seen_although_the_check_runs_in_float64() -> None:
    broken = backward_with(lambda dx, g, c: (dx * np.float64(1.0), g))
    with pytest.raises(GradientError, match="'x' is float64, but 'x' is float32"):
        verify.gradcheck(broken, X, W, B)
    wide = Op(
        forward=lambda x, w, b: (OP.forward(x, w, b)[0] * np.float64(1), OP.forward(x, w, b)[1]),
        backward=lambda dy, c: OP.backward(dy.astype(c[0].dtype), c),
    )
    with pytest.raises(GradientError, match="output 'y' is float64 for float32"):
        verify.gradcheck(wide, X, W, B)


def writes(where: str) -> Op:
    def forward(x: Any, w: Any, b: Any) -> Any:
        if where == "input":
            x += 0.0
        return OP.forward(x, w, b)

    def backward(dy: Any, cache: Any) -> Any:
        if where == "cache":
            cache[2][0, 0] += 1
        if where == "cotangent":
            dy *= 2
        return OP.backward(dy, cache)

    return Op(forward=forward, backward=backward)


@pytest.mark.parametrize("where, which", [("input", "forward"), ("cache", "backward"), ("cotangent", "backward")])
def test_nobody_writes_where_it_did_not_allocate(where: str, which: str) -> None:
    with pytest.raises(GradientError, match=f"{which} writes into an array it did not allocate"):
        verify.gradcheck(writes(where), X, W, B)


def test_a_write_through_the_flags_is_seen_too() -> None:
    def backward(dy: Any, cache: Any) -> Any:
        y = cache[2]
        y.setflags(write=True)
        y[0, 0] += 1e-6
        return OP.backward(dy, cache)

    with pytest.raises(GradientError, match="was written into|different bits"):
        verify.gradcheck(Op(backward=backward), X, W, B)


def test_hidden_state_is_seen() -> None:
    count = iter(range(1000))
    forward = Op(forward=lambda x, w, b: OP.forward(x, w, b + next(count)))
    with pytest.raises(GradientError, match="hidden state"):
        verify.gradcheck(forward, X, W, B)
    backward = Op(backward=lambda dy, c: OP.backward(dy * (1 + next(count)), c))
    with pytest.raises(GradientError, match="different bits"):
        verify.gradcheck(backward, X, W, B)


@pytest.mark.parametrize(
    "forward, words",
    [
        (lambda x, w, b: OP.forward(x.astype(np.real(x).dtype), w, b), "imaginary part is lost"),
        (lambda x, w, b: (np.abs(OP.forward(x, w, b)[0]), OP.forward(x, w, b)[1]), "imaginary part was lost"),
        (lambda x, w, b: (np.fmod(OP.forward(x, w, b)[0], 8), OP.forward(x, w, b)[1]), "complex inputs"),
    ],
)
def test_a_lost_imaginary_part_is_an_error_and_not_a_zero_gradient(forward: Any, words: str) -> None:
    with pytest.raises(GradientError, match=words):
        verify.gradcheck(Op(forward=forward), X, W, B)


def test_a_decision_that_looks_at_the_imaginary_part() -> None:
    def forward(x: Any, w: Any, b: Any) -> Any:
        y, cache = OP.forward(x, w, b)
        return y, (*cache, np.argmax(np.imag(x) * 1e200, axis=1))

    with pytest.raises(DecisionError, match=r"cache\[3\]"):
        verify.gradcheck(Op(forward=forward, backward=lambda dy, c: OP.backward(dy, c[:3])), X, W, B)


# --- layers, losses, models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_with_a_tree_and_losses(mode: str) -> None:
    report = verify.gradcheck(Layer(), X, P, 1.5, mask=None, mode=mode, controls=True)
    assert {"x", "router.weight", "value"} <= set(report.errors)
    assert report.n_outputs == 7 * 6 + 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", ["z", "mean"])
def test_a_fault_in_the_gradient_of_one_loss_alone(mode: str, loss: str) -> None:
    class Wrong(Layer):
        def backward(self, dy: Any, cache: Any, dlosses: Any = None) -> Any:
            return super().backward(dy, cache, {**(dlosses or {}), loss: 1.001 * (dlosses or {}).get(loss, 0.0)})

    with pytest.raises(GradientError):
        verify.gradcheck(Wrong(), X, P, 1.5, mode=mode)
    others = [name for name in ("z", "mean") if name != loss]
    assert verify.gradcheck(Wrong(), X, P, 1.5, mode=mode, losses=others).error < 1e-13
    assert verify.gradcheck(Wrong(), X, P, 1.5, mode=mode, losses=[]).error < 1e-13


def test_integer_first_arguments_have_no_gradient() -> None:
    ids, weight = np.array([2, 0, 2]), np.random.default_rng(0).standard_normal((4, 3))
    assert set(verify.gradcheck(ops.embedding, ids, weight).errors) == {"weight"}
    wrong = SimpleNamespace(
        forward=ops.embedding.forward, backward=lambda dy, c: (np.zeros(3), ops.embedding.backward(dy, c)[1])
    )
    with pytest.raises(GradientError, match="a tuple of 2"):
        verify.gradcheck(wrong, ids, weight)


def test_one_gradient_for_each_argument_is_another_way_to_return_them() -> None:
    def backward(dy: Any, cache: Any) -> Any:
        dx, g = OP.backward(dy, cache)
        return dx, g["w"], g["b"]

    assert verify.gradcheck(Op(backward=backward), X, W, B).error < 1e-13


def test_a_tensor_passed_by_keyword_is_static_and_backward_says_so() -> None:
    with pytest.raises(GradientError, match="pass what is to be differentiated by position"):
        verify.gradcheck(OP, X, W, b=B)


def test_float32_arguments_are_judged_in_float64_and_never_changed() -> None:
    x = X.astype(np.float32)
    before = x.copy()
    assert verify.gradcheck(OP, x, W.astype(np.float32), B.astype(np.float32)).error < 1e-14
    assert np.array_equal(x, before) and x.flags.writeable


def test_a_zero_gradient_is_reported_as_nothing_proven() -> None:
    shift = SimpleNamespace(
        forward=lambda x, b: ops.softmax.forward(x + b[:, None]),
        backward=lambda dy, c: (ops.softmax.backward(dy, c)[0], {"b": np.sum(ops.softmax.backward(dy, c)[0], axis=-1)}),
    )
    report = verify.gradcheck(shift, X, np.ones(7), controls=True)
    assert report.zeros == ("b",)
    assert "(zero)" in str(report)
    wrong = SimpleNamespace(
        forward=shift.forward, backward=lambda dy, c: (shift.backward(dy, c)[0], {"b": 1e-9 * np.ones(7)})
    )
    for mode in MODES:
        with pytest.raises(GradientError, match="'b'"):
            verify.gradcheck(wrong, X, np.ones(7), mode=mode)


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(ConfigError, match="forward and backward"):
        verify.gradcheck(object(), X)
    with pytest.raises(ConfigError, match="nothing to differentiate"):
        verify.gradcheck(OP, np.arange(3))
    with pytest.raises(ConfigError, match="mode"):
        verify.gradcheck(OP, X, W, B, mode="fast")


def test_modes_are_chosen_by_size() -> None:
    r = np.random.default_rng(0)
    modes = [verify.gradcheck(ops.silu, r.standard_normal(n)).mode for n in (5, 1000, 3001)]
    assert modes == ["jacobian", "gradient", "directional"]


def test_the_seed_is_the_only_randomness() -> None:
    a, b = (verify.gradcheck(OP, X, W, B, mode="directional", seed=4) for _ in range(2))
    assert a == b
