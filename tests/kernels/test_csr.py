"""The sparse linear map and its gradients against loops over the stored entries; what the structure must be."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import DtypeError, IndexRangeError, ShapeError
from pymoe.kernels import cython, cython_csr, parallel, reference, tiles

ROWS, COLUMNS = 11, 7
INDICES = np.array([1, 4, 0, 1, 2, 3, 4, 6, 6, 0, 3])
INDPTR = np.array([0, 2, 2, 8, 9, 9, 9, 10, 10, 10, 11, 11])  # empty rows, a nearly full one; nobody stores column 5
BACKENDS = pytest.mark.parametrize("k", [reference, cython], ids=["reference", "cython"])
RNG = np.random.default_rng


def drawn(tokens: int, dtype: str = "f8") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = RNG(tokens)
    made = [rng.standard_normal(s).astype(dtype) for s in ((tokens, COLUMNS), (INDICES.size,), (tokens, ROWS))]
    for a in made:
        a.setflags(write=False)
    return made[0], made[1], made[2]


def looped(x: np.ndarray, data: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, dx, ddata, every product written out."""
    y, dx, ddata = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(data.shape)
    for t in range(x.shape[0]):
        for f in range(ROWS):
            for e in range(INDPTR[f], INDPTR[f + 1]):
                j = INDICES[e]
                y[t, f] += float(x[t, j]) * float(data[e])
                dx[t, j] += float(dy[t, f]) * float(data[e])
                ddata[e] += float(dy[t, f]) * float(x[t, j])
    return y, dx, ddata


def computed(k, x, data, dy, indices=INDICES, indptr=INDPTR):
    return (
        k.csr_linear(x, data, indices, indptr),
        k.csr_linear_dx(dy, data, indices, indptr, x.shape[1]),
        k.csr_linear_ddata(dy, x, indices, indptr),
    )


@BACKENDS
@pytest.mark.parametrize("tokens", [1, 2, 15, 17, 40, 67, 131, 300])
@pytest.mark.parametrize("dtype, tolerance", [("f8", 1e-13), ("f4", 64 * 2.0**-24)])
def test_loops(k, tokens, dtype, tolerance):
    x, data, dy = drawn(tokens, dtype)
    for got, want in zip(computed(k, x, data, dy), looped(x, data, dy), strict=True):
        assert got.shape == want.shape and got.dtype == dtype
        scale = np.max(np.abs(want))
        assert np.max(np.abs(got - want)) <= tolerance * scale
        assert np.max(np.abs(got * 1.001 - want)) > 1e-4 * scale  # negative control


@BACKENDS
def test_the_complex_step_gives_both_gradients(k):
    x, data, dy = drawn(19)
    _, dx, ddata = computed(k, x, data, dy)
    u, v = RNG(0).standard_normal(x.shape), RNG(1).standard_normal(data.shape)
    y = k.csr_linear(x + 1e-200j * u, data + 1e-200j * v, INDICES, INDPTR)
    want = np.sum(u * dx) + np.sum(v * ddata)
    assert abs(np.sum(dy * y.imag) / 1e-200 - want) <= 1e-13 * (np.sum(np.abs(u * dx)) + np.sum(np.abs(v * ddata)))


def test_the_order_of_a_sum_is_that_of_the_entries_whatever_the_batch_and_the_threads():
    x, data, dy = drawn(131, "f4")
    for threads in (1, 2, 8):
        for tokens in (1, 3, 20, 131):
            y, dx = np.zeros((tokens, ROWS), dtype="f4"), np.zeros((tokens, COLUMNS), dtype="f4")
            for f in range(ROWS):
                for e in range(INDPTR[f], INDPTR[f + 1]):
                    y[:, f] += data[e] * x[:tokens, INDICES[e]]
                    dx[:, INDICES[e]] += data[e] * dy[:tokens, f]
            with parallel.exactly(threads):
                assert np.array_equal(cython.csr_linear(x[:tokens], data, INDICES, INDPTR), y)
                assert np.array_equal(cython.csr_linear_dx(dy[:tokens], data, INDICES, INDPTR, COLUMNS), dx)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("places", ["i4", "i8"])
@pytest.mark.parametrize("span", [1, 3, 5, 7])
def test_going_span_by_span_changes_no_bit(dtype, places, span, monkeypatch):
    x, data, dy = drawn(131, dtype)
    indices = INDICES.astype(places)
    want = cython.csr_linear(x, data, indices, INDPTR), cython.csr_linear_dx(dy, data, indices, INDPTR, COLUMNS)
    taken = []
    by_spans = cython_csr.by_spans
    monkeypatch.setattr(cython_csr, "by_spans", lambda *given: taken.append(given[4]) or by_spans(*given))
    monkeypatch.setattr(tiles, "span", lambda *given: span)
    monkeypatch.setattr(tiles, "worth", lambda *given: True)
    for threads in (1, 2, 5):
        with parallel.exactly(threads):
            got = cython.csr_linear(x, data, indices, INDPTR), cython.csr_linear_dx(dy, data, indices, INDPTR, COLUMNS)
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
    assert taken == [-(-COLUMNS // span), -(-ROWS // span)] * 3


@BACKENDS
@pytest.mark.parametrize("dtype", ["i1", "i4", "u2", "u8", ">i8"])
def test_any_integers_are_a_structure(k, dtype):
    x, data, dy = drawn(5)
    want = computed(k, x, data, dy)
    for a, b in zip(computed(k, x, data, dy, INDICES.astype(dtype), INDPTR.astype(dtype)), want, strict=True):
        assert np.array_equal(a, b)


@BACKENDS
def test_a_single_entry(k):
    x, dy = np.array([[2.0, 3.0]]), np.array([[5.0, 7.0]])
    y, dx, ddata = computed(k, x, np.array([10.0]), dy, np.array([1]), np.array([0, 1, 1]))
    assert y.tolist() == [[30, 0]] and dx.tolist() == [[0, 50]] and ddata.tolist() == [15]


@BACKENDS
def test_nothing_stored_and_nothing_to_do(k):
    x, _, dy = drawn(5, "f4")
    none, zeros = np.empty(0, dtype="f4"), np.zeros(ROWS + 1, dtype=int)
    ids = np.empty(0, dtype=int)
    y, dx, ddata = computed(k, x, none, dy, ids, zeros)
    assert y.shape == dy.shape and dx.shape == x.shape and ddata.shape == (0,) and not y.any() and not dx.any()
    assert y.dtype == dx.dtype == ddata.dtype == np.float32
    y, dx, ddata = computed(k, x[:0], np.ones(INDICES.size, dtype="f4"), dy[:0])
    assert y.shape == (0, ROWS) and dx.shape == (0, COLUMNS) and ddata.shape == INDICES.shape and not ddata.any()
    assert k.csr_linear(x, none, ids, np.zeros(1, dtype=int)).shape == (5, 0)  # no rows of W
    assert k.csr_linear(x[:, :0], none, ids, zeros).shape == (5, ROWS)  # no columns


@BACKENDS
@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"indices": np.where(INDICES == 6, 7, INDICES)}, IndexRangeError, "must lie in"),
        ({"indices": np.where(INDICES == 0, -1, INDICES)}, IndexRangeError, "must lie in"),
        ({"indices": np.where(INDICES == 6, 2**62, INDICES)}, IndexRangeError, "must lie in"),
        ({"indices": np.where(INDICES == 2, 1, INDICES)}, ShapeError, "entry 4 of row 2 has column 1 after 1"),
        ({"indices": np.where(INDICES == 3, 1, INDICES)}, ShapeError, "ascend within a row"),
        ({"indices": INDICES.astype(float)}, DtypeError, "indices must be integers"),
        ({"indices": INDICES[:-1]}, ShapeError, "must"),
        ({"indices": INDICES[:, None]}, ShapeError, "indices must have shape"),
        ({"indptr": INDPTR.astype(float)}, DtypeError, "indptr must be integers"),
        ({"indptr": INDPTR[:, None]}, ShapeError, "must"),
        ({"indptr": INDPTR + 1}, ShapeError, "indptr must be 12 ascending offsets"),
        ({"indptr": np.minimum(INDPTR, 10)}, ShapeError, "indptr must be 12 ascending offsets"),
        ({"indptr": np.where(np.arange(12) == 1, 9, INDPTR)}, ShapeError, "indptr must be 12 ascending offsets"),
        ({"indptr": np.empty(0, dtype=int)}, ShapeError, "must"),
    ],
)
def test_a_structure_out_of_order_is_refused(k, change, error, words):
    x, data, dy = drawn(3)
    given = {"indices": INDICES, "indptr": INDPTR} | change
    data = data if given["indices"].size == data.size else data[:-1]
    data = data.reshape(given["indices"].shape)
    for call in (
        lambda: k.csr_linear(x, data, **given),
        lambda: k.csr_linear_dx(dy, data, **given, n_columns=COLUMNS),
        lambda: k.csr_linear_ddata(dy, x, **given),
    ):
        with pytest.raises(error, match=words):
            call()


@BACKENDS
def test_shapes_that_do_not_fit(k):
    x, data, dy = drawn(3)
    for call in (
        lambda: k.csr_linear(x, data[1:], INDICES, INDPTR),
        lambda: k.csr_linear(x[0], data, INDICES, INDPTR),
        lambda: k.csr_linear_dx(dy, data[1:], INDICES, INDPTR, COLUMNS),
        lambda: k.csr_linear_dx(dy[:, 1:], data, INDICES, INDPTR, COLUMNS),
        lambda: k.csr_linear_ddata(dy[1:], x, INDICES, INDPTR),
        lambda: k.csr_linear_ddata(dy[:, 1:], x, INDICES, INDPTR),
        lambda: k.csr_linear_ddata(dy, x[0], INDICES, INDPTR),
    ):
        with pytest.raises(ShapeError):
            call()
    with pytest.raises(IndexRangeError):
        k.csr_linear(x[:, 1:], data, INDICES, INDPTR)
    with pytest.raises(IndexRangeError):
        k.csr_linear_dx(dy, data, INDICES, INDPTR, 6)
    with pytest.raises(DtypeError):
        cython.csr_linear(x.astype(object), data, INDICES, INDPTR)


def test_what_is_not_stored_is_not_read():
    x, data, dy = drawn(40)
    spoilt = x.copy()
    spoilt[:, 5] = np.nan  # no row stores column 5
    assert np.array_equal(cython.csr_linear(spoilt, data, INDICES, INDPTR), cython.csr_linear(x, data, INDICES, INDPTR))
    want = cython.csr_linear_ddata(dy, x, INDICES, INDPTR)
    assert np.array_equal(cython.csr_linear_ddata(dy, spoilt, INDICES, INDPTR), want)


def test_a_token_of_nan_stays_alone():
    x, data, dy = drawn(40)
    spoilt, bad = x.copy(), dy.copy()
    spoilt[13], bad[13] = np.nan, np.nan
    keep = np.arange(40) != 13
    y, dx, _ = computed(cython, x, data, dy)
    assert np.array_equal(cython.csr_linear(spoilt, data, INDICES, INDPTR)[keep], y[keep])
    assert np.array_equal(cython.csr_linear_dx(bad, data, INDICES, INDPTR, COLUMNS)[keep], dx[keep])


def test_an_output_that_shares_memory_with_another_array_is_refused():
    ids, ptr = np.array([0, 2]), np.array([0, 1, 2])  # W is (2, 3)
    a = np.ones(64)

    def run(name, *given, settings=(1,)):
        arrays = [np.ones(g) if isinstance(g, tuple) else g for g in given]
        getattr(parallel.compiled, name)["double", "int64_t"](*arrays[:2], ids, ptr, *arrays[2:], *settings)

    def block(name, x=(4, 3), data=(2,), scratch=(160,), out=(4, 2)):  # one block of 8 tokens
        run(name, x, data, scratch, out, settings=(1, 1, 1))

    def spans(x, data, scratch, out):
        x, data, scratch, out = (np.ones(g) if isinstance(g, tuple) else g for g in (x, data, scratch, out))
        cut = np.array([0, 1, 1, 2])  # one span
        parallel.compiled.csr_spans["double", "int64_t"](x, data, ids, cut, 1, 2, scratch, out, 1, 1, 1)

    def transpose(data, values):
        cursor, cut, rows = np.zeros((1, 3), int), np.zeros(4, int), np.zeros(2, np.int32)
        parallel.compiled.csr_transpose["double", "int64_t"](data, ids, ptr, 2, cursor, cut, rows, values, 1)

    def ddata(dy=(4, 2), x=(4, 3), dyt=(24,), xt=(32,), out=(2,)):
        run("csr_linear_ddata", dy, x, dyt, xt, out, settings=(1, 8, 1))

    block("csr_linear")
    block("csr_linear_dx", x=(4, 2), out=(4, 3))
    ddata()
    run("csr_linear_token", (1, 3), (2,), (1, 2))
    spans((4, 3), (2,), (288,), (4, 2))
    run("csr_linear_dx_token", (1, 2), (2,), (1, 3))
    run("csr_linear_ddata_token", (1, 2), (1, 3), (2,))
    wide = np.ones(200)
    for call in (
        lambda: block("csr_linear", x=a[:12].reshape(4, 3), out=a[11:19].reshape(4, 2)),
        lambda: block("csr_linear", data=a[:2], out=a[1:9].reshape(4, 2)),
        lambda: block("csr_linear", scratch=wide[:160], out=wide[159:167].reshape(4, 2)),
        lambda: block("csr_linear", x=wide[:12].reshape(4, 3), scratch=wide[:160]),
        lambda: block("csr_linear_dx", x=a[:8].reshape(4, 2), out=a[7:19].reshape(4, 3)),
        lambda: block("csr_linear_dx", x=(4, 2), data=wide[:2], scratch=wide[:160], out=(4, 3)),
        lambda: spans(wide[:12].reshape(4, 3), (2,), (288,), wide[11:19].reshape(4, 2)),
        lambda: spans((4, 3), wide[:2], (288,), wide[1:9].reshape(4, 2)),
        lambda: transpose(a[:2], a[1:3]),
        lambda: ddata(dy=a[:8].reshape(4, 2), out=a[7:9]),
        lambda: ddata(x=a[:12].reshape(4, 3), dyt=a[:24]),
        lambda: ddata(x=a[:12].reshape(4, 3), xt=a[:32]),
        lambda: ddata(dyt=a[:24], xt=a[23:55]),
        lambda: ddata(xt=a[:32], out=a[:2]),
        lambda: run("csr_linear_token", a[:3].reshape(1, 3), (2,), a[2:4].reshape(1, 2)),
        lambda: run("csr_linear_token", (1, 3), a[:2], a[1:3].reshape(1, 2)),
        lambda: run("csr_linear_dx_token", a[:2].reshape(1, 2), (2,), a[1:4].reshape(1, 3)),
        lambda: run("csr_linear_dx_token", (1, 2), a[:2], a[1:4].reshape(1, 3)),
        lambda: run("csr_linear_ddata_token", a[:2].reshape(1, 2), (1, 3), a[1:3]),
        lambda: run("csr_linear_ddata_token", (1, 2), a[:3].reshape(1, 3), a[2:4]),
    ):
        with pytest.raises(ValueError, match="shares memory"):
            call()


def test_a_structure_of_many_rows_and_gaps_is_judged_as_the_definition_judges_it():
    """One token checks 16 rows at a time, across their ends: every fault must be seen, and every legal fall passed."""
    rng = RNG(5)
    for trial in range(200):
        stored = rng.random((37, 6)) < 0.3
        stored[rng.random(37) < 0.3] = False
        indices, indptr = np.nonzero(stored)[1], np.concatenate([[0], np.cumsum(stored.sum(1))])
        wrong = indices.copy()
        if trial % 2:
            wrong[rng.integers(wrong.size)] = rng.integers(-1, 7)
        x, data, dy = rng.standard_normal((1, 6)), rng.standard_normal(indices.size), rng.standard_normal((1, 37))
        for dtype in ("i4", "i8"):
            for name, args in (
                ("csr_linear", (x, data, wrong.astype(dtype), indptr)),
                ("csr_linear_dx", (dy, data, wrong.astype(dtype), indptr, 6)),
                ("csr_linear_ddata", (dy, x, wrong.astype(dtype), indptr)),
            ):
                try:
                    want = getattr(reference, name)(*args)
                except (ShapeError, IndexRangeError) as error:
                    with pytest.raises(type(error)):
                        getattr(cython, name)(*args)
                else:
                    assert np.max(np.abs(getattr(cython, name)(*args) - want)) <= 1e-13


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("tokens", [1, 5, 70, 200])
def test_int32_and_int64_indices_give_the_same_bits_and_are_not_converted(dtype, tokens, monkeypatch):
    x, data, dy = drawn(tokens, dtype)
    want = computed(cython, x, data, dy)
    seen = []
    monkeypatch.setattr(cython_csr, "plain", lambda a, d: seen.append(a.dtype == d) or a)
    for got, expected in zip(computed(cython, x, data, dy, INDICES.astype("i4")), want, strict=True):
        assert got.tobytes() == expected.tobytes()
    assert seen and all(seen)


def test_a_sum_over_tokens_depends_on_their_number_and_on_nothing_else():
    for tokens in (2, 9, 17, 33, 128, 129, 300):
        x, data, dy = drawn(tokens, "f4")
        want = cython.csr_linear_ddata(dy, x, INDICES, INDPTR)
        one = [cython.csr_linear_ddata(dy, x, INDICES[e : e + 1], (INDPTR > e) * 1) for e in range(INDICES.size)]
        assert np.array_equal(np.concatenate(one), want)
