"""Every check on every case of ``cases.py``."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from pymoe import verify

from .bench import U32, U64, both, complex_gradient, cotangent, distance, frozen, names
from .cases import CASES, Case

pytestmark = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
EXACT = 1e-13


def differentiable(case: Case) -> list[tuple[int, str]]:
    args = case.args()
    return [(i, n) for i, n in enumerate(names(case, args)) if args[i] is not None and args[i].dtype.kind == "f"]


def test_the_whole_jacobian_by_complex_step_and_its_negative_controls(case: Case) -> None:
    report = verify.gradcheck(case.op, *case.args(), controls=True, mode="jacobian", **case.static)
    assert report.error < EXACT


@pytest.mark.parametrize("seed", [1, 2])
def test_the_gradient_of_other_inputs(case: Case, seed: int) -> None:
    args = case.args(seed=seed)
    _, gradients, dy = both(case, args)
    for i, name in differentiable(case):
        expected = complex_gradient(lambda *a: case.op.forward(*a, **case.static)[0], args, i, dy)
        assert distance(gradients[name], expected) < EXACT, name


def test_any_one_entry_wrong_by_a_thousandth_is_seen(case: Case) -> None:
    args = case.args()
    _, gradients, dy = both(case, args)
    for i, name in differentiable(case):
        expected = complex_gradient(lambda *a: case.op.forward(*a, **case.static)[0], args, i, dy)
        size = np.max(np.abs(expected))
        broken = 0
        for at in np.ndindex(*expected.shape):
            if abs(expected[at]) > 1e-6 * size:
                wrong = gradients[name].copy()
                wrong[at] *= 1.001
                assert distance(wrong, expected) > EXACT, (name, at)
                broken += 1
        assert broken > 0, f"every gradient of {name} vanishes: this case tests nothing"


def test_forward_is_what_the_paper_says_in_loops(case: Case) -> None:
    args = case.args()
    y, _ = case.op.forward(*args, **case.static)
    expected = case.oracle(*args, **case.static)
    assert distance(y, expected) <= 64 * U64
    largest = np.unravel_index(np.argmax(np.abs(expected)), expected.shape)
    wrong = np.array(y)
    wrong[largest] *= 1.001
    assert distance(wrong, expected) > 64 * U64


def test_float32_is_as_near_as_float32_can_be(case: Case) -> None:
    y, gradients, dy = both(case, case.args(np.float32))
    y64, gradients64, _ = both(case, case.args(), frozen(dy.astype(np.float64)))
    assert distance(y, y64) <= 64 * U32
    assert gradients.keys() == gradients64.keys()
    for name, g in gradients.items():
        assert distance(g, gradients64[name]) <= 64 * U32, name
        assert distance(1.001 * g, gradients64[name]) > 64 * U32, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_kept_and_nothing_given_is_written_into(case: Case, dtype: type) -> None:
    args = case.args(dtype)
    y, cache = case.op.forward(*args, **case.static)
    assert y.dtype == (np.float64 if case.op.__name__.endswith(("cross_entropy", "mixture_nll")) else dtype)
    dy = cotangent(y)
    for a in cache:
        if isinstance(a, np.ndarray):
            a.setflags(write=False)
    before = copy.deepcopy((args, tuple(cache), dy))
    first, second = case.op.backward(dy, cache), case.op.backward(dy, cache)
    for g, again in zip((first[0], *first[1].values()), (second[0], *second[1].values()), strict=True):
        if g is not None:
            assert g.dtype == dtype
            assert g.tobytes() == again.tobytes()
    for now, then in zip((*args, *cache, dy), (*before[0], *before[1], before[2]), strict=True):
        assert np.asarray(now).tobytes() == np.asarray(then).tobytes()


def test_a_zero_cotangent_gives_zero_and_twice_the_cotangent_twice_the_gradient(case: Case) -> None:
    args = case.args()
    y, gradients, dy = both(case, args)
    _, zero, _ = both(case, args, frozen(np.zeros_like(dy)))
    _, minus_double, _ = both(case, args, frozen(-2 * dy))
    for name, g in gradients.items():
        assert not zero[name].any()
        assert np.array_equal(minus_double[name], -2 * g)


def test_the_array_api_standard_is_enough(case: Case) -> None:
    strict = pytest.importorskip("array_api_strict")
    args = case.args()
    y, gradients, dy = both(case, args)
    theirs = tuple(None if a is None else strict.asarray(a.copy()) for a in args)
    static = {n: strict.asarray(a.copy()) if isinstance(a, np.ndarray) else a for n, a in case.static.items()}
    y_strict, gradients_strict, _ = both(case, theirs, strict.asarray(np.array(dy)), static)
    assert type(y_strict) is type(theirs[-1])
    assert distance(np.from_dlpack(y_strict), y) <= 64 * U64
    assert gradients.keys() == gradients_strict.keys()
    for name, g in gradients.items():
        assert type(gradients_strict[name]) is type(theirs[-1])
        assert distance(np.from_dlpack(gradients_strict[name]), g) <= 64 * U64, name


def test_strided_input_gives_the_same_values(case: Case) -> None:
    def strided(a: np.ndarray | None) -> np.ndarray | None:
        if a is None or a.ndim == 0:
            return a
        wide = np.repeat(np.asfortranarray(a), 2, axis=0)
        return frozen(wide[::2])

    y, gradients, dy = both(case, case.args())
    y2, gradients2, _ = both(case, tuple(strided(a) for a in case.args()), strided(dy) if np.ndim(dy) else dy)
    assert distance(y2, y) <= 64 * U64
    for name, g in gradients.items():
        assert distance(gradients2[name], g) <= 64 * U64, name


def test_torch_autograd_agrees(case: Case) -> None:
    torch = pytest.importorskip("torch")
    if case.torch is None:
        pytest.skip("torch defines another result here")
    args = case.args()
    y, gradients, dy = both(case, args)
    tensors = [None if a is None else torch.from_numpy(a.copy()) for a in args]
    for i, _ in differentiable(case):
        tensors[i].requires_grad_(True)
    theirs = case.torch(torch, *tensors)
    assert distance(y, theirs.detach().numpy()) < EXACT
    theirs.backward(torch.from_numpy(np.array(dy)))
    for i, name in differentiable(case):
        assert distance(gradients[name], tensors[i].grad.numpy()) < EXACT, name
        assert distance(1.001 * gradients[name], tensors[i].grad.numpy()) > EXACT, name
