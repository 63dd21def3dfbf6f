"""The mutator: every kind of change, in the place of the original, without a trace afterwards."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from pymoe import kernels, ops
from pymoe.kernels import activations, reference
from pymoe.verify import mutate
from pymoe.verify.mutate import isolate, operators, suites

HERE = Path(__file__).resolve()

SOURCE = '''
"""A docstring with 1 + 1."""
import math
N: int = 3

def forward(x, w, *, axis=-1):
    """More words: a - b."""
    if x.ndim != 2:
        raise ValueError(f"no {x.ndim + 1}")
    check_shape("x", x, (None, 3))
    if axis > 0 and N:
        x = x[1:, :]
    return max(x @ w.T, axis=axis, device="cpu"), (x, w)

def backward(dy, cache):
    x, w = cache
    dx = dy @ w
    return -dx, {"w": dy.T @ x}
'''


def changes(source: str = SOURCE, **options: bool) -> list[str]:
    return [m.change for m in operators.mutants(source, "m", **options)]


@pytest.mark.parametrize(
    "change",
    [
        "3 -> 4",
        "axis > 0 -> axis >= 0",
        "axis > 0 -> axis <= 0",
        "axis > 0 and N -> axis > 0 or N",
        "x = x[1:, :] -> (dropped)",
        "1: -> without lower",
        "1 -> 0",
        "x @ w.T -> x",
        "x @ w.T -> w.T",
        "x @ w.T -> w.T @ x",
        "w.T -> w",
        "max(x @ w.T, axis=axis, device='cpu') -> max(x @ w.T, device='cpu')",
        "max(x @ w.T, axis=axis, device='cpu') -> max(x @ w.T, axis=-1, device='cpu')",
        "dx = dy @ w -> times (1 + 1e-03)",
        "dx = dy @ w -> times (1 + 1e-08)",
        "dx = dy @ w -> times -1",
        "return (-dx, {'w': dy.T @ x}) -> [0] times (1 + 1e-08)",
        "return (-dx, {'w': dy.T @ x}) -> [1]['w'] times -1",
        "-dx -> dx",
    ],
)
def test_the_kinds_of_change(change: str) -> None:
    assert change in changes()


def test_words_guards_and_annotations_are_left_alone() -> None:
    found = changes()
    assert not any(
        "ndim" in c or "check_shape" in c or "words" in c or "'cpu') -> max(x @ w.T, axis=axis)" in c for c in found
    )
    assert any("ndim" in c for c in changes(guards=True))
    assert not any("times" in c for c in changes(numeric=False))


def test_every_mutant_is_one_change_of_a_module_that_compiles() -> None:
    original = ast.dump(ast.parse(SOURCE))
    seen = set()
    for m in operators.mutants(SOURCE, "m"):
        compile(m.tree, "m", "exec")
        dumped = ast.dump(m.tree)
        assert dumped != original, m.key
        seen.add(m.key)
    assert len(seen) == len(changes()), "keys are unique"
    shifted = {m.key for m in operators.mutants("\n\n" + SOURCE, "m")}
    assert shifted == seen, "keys do not depend on line numbers"


def test_a_mutant_stands_wherever_the_original_stood_and_leaves_no_trace() -> None:
    source = Path(activations.__file__).read_text(encoding="utf-8")
    mutant = next(
        m for m in operators.mutants(source, "pymoe.kernels.activations") if m.change == "x * sigmoid(x) -> x"
    )
    before = (dict(activations.__dict__), dict(reference.__dict__), dict(activations.ACTIVATIONS))
    x = np.array([[0.3, -2.0]])
    with kernels.using("reference"):
        right = reference.act_forward(x, "silu")
        with isolate.replaced(mutant.module, mutant.tree):
            assert np.array_equal(activations.silu(x), x)
            assert np.array_equal(reference.act_forward(x, "silu"), x), "held by value through a table"
            assert np.array_equal(ops.silu.forward(x)[0], x), "held through two modules"
        assert np.array_equal(reference.act_forward(x, "silu"), right)
    after = (dict(activations.__dict__), dict(reference.__dict__), dict(activations.ACTIVATIONS))
    for a, b in zip(before, after, strict=True):
        assert a.keys() == b.keys() and all(a[key] is b[key] for key in a)


def test_the_original_returns_even_if_the_block_fails() -> None:
    tree = ast.parse("raise RuntimeError('at import')")
    silu = activations.silu
    with pytest.raises(RuntimeError, match="at import"), isolate.replaced("pymoe.kernels.activations", tree):
        pass
    assert activations.silu is silu


def test_memory_that_is_not_written_is_poison() -> None:
    with isolate.poisoned():
        assert np.all(np.isnan(np.empty(3))) and np.all(np.isnan(np.empty_like(np.ones(2, np.float32))))
        assert np.empty(2, np.int64).min() > 1 << 40
    assert not hasattr(np.empty, "__wrapped__") and np.empty.__module__ == "numpy"


def test_scaling_reaches_every_float_and_no_integer() -> None:
    scale = isolate.Scaler()
    ids = np.array([1, 2])
    out = scale({"a": np.ones(2, np.float32), "b": (ids, 3.0, None)}, 2.0)
    assert out["a"].dtype == np.float32 and out["a"].tolist() == [2.0, 2.0]
    assert out["b"][0] is ids and out["b"][1:] == (6.0, None)
    assert scale.called and scale.scaled
    nothing = isolate.Scaler()
    nothing((ids,), 2.0)
    assert nothing.called and not nothing.scaled


# --- suites that run on this file itself -----------------------------------------------------------------------------


def right() -> None:
    x = np.array([[0.5, -1.0, 2.0, 0.25]])
    y, cache = ops.swiglu.forward(x)
    dx, _ = ops.swiglu.backward(np.ones((1, 2)), cache)
    assert np.allclose(y, x[:, 2:] * x[:, :2] / (1 + np.exp(-x[:, :2])), rtol=1e-14, atol=0)
    assert np.allclose(dx[:, 2:], x[:, :2] / (1 + np.exp(-x[:, :2])), rtol=1e-12, atol=0)


def sees_nothing() -> None:
    ops.swiglu.forward(np.ones((1, 4)))


def fails() -> None:
    raise AssertionError


RIGHT, BLIND, BROKEN, EMPTY = [right], [sees_nothing], [fails], []  # type: ignore[var-annotated]


def judge(suite: str, **options: object) -> mutate.Result:
    return mutate.run([mutate.Target("pymoe.ops.swiglu", (f"{HERE}:{suite}",))], jobs=1, **options)  # type: ignore[arg-type]


def test_a_suite_that_looks_kills_and_one_that_does_not_lets_live() -> None:
    seeing, blind = judge("RIGHT"), judge("BLIND")
    assert len(seeing.survivors) == 0 and len(seeing.judged) >= 3
    assert len(blind.survivors) >= 3
    assert blind.survivors[0].line > 1 and "numeric" in {v.kind for v in blind.survivors}
    assert "pymoe.ops.swiglu" in blind.table()


def test_accepted_survivors_are_not_reported_and_stale_ones_are() -> None:
    keys = {v.key: "on purpose" for v in judge("BLIND").survivors}
    again = judge("BLIND", accepted={**keys, "pymoe.ops.swiglu:forward: gone": "old"})
    assert again.survivors == [] and again.stale == ["pymoe.ops.swiglu:forward: gone"]
    assert judge("BLIND", accepted={"pymoe.ops.tanh:forward: gone": "another module"}).stale == []


@pytest.mark.parametrize("suite, words", [("BROKEN", "fails .* fails: AssertionError"), ("EMPTY", "no check")])
def test_a_suite_that_fails_or_is_empty_judges_nothing(suite: str, words: str) -> None:
    with pytest.raises(mutate.SuiteError, match=words):
        judge(suite)


@pytest.mark.parametrize("a, b", [(1, 2), pytest.param(3, 4, id="three")])
@pytest.mark.parametrize("c", ["x"], ids=str.upper)
def test_sample(a: int, b: int, c: str) -> None:
    assert b == a + 1 and c == "x"


@pytest.mark.slow
def test_sample_slow() -> None:
    """Its name is not among those that ``test_sample`` finds below."""
    assert [mark.name for mark in test_sample_slow.pytestmark] == ["slow"]  # type: ignore[attr-defined]


def test_suites_from_test_files_have_all_parameters_and_no_slow_ones() -> None:
    found = suites.load(f"{HERE}::test_sample")
    assert [c.__name__ for c in found] == ["test_sample[X-1-2]", "test_sample[X-three]"]
    for check in found:
        check()


def test_what_hangs_is_killed() -> None:
    from pymoe.verify.mutate import runner

    def hang() -> None:
        while True:
            pass

    assert runner._first_failure([hang], 0.05) == "hang: _Hangs"
    skips = [lambda: pytest.skip("not here")]
    assert runner._first_failure(skips, 1.0) == ""

    def wrong() -> None:
        with pytest.raises(ValueError):
            pass

    assert runner._first_failure([wrong], 1.0) == "wrong: Failed"
