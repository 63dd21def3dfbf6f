"""What a kernel does with input nobody should send: an error by name, or the documented meaning; never a crash."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError, IndexRangeError, ShapeError
from pymoe.kernels import cython, parallel
from tests.kernels.cases import DTYPES

X = np.arange(12.0).reshape(4, 3)
RNG = np.random.default_rng(11)


# --- indices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", ">i8", "u1", "u2", "u4", "u8"])
def test_every_integer_dtype_is_an_index(dtype):
    ids = np.array([2, 0, 3, 2], dtype=dtype)
    np.testing.assert_array_equal(cython.gather(X, ids), X[ids.astype(int)])
    order, start = cython.counting_sort(ids, 4)
    assert (order.tolist(), start.tolist()) == ([1, 0, 3, 2], [0, 1, 1, 3, 4])


@pytest.mark.parametrize(
    "call",
    [
        lambda: cython.gather(X, np.array([0, 4])),
        lambda: cython.gather(X, np.array([0, -1])),  # no wrap-around, and nothing is dropped in a gather
        lambda: cython.gather(X, np.array([2**40])),
        lambda: cython.gather(X, np.array([2**64 - 1], dtype=np.uint64)),
        lambda: cython.gather(X, np.array([4], dtype=np.int16)),
        lambda: cython.gather(X[::-1], np.array([4])),
        lambda: cython.combine(X, None, np.array([[0, 4]])),
        lambda: cython.combine(X, None, np.array([[0, -2]])),
        lambda: cython.combine(X, np.ones((1, 1)), np.array([[2**64 - 1]], dtype=np.uint64)),
        lambda: cython.combine_dweight(X[:1], X, np.array([[4]])),
        lambda: cython.combine_dweight(X[:1], X, np.array([[-2]])),
        lambda: cython.counting_sort(np.array([0, 3]), 3),
        lambda: cython.counting_sort(np.array([0, -2]), 3),
        lambda: cython.counting_sort(np.array([2**64 - 1], dtype=np.uint64), 3),
        lambda: cython.expand(X[:, :1], np.array([[0], [1], [2], [5]]), 5),
        lambda: cython.expand(X[:, :1], np.array([[0], [1], [2], [-1]]), 5),
    ],
)
def test_an_index_out_of_range_is_an_index_range_error(call):
    with pytest.raises(IndexRangeError, match="must lie in"):
        call()


@pytest.mark.parametrize("ids", [np.array([0.0, 1.0]), np.array([True, False]), np.array([0, 1], dtype=object)])
def test_an_index_that_is_no_integer_is_a_dtype_error(ids):
    for call in (
        lambda: cython.gather(X, ids),
        lambda: cython.counting_sort(ids, 3),
        lambda: cython.combine(X, None, ids[:, None]),
        lambda: cython.combine_dweight(X[:2], X, ids[:, None]),
        lambda: cython.expand(X[:2, :1], ids[:, None], 3),
    ):
        with pytest.raises(DtypeError, match="must be integers"):
            call()


@pytest.mark.parametrize("start", [[0, 2, 1, 4], [0, 2, 3], [1, 2, 4], [0, 5, 4], [-1, 2, 4], []])
def test_bad_offsets_are_a_shape_error(start):
    s = np.array(start, dtype=np.int64)
    weight = np.ones((2, 5, 3))
    for call in (
        lambda: cython.grouped_linear(X, weight, s),
        lambda: cython.grouped_linear_dx(np.ones((4, 5)), weight, s),
        lambda: cython.grouped_linear_dw(np.ones((4, 5)), X, s),
        lambda: cython.segment_sum(X, s),
    ):
        with pytest.raises(ShapeError, match="ascending offsets"):
            call()


# --- dtypes ----------------------------------------------------------------------------------------------------------


def test_object_arrays_are_a_dtype_error():
    o = X.astype(object)
    for call in (
        lambda: cython.gather(o, np.array([0])),
        lambda: cython.combine(o, None, np.array([[0]])),
        lambda: cython.combine(X, o[:1, :1], np.array([[0]])),
        lambda: cython.combine_dweight(X[:1], o, np.array([[0]])),
        lambda: cython.topk(o, 2),
        lambda: cython.softmax(o),
        lambda: cython.softmax_backward(X, o),
        lambda: cython.nm_mask(o, 1, 3),
        lambda: cython.act_forward(o, "silu"),
        lambda: cython.act_backward(X, o, "silu"),
        lambda: cython.glu_forward(o[:, :2], "silu"),
        lambda: cython.segment_sum(o, np.array([0, 4])),
        lambda: cython.expand(o[:, :1], np.zeros((4, 1), dtype=int), 2),
        lambda: cython.grouped_linear(o, np.ones((1, 2, 3)), np.array([0, 4])),
        lambda: cython.grouped_linear_dw(o, X, np.array([0, 4])),
        lambda: cython.adamw(o, X, X, X, lr=0.1, beta1=0.9, beta2=0.9, eps=1e-8, decay=0.0, step=1),
    ):
        with pytest.raises(DtypeError):
            call()


def test_integers_have_no_activation():
    for call in (lambda: cython.act_forward(np.arange(4), "silu"), lambda: cython.glu_forward(np.arange(4), "silu")):
        with pytest.raises(DtypeError, match="floating"):
            call()


@pytest.mark.parametrize("dtype", ["f2", "c8", "G"])
def test_other_floats_go_to_the_definition(dtype):
    x = X.astype(dtype) / 8
    for out in (cython.softmax(x), cython.act_forward(x, "silu"), cython.combine(x, None, np.array([[0]]))):
        assert out.dtype == dtype


# --- settings and shapes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_out_of_range(k):
    with pytest.raises(ConfigError, match=r"in \[1, 3\]"):
        cython.topk(X, k)


@pytest.mark.parametrize("n, m", [(0, 3), (4, 3), (1, 2), (-1, 3)])
def test_bad_n_to_m(n, m):
    with pytest.raises(ConfigError, match="N:M"):
        cython.nm_mask(X, n, m)


def test_shapes_that_do_not_fit():
    with pytest.raises(ShapeError):
        cython.combine(X, np.ones((1, 2)), np.array([[0]]))
    with pytest.raises(ShapeError):
        cython.expand(X, np.zeros((4, 2), dtype=int), 5)
    with pytest.raises(ShapeError):
        cython.topk(np.ones(3), 1)
    with pytest.raises(ShapeError, match="even"):
        cython.glu_forward(X, "silu")
    with pytest.raises(ShapeError):
        cython.grouped_linear(X, np.ones((1, 2, 4)), np.array([0, 4]))
    with pytest.raises(ShapeError):
        cython.grouped_linear_dw(np.ones((5, 2)), X, np.array([0, 4]))
    with pytest.raises(ConfigError, match="activation"):
        cython.act_forward(X, "swish")
    with pytest.raises(ValueError):
        cython.act_backward(np.ones((2, 2)), X, "silu")


# --- overlap: the compiled level writes into what it is given --------------------------------------------------------


def test_an_output_that_shares_memory_with_an_input_is_refused():
    c = parallel.compiled
    a = np.ones((4, 6))
    raw = a.view(np.uint8)
    none = np.empty(0, dtype=np.int64)
    cube, turns = np.ones((1, 2, 3, 4)), np.ones((1, 3, 2))
    ids = np.zeros((4, 1), dtype=np.int64)
    flat = np.ones(24)
    three = [np.empty(24) for _ in range(3)]
    setting = np.ones(9)
    for call in (
        lambda: c.softmax["double"](a, none, a, 1),
        lambda: c.softmax["double"](a[:3], none, a[1:], 1),
        lambda: c.softmax_backward["double"](np.ones((4, 6)), a, a, 1),
        lambda: c.softmax_backward["double"](a, np.ones((4, 6)), a, 1),
        lambda: c.combine["double"](a, None, ids, a, 1),
        lambda: c.combine["double"](np.ones((4, 1)), flat[:4].reshape(4, 1), ids, flat[:4].reshape(4, 1), 1),
        lambda: c.combine_dweight["double"](a, np.ones((4, 6)), ids, a.reshape(-1)[:4].reshape(4, 1), 1),
        lambda: c.rotate["double"](cube, turns, turns, cube, 1),
        lambda: c.rotate["double"](cube[:, ::-1], turns, turns, cube, 1),
        lambda: c.rotate["double"](np.ones((1, 1, 3, 4)), turns, cube.reshape(-1)[:6].reshape(1, 3, 2), cube[:, :1], 1),
        lambda: c.segment_sum["double"](a, np.array([0, 4]), a[:1], 1),
        lambda: c.act_forward["double"](flat, 0, flat, 1),
        lambda: c.act_backward["double"](flat, np.ones(24), 0, flat, 1),
        lambda: c.act_backward["double"](np.ones(24), flat, 0, flat, 1),
        lambda: c.glu_forward["double"](a, 0, a.reshape(-1)[:12].reshape(4, 3), 1),
        lambda: c.glu_backward["double"](np.ones((4, 3)), a, 0, a, 1),
        lambda: c.weighted_backward["double"](np.ones((4, 3)), a, np.ones(4), 0, a, np.ones((4, 3)), np.ones(4), 1),
        lambda: c.weighted_backward["double"](np.ones((4, 6)), np.ones((4, 6)), np.ones(4), 0, a, a, np.ones(4), 1),
        lambda: c.adamw["double"](flat, flat, flat, flat, setting, three[0], three[1], flat, 1),
        lambda: c.adamw["double"](flat, flat, flat, flat, setting, three[0], three[1], three[1], 1),
        lambda: c.gather(raw, np.zeros(4, dtype=np.int64), raw, 1),
        lambda: c.expand(raw[:, :, None], np.zeros((4, 48), dtype=np.int64), raw[:, :, None], 1),
    ):
        with pytest.raises(ValueError, match="shares memory"):
            call()


# --- values ----------------------------------------------------------------------------------------------------------


def row_kernels(dtype):
    """Kernels whose output row t depends on input row t alone, for (5, 6) inputs."""
    w = np.linspace(0.5, 1.5, 5).astype(dtype)
    up = np.ones((5, 6), dtype=dtype)
    half = np.ones((5, 3), dtype=dtype)
    kept = np.array([[0], [1], [2], [3], [4]])
    yield lambda x: cython.softmax(x)
    yield lambda x: cython.softmax_backward(x, up)
    yield lambda x: cython.softmax_backward(up, x)
    yield lambda x: cython.combine(x, w[:, None], kept)
    yield lambda x: cython.combine_dweight(x, up, kept)
    yield lambda x: cython.gather(x, np.arange(5))
    for act in ("silu", "gelu", "gelu_tanh", "sigmoid"):
        yield lambda x, act=act: cython.act_forward(x, act)
        yield lambda x, act=act: cython.act_backward(x, up, act)
        yield lambda x, act=act: cython.glu_forward(x, act)
        yield lambda x, act=act: cython.glu_backward(half, x, act)
        yield lambda x, act=act: cython.weighted_glu_backward(half, x, w, act)[0]
        yield lambda x, act=act: cython.weighted_act_backward(up, x, w, act)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_stays_alone(dtype, bad):
    x = RNG.standard_normal((5, 6)).astype(dtype)
    spoilt = x.copy()
    spoilt[2, :] = bad
    others = [0, 1, 3, 4]
    for kernel in row_kernels(dtype):
        with np.errstate(all="ignore"):
            clean, got = kernel(x), kernel(spoilt)
        assert np.array_equal(got[others], clean[others])
        assert np.all(np.isfinite(got[others]))
        if np.isnan(bad) and dtype != "c16":
            assert np.isnan(got[2]).any()


def test_a_dropped_choice_adds_nothing_even_where_rows_are_nan():
    ys = np.full((3, 4), np.nan)
    ys[0] = 1.0
    slot = np.array([[0, -1], [-1, -1]])
    np.testing.assert_array_equal(cython.combine(ys, np.array([[2.0, np.nan]] * 2), slot), [[2] * 4, [0] * 4])
    np.testing.assert_array_equal(cython.combine_dweight(np.ones((2, 4)), ys, slot), [[4, 0], [0, 0]])


def test_softmax_of_a_fully_masked_row_is_zero_and_of_plus_infinity_is_nan():
    x = np.array([[-np.inf] * 3, [0.0, -np.inf, 0.0], [np.inf, 0.0, 1.0]])
    np.testing.assert_array_equal(cython.softmax(x), [[0, 0, 0], [0.5, 0, 0.5], [np.nan] * 3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_beyond_the_limit_are_never_read(dtype):
    x = RNG.standard_normal((4, 7)).astype(dtype)
    limit = np.array([7, 3, 0, 1])
    want = cython.softmax(x, limit)
    spoilt = x.copy()
    for r, n in enumerate(limit):
        spoilt[r, n:] = np.nan
    np.testing.assert_array_equal(cython.softmax(spoilt, limit), want)
    assert not want[2].any() and want[3, 0] == 1 and not want[1, 3:].any()
    for bad in ([7, 8, 0, 1], [7, -1, 0, 1]):
        with pytest.raises(IndexRangeError):
            cython.softmax(x, np.array(bad))
    with pytest.raises(ShapeError):
        cython.softmax(x, limit[:3])


@pytest.mark.parametrize("shift", [1e3, -1e3, 1e30])
def test_softmax_does_not_overflow(shift):
    np.testing.assert_array_equal(cython.softmax(np.full((1, 4), shift, dtype="f4")), np.full((1, 4), 0.25))


# --- empty -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_to_do(dtype):
    def none(*shape):
        return np.empty(shape, dtype=dtype)

    i = np.empty((0, 2), dtype=np.int64)
    assert cython.topk(none(0, 3), 2).shape == (0, 2)
    assert cython.gather(none(4, 3), np.array([], dtype=int)).shape == (0, 3)
    assert cython.combine(none(4, 3), none(0, 2), i).shape == (0, 3)
    assert cython.combine_dweight(none(0, 3), none(4, 3), i).shape == (0, 2)
    assert cython.softmax(none(0, 3)).shape == (0, 3)
    assert cython.softmax_backward(none(0, 3), none(0, 3)).shape == (0, 3)
    assert cython.act_forward(none(0, 3), "silu").shape == (0, 3)
    assert cython.glu_forward(none(0, 6), "relu").shape == (0, 3)
    assert cython.glu_backward(none(0, 3), none(0, 6), "relu").shape == (0, 6)
    dx, wh, dweight = cython.weighted_glu_backward(none(0, 3), none(0, 6), none(0), "silu")
    assert (dx.shape, wh.shape, dweight.shape) == ((0, 6), (0, 3), (0,))
    assert cython.expand(none(0, 2), i, 5).shape == (0, 5)
    assert cython.nm_mask(none(0, 4), 2, 4).shape == (0, 4)
    order, start = cython.counting_sort(np.array([], dtype=int), 3)
    assert order.shape == (0,) and start.tolist() == [0, 0, 0, 0]
    order, start = cython.counting_sort(np.full(5, -1), 3)
    assert order.shape == (0,) and start.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rows_give_exact_zeros(dtype):
    start = np.zeros(4, dtype=int)
    none = np.empty((0, 3), dtype=dtype)
    weight = np.ones((3, 5, 3), dtype=dtype)
    for out, shape in (
        (cython.combine(none, np.ones((2, 2), dtype=dtype), np.full((2, 2), -1)), (2, 3)),
        (cython.combine_dweight(np.ones((2, 3), dtype=dtype), none, np.full((2, 2), -1)), (2, 2)),
        (cython.segment_sum(none, start), (3, 3)),
        (cython.grouped_linear(none, weight, start), (0, 5)),
        (cython.grouped_linear_dx(np.empty((0, 5), dtype=dtype), weight, start), (0, 3)),
        (cython.grouped_linear_dw(np.empty((0, 5), dtype=dtype), none, start), (3, 5, 3)),
    ):
        assert out.shape == shape and out.dtype == dtype and not np.any(out)


def test_all_rows_to_one_expert():
    x = RNG.integers(-3, 4, (7, 3)).astype("f4")
    weight = RNG.integers(-3, 4, (4, 5, 3)).astype("f4")
    start = np.array([0, 0, 7, 7, 7])
    np.testing.assert_array_equal(cython.grouped_linear(x, weight, start), x @ weight[1].T)
    dw = cython.grouped_linear_dw(np.ones((7, 5), dtype="f4"), x, start)
    assert not dw[[0, 2, 3]].any() and np.array_equal(dw[1], np.tile(x.sum(0), (5, 1)))
    order, start = cython.counting_sort(np.full(9, 1), 4)
    assert order.tolist() == list(range(9)) and start.tolist() == [0, 0, 9, 9, 9]


# --- sizes beyond 2^31 -----------------------------------------------------------------------------------------------


def lazily(*shape: int, dtype: str) -> np.ndarray:
    """Zeros of which only the touched pages exist."""
    try:
        return np.zeros(shape, dtype=dtype)
    except MemoryError:
        pytest.skip("this system does not lend memory that is never touched")


def test_offsets_beyond_2_to_31():
    n, d = 2**20 + 3, 2**11 + 1  # n d > 2^31 elements, 8.6 GB of which six pages are touched
    ys = lazily(n, d, dtype="f4")
    ys[n - 1, d - 1], ys[n - 2, 0] = 5.0, 3.0
    slot = np.array([[n - 1, n - 2]])
    y = cython.combine(ys, np.array([[2.0, 1.0]], dtype="f4"), slot)
    assert (y[0, 0], y[0, d - 1], np.count_nonzero(y)) == (3.0, 10.0, 2)
    dy = np.ones((1, d), dtype="f4")
    np.testing.assert_array_equal(cython.combine_dweight(dy, ys, slot), [[5.0, 3.0]])
    got = cython.gather(ys, np.array([n - 1]))
    assert got[0, d - 1] == 5.0 and np.count_nonzero(got) == 1


def test_a_broadcast_input_is_not_copied_to_gather_from_it():
    x = np.broadcast_to(np.arange(3.0), (2**40, 3))
    np.testing.assert_array_equal(cython.gather(x, np.array([2**40 - 1, 0])), [[0, 1, 2], [0, 1, 2]])
    with pytest.raises(IndexRangeError):
        cython.gather(x, np.array([2**40]))


def test_a_million_experts_cost_memory_in_proportion():
    order, start = cython.counting_sort(np.array([999_999, 5]), 1_000_000)
    assert order.tolist() == [1, 0] and start[-1] == 2
    s = np.zeros((2, 1_000_000), dtype="f4")
    s[0, 999_999] = s[1, 17] = 1
    assert cython.topk(s, 2).tolist() == [[999_999, 0], [17, 0]]
