"""The kernel definitions against plain Python loops written from their formulas: what kills mutants of a forward.

Sizes are pairwise different; there is an expert without rows, a dropped choice, more than 16 experts in the tie test
(short sorts are stable by chance), NaN where a result must not look.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe import kernels
from pymoe.backend.errors import PymoeError
from pymoe.kernels import activations
from pymoe.kernels import reference as k

from ..oracles.scalar_math import activation, activation_slope

U = 2.0**-53
T, D, F, E, K = 7, 5, 3, 4, 2
START = np.array([0, 3, 3, 4, 9])  # expert 1 has no rows
N = 9
SLOT = np.array([[0, 5], [1, -1], [8, 2], [-1, -1], [3, 4], [6, 7], [-1, 2]])
NAMES = ("relu", "relu_squared", "gelu", "gelu_tanh", "silu")


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    a = rng().standard_normal(shape)
    a.setflags(write=False)
    return a


def near(found: np.ndarray, wanted: object, units: float = 64) -> None:
    wanted = np.asarray(wanted)
    found = np.asarray(found)
    assert found.shape == wanted.shape
    assert np.max(np.abs(found - wanted), initial=0.0) <= units * U * np.max(np.abs(wanted), initial=1e-300)


def slope(name: str, a: float) -> float:
    if name == "identity":
        return 1.0
    if name == "sigmoid":
        return activations_sigmoid(a) * (1 - activations_sigmoid(a))
    return activation_slope(name, a)


def value(name: str, a: float) -> float:
    return a if name == "identity" else activations_sigmoid(a) if name == "sigmoid" else activation(name, a)


def activations_sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a)) if a > -700 else 0.0


@pytest.mark.parametrize("name", [*NAMES, "sigmoid", "identity"])
def test_activations(name: str) -> None:
    x = np.concatenate([rng().standard_normal(23) * 3, [-0.0, 0.0, 30.0, -30.0, 1e-9, -800.0, 800.0]])
    f, df = activations.ACTIVATIONS[name]
    for a, got, got_slope in zip(x, f(x), df(x), strict=True):
        assert abs(got - value(name, a)) <= 16 * U * max(1.0, abs(a)) * max(abs(value(name, a)), 1.0)
        assert abs(got_slope - slope(name, a)) <= 64 * U * max(1.0, abs(a)) * max(abs(slope(name, a)), 1.0)
    for part in (1e-200j, -1e-200j):  # decisions look at the real part
        there = f(x + part)
        assert np.max(np.abs(there.imag / part.imag - df(x))) <= 1e-13 * np.max(np.abs(df(x)))
    assert list(f(np.array([0.0]))) == [value(name, 0.0)]
    assert list(df(np.array([0.0]))) == [slope(name, 0.0)]


def test_topk() -> None:
    s = np.round(rng().standard_normal((11, 40)) * 2) / 2  # many ties, more than 16 columns
    for width in (1, 3, 40):
        idx = k.topk(s, width)
        assert idx.dtype == np.int64 and idx.shape == (11, width)
        for row, chosen in zip(s, idx, strict=True):
            assert list(chosen) == sorted(range(40), key=lambda e: (-row[e], e))[:width]
    assert list(k.topk(np.array([[np.nan, 1.0, -np.inf, 2.0]]), 4)[0]) == [3, 1, 2, 0]
    assert list(k.topk(np.array([[1.0 + 9j, 2.0, 1.0]]), 3)[0]) == [1, 0, 2]


def test_counting_sort() -> None:
    ids = rng().integers(-1, 6, 97)
    order, start = k.counting_sort(ids, 7)
    assert order.dtype == start.dtype == np.int64
    assert list(order) == sorted((i for i in range(97) if ids[i] >= 0), key=lambda i: (ids[i], i))
    assert [start[e + 1] - start[e] for e in range(7)] == [int(np.sum(ids == e)) for e in range(7)]
    assert start[0] == 0 and len(start) == 8
    many = rng().integers(0, 3, 5000)
    assert np.array_equal(k.counting_sort(many, 3)[0], np.argsort(many, kind="stable"))
    dropped, start = k.counting_sort(np.array([-1, -1]), 0)
    assert dropped.size == 0 and list(start) == [0]
    none, zero = k.counting_sort(np.array([], np.int64), 3)
    assert none.size == 0 and list(zero) == [0, 0, 0, 0]


def test_nm_mask() -> None:
    w = np.round(rng().standard_normal((3, 20)) * 2) / 2
    for n, m in ((2, 4), (1, 5), (4, 4), (1, 20)):
        mask = k.nm_mask(w, n, m)
        assert mask.dtype == bool
        for r in range(3):
            for b in range(0, 20, m):
                best = sorted(range(b, b + m), key=lambda c: (-abs(w[r, c]), c))[:n]
                assert [c for c in range(b, b + m) if mask[r, c]] == sorted(best)
    coarse = rng().integers(-2, 3, (3, 400)) / 2.0  # ties by the dozen: only a stable sort keeps the lowest column
    mask = k.nm_mask(coarse, 90, 200)
    for r in range(3):
        for b in (0, 200):
            best = sorted(range(b, b + 200), key=lambda c: (-abs(coarse[r, c]), c))[:90]
            assert [c for c in range(b, b + 200) if mask[r, c]] == sorted(best)
    for n, m in ((0, 4), (3, 2), (2, 3), (1, 7)):
        with pytest.raises(PymoeError):
            k.nm_mask(w, n, m)


def test_prune_mask() -> None:
    w = np.array(rng().integers(-4, 5, (3, 40))) / 2.0  # ties by the dozen: only a stable sort prunes the lowest place
    w[1, 3], w[2, 9], w[0, 1] = np.nan, np.nan, np.inf
    flat = [float(v) for v in w.reshape(-1)]
    order = sorted(range(120), key=lambda i: (-1.0 if flat[i] != flat[i] else abs(flat[i]), i))
    for n in (0, 1, 2, 3, 57, 119, 120):
        mask = k.prune_mask(w, n)
        assert mask.dtype == bool and mask.shape == w.shape
        assert sorted(order[:n]) == [i for i in range(120) if not mask.reshape(-1)[i]]
    assert k.prune_mask(np.array([[1.0 + 9j, 2.0]]), 1).tolist() == [[False, True]]
    for n in (-1, 121):
        with pytest.raises(PymoeError):
            k.prune_mask(w, n)


def test_gather() -> None:
    x = normal(T, D)
    rows = np.array([3, 3, 0, 6])
    assert np.array_equal(k.gather(x, rows), [x[3], x[3], x[0], x[6]])


def test_combine_and_its_weights() -> None:
    ys, w, dy = np.array(normal(N, D)), normal(T, K), normal(T, D)
    wanted, plain, dots = np.zeros((T, D)), np.zeros((T, D)), np.zeros((T, K))
    for t in range(T):
        for j in range(K):
            if SLOT[t, j] >= 0:
                wanted[t] += w[t, j] * ys[SLOT[t, j]]
                plain[t] += ys[SLOT[t, j]]
                dots[t, j] = sum(dy[t, d] * ys[SLOT[t, j], d] for d in range(D))
    near(k.combine(ys, w, SLOT), wanted)
    near(k.combine(ys, None, SLOT), plain)
    near(k.combine_dweight(dy, ys, SLOT), dots)
    unused = SLOT.copy()
    unused[unused == 0] = -1
    poisoned = ys.copy()
    poisoned[0] = np.nan  # row 0 is what a dropped choice would read
    assert np.all(np.isfinite(k.combine(poisoned, w, unused)))
    assert np.all(np.isfinite(k.combine_dweight(dy, poisoned, unused)))
    for dtype in (np.float32, np.float64, np.complex128):
        assert k.combine(ys.astype(dtype), w.astype(dtype), SLOT).dtype == dtype
        assert k.combine(ys.astype(dtype), None, SLOT).dtype == dtype
        assert k.combine_dweight(dy.astype(dtype), ys[:0].astype(dtype), np.full((T, K), -1)).dtype == dtype
    assert k.combine(ys.astype(np.float32), w, SLOT).dtype == np.float64
    assert k.combine(ys[:0].astype(np.float32), w, np.full((T, K), -1)).dtype == np.float64
    one, first = ys[:1], np.array([[0, -1], [-1, -1]])  # a single row: whatever a dropped choice reads must exist
    near(k.combine(one, w[:2], first), [w[0, 0] * ys[0], 0 * ys[0]])
    near(k.combine_dweight(dy[:2], one, first), [[np.dot(dy[0], ys[0]), 0], [0, 0]])
    nothing = np.full((T, K), -1)
    assert not k.combine(ys[:0], w, nothing).any() and not k.combine_dweight(dy, ys[:0], nothing).any()
    assert k.combine_dweight(dy, ys[:0], nothing).shape == (T, K)


def test_combine_adds_in_ascending_choices() -> None:
    ys = np.array([[1.0], [1e-16], [1e-16], [-1.0]])
    assert k.combine(ys, None, np.array([[0, 1, 2, 3], [1, 2, 0, 3]]))[:, 0].tolist() == [0.0, 2.0**-52]


def test_expand() -> None:
    v, idx = normal(T, K), np.array([[t % E, (t + 1 + t // E) % E] for t in range(T)])
    for dtype in (np.float32, np.complex128):
        out = k.expand(v.astype(dtype), idx, E)
        assert out.dtype == dtype and out.shape == (T, E)
        wanted = np.zeros((T, E), dtype)
        for t in range(T):
            for j in range(K):
                wanted[t, idx[t, j]] = v.astype(dtype)[t, j]
        assert np.array_equal(out, wanted)


def test_segment_sum() -> None:
    x = normal(N, D)
    near(
        k.segment_sum(x, START),
        [sum((x[r] for r in range(a, b)), np.zeros(D)) for a, b in ((0, 3), (3, 3), (3, 4), (4, 9))],
    )
    assert k.segment_sum(x[:0], np.array([0])).shape == (0, D)
    for dtype in (np.float32, np.complex128):
        assert k.segment_sum(x.astype(dtype), START).dtype == dtype
        assert k.segment_sum(x[:0].astype(dtype), np.array([0])).dtype == dtype
        assert k.segment_sum(x[:0].astype(dtype), np.array([0, 0])).dtype == dtype


def test_grouped_products() -> None:
    a, w, dout = normal(N, D), normal(E, F, D), normal(N, F)
    of = [0, 0, 0, 2, 3, 3, 3, 3, 3]
    near(k.grouped_linear(a, w, START), [w[of[r]] @ a[r] for r in range(N)])
    near(k.grouped_linear_dx(dout, w, START), [w[of[r]].T @ dout[r] for r in range(N)])
    near(
        k.grouped_linear_dw(dout, a, START),
        [sum((np.outer(dout[r], a[r]) for r in range(N) if of[r] == e), np.zeros((F, D))) for e in range(E)],
    )
    assert not k.grouped_linear_dw(dout, a, START)[1].any()
    for dtype in (np.float32, np.float64, np.complex128):
        wide = dtype(1) if dtype is np.complex128 else np.float32(1)
        for out in (
            k.grouped_linear(a.astype(dtype), w * wide, START),
            k.grouped_linear_dx(dout.astype(dtype), w * wide, START),
            k.grouped_linear_dw(dout.astype(dtype), a * wide, START),
        ):
            assert out.dtype == np.result_type(dtype, (w * wide).dtype)


@pytest.mark.parametrize("name", [*NAMES, "sigmoid", "identity"])
def test_elementwise_kernels(name: str) -> None:
    x, dh, w = normal(T, 2 * F), np.array(normal(T, F))[::-1].copy(), normal(T)
    g, u = x[:, :F], x[:, F:]
    f = np.vectorize(lambda a: value(name, a))
    df = np.vectorize(lambda a: slope(name, a))
    near(k.act_forward(x, name), f(x))
    near(k.act_backward(x[::-1], x, name), x[::-1] * df(x))
    near(k.glu_forward(x, name), f(g) * u)
    dx = np.concatenate([dh * u * df(g), dh * f(g)], axis=1)
    near(k.glu_backward(dh, x, name), dx)
    near(k.glu_backward(dh[None], x[None], name), dx[None])
    h = f(g) * u
    for got, wanted in zip(
        k.weighted_glu_backward(dh, x, w, name), (w[:, None] * dx, w[:, None] * h, (dh * h).sum(1)), strict=True
    ):
        near(got, wanted)
    hidden = f(g)
    wanted = (w[:, None] * dh * df(g), w[:, None] * hidden, (dh * hidden).sum(1))
    for got, want in zip(k.weighted_act_backward(dh, np.ascontiguousarray(g), w, name), wanted, strict=True):
        near(got, want)


def test_softmax() -> None:
    x = np.array(normal(T, E)) * 4
    p = [[math.exp(a) / sum(math.exp(b) for b in row) for a in row] for row in x]
    near(k.softmax(x), p)
    near(k.softmax(x + 1000), p, 1e5)
    near(k.softmax(x - 1000), p, 1e5)
    dp = np.array(normal(T, E))[::-1].copy()
    near(
        k.softmax_backward(dp, np.array(p)),
        [[a * (d - np.dot(r, s)) for a, d in zip(r, s, strict=True)] for r, s in zip(p, dp, strict=True)],
    )
    holes = np.array([[0.0, -np.inf, 0.0], [-np.inf] * 3])
    assert np.array_equal(k.softmax(holes), [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])
    assert np.array_equal(k.softmax(x[:, None, :])[:, 0], k.softmax(x))
    assert np.array_equal(
        k.softmax_backward(dp[:, None], np.array(p)[:, None])[:, 0], k.softmax_backward(dp, np.array(p))
    )
    apart = np.array([[900.0, 900.0], [-900.0, -900.0], [0.0, 900.0]])
    assert np.array_equal(k.softmax(apart), [[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])


def test_softmax_of_the_first_columns() -> None:
    x, limit = np.array(normal(T, E)), np.array([0, 1, 2, 3, 4, 4, 1])
    p = k.softmax(x, limit)
    for row, found, n in zip(x, p, limit, strict=True):
        assert not found[n:].any()
        total = sum(math.exp(a) for a in row[:n])
        near(found[:n], [math.exp(a) / total for a in row[:n]])
    assert k.softmax(x.astype(np.complex128), limit).dtype == np.complex128


def test_rotate() -> None:
    b, h, s, d = 2, 3, 4, 10
    x, angle = normal(b, h, s, d), normal(b, 1, s, d // 2)
    for turn in (angle, angle[0, 0]):
        y = k.rotate(x, np.cos(turn), np.sin(turn))
        assert y.shape == x.shape
        for i in np.ndindex(b, h, s, d // 2):
            at = turn[i[0], 0, i[2], i[3]] if turn.ndim == 4 else turn[i[2], i[3]]
            z = complex(x[i], x[(*i[:3], i[3] + d // 2)]) * complex(math.cos(at), math.sin(at))
            assert abs(complex(y[i], y[(*i[:3], i[3] + d // 2)]) - z) <= 8 * U * max(abs(z), 1.0)


def test_adamw() -> None:
    p, g, m, v = (np.array(normal(D)) + i for i in range(4))
    v = v * v
    lr, b1, b2, eps, decay, step = 0.1, 0.8, 0.95, 1e-3, 0.3, 3
    m2, v2 = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    step_ = m2 / (1 - b1**step) / (np.sqrt(v2 / (1 - b2**step)) + eps) + decay * p
    got = k.adamw(p, g, m, v, lr=lr, beta1=b1, beta2=b2, eps=eps, decay=decay, step=step)
    for a, b in zip(got, (p - lr * step_, m2, v2), strict=True):
        near(a, b)


def test_the_list_of_names() -> None:
    assert set(k.__all__) == set(kernels.NAMES)
    assert all(callable(getattr(k, name)) for name in k.__all__)
