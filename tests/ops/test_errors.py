"""What an op refuses, with an error of pymoe that is also the built-in one, and a message that says what to do."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from pymoe import ops
from pymoe.backend.errors import ConfigError, DtypeError, IndexRangeError, ShapeError

from .cases import BSR, CASES, CSR, NM, Case

ONES = np.ones
X4, KV = ONES((2, 4, 3, 5)), ONES((2, 2, 6, 5))

SPARSE = [("csr_linear", (2, 6), (7,), CSR), ("bsr_linear", (2, 9), (3, 2, 3), BSR), ("nm_linear", (2, 8), (3, 4), NM)]

BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ("linear", (ONES((2, 3)), ONES((4, 5))), {}, ShapeError, "5"),
    ("linear", (ONES((2, 5)), ONES((4, 5)), ONES(5)), {}, ShapeError, "bias"),
    ("linear", (ONES((2, 5)), ONES(5)), {}, ShapeError, "weight"),
    ("layer_norm", (ONES((2, 5)), ONES(4), ONES(5)), {}, ShapeError, "weight"),
    ("layer_norm", (ONES((2, 5)), ONES(5), ONES(1)), {}, ShapeError, "bias"),
    ("rms_norm", (ONES((2, 5)), ONES((1, 5))), {}, ShapeError, "weight"),
    ("embedding", (np.array([5]), ONES((5, 2))), {}, IndexRangeError, "ids must lie in [0, 5), got values from 5"),
    ("embedding", (np.array([-1]), ONES((5, 2))), {}, IndexRangeError, "ids must lie in [0, 5), got values from -1"),
    ("embedding", (np.array([1.0]), ONES((5, 2))), {}, DtypeError, "ids must be integers"),
    ("rope", (ONES((2, 3, 5, 7)), np.arange(5)), {}, ShapeError, "even"),
    ("rope", (ONES((3, 5, 8)), np.arange(5)), {}, ShapeError, "(B, H, S, d)"),
    ("rope", (ONES((2, 3, 5, 8)), np.arange(4)), {}, ShapeError, "positions"),
    ("rope", (ONES((2, 3, 5, 8)), ONES(5)), {}, DtypeError, "integers"),
    ("rope", (ONES((2, 3, 5, 8)), np.arange(5)), {"base": 0.0}, ConfigError, "base"),
    ("attention", (X4[0], KV, KV), {}, ShapeError, "q"),
    ("attention", (X4, KV[:1], KV[:1]), {}, ShapeError, "k"),
    ("attention", (X4, KV, KV[:, :, :5]), {}, ShapeError, "v"),
    ("attention", (X4, ONES((2, 3, 6, 5)), ONES((2, 3, 6, 5))), {}, ShapeError, "multiple"),
    ("attention", (X4, KV, KV, ONES((2, 5), bool)), {}, ShapeError, "mask"),
    ("attention", (X4, KV, KV, ONES((2, 6))), {}, DtypeError, "bool"),
    ("dropout", (ONES(3), ONES(3)), {"rate": 0.1}, DtypeError, "bool"),
    ("dropout", (ONES(3), ONES(4, bool)), {"rate": 0.1}, ShapeError, "mask"),
    ("dropout", (ONES(3), ONES(3, bool)), {"rate": 1.0}, ConfigError, "rate"),
    ("dropout", (ONES(3), ONES(3, bool)), {"rate": -0.1}, ConfigError, "rate"),
    ("cross_entropy", (ONES((2, 3)), np.array([0, 3])), {}, IndexRangeError, "targets"),
    ("cross_entropy", (ONES((2, 3)), np.array([0, -1])), {}, IndexRangeError, "targets"),
    ("cross_entropy", (ONES((2, 3)), np.array([0])), {}, ShapeError, "targets"),
    ("cross_entropy", (ONES((2, 3)), np.array([0.0, 1.0])), {}, DtypeError, "integers"),
    ("cross_entropy", (ONES((2, 3), int), np.array([0, 1])), {}, DtypeError, "floating"),
    ("cross_entropy", (ONES((2, 3)), np.array([0, 1])), {"label_smoothing": 1.5}, ConfigError, "label_smoothing"),
    ("mean_pool", (ONES((2, 3)),), {}, ShapeError, "x"),
    ("mean_pool", (ONES((2, 3, 4)), ONES((2, 4), bool)), {}, ShapeError, "mask"),
    ("mean_pool", (ONES((2, 3, 4)), ONES((2, 3))), {}, DtypeError, "bool"),
    ("mixture", (ONES(3), ONES(3)), {}, ShapeError, "at least one model"),
    ("mixture", (ONES((3, 2, 5)), ONES(2)), {}, ShapeError, "weight must have shape (3,)"),
    ("mixture", (ONES((3, 2, 5)), ONES((3, 5))), {}, ShapeError, "weight must have shape (3, 2)"),
    ("mixture", (ONES((3, 2, 5), int), ONES(3)), {}, DtypeError, "floating"),
    ("mixture", (ONES((3, 2, 5)), ONES(3, int)), {}, DtypeError, "floating"),
    ("mixture_nll", (ONES((0, 2, 5)), ONES(0), np.array([1, 2])), {}, ShapeError, "at least one model and class"),
    ("mixture_nll", (ONES((3, 2, 5)), ONES(3), np.array([1])), {}, ShapeError, "targets"),
    ("mixture_nll", (ONES((3, 2, 5)), ONES((3, 5)), np.array([1, 2])), {}, ShapeError, "weight"),
    ("mixture_nll", (ONES((3, 2, 5)), ONES(3), np.array([1, 5])), {}, IndexRangeError, "targets"),
    ("mixture_nll", (ONES((3, 2, 5)), -ONES(3), np.array([1, 2])), {}, ConfigError, "at least 0"),
    ("mixture_nll", (ONES((3, 2, 5)), np.full(3, np.nan), np.array([1, 2])), {}, ConfigError, "at least 0"),
    ("mixture_nll", (ONES((3, 2, 5)), ONES((3, 2)) * [1, 0], np.array([1, 2])), {}, ConfigError, "weight in row 1"),
    ("mixture_nll", (ONES((3, 2, 5), int), ONES(3), np.array([1, 2])), {}, DtypeError, "floating"),
    ("gated", (ONES((2, 4)),), {"clamp": "both"}, ConfigError, "'before' or 'after'"),
    ("gated", (ONES((2, 4)),), {"act": "gelu", "alpha": 2.0}, ConfigError, "silu"),
    ("gated", (ONES((2, 4)),), {"act": "relu", "softcap": (1.0, 2.0)}, ConfigError, "silu"),
    ("gated", (ONES((2, 4)),), {"limit": 2.0, "softcap": (1.0, 2.0)}, ConfigError, "not both"),
    ("gated", (ONES((2, 4)),), {"act": "swish"}, ConfigError, "activation must be one of"),
    ("gated", (ONES((2, 4), int),), {}, DtypeError, "floating"),
    ("scaled_rms_norm", (ONES((2, 5)), ONES(4)), {}, ShapeError, "weight"),
    ("scaled_rms_norm", (ONES((3, 0)), ONES(0)), {}, ShapeError, "last axis"),
    *[(name, (ONES((2, 3)),), {}, ShapeError, "even") for name in ("gated", "swiglu", "geglu", "geglu_tanh", "reglu")],
    *[(name, (ONES((2, 4), int),), {}, DtypeError, "floating") for name in ops.__all__
      if len(inspect.signature(getattr(ops, name).forward).parameters) == 1],
    *[(name, (ONES(shape),), {}, ShapeError, f"at least one entry along its last axis, got shape {shape}")
      for name in ("softmax", "log_softmax", "logsumexp") for shape in ((3, 0), ())],
    ("layer_norm", (ONES((3, 0)), ONES(0), ONES(0)), {}, ShapeError, "last axis, got shape (3, 0)"),
    ("rms_norm", (ONES((3, 0)), ONES(0)), {}, ShapeError, "last axis, got shape (3, 0)"),
    ("linear", (ONES((2, 5), int), ONES((4, 5))), {}, DtypeError, "floating"),
    ("layer_norm", (ONES((2, 5), int), ONES(5), ONES(5)), {}, DtypeError, "floating"),
    ("rms_norm", (ONES((2, 5), int), ONES(5)), {}, DtypeError, "floating"),
    ("embedding", (np.array([1]), ONES((5, 2), int)), {}, DtypeError, "floating"),
    ("rope", (ONES((2, 3, 5, 8), int), np.arange(5)), {}, DtypeError, "floating"),
    ("attention", (X4, KV, ONES((2, 2, 6, 5), int)), {}, DtypeError, "v must be floating"),
    ("dropout", (ONES(3, int), ONES(3, bool)), {"rate": 0.1}, DtypeError, "floating"),
    ("mean_pool", (ONES((2, 3, 4), int),), {}, DtypeError, "floating"),
    *[(name, (ONES(shape, int), ONES(size)), static, DtypeError, "x must be floating")
      for name, shape, size, static in SPARSE],
    *[(name, (ONES(()), ONES(size)), static, ShapeError, "got a number without axes")
      for name, _, size, static in SPARSE],
    ("csr_linear", (ONES((2, 6)), ONES(6)), CSR, ShapeError, "data must have shape (7,)"),
    ("csr_linear", (ONES((2, 4)), ONES(7)), CSR, IndexRangeError, "indices must lie in [0, 4)"),
    ("csr_linear", (ONES((2, 6)), ONES(7)), CSR | {"indptr": np.arange(4)}, ShapeError, "indptr must be 4 ascending"),
    ("bsr_linear", (ONES((2, 8)), ONES((3, 2, 3))), BSR, ShapeError, "blocks of 3 columns must fill the 8 columns"),
    ("bsr_linear", (ONES((2, 6)), ONES((3, 2, 3))), BSR, IndexRangeError, "indices must lie in [0, 2)"),
    ("bsr_linear", (ONES((2, 9)), ONES((3, 0, 3))), BSR, ShapeError, "at least one row and one column"),
    ("nm_linear", (ONES((2, 7)), ONES((3, 4))), NM, ConfigError, "a width that is a multiple of m"),
    ("nm_linear", (ONES((2, 8)), ONES((3, 4))), NM | {"m": 0}, ConfigError, "a width that is a multiple of m"),
    ("nm_linear", (ONES((2, 12)), ONES((3, 4))), NM, ShapeError, "position must have n entries"),
    ("nm_linear", (ONES((2, 4)), ONES((3, 4))), NM | {"m": 2}, IndexRangeError, "position must lie in [0, 2)"),
    ("nm_linear", (ONES((2, 8)), ONES((3, 3))), NM, ShapeError, "data must have shape (3, 4)"),
    ("nm_linear", (ONES((2, 8)), ONES((3, 4))), NM | {"position": NM["position"][:, ::-1]}, ShapeError,
     "entry 1 of row 0 has position 1 after 2"),
    ("masked", (ONES(3),), {"mask": ONES(3)}, DtypeError, "bool"),
    ("masked", (ONES(3),), {"mask": ONES(4, bool)}, ShapeError, "mask"),
    ("masked", (ONES(3, int),), {"mask": ONES(3, bool)}, DtypeError, "floating"),
]  # fmt: skip


@pytest.mark.parametrize("name, args, static, error, says", BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_is_refused(
    name: str, args: tuple[Any, ...], static: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as caught:
        getattr(ops, name).forward(*args, **static)
    assert says in str(caught.value)


def test_a_list_is_refused_with_the_way_out() -> None:
    with pytest.raises(DtypeError, match="numpy.asarray"):
        ops.linear.forward([[1.0]], ONES((1, 1)))


def wrong_shapes(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes near the right one; those of one column and of an extra axis of 1 would broadcast without a word."""
    wrong = {"one axis more": (1, *shape)}
    if shape:
        wrong["one axis fewer"] = shape[1:]
        wrong["one column more"] = (*shape[:-1], shape[-1] + 1)
        wrong["one column"] = (*shape[:-1], 1)
    if len(shape) > 1:
        wrong["one row more"] = (*shape[:-2], shape[-2] + 1, shape[-1])
        wrong["the axes as one"] = (int(np.prod(shape)),)
    if len(shape) > 2:
        wrong["another batch"] = (shape[0] + 1, *shape[1:])
    return wrong


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_backward_takes_a_cotangent_of_the_shape_of_the_output_and_no_other(case: Case) -> None:
    y, cache = case.op.forward(*case.args(), **case.static)
    name = next(iter(inspect.signature(case.op.backward).parameters))
    case.op.backward(ONES(y.shape), cache)
    wrong = wrong_shapes(y.shape)
    if case.name.startswith("rope"):  # its positions (S,) serve any batch
        del wrong["another batch"]
    for what, shape in wrong.items():
        with pytest.raises(ShapeError) as caught:
            case.op.backward(ONES(shape), cache)
        assert str(caught.value).startswith(f"{name} must have shape ("), what
        assert str(caught.value).endswith(f"got {shape}"), what
