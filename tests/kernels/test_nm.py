"""The linear map with n of every m columns and its gradients against loops; what the positions must be."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError, IndexRangeError, ShapeError
from pymoe.kernels import cython, cython_nm, parallel, reference, tiles

BACKENDS = pytest.mark.parametrize("k", [reference, cython], ids=["reference", "cython"])
RATIOS = pytest.mark.parametrize("n, m", [(2, 4), (1, 3), (4, 8), (3, 7), (5, 5), (20, 32)])
ROWS, GROUPS = 7, 6
RNG = np.random.default_rng


def drawn(tokens: int, n: int, m: int, dtype: str = "f8") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, data, dy, position."""
    rng = RNG(tokens)
    shapes = (tokens, GROUPS * m), (ROWS, GROUPS * n), (tokens, ROWS)
    made = [rng.standard_normal(s).astype(dtype) for s in shapes]
    kept = np.argsort(rng.random((ROWS, GROUPS, m)), axis=2)[:, :, :n]
    made.append(np.sort(kept, axis=2).reshape(ROWS, -1).astype(np.uint8))
    for a in made:
        a.setflags(write=False)
    return made[0], made[1], made[2], made[3]


def looped(x, data, dy, position, m):
    """y, dx, ddata in the dtype of x, one product at a time, the entries of a row in their order."""
    y, dx, ddata = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(data)
    n = data.shape[1] * m // x.shape[1]
    for f in range(data.shape[0]):
        for q in range(data.shape[1]):
            j = q // n * m + position[f, q]
            y[:, f] += data[f, q] * x[:, j]
            dx[:, j] += data[f, q] * dy[:, f]
            ddata[f, q] = np.sum(dy[:, f] * x[:, j])
    return y, dx, ddata


def computed(k, x, data, dy, position, m):
    return (
        k.nm_linear(x, data, position, m),
        k.nm_linear_dx(dy, data, position, m, x.shape[1]),
        k.nm_linear_ddata(dy, x, position, m),
    )


@BACKENDS
@RATIOS
@pytest.mark.parametrize("tokens", [1, 2, 17, 40, 131, 300])
@pytest.mark.parametrize("dtype, tolerance", [("f8", 1e-13), ("f4", 64 * 2.0**-24)])
def test_loops(k, n, m, tokens, dtype, tolerance):
    x, data, dy, position = drawn(tokens, n, m, dtype)
    wanted = looped(*(a.astype("f8") for a in (x, data, dy)), position, m)
    for got, want in zip(computed(k, x, data, dy, position, m), wanted, strict=True):
        assert got.shape == want.shape and got.dtype == dtype
        scale = np.max(np.abs(want))
        assert np.max(np.abs(got - want)) <= tolerance * scale
        assert np.max(np.abs(got * 1.001 - want)) > 1e-4 * scale  # negative control


@RATIOS
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_order_of_a_sum_is_that_of_the_entries_whatever_the_batch_and_the_threads(n, m, dtype, monkeypatch):
    whole, data, dys, position = drawn(131, n, m, dtype)
    for tokens in (1, 3, 20, 131):
        x, dy = whole[:tokens], dys[:tokens]
        y, dx, _ = looped(x, data, dy, position, m)
        for threads in (1, 2, 8):
            with parallel.exactly(threads):
                assert np.array_equal(cython.nm_linear(x, data, position, m), y)
                assert np.array_equal(cython.nm_linear_dx(dy, data, position, m, x.shape[1]), dx)
        want = cython.nm_linear_ddata(dy, x, position, m)
        with monkeypatch.context() as patch:  # two groups at a time: the loops are cut elsewhere, the sums are the same
            patch.setattr(tiles, "span", lambda *given: 2)
            assert np.array_equal(cython.nm_linear(x, data, position, m), y)
            assert np.array_equal(cython.nm_linear_dx(dy, data, position, m, x.shape[1]), dx)
            assert np.array_equal(cython.nm_linear_ddata(dy, x, position, m), want)


@RATIOS
def test_ddata_is_that_of_the_same_entries_stored_by_rows(n, m):
    for tokens in (2, 40, 300):
        x, data, dy, position = drawn(tokens, n, m, "f4")
        columns = (np.arange(GROUPS * n) // n * m + position).reshape(-1)
        by_rows = cython.csr_linear_ddata(dy, x, columns, np.arange(ROWS + 1) * GROUPS * n)
        assert np.array_equal(cython.nm_linear_ddata(dy, x, position, m).reshape(-1), by_rows)


@BACKENDS
def test_the_complex_step_gives_both_gradients(k):
    x, data, dy, position = drawn(19, 2, 4)
    _, dx, ddata = computed(k, x, data, dy, position, 4)
    u, v = RNG(0).standard_normal(x.shape), RNG(1).standard_normal(data.shape)
    y = k.nm_linear(x + 1e-200j * u, data + 1e-200j * v, position, 4)
    want = np.sum(u * dx) + np.sum(v * ddata)
    assert abs(np.sum(dy * y.imag) / 1e-200 - want) <= 1e-13 * (np.sum(np.abs(u * dx)) + np.sum(np.abs(v * ddata)))


@BACKENDS
@pytest.mark.parametrize("dtype", ["i1", "i4", "u2", "u8", ">i8"])
def test_any_integers_are_positions(k, dtype):
    x, data, dy, position = drawn(5, 2, 4)
    want = computed(k, x, data, dy, position, 4)
    for a, b in zip(computed(k, x, data, dy, position.astype(dtype), 4), want, strict=True):
        assert np.array_equal(a, b)


def test_bytes_are_not_converted(monkeypatch):
    x, data, dy, position = drawn(5, 2, 4)
    seen = []
    monkeypatch.setattr(cython_nm, "plain", lambda a, d: seen.append(a.dtype == d) or a)
    computed(cython, x, data, dy, position, 4)
    assert seen and all(seen)


@BACKENDS
def test_nothing_stored_and_nothing_to_do(k):
    x, data, dy, position = drawn(5, 2, 4, "f4")
    none, nowhere = np.empty((ROWS, 0), dtype="f4"), np.empty((ROWS, 0), dtype=np.uint8)
    y, dx, ddata = computed(k, x, none, dy, nowhere, 4)
    assert y.shape == dy.shape and dx.shape == x.shape and ddata.shape == (ROWS, 0) and not y.any() and not dx.any()
    assert y.dtype == dx.dtype == ddata.dtype == np.float32
    y, dx, ddata = computed(k, x[:0], data, dy[:0], position, 4)
    assert y.shape == (0, ROWS) and dx.shape == (0, x.shape[1]) and ddata.shape == data.shape and not ddata.any()
    assert k.nm_linear(x[:, :0], none, nowhere, 4).shape == dy.shape  # no columns
    assert k.nm_linear(x, data[:0], position[:0], 4).shape == (5, 0)  # no rows of W


@BACKENDS
def test_groups_wider_than_a_byte_counts(k):
    x, data = np.arange(600.0)[None, :], np.array([[2.0, 3.0]])
    position = np.array([[299, 1]])
    assert k.nm_linear(x, data, position, 300).tolist() == [[2 * 299 + 3 * 301]]
    assert np.nonzero(k.nm_linear_dx(np.ones((1, 1)), data, position, 300, 600))[1].tolist() == [299, 301]
    assert k.nm_linear_ddata(np.ones((1, 1)), x, position, 300).tolist() == [[299, 301]]


@BACKENDS
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda p: np.where(p == 3, 4, p), IndexRangeError, r"position must lie in \[0, 4\)"),
        (lambda p: p.astype(int) - 1, IndexRangeError, "position must lie in"),
        (lambda p: np.zeros_like(p), ShapeError, "entry 1 of row 0 has position 0 after 0"),
        (lambda p: p[:, ::-1], ShapeError, "positions must ascend within a group"),
        (lambda p: p.astype(float), DtypeError, "position must be integers"),
        (lambda p: p[:, :, None], ShapeError, "position must have shape"),
        (lambda p: p[:, :-1], ShapeError, "position must have n entries"),
        (lambda p: np.tile(p, (1, 3)), ShapeError, "position must have n entries"),
    ],
)
def test_positions_out_of_order_are_refused(k, tokens, change, error, words):
    x, data, dy, position = drawn(tokens, 2, 4)
    position = change(position)
    data = np.ones(position.shape)
    for call in (
        lambda: k.nm_linear(x, data, position, 4),
        lambda: k.nm_linear_dx(dy, data, position, 4, x.shape[1]),
        lambda: k.nm_linear_ddata(dy, x, position, 4),
    ):
        with pytest.raises(error, match=words):
            call()


@BACKENDS
def test_one_wrong_position_is_seen_wherever_it_is(k):
    for n, m in ((1, 3), (2, 4), (4, 8), (3, 7)):
        x, data, _, position = drawn(2, n, m)
        for at in np.ndindex(*position.shape):
            wrong = position.copy()
            wrong[at] = m
            with pytest.raises((IndexRangeError, ShapeError)):
                k.nm_linear(x, data, wrong, m)
            if at[1] % n:
                wrong[at] = position[at[0], at[1] - 1]
                with pytest.raises(ShapeError):
                    k.nm_linear(x, data, wrong, m)


@BACKENDS
def test_shapes_that_do_not_fit(k):
    x, data, dy, position = drawn(3, 2, 4)
    for call in (
        lambda: k.nm_linear(x, data[:, 1:], position, 4),
        lambda: k.nm_linear(x[0], data, position, 4),
        lambda: k.nm_linear(x, data[0], position, 4),
        lambda: k.nm_linear_dx(dy[:, 1:], data, position, 4, 24),
        lambda: k.nm_linear_dx(dy, data[1:], position, 4, 24),
        lambda: k.nm_linear_dx(dy, data, position, 4, 20),
        lambda: k.nm_linear_ddata(dy[1:], x, position, 4),
        lambda: k.nm_linear_ddata(dy[:, 1:], x, position, 4),
        lambda: k.nm_linear_ddata(dy, x[0], position, 4),
    ):
        with pytest.raises(ShapeError):
            call()
    for call in (
        lambda: k.nm_linear(x[:, 1:], data, position, 4),
        lambda: k.nm_linear(x, data, position, 0),
        lambda: k.nm_linear_dx(dy, data, position, 4, 23),
        lambda: k.nm_linear_ddata(dy, x, position, 5),
    ):
        with pytest.raises(ConfigError, match="multiple of m"):
            call()
    with pytest.raises(DtypeError):
        cython.nm_linear(x.astype(object), data, position, 4)


def test_what_is_not_stored_is_not_read():
    for tokens in (1, 40):
        x, data, dy, _ = drawn(tokens, 2, 4)
        position = np.tile(np.array([[0, 2]]), (ROWS, GROUPS))  # nobody stores the odd columns
        spoilt = x.copy()
        spoilt[:, 1::2] = np.nan
        want, got = computed(cython, x, data, dy, position, 4), computed(cython, spoilt, data, dy, position, 4)
        assert np.array_equal(got[0], want[0]) and np.array_equal(got[2], want[2])


def test_a_token_of_nan_stays_alone():
    x, data, dy, position = drawn(40, 2, 4)
    spoilt, bad = x.copy(), dy.copy()
    spoilt[13], bad[13] = np.nan, np.nan
    keep = np.arange(40) != 13
    y, dx, _ = computed(cython, x, data, dy, position, 4)
    assert np.array_equal(cython.nm_linear(spoilt, data, position, 4)[keep], y[keep])
    assert np.array_equal(cython.nm_linear_dx(bad, data, position, 4, x.shape[1])[keep], dx[keep])


def test_an_output_that_shares_memory_with_another_array_is_refused():
    position = np.array([[0, 1], [1, 0]], dtype=np.uint8)  # 1:2, W is (2, 4)
    a = np.ones(400)

    def run(name, *given, settings=(1,), before=()):
        arrays = [np.ones(g) if isinstance(g, tuple) else g for g in given]
        getattr(parallel.compiled, name)["double"](*arrays[:2], position, 1, 2, *before, *arrays[2:], *settings)

    def block(name="nm_linear", x=(3, 4), data=(2, 2), scratch=(296,), out=(3, 2)):
        run(name, x, data, scratch, out, settings=(1, 1, 1), before=(2,))

    def ddata(dy=(3, 2), x=(3, 4), dyt=(24,), xt=(40,), out=(2, 2)):
        run("nm_linear_ddata", dy, x, dyt, xt, out, settings=(1, 8, 1), before=(2,))

    block()
    block("nm_linear_dx", (3, 2), (2, 2), (56,), (3, 4))
    ddata()
    run("nm_linear_token", (1, 4), (2, 2), (1, 2), settings=(False, 1))
    run("nm_linear_ddata_token", (1, 2), (1, 4), (2, 2))
    for call in (
        lambda: block(x=a[:12].reshape(3, 4), out=a[11:17].reshape(3, 2)),
        lambda: block(data=a[:4].reshape(2, 2), out=a[3:9].reshape(3, 2)),
        lambda: block(scratch=a[:296], out=a[295:301].reshape(3, 2)),
        lambda: block(x=a[:12].reshape(3, 4), scratch=a[:296]),
        lambda: block("nm_linear_dx", a[:6].reshape(3, 2), (2, 2), (56,), a[5:17].reshape(3, 4)),
        lambda: ddata(dy=a[:6].reshape(3, 2), out=a[5:9].reshape(2, 2)),
        lambda: ddata(x=a[:12].reshape(3, 4), dyt=a[:24]),
        lambda: ddata(dyt=a[:24], xt=a[23:63]),
        lambda: run("nm_linear_token", a[:4].reshape(1, 4), (2, 2), a[3:5].reshape(1, 2), settings=(False, 1)),
        lambda: run("nm_linear_token", (1, 4), a[:4].reshape(2, 2), a[3:5].reshape(1, 2), settings=(False, 1)),
        lambda: run("nm_linear_ddata_token", a[:2].reshape(1, 2), (1, 4), a[1:5].reshape(2, 2)),
        lambda: run("nm_linear_ddata_token", (1, 2), a[:4].reshape(1, 4), a[3:7].reshape(2, 2)),
    ):
        with pytest.raises(ValueError, match="shares memory"):
            call()
