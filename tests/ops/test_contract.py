"""Every module of ``pymoe.ops`` is an op: formula, source, ``Cache``, ``forward``, ``backward`` with matching names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

from pymoe import ops

from .bench import both, names
from .cases import CASES, Case

NAMES = [m.name for m in pkgutil.iter_modules(ops.__path__) if not m.name.startswith("_")]
EXPECTED = (
    "attention bsr_linear cross_entropy csr_linear dropout embedding gated geglu geglu_tanh gelu gelu_tanh identity "
    "layer_norm linear log_softmax logsumexp masked mean_pool mixture mixture_nll nm_linear reglu relu relu_squared "
    "rms_norm rope scaled_rms_norm sigmoid silu softmax softplus sqrt_softplus swiglu tanh"
).split()


def test_the_package_lists_its_ops() -> None:
    assert sorted(NAMES) == EXPECTED == sorted(ops.__all__)
    assert {c.op.__name__.rsplit(".", 1)[1] for c in CASES} == set(NAMES), "every op needs a case in cases.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_module_has_formula_source_and_cost(name: str) -> None:
    doc = importlib.import_module(f"pymoe.ops.{name}").__doc__ or ""
    for word in ("Forward", "Backward", "::\n", "Source:", "Cost:", " = "):
        assert word in doc, word
    assert re.search(r"\n    d\w+\S* = ", doc), "no gradient formula"


@pytest.mark.parametrize("name", NAMES)
def test_a_module_has_the_pair_and_the_cache(name: str) -> None:
    op = importlib.import_module(f"pymoe.ops.{name}")
    assert issubclass(op.Cache, tuple) and op.Cache._fields
    public = {n for n, f in vars(op).items() if inspect.isfunction(f) and f.__module__ == op.__name__ and n[0] != "_"}
    assert public == {"forward", "backward"}
    assert list(inspect.signature(op.backward).parameters)[1:] == ["cache"]
    assert next(iter(inspect.signature(op.backward).parameters)).startswith("d")
    for f in (op.forward, op.backward):
        assert ">>>" in (f.__doc__ or ""), f"{f.__name__} has no example"


@pytest.mark.parametrize("name", NAMES)
def test_every_cache_field_says_its_shape_or_meaning(name: str) -> None:
    path = Path(ops.__path__[0]) / f"{name}.py"
    source = path.read_text(encoding="utf-8")
    body = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Cache").body
    lines = source.splitlines()
    for field in body:
        assert isinstance(field, ast.AnnAssign)
        assert "#" in lines[field.lineno - 1] or ast.unparse(field.annotation) in ("float", "int"), lines[
            field.lineno - 1
        ]
    assert len(lines) <= 400


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_backward_has_a_gradient_for_each_differentiable_argument_and_no_other(case: Case) -> None:
    args = case.args()
    y, cache = case.op.forward(*args, **case.static)
    assert isinstance(cache, case.op.Cache)
    first, rest = case.op.backward(np.ones_like(y), cache)
    floats = {n for n, a in zip(names(case, args), args, strict=True) if a is not None and a.dtype.kind == "f"}
    head = names(case, args)[0]
    assert (first is None) == (head not in floats)
    assert set(rest) == floats - {head}
    _, gradients, _ = both(case, args)
    for n, a in zip(names(case, args), args, strict=True):
        if n in floats:
            assert gradients[n].shape == a.shape
