"""The linear map with blocks and its gradients against loops over the stored blocks; what the structure must be."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import DtypeError, IndexRangeError, ShapeError
from pymoe.kernels import cython, parallel, reference, tiles

BACKENDS = pytest.mark.parametrize("k", [reference, cython], ids=["reference", "cython"])
SHAPES = pytest.mark.parametrize("block", [(2, 3), (5, 1), (1, 4), (16, 8), (7, 33), (21, 18)])
ROWS, COLUMNS = 5, 4  # of the grid
INDICES = np.array([1, 0, 1, 3, 3])  # block row 1 is empty, block column 2 too
INDPTR = np.array([0, 1, 1, 4, 4, 5])
RNG = np.random.default_rng


def drawn(tokens: int, block: tuple[int, int], dtype: str = "f8") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng, (r, c) = RNG(tokens), block
    shapes = (tokens, COLUMNS * c), (INDICES.size, r, c), (tokens, ROWS * r)
    made = [rng.standard_normal(s).astype(dtype) for s in shapes]
    for a in made:
        a.setflags(write=False)
    return made[0], made[1], made[2]


def looped(x: np.ndarray, data: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, dx, ddata in the dtype of x, one product at a time in the documented order (ddata: 256 tokens at a time)."""
    y, dx, ddata = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(data)
    _, r, c = data.shape
    for i in range(ROWS):
        for e in range(INDPTR[i], INDPTR[i + 1]):
            for a in range(r):
                for b in range(c):
                    f, j, w = i * r + a, INDICES[e] * c + b, data[e, a, b]
                    y[:, f] += w * x[:, j]
                    dx[:, j] += w * dy[:, f]
                    for piece in range(0, x.shape[0], 256):
                        part = x.dtype.type(0)
                        for t in range(piece, min(piece + 256, x.shape[0])):
                            part += dy[t, f] * x[t, j]
                        ddata[e, a, b] += part
    return y, dx, ddata


def computed(k, x, data, dy, indices=INDICES, indptr=INDPTR):
    return (
        k.bsr_linear(x, data, indices, indptr),
        k.bsr_linear_dx(dy, data, indices, indptr, x.shape[1]),
        k.bsr_linear_ddata(dy, x, indices, indptr, data.shape[1:]),
    )


@BACKENDS
@SHAPES
@pytest.mark.parametrize("tokens", [1, 2, 17, 40])
@pytest.mark.parametrize("dtype, tolerance", [("f8", 1e-13), ("f4", 64 * 2.0**-24)])
def test_loops(k, block, tokens, dtype, tolerance):
    x, data, dy = drawn(tokens, block, dtype)
    wanted = looped(*(a.astype("f8") for a in (x, data, dy)))
    for got, want in zip(computed(k, x, data, dy), wanted, strict=True):
        assert got.shape == want.shape and got.dtype == dtype
        scale = np.max(np.abs(want))
        assert np.max(np.abs(got - want)) <= tolerance * scale
        assert np.max(np.abs(got * 1.001 - want)) > 1e-4 * scale  # negative control


@SHAPES
@pytest.mark.parametrize("tokens", [1, 3, 20])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_order_of_a_sum_is_that_of_the_entries_whatever_the_batch_and_the_threads(block, tokens, dtype):
    x, data, dy = drawn(131, block, dtype)
    x, dy = x[:tokens], dy[:tokens]
    wanted = looped(x, data, dy)
    for threads in (1, 2, 8):
        with parallel.exactly(threads):
            for got, want in zip(computed(cython, x, data, dy), wanted, strict=True):
                assert np.array_equal(got, want)


def test_sums_over_many_tokens_go_in_pieces_of_256():
    x, data, dy = drawn(600, (2, 3), "f4")
    assert np.array_equal(computed(cython, x, data, dy)[2], looped(x, data, dy)[2])


def test_the_tile_changes_no_bit(monkeypatch):
    x, data, dy = drawn(70, (7, 33), "f4")
    want = computed(cython, x, data, dy)
    monkeypatch.setattr("pymoe.kernels.cython_bsr._MOST", 1)
    monkeypatch.setattr(tiles, "WIDE", not tiles.WIDE)
    for got, expected in zip(computed(cython, x, data, dy), want, strict=True):
        assert got.tobytes() == expected.tobytes()


@BACKENDS
def test_the_complex_step_gives_both_gradients(k):
    x, data, dy = drawn(19, (3, 2))
    _, dx, ddata = computed(k, x, data, dy)
    u, v = RNG(0).standard_normal(x.shape), RNG(1).standard_normal(data.shape)
    y = k.bsr_linear(x + 1e-200j * u, data + 1e-200j * v, INDICES, INDPTR)
    want = np.sum(u * dx) + np.sum(v * ddata)
    assert abs(np.sum(dy * y.imag) / 1e-200 - want) <= 1e-13 * (np.sum(np.abs(u * dx)) + np.sum(np.abs(v * ddata)))


@BACKENDS
@pytest.mark.parametrize("dtype", ["i1", "i4", "u2", "u8", ">i8"])
def test_any_integers_are_a_structure(k, dtype):
    x, data, dy = drawn(5, (3, 4))
    want = computed(k, x, data, dy)
    for a, b in zip(computed(k, x, data, dy, INDICES.astype(dtype), INDPTR.astype(dtype)), want, strict=True):
        assert np.array_equal(a, b)


@BACKENDS
def test_nothing_stored_and_nothing_to_do(k):
    x, data, dy = drawn(5, (2, 3), "f4")
    none, ids, zeros = np.empty((0, 2, 3), dtype="f4"), np.empty(0, dtype=int), np.zeros(ROWS + 1, dtype=int)
    y, dx, ddata = computed(k, x, none, dy, ids, zeros)
    assert y.shape == dy.shape and dx.shape == x.shape and ddata.shape == (0, 2, 3) and not y.any() and not dx.any()
    assert y.dtype == dx.dtype == ddata.dtype == np.float32
    y, dx, ddata = computed(k, x[:0], data, dy[:0])
    assert y.shape == (0, dy.shape[1]) and dx.shape == (0, x.shape[1])
    assert ddata.shape == data.shape and not ddata.any()
    assert k.bsr_linear(x[:, :0], none, ids, zeros).shape == dy.shape  # no columns
    assert k.bsr_linear(x, none, ids, np.zeros(1, dtype=int)).shape == (5, 0)  # no rows of W


@BACKENDS
@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"indices": np.where(INDICES == 3, 4, INDICES)}, IndexRangeError, "must lie in"),
        ({"indices": np.where(INDICES == 0, -1, INDICES)}, IndexRangeError, "must lie in"),
        ({"indices": np.where(INDICES == 0, 1, INDICES)}, ShapeError, "ascend within a row"),
        ({"indices": INDICES.astype(float)}, DtypeError, "indices must be integers"),
        ({"indices": INDICES[:-1]}, ShapeError, "must"),
        ({"indices": np.where(INDICES == 3, 2**64 - 1, INDICES).astype("u8")}, IndexRangeError, "must lie in"),
        ({"indptr": INDPTR.astype(float)}, DtypeError, "indptr must be integers"),
        ({"indptr": INDPTR + 1}, ShapeError, "indptr must be 6 ascending offsets"),
        ({"indptr": np.empty(0, dtype=int)}, ShapeError, "must"),
    ],
)
def test_a_structure_out_of_order_is_refused(k, change, error, words):
    x, data, dy = drawn(3, (2, 3))
    given = {"indices": INDICES, "indptr": INDPTR} | change
    data = data if given["indices"].size == INDICES.size else data[:-1]
    for call in (
        lambda: k.bsr_linear(x, data, **given),
        lambda: k.bsr_linear_dx(dy, data, **given, n_columns=x.shape[1]),
        lambda: k.bsr_linear_ddata(dy, x, **given, block=(2, 3)),
    ):
        with pytest.raises(error, match=words):
            call()


@BACKENDS
def test_shapes_that_do_not_fit(k):
    x, data, dy = drawn(3, (2, 3))
    for call in (
        lambda: k.bsr_linear(x[:, 1:], data, INDICES, INDPTR),
        lambda: k.bsr_linear(x[0], data, INDICES, INDPTR),
        lambda: k.bsr_linear(x, data[1:], INDICES, INDPTR),
        lambda: k.bsr_linear(x, data[:, :, 0], INDICES, INDPTR),
        lambda: k.bsr_linear(x, data[:, :0], INDICES, INDPTR),
        lambda: k.bsr_linear_dx(dy, data, INDICES, INDPTR, 11),
        lambda: k.bsr_linear_dx(dy[:, 1:], data, INDICES, INDPTR, 12),
        lambda: k.bsr_linear_dx(dy, data[1:], INDICES, INDPTR, 12),
        lambda: k.bsr_linear_ddata(dy[1:], x, INDICES, INDPTR, (2, 3)),
        lambda: k.bsr_linear_ddata(dy, x, INDICES, INDPTR, (2, 5)),
        lambda: k.bsr_linear_ddata(dy, x, INDICES, INDPTR, (3, 3)),
        lambda: k.bsr_linear_ddata(dy, x, INDICES, INDPTR, (0, 3)),
    ):
        with pytest.raises(ShapeError):
            call()
    with pytest.raises(IndexRangeError):
        k.bsr_linear(x[:, 3:], data, INDICES, INDPTR)
    with pytest.raises(DtypeError):
        cython.bsr_linear(x.astype(object), data, INDICES, INDPTR)


def test_what_is_not_stored_is_not_read():
    for tokens in (1, 40):
        x, data, dy = drawn(tokens, (3, 5))
        spoilt = x.copy()
        spoilt[:, 10:15] = np.nan  # nobody stores block column 2
        want, got = computed(cython, x, data, dy), computed(cython, spoilt, data, dy)
        assert np.array_equal(got[0], want[0]) and np.array_equal(got[2], want[2])


def test_a_token_of_nan_stays_alone():
    x, data, dy = drawn(40, (3, 5))
    spoilt, bad = x.copy(), dy.copy()
    spoilt[13], bad[13] = np.nan, np.nan
    keep = np.arange(40) != 13
    y, dx, _ = computed(cython, x, data, dy)
    assert np.array_equal(cython.bsr_linear(spoilt, data, INDICES, INDPTR)[keep], y[keep])
    assert np.array_equal(cython.bsr_linear_dx(bad, data, INDICES, INDPTR, x.shape[1])[keep], dx[keep])


def test_an_output_that_shares_memory_with_another_array_is_refused():
    place, ptr, none = np.array([0]), np.array([0, 1]), np.empty(0, dtype=int)  # W is one block, (2, 3)
    a = np.ones(300)

    def block(x=(4, 3), data=(1, 2, 3), scratch=(160,), out=(4, 2)):
        x, data, scratch, out = (np.ones(g) if isinstance(g, tuple) else g for g in (x, data, scratch, out))
        parallel.compiled.bsr_linear["double"](x, data, none, place, ptr, scratch, out, False, 1, 1, 1)

    def token(x=(1, 3), data=(1, 2, 3), out=(1, 2)):
        x, data, out = (np.ones(g) if isinstance(g, tuple) else g for g in (x, data, out))
        parallel.compiled.bsr_linear_token["double"](x, data, none, place, ptr, out, False, 1)

    def ddata(dy=(4, 2), x=(4, 3), dyp=(40,), xp=(40,), out=(1, 2, 3)):
        given = [np.ones(g) if isinstance(g, tuple) else g for g in (dy, x, dyp, xp, out)]
        parallel.compiled.bsr_linear_ddata["double"](*given[:2], place, ptr, *given[2:], 8, 1, 1)

    block()
    token()
    ddata()
    for call in (
        lambda: block(x=a[:12].reshape(4, 3), out=a[11:19].reshape(4, 2)),
        lambda: block(data=a[:6].reshape(1, 2, 3), out=a[5:13].reshape(4, 2)),
        lambda: block(scratch=a[:160], out=a[159:167].reshape(4, 2)),
        lambda: block(x=a[:12].reshape(4, 3), scratch=a[:160]),
        lambda: token(x=a[:3].reshape(1, 3), out=a[2:4].reshape(1, 2)),
        lambda: token(data=a[:6].reshape(1, 2, 3), out=a[5:7].reshape(1, 2)),
        lambda: ddata(dy=a[:8].reshape(4, 2), out=a[7:13].reshape(1, 2, 3)),
        lambda: ddata(x=a[:12].reshape(4, 3), dyp=a[:40]),
        lambda: ddata(x=a[:12].reshape(4, 3), xp=a[:40]),
        lambda: ddata(dyp=a[:40], xp=a[39:79]),
    ):
        with pytest.raises(ValueError, match="shares memory"):
            call()
