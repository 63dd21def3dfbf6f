"""The whole core under array-api-strict 2024.12: nothing that only NumPy has, nothing that quietly becomes NumPy.

Twice: on the strict library's own device, and on its second one, where ``np.asarray`` of an array raises, as it does
for an array on a GPU.  Results must be strict arrays on that device and equal NumPy's to 1e-13.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pymoe import ops
from pymoe.backend import namespace

from ..ops.cases import CASES as OP_CASES
from .subjects import Subject, convert, deviation, leaves, names_of_model_configs, subjects

strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed: pip install -e '.[test]'")
DEVICES = ("CPU_DEVICE", "device1")
TOLERANCE = 1e-13


@pytest.fixture(autouse=True)
def standard_2024() -> Iterator[None]:
    with strict.ArrayAPIStrictFlags(api_version="2024.12"):
        yield


def on(device: str) -> Any:
    return lambda a: strict.asarray(a, device=strict.Device(device))


def check(subject: Subject, device: str) -> None:
    with np.errstate(invalid="ignore", divide="ignore"):
        want, got = subject.run(lambda a: a), subject.run(on(device))
    for path, leaf in leaves(got):
        if not isinstance(leaf, np.ndarray) or leaf.ndim:  # numbers may be Python's
            assert isinstance(leaf, strict.asarray(0).__class__), f"{path} became {type(leaf).__name__}"
            assert leaf.device == strict.Device(device), f"{path} moved to {leaf.device}"
    error, path = deviation(got, want)
    assert error <= TOLERANCE, f"{path}: {error:.1e}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("subject", subjects(), ids=lambda s: s.name.replace(" ", "-"))
def test_runs_on_any_array_library(subject: Subject, device: str) -> None:
    check(subject, device)


def test_no_op_and_no_model_is_missing() -> None:
    modules = {m.name for m in pkgutil.iter_modules(ops.__path__) if not m.name.startswith("_")}
    assert modules == {case.op.__name__.rsplit(".", 1)[1] for case in OP_CASES}
    assert names_of_model_configs() == {"TransformerConfig", "LMConfig", "ClassifierConfig", "Seq2SeqConfig"}


# --- negative controls: each of these must be caught -----------------------------------------------------------------


def op(forward: Any, backward: Any = lambda dy, cache: (dy, {})) -> ModuleType:
    return SimpleNamespace(forward=lambda x: (forward(x), None), backward=backward)  # type: ignore[return-value]


def tilted(x: Any) -> Any:
    return x if isinstance(x, np.ndarray) else x * 1.001


PLANTED = {
    "a method": (op(lambda x: x.sum()), DEVICES),
    "fancy assignment": (op(lambda x: x.__setitem__([0, 1], 0.0) or x), DEVICES),
    "einsum": (op(lambda x: np.einsum("ij->i", x)), DEVICES),
    "a NumPy function": (op(lambda x: np.exp(x)), DEVICES),
    "slices without all axes": (op(lambda x: x[:2]), DEVICES),
    "int + float": (op(lambda x: x + namespace(x).asarray(3, device=x.device)), DEVICES),
    "0.1 %": (op(lambda x: tilted(x)), DEVICES),
    "a host constant": (op(lambda x: x + namespace(x).asarray([1.0, 2.0])), ("device1",)),
    "through the host": (op(lambda x: namespace(x).asarray(np.exp(np.asarray(x)))), ("device1",)),
    "a gradient of 0.1 %": (op(lambda x: x, lambda dy, _: (tilted(dy), {})), DEVICES),
}


@pytest.mark.parametrize("fault, device", [(fault, d) for fault, (_, where) in PLANTED.items() for d in where])
def test_planted_faults_are_caught(fault: str, device: str) -> None:
    module, _ = PLANTED[fault]

    def run(to: Any) -> Any:
        rng = np.random.default_rng(1)
        y, cache = module.forward(convert(rng.standard_normal((3, 2)), to))
        return y, module.backward(convert(rng.standard_normal((3, 2)), to), cache)

    with pytest.raises((AssertionError, AttributeError, TypeError, ValueError, IndexError, RuntimeError, BufferError)):
        check(Subject(fault, run), device)
