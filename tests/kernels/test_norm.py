"""RMS norm against loops over scalars, its sums in float64, and what it refuses; definition and compiled twin alike."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe.backend.errors import DtypeError, ShapeError
from pymoe.kernels import cython, parallel, reference

ROWS, WIDTH, EPS = 67, 21, 0.3  # more than one block of 64 rows
BACKENDS = pytest.mark.parametrize("k", [reference, cython], ids=["reference", "cython"])


def drawn(rows: int = ROWS, width: int = WIDTH, dtype: str = "f8") -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(5)
    made = [rng.standard_normal(s).astype(dtype) for s in ((rows, width), (width,), (rows, width))]
    for a in made:
        a.setflags(write=False)
    return tuple(made)


def looped(x: np.ndarray, weight: np.ndarray, dy: np.ndarray, eps: float) -> tuple[list, list, list, list]:
    """y, r, dx, dweight from the derivative of each y[i] by each x[j], with exact sums."""
    rows, width = x.shape
    y, r, dx, shares = [], [], [], [[] for _ in range(width)]
    for n in range(rows):
        v, g = [float(a) for a in x[n]], [float(a) for a in dy[n]]
        rms = math.sqrt(math.fsum(a * a for a in v) / width + eps)
        y.append([a / rms * float(w) for a, w in zip(v, weight, strict=True)])
        r.append(1 / rms)
        dn = [a * float(w) for a, w in zip(g, weight, strict=True)]
        slope = [[(i == j) / rms - v[i] * v[j] / (width * rms**3) for j in range(width)] for i in range(width)]
        dx.append([math.fsum(dn[i] * slope[i][j] for i in range(width)) for j in range(width)])
        for i in range(width):
            shares[i].append(g[i] * v[i] / rms)
    return y, r, dx, [math.fsum(s) for s in shares]


def error(got: np.ndarray, want: object) -> float:
    want = np.asarray(want)
    assert got.shape == want.shape
    return float(np.max(np.abs(got - want)) / np.max(np.abs(want)))


@BACKENDS
@pytest.mark.parametrize("dtype, tolerance", [("f8", 1e-13), ("f4", 64 * 2.0**-24)])
def test_loops(k, dtype, tolerance):
    x, weight, dy = drawn(dtype=dtype)
    want = looped(x, weight, dy, EPS)
    y, r = k.rms_norm(x, weight, EPS)
    got = (y, r, *k.rms_norm_backward(dy, x, weight, r))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype and error(a, b) <= tolerance
        assert error(a * 1.001, b) > 1e-4  # negative control


@BACKENDS
def test_the_complex_step_gives_the_gradient(k):
    x, weight, dy = drawn(9)
    _, r = k.rms_norm(x, weight, EPS)
    dx, dweight = k.rms_norm_backward(dy, x, weight, r)
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal(x.shape), rng.standard_normal(weight.shape)
    for a, b in ((u, 0 * v), (0 * u, v)):
        y, _ = k.rms_norm(x + 1e-200j * a, weight + 1e-200j * b, EPS)
        terms = np.concatenate([(a * dx).reshape(-1), b * dweight])
        assert abs(np.sum(dy * y.imag) / 1e-200 - np.sum(terms)) <= 1e-13 * np.sum(np.abs(terms))


@BACKENDS
def test_squares_do_not_overflow_in_float32(k):
    x = np.array([[3e30, 4e30], [3e-30, 4e-30]], dtype="f4")
    y, r = k.rms_norm(x, np.ones(2, dtype="f4"), 0.0)
    assert error(y, [[0.6 * 2**0.5, 0.8 * 2**0.5]] * 2) <= 4 * 2.0**-24 and np.isfinite(r).all()


@BACKENDS
def test_the_gradient_of_the_weight_is_summed_over_blocks_in_float64(k):
    x = np.zeros((192, 2), dtype="f4")  # three blocks of 64 rows
    x[[0, 64, 128], :] = np.array([[1e8], [1], [-1e8]])
    _, dweight = k.rms_norm_backward(np.ones_like(x), x, np.ones(2, dtype="f4"), np.ones(192, dtype="f4"))
    assert dweight.tolist() == [1, 1]


@BACKENDS
def test_the_mean_along_a_row_is_summed_in_float64(k):
    x = np.array([[1e8, 1, -1e8]], dtype="f4")
    dx, _ = k.rms_norm_backward(np.ones_like(x), x, np.ones(3, dtype="f4"), np.ones(1, dtype="f4"))
    assert abs(dx[0, 1] - 2 / 3) <= 2.0**-24


def test_the_order_of_rows_in_dweight_is_blocks_of_64():
    x, weight, dy = drawn(200, 70, "f4")
    _, r = cython.rms_norm(x, weight, EPS)
    total = np.zeros(70)
    for lo in range(0, 200, 64):
        block = np.zeros(70, dtype="f4")
        for n in range(lo, min(lo + 64, 200)):
            block = block + dy[n] * (x[n] * r[n])
        total = total + block
    for threads in (1, 3, 8):
        with parallel.exactly(threads):
            assert np.array_equal(cython.rms_norm_backward(dy, x, weight, r)[1], total.astype("f4"))


@BACKENDS
def test_no_rows(k):
    none, weight = np.empty((0, 3), dtype="f4"), np.ones(3, dtype="f4")
    y, r = k.rms_norm(none, weight, EPS)
    assert y.shape == (0, 3) and r.shape == (0,)
    dx, dweight = k.rms_norm_backward(none, none, weight, r)
    assert dx.shape == (0, 3) and dweight.tolist() == [0, 0, 0] and dx.dtype == dweight.dtype == np.float32


@BACKENDS
def test_a_row_of_nan_stays_alone(k):
    x, weight, dy = drawn(5)
    spoilt = x.copy()
    spoilt[2] = np.nan
    (y, r), (z, s) = k.rms_norm(x, weight, EPS), k.rms_norm(spoilt, weight, EPS)
    keep = [0, 1, 3, 4]
    assert np.array_equal(y[keep], z[keep]) and np.array_equal(r[keep], s[keep]) and np.isnan(z[2]).all()
    assert np.isfinite(k.rms_norm_backward(dy, spoilt, weight, s)[0][keep]).all()


@BACKENDS
def test_what_is_refused(k):
    x, weight, dy = drawn(4)
    r = np.ones(4)
    for call in (
        lambda: k.rms_norm(x, weight[1:], EPS),
        lambda: k.rms_norm(x[0], weight, EPS),
        lambda: k.rms_norm(x[None], weight, EPS),
        lambda: k.rms_norm_backward(dy[1:], x, weight, r),
        lambda: k.rms_norm_backward(dy, x, weight[1:], r),
        lambda: k.rms_norm_backward(dy, x, weight, r[1:]),
        lambda: k.rms_norm_backward(dy, x, weight, r[:, None]),
        lambda: k.rms_norm_backward(dy[0], x[0], weight, r),
    ):
        with pytest.raises(ShapeError):
            call()
    for call in (
        lambda: k.rms_norm(np.ones((4, WIDTH), dtype=int), weight, EPS),
        lambda: k.rms_norm_backward(dy, np.ones((4, WIDTH), dtype=int), weight, r),
        lambda: k.rms_norm(x.astype(object), weight, EPS),
    ):
        with pytest.raises(DtypeError):
            call()


def test_an_output_that_shares_memory_with_another_array_is_refused():
    forward, backward = (getattr(parallel.compiled, name)["double"] for name in ("rms_norm", "rms_norm_backward"))

    shapes = {"dy": (4, 6), "x": (4, 6), "weight": 6, "r": 4, "dx": (4, 6), "part": (1, 6), "dweight": 6}

    def run(**given):
        backward(*(given.get(name, np.ones(shape)) for name, shape in shapes.items()), 1)

    run()
    a, row = np.ones((4, 6)), np.ones(6)
    for call in (
        lambda: forward(a, row, 0.1, a, np.ones(4), 1),
        lambda: forward(a, row, 0.1, np.ones((4, 6)), row[:4], 1),
        lambda: forward(np.ones((4, 6)), row, 0.1, a, a[0, :4], 1),
        lambda: run(dy=a, dx=a),
        lambda: run(x=a, part=a[1:2]),
        lambda: run(weight=row, dweight=row),
        lambda: run(r=row[:4], dweight=row),
        lambda: run(dx=a, part=a[:1]),
        lambda: run(dx=a, dweight=a[3]),
        lambda: run(part=a[:1], dweight=a[0]),
    ):
        with pytest.raises(ValueError, match="shares memory"):
            call()
