"""What every stored weight does, against loops over the dense array: products, gradients, stacks, arithmetic."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from pymoe import kernels, storage, verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DtypeError, GradientError, ShapeError
from pymoe.storage import Weight

from .cases import KINDS, SPARSE, D, E, F, freeze, frozen, inputs, relative, weight

START = frozen(np.array([0, 4, 4, 11]))  # expert 1 has no rows
BOUND = {np.dtype("f8"): 1e-13, np.dtype("f4"): 64 * 2.0**-24}


def looped(w: Weight, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """y, dx and the gradients of the parts of one matrix, every product written out in float64."""
    wide = w.dense().astype(np.float64)
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros((F, D))
    for t in range(x.shape[0]):
        for f in range(F):
            for j in range(D):
                y[t, f] += float(x[t, j]) * wide[f, j]
                dx[t, j] += float(dy[t, f]) * wide[f, j]
                dw[f, j] += float(dy[t, f]) * float(x[t, j])
    return y, dx, parts_of(w, dw)


def parts_of(w: Weight, dw: np.ndarray) -> dict[str, np.ndarray]:
    """The gradient of each part of one matrix from that of the dense matrix."""
    if isinstance(w, storage.Delta):
        a, b = (v.astype(np.float64) for v in (w.a, w.b))
        return {"mean": dw, "a": np.einsum("fd,rd->fr", dw, b), "b": np.einsum("fr,fd->rd", a, dw)}
    if isinstance(w, storage.CSR):
        rows = np.repeat(np.arange(w.shape[0]), np.diff(w.indptr))
        return {"data": dw[rows, w.indices]}
    if isinstance(w, storage.BSR):
        r, c = w.block
        rows = np.repeat(np.arange(w.shape[0] // r), np.diff(w.indptr))
        cut = [dw[i * r : (i + 1) * r, j * c : (j + 1) * c] for i, j in zip(rows, w.indices, strict=True)]
        return {"data": np.array(cut).reshape(w.data.shape)}
    columns = np.arange(w.data.shape[-1]) // w.n * w.m + w.position.astype(int)
    return {"data": np.take_along_axis(dw, columns, axis=1)}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_products_and_gradients_of_one_matrix(kind: str, dtype: Any, backend: str) -> None:
    w, (x, dy) = weight(kind, stack=False, dtype=dtype), inputs(dtype=dtype)
    with kernels.using(backend):
        found = w.linear(x), w.linear_dx(dy), w.dparts(dy, x)
    wanted = looped(w, x, dy)
    for got, want in zip(found[:2], wanted[:2], strict=True):
        assert got.dtype == dtype and relative(got, want) <= BOUND[np.dtype(dtype)] < relative(1.001 * got, want)
    assert found[2].keys() == w.parts().keys() == wanted[2].keys()
    for name, want in wanted[2].items():
        got = found[2][name]
        assert got.dtype == dtype and got.shape == w.parts()[name].shape
        assert relative(got, want) <= BOUND[np.dtype(dtype)] < relative(1.001 * got, want)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_its_experts(kind: str, dtype: Any) -> None:
    w, (x, dy) = weight(kind, stack=True, dtype=dtype), inputs(11, dtype=dtype)
    y, dx, dp = w.grouped(x, START), w.grouped_dx(dy, START), w.grouped_dparts(dy, x, START)
    dense = w.dense()
    assert y.dtype == dx.dtype == dtype
    each = []
    for e in range(E):
        rows, own = slice(START[e], START[e + 1]), w.expert(e)
        assert np.array_equal(own.dense(), dense[e]) and own.shape == (F, D)
        for got, want in zip((y[rows], dx[rows]), looped(own, x[rows], dy[rows])[:2], strict=True):
            assert relative(got, want) <= BOUND[np.dtype(dtype)]
        each.append(looped(own, x[rows], dy[rows])[2])
    for name, got in dp.items():
        joined = sum(one[name] for one in each) if name == "mean" else np.concatenate([one[name] for one in each])
        assert got.dtype == dtype and got.shape == w.parts()[name].shape
        assert relative(got, joined.reshape(got.shape)) <= BOUND[np.dtype(dtype)]
    gradient = w.like(dp)
    if kind != "delta":
        assert not gradient.expert(1).dense().any(), "an expert without rows gets exactly 0"
    assert not any(dp[k][1].any() for k in ("a", "b") if k in dp)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_at_all(kind: str) -> None:
    w, (x, dy) = weight(kind, stack=True), inputs(0)
    start = np.zeros(E + 1, int)
    assert w.grouped(x, start).shape == (0, F) and w.grouped_dx(dy, start).shape == (0, D)
    assert not any(g.any() for g in w.grouped_dparts(dy, x, start).values())


class Product:
    """y = x Wᵀ of a stack as a layer of x and the parts."""

    def __init__(self, template: Weight) -> None:
        self.template, self.__name__ = template, type(template).__name__

    def forward(self, x: Any, p: Any) -> Any:
        w = self.template.like(p)
        return w.grouped(x, START), (x, w)

    def backward(self, dy: Any, cache: Any) -> Any:
        x, w = cache
        return w.grouped_dx(dy, START), w.grouped_dparts(dy, x, START)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str) -> None:
    w = weight(kind, stack=True)
    report = verify.gradcheck(Product(w), inputs(11)[0], w.parts(), controls=True)
    assert report.error <= 1e-13 and report.mode == "jacobian"


@pytest.mark.parametrize("kind", KINDS)
def test_identities_of_the_backward(kind: str) -> None:
    w = weight(kind, stack=True)
    degrees = {"x": 1} | ({"data": 1} if kind != "delta" else {})
    verify.identities(Product(w), inputs(11)[0], w.parts(), homogeneous=degrees)


@pytest.mark.parametrize("kind", SPARSE)
def test_a_gradient_that_ignores_the_structure_is_caught(kind: str) -> None:
    """Negative control: the gradient of the values in another order."""
    w = weight(kind, stack=True)

    class Broken(Product):
        def backward(self, dy: Any, cache: Any) -> Any:
            dx, dp = super().backward(dy, cache)
            return dx, {"data": np.roll(dp["data"], 1, axis=0)}

    with pytest.raises(GradientError, match="data"):
        verify.gradcheck(Broken(w), inputs(11)[0], w.parts())


@pytest.mark.parametrize("kind", SPARSE)
def test_integer_values_are_exact(kind: str) -> None:
    """P11: the sparse product is the dense product with the masked weight, bit for bit where sums are exact."""
    rng = np.random.default_rng(5)
    w = weight(kind, stack=True)
    w = w.like({"data": rng.integers(-8, 9, w.parts()["data"].shape).astype(np.float64)})
    x, dy = (rng.integers(-8, 9, a.shape).astype(np.float64) for a in inputs(11))
    dense = w.dense()
    for e in range(E):
        rows = slice(START[e], START[e + 1])
        assert np.array_equal(w.grouped(x, START)[rows], x[rows] @ dense[e].T)
        assert np.array_equal(w.grouped_dx(dy, START)[rows], dy[rows] @ dense[e])
        full = dy[rows].T @ x[rows]
        gradient = w.like(w.grouped_dparts(dy, x, START)).dense()[e]
        assert np.array_equal(gradient, np.where(w.mask()[e], full, 0))  # G11


@pytest.mark.parametrize("kind", KINDS)
def test_leading_axes(kind: str) -> None:
    w, (x, dy) = weight(kind, stack=False), inputs(6)
    assert np.array_equal(w.linear(x.reshape(2, 3, D)), w.linear(x).reshape(2, 3, F))
    assert np.array_equal(w.linear_dx(dy.reshape(2, 3, F)), w.linear_dx(dy).reshape(2, 3, D))
    assert w.linear(x[0]).shape == (F,)
    for name, g in w.dparts(dy.reshape(2, 3, F), x.reshape(2, 3, D)).items():
        assert np.array_equal(g, w.dparts(dy, x)[name])


@pytest.mark.parametrize("kind", KINDS)
def test_complex_numbers_pass(kind: str) -> None:
    w, (x, dy) = weight(kind, stack=True), inputs(11)
    other = w.like({k: v * (1 + 2j) for k, v in w.parts().items()})
    assert other.dtype == np.complex128
    wanted = np.concatenate([x[START[e] : START[e + 1]] @ other.dense()[e].T for e in range(E)])
    assert relative(other.grouped(x + 0j, START), wanted) <= 1e-13
    assert other.grouped(x, START).dtype == w.grouped(x + 0j, START).dtype == np.complex128
    assert w.grouped_dparts(dy, x + 0j, START)[w.PARTS[0]].dtype == np.complex128


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_about_a_weight(kind: str) -> None:
    w = weight(kind, stack=True, dtype=np.float32)
    assert w.ndim == 3 and w.shape == (E, F, D) and w.size == E * F * D and w.dtype == np.float32
    held = [*w.parts().values(), *(a for a in w.structure().values() if not isinstance(a, int))]
    assert w.nbytes == sum(a.nbytes for a in held)
    assert w.nnz == sum(a.size for a in w.parts().values())
    assert repr(w) == f"{kind.upper() if kind != 'delta' else 'Delta'}(shape=(3, 6, 8), nnz={w.nnz}, dtype=float32)"
    if kind != "delta":
        assert w.nnz == w.mask().sum() and not w.dense()[~w.mask()].any()
    else:
        assert w.mask().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_values_of_an_expert_are_views(kind: str) -> None:
    w = weight(kind, stack=True)
    own = w.expert(2)
    for name, part in own.parts().items():
        assert not part.size or np.shares_memory(part, w.parts()[name])


@pytest.mark.parametrize("kind", KINDS)
def test_sum_and_factor(kind: str) -> None:
    w = weight(kind, stack=True)
    other = w.like({k: v + 1 for k, v in w.parts().items()})
    total = tree.add({"w": w}, {"w": other}, {"w": w})["w"]
    for name, part in w.parts().items():
        assert np.array_equal(total.parts()[name], part + (part + 1) + part)
        for scaled in (w * 0.5, 0.5 * w, np.float64(0.5) * w, w * np.float64(0.5)):
            assert np.array_equal(scaled.parts()[name], 0.5 * part)
    with pytest.raises(ShapeError, match="one kind and structure"):
        w + weight(KINDS[KINDS.index(kind) - 1], stack=True)
    with pytest.raises(ShapeError, match="one kind and structure"):
        w + w.expert(0)
    with pytest.raises(ShapeError, match="number as a factor"):
        w * np.ones(3)
    with pytest.raises(TypeError):
        np.ones((F, D)) + w


@pytest.mark.parametrize("kind", SPARSE)
def test_different_places_do_not_add_up(kind: str) -> None:
    with pytest.raises(ShapeError, match="different places"):
        weight(kind, stack=True) + weight(kind, stack=True, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_do_not_fit(kind: str) -> None:
    w = weight(kind, stack=True)
    parts = w.parts()
    name = next(iter(parts))
    with pytest.raises(ShapeError, match="the parts of a"):
        w.like({})
    with pytest.raises(ShapeError, match="the parts of a"):
        w.like(parts | {"other": parts[name]})
    with pytest.raises(ShapeError, match=f"{name} must have shape"):
        w.like(parts | {name: parts[name][:-1]})
    with pytest.raises(DtypeError, match="floating"):
        w.like(parts | {name: parts[name].astype(int)})


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_do_not_fit(kind: str) -> None:
    w, one, (x, dy) = weight(kind, stack=True), weight(kind, stack=False), inputs(11)
    with pytest.raises(ShapeError, match="take w.expert"):
        w.linear(x)
    with pytest.raises(ShapeError, match="stack"):
        one.grouped(x, START)
    with pytest.raises(ShapeError, match="x must have 8 columns"):
        one.linear(dy)
    with pytest.raises(ShapeError, match="dy must have 6 columns"):
        one.linear_dx(x)
    with pytest.raises(ShapeError, match="dy must have shape"):
        one.dparts(dy[:-1], x)
    with pytest.raises(ShapeError, match="dy must have shape"):
        w.grouped_dparts(dy[:-1], x, START)
    with pytest.raises(ShapeError, match="ascending offsets"):
        w.grouped(x, START[:-1])
    with pytest.raises(DtypeError, match="floating"):
        one.linear(np.ones((2, D), int))
    for e in (-1, E, 1.0, True):
        with pytest.raises(ConfigError, match="experts 0 to 2"):
            w.expert(e)
    with pytest.raises(ShapeError, match="has experts"):
        one.expert(0)


@pytest.mark.parametrize("kind", KINDS)
def test_pickle(kind: str) -> None:
    w = weight(kind, stack=True)
    again = pickle.loads(pickle.dumps(w))
    assert np.array_equal(again.dense(), w.dense()) and np.array_equal(again.expert(2).dense(), w.expert(2).dense())


@pytest.mark.parametrize("kind", KINDS)
def test_the_structure_is_looked_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``like`` and ``expert`` trust what was checked when the weight was made."""
    w = weight(kind, stack=True)

    def fail(self: Any) -> None:
        raise AssertionError("checked again")

    monkeypatch.setattr(type(w), "__post_init__", fail)
    assert w.like(w.parts()).expert(0).shape == (F, D)


@pytest.mark.parametrize("kind", SPARSE)
def test_everything_zero(kind: str) -> None:
    """100 % zeros: nothing stored (N:M: n = 0), products and gradients of the right shape."""
    zeros = np.zeros((E, F, D))
    w = storage.nm.from_dense(zeros, 0, 4) if kind == "nm" else weight_of(kind, zeros)
    assert w.nnz == 0 and not w.dense().any() and not w.mask().any() and w.dense().shape == (E, F, D)
    x, dy = inputs(11)
    assert not w.grouped(x, START).any() and w.grouped(x, START).shape == (11, F)
    assert not w.grouped_dx(dy, START).any() and w.grouped_dx(dy, START).shape == (11, D)
    dp = w.grouped_dparts(dy, x, START)
    assert dp["data"].shape == w.parts()["data"].shape and dp["data"].size == 0
    one = w.expert(1)
    assert not one.linear(x).any() and one.dparts(dy, x)["data"].size == 0


def weight_of(kind: str, w: np.ndarray) -> Weight:
    return storage.csr.from_dense(w) if kind == "csr" else storage.bsr.from_dense(w, (2, 4))


@pytest.mark.parametrize("kind", SPARSE)
def test_nan_may_be_stored(kind: str) -> None:
    w = weight(kind, stack=False)
    data = w.parts()["data"].copy()
    data.reshape(-1)[0] = np.nan
    bad = freeze(w.like({"data": data}))
    y = bad.linear(inputs()[0])
    row = int(np.argmax(np.isnan(bad.dense()).any(axis=1)))
    assert np.isnan(y[:, row]).all() and not np.isnan(np.delete(y, row, axis=1)).any()


def test_the_cases_are_not_vacuous() -> None:
    for kind in KINDS:
        for stack in (False, True):
            w = weight(kind, stack=stack)
            assert w.nnz > 8 and (kind == "delta" or 0.2 < 1 - w.nnz / w.size < 0.9)
