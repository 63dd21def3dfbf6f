"""Empty, masked, extreme, huge: what a random case of ``cases.py`` does not meet."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import ops, verify

from .bench import U32, U64, distance
from .cases import BSR, CASES, CSR, NM, Case

RNG = np.random.default_rng


# --- nothing to do ---------------------------------------------------------------------------------------------------

EMPTY = {
    "linear": (np.ones((0, 3)), np.ones((2, 3)), np.ones(2)),
    "layer_norm": (np.ones((2, 0, 3)), np.ones(3), np.ones(3)),
    "rms_norm": (np.ones((0, 3)), np.ones(3)),
    "scaled_rms_norm": (np.ones((0, 3)), np.ones(3)),
    "embedding": (np.ones((0, 2), np.int64), np.ones((5, 3))),
    "rope": (np.ones((2, 3, 0, 4)), np.ones(0, np.int64)),
    "attention": (np.ones((0, 4, 3, 5)), np.ones((0, 2, 6, 5)), np.ones((0, 2, 6, 5))),
    "dropout": (np.ones((0, 3)), np.ones((0, 3), bool)),
    "cross_entropy": (np.ones((0, 3)), np.ones(0, np.int64)),
    "mean_pool": (np.ones((0, 4, 3)), np.ones((0, 4), bool)),
    "mixture": (np.ones((2, 0, 3)), np.ones(2)),
    "mixture_nll": (np.ones((2, 0, 3)), np.ones(2), np.ones(0, np.int64)),
    "csr_linear": (np.ones((2, 0, 6)), np.ones(7)),
    "bsr_linear": (np.ones((0, 9)), np.ones((3, 2, 3))),
    "nm_linear": (np.ones((0, 8)), np.ones((3, 4))),
}
STATIC = {
    "dropout": {"rate": 0.5},
    "csr_linear": CSR,
    "bsr_linear": BSR,
    "nm_linear": NM,
    "masked": {"mask": np.ones((0, 4), bool)},
}


@pytest.mark.parametrize("name", ops.__all__)
def test_an_empty_batch_has_empty_outputs_and_zero_parameter_gradients(name: str) -> None:
    op = getattr(ops, name)
    args = EMPTY.get(name, (np.ones((0, 4)),))
    y, cache = op.forward(*args, **STATIC.get(name, {}))
    dx, rest = op.backward(np.ones_like(y), cache)
    assert y.size == 0 or (name in ("cross_entropy", "mixture_nll") and y == 0)
    assert dx is None or dx.shape == args[0].shape
    for g in rest.values():
        assert not g.any()


@pytest.mark.parametrize("shape", [(2, 4, 0, 5), (2, 4, 3, 5)])
def test_attention_over_no_keys_is_zero(shape: tuple[int, ...]) -> None:
    k = np.ones((2, 2, 0, 5))
    o, cache = ops.attention.forward(np.ones(shape), k, k, causal=True)
    dq, rest = ops.attention.backward(np.ones_like(o), cache)
    assert o.shape == dq.shape == shape and not o.any() and not dq.any()
    assert rest["k"].shape == rest["v"].shape == k.shape


def test_mean_pool_over_no_positions_is_zero() -> None:
    y, cache = ops.mean_pool.forward(np.ones((2, 0, 3)))
    assert np.array_equal(y, np.zeros((2, 3)))
    assert ops.mean_pool.backward(y, cache)[0].shape == (2, 0, 3)


@pytest.mark.parametrize("case", [c for c in CASES if c.name.split("-")[0] in ("gelu", "silu", "tanh", "softplus")])
def test_elementwise_ops_take_scalars(case: Case) -> None:
    y, cache = case.op.forward(np.array(0.5))
    dx, _ = case.op.backward(np.array(1.0), cache)
    assert np.shape(y) == np.shape(dx) == ()
    assert distance(y, case.oracle(np.array([0.5]))[0]) <= 64 * U64


# --- masks -----------------------------------------------------------------------------------------------------------


def test_softmax_family_with_masked_entries_has_gradients_exact_to_1e13() -> None:
    x = RNG(0).standard_normal((3, 5))
    x[0, 1] = x[2, 4] = -np.inf
    for op in (ops.softmax, ops.logsumexp):
        assert verify.gradcheck(op, x).error < 1e-13
    p, _ = ops.softmax.forward(x)
    assert p[0, 1] == p[2, 4] == 0 and np.allclose(p.sum(-1), 1, rtol=1e-14, atol=0)
    y, cache = ops.log_softmax.forward(x)
    assert y[0, 1] == -np.inf
    dy = RNG(1).standard_normal(x.shape) * np.isfinite(x)  # nothing looks at log 0
    dx, _ = ops.log_softmax.backward(dy, cache)
    assert dx[0, 1] == dx[2, 4] == 0 and np.max(np.abs(dx.sum(-1))) < 1e-15


def test_a_row_masked_entirely() -> None:
    x = np.full((2, 3), -np.inf)
    for op, expected in ((ops.softmax, 0.0), (ops.log_softmax, -np.inf), (ops.logsumexp, -np.inf)):
        y, cache = op.forward(x)
        assert np.all(y == expected)
        assert not op.backward(np.zeros_like(y), cache)[0].any()
    y, cache = ops.logsumexp.forward(x)
    assert not ops.logsumexp.backward(np.ones_like(y), cache)[0].any()


def test_a_query_that_sees_nothing_gives_zero_and_zero_gradient() -> None:
    rng = RNG(0)
    q, k, v = rng.standard_normal((2, 6, 4, 7)), rng.standard_normal((2, 3, 5, 7)), rng.standard_normal((2, 3, 5, 7))
    mask = np.array([[True] * 5, [False] * 5])
    o, cache = ops.attention.forward(q, k, v, mask)
    dq, d = ops.attention.backward(rng.standard_normal(o.shape), cache)
    for a in (o, dq, d["k"], d["v"]):
        assert a[0].any() and not a[1].any()
    assert verify.gradcheck(ops.attention, q, k, v, mask, controls=True).error < 1e-13


def test_causal_with_more_queries_than_keys() -> None:
    rng = RNG(0)
    q, k, v = rng.standard_normal((1, 2, 5, 3)), rng.standard_normal((1, 2, 4, 3)), rng.standard_normal((1, 2, 4, 3))
    o, _ = ops.attention.forward(q, k, v, causal=True)
    assert not o[:, :, 0].any() and distance(o[:, :, 1], v[:, :, 0]) <= 64 * U64
    assert verify.gradcheck(ops.attention, q, k, v, causal=True, controls=True).error < 1e-13


def test_a_cache_of_keys_gives_the_rows_of_the_whole() -> None:
    rng = RNG(0)
    q, k, v = rng.standard_normal((2, 6, 5, 7)), rng.standard_normal((2, 3, 5, 7)), rng.standard_normal((2, 3, 5, 7))
    whole, _ = ops.attention.forward(q, k, v, causal=True)
    for new in (1, 2, 4):
        o, _ = ops.attention.forward(q[:, :, 5 - new :], k, v, causal=True)
        assert distance(o, whole[:, :, 5 - new :]) <= 64 * U64
    for i in range(5):  # and the future does not matter, to the bit of a shorter sequence
        o, _ = ops.attention.forward(q[:, :, : i + 1], k[:, :, : i + 1], v[:, :, : i + 1], causal=True)
        assert distance(o[:, :, -1], whole[:, :, i]) <= 64 * U64


def test_padded_keys_do_not_matter_even_if_their_scores_are_not_finite() -> None:
    rng = RNG(0)
    q, k, v = rng.standard_normal((2, 6, 4, 7)), rng.standard_normal((2, 3, 5, 7)), rng.standard_normal((2, 3, 5, 7))
    mask = np.arange(5) < np.array([[5], [3]])
    expected, _ = ops.attention.forward(q[1:], k[1:, :, :3], v[1:, :, :3])
    k[1, :, 3:] = 1e300
    o, _ = ops.attention.forward(q, k, v, mask)
    assert distance(o[1:], expected) <= 64 * U64


# --- extreme values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, u", [(np.float32, U32), (np.float64, U64)])
def test_logits_of_a_thousand(dtype: type, u: float) -> None:
    x = (1000 + RNG(0).standard_normal((3, 5))).astype(dtype)
    shifted = (x - dtype(1000)).astype(np.float64)  # exact
    dy = RNG(1).standard_normal(x.shape).astype(dtype)
    for op in (ops.softmax, ops.log_softmax):
        y, cache = op.forward(x)
        y0, cache0 = op.forward(shifted)
        assert distance(y, y0) <= 64 * u
        assert distance(op.backward(dy, cache)[0], op.backward(dy.astype(np.float64), cache0)[0]) <= 64 * u
    y, cache = ops.logsumexp.forward(-x)
    y0, cache0 = ops.logsumexp.forward(-shifted)
    assert distance(y, y0 - 1000) <= 64 * u
    assert (
        distance(ops.logsumexp.backward(dy[:, 0], cache)[0], ops.logsumexp.backward(dy[:, 0] * 1.0, cache0)[0])
        <= 64 * u
    )
    t = np.array([0, 3, 4])
    loss, cache = ops.cross_entropy.forward(x, t)
    loss0, cache0 = ops.cross_entropy.forward(shifted, t)
    assert distance(loss, loss0) <= 64 * u
    assert distance(ops.cross_entropy.backward(1.0, cache)[0], ops.cross_entropy.backward(1.0, cache0)[0]) <= 64 * u


def test_cross_entropy_far_from_and_near_to_certainty() -> None:
    loss, cache = ops.cross_entropy.forward(np.array([[0.0, 1000.0]], np.float32), np.array([0]))
    assert loss == 1000 and loss.dtype == np.float64
    assert np.array_equal(ops.cross_entropy.backward(1.0, cache)[0], [[-1.0, 1.0]])
    loss, cache = ops.cross_entropy.forward(np.array([[20.0, 0.0]], np.float32), np.array([0]))
    assert distance(loss, np.log1p(np.exp(-20.0))) < 1e-6  # not 0: the loss of a confident model is resolved
    dz, _ = ops.cross_entropy.backward(1.0, cache)
    assert distance(dz, np.exp(-20.0) * np.array([[-1.0, 1.0]])) < 1e-6


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "silu", "gelu", "gelu_tanh", "softplus", "relu", "relu_squared"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_far_out_are_their_limits_without_a_warning(name: str, dtype: type) -> None:
    op = getattr(ops, name)
    x = np.array([-1000.0, -100.0, 0.0, 100.0, 1000.0], dtype)
    y, cache = op.forward(x)
    dx, _ = op.backward(np.ones_like(x), cache)
    left, right, slope = {
        "sigmoid": (0, 1, 0),
        "tanh": (-1, 1, 0),
        "relu_squared": (0, 1e6, 2000),
    }.get(name, (0, 1000, 1))
    assert y[0] == pytest.approx(left, abs=1e-30) and y[4] == right
    assert dx[0] == pytest.approx(0, abs=1e-30) and dx[4] == slope
    assert y.dtype == dx.dtype == dtype


def test_norms_of_a_zero_row_are_finite() -> None:
    x = np.zeros((2, 5))
    for op, parameters in ((ops.rms_norm, (np.ones(5),)), (ops.layer_norm, (np.ones(5), np.ones(5)))):
        y, cache = op.forward(x, *parameters)
        dx, _ = op.backward(RNG(0).standard_normal(x.shape), cache)
        assert np.isfinite(y).all() and np.isfinite(dx).all()


def test_parameter_gradients_do_not_stall_in_float32() -> None:
    n = (1 << 24) + 64  # a float32 sum of ones down a column stops at 2**24
    y, cache = ops.linear.forward(np.zeros((n, 1), np.float32), np.ones((1, 1), np.float32), np.zeros(1, np.float32))
    _, d = ops.linear.backward(np.ones_like(y), cache)
    assert d["bias"][0] == n


def test_a_mean_over_many_positions_does_not_stall_in_float32() -> None:
    y, _ = ops.mean_pool.forward(np.ones((1, (1 << 24) + 64, 1), np.float32))
    assert y[0, 0] == 1


# --- cross-entropy, embedding, dropout, rope -------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_nothing_but_ignored_targets(smoothing: float) -> None:
    z = RNG(0).standard_normal((2, 3, 5)).astype(np.float32)
    loss, cache = ops.cross_entropy.forward(z, np.full((2, 3), -100), label_smoothing=smoothing)
    dz, _ = ops.cross_entropy.backward(1.0, cache)
    assert loss == 0 and not dz.any() and dz.dtype == np.float32


def test_an_ignored_row_may_hold_nan() -> None:
    z = RNG(0).standard_normal((3, 5))
    expected, cache = ops.cross_entropy.forward(z[::2], np.array([1, 4]), label_smoothing=0.1)
    d_expected, _ = ops.cross_entropy.backward(1.0, cache)
    z[1] = np.nan
    loss, cache = ops.cross_entropy.forward(z, np.array([1, -100, 4]), label_smoothing=0.1)
    dz, _ = ops.cross_entropy.backward(1.0, cache)
    assert loss == expected and np.array_equal(dz[::2], d_expected) and not dz[1].any()


def test_an_ignored_row_may_be_masked_entirely_and_a_class_may_be_masked() -> None:
    z = np.array([[0.0, -np.inf, 1.0], [-np.inf] * 3])
    loss, cache = ops.cross_entropy.forward(z, np.array([2, -100]))
    dz, _ = ops.cross_entropy.backward(1.0, cache)
    assert loss == pytest.approx(np.log1p(np.exp(-1)), rel=1e-14)
    assert dz[0, 1] == 0 and dz[0, 0] == -dz[0, 2] > 0.2 and not dz[1].any()


def test_full_smoothing_forgets_the_target() -> None:
    z = RNG(0).standard_normal((3, 5))
    a, _ = ops.cross_entropy.forward(z, np.array([0, 1, 2]), label_smoothing=1.0)
    b, _ = ops.cross_entropy.forward(z, np.array([4, 4, 4]), label_smoothing=1.0)
    assert a == b


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_ids_and_targets_of_any_integer_dtype(dtype: type) -> None:
    z, ids = RNG(0).standard_normal((3, 5)), np.array([4, 0, 4], dtype)
    assert ops.cross_entropy.forward(z, ids)[0] == ops.cross_entropy.forward(z, ids.astype(np.int64))[0]
    y, cache = ops.embedding.forward(ids, np.arange(10.0).reshape(5, 2))
    assert np.array_equal(y, [[8, 9], [0, 1], [8, 9]])
    _, d = ops.embedding.backward(np.ones((3, 2)), cache)
    assert np.array_equal(d["weight"], [[1, 1], [0, 0], [0, 0], [0, 0], [2, 2]])


def test_embedding_gradient_is_exact_on_integers_in_any_order() -> None:
    rng = RNG(0)
    ids, dy = rng.integers(0, 17, (5, 101)), rng.integers(-64, 64, (5, 101, 3)).astype(np.float32)
    _, cache = ops.embedding.forward(ids, np.zeros((19, 3), np.float32))
    one_hot = ids[..., None] == np.arange(19)
    assert np.array_equal(ops.embedding.backward(dy, cache)[1]["weight"], np.einsum("bsv,bsd->vd", one_hot, dy))


def test_dropout_drops_what_is_not_finite_and_rate_zero_is_the_identity() -> None:
    x = np.array([1.0, np.nan, np.inf])
    y, _ = ops.dropout.forward(x, np.array([True, False, False]), rate=0.5)
    assert np.array_equal(y, [2, 0, 0])
    x = RNG(0).standard_normal((3, 5))
    assert np.array_equal(ops.dropout.forward(x, np.ones((3, 5), bool), rate=0.0)[0], x)


def test_rope_depends_on_distance_only_and_keeps_lengths() -> None:
    rng = RNG(0)
    q, k = rng.standard_normal((1, 1, 1, 6)), rng.standard_normal((1, 1, 1, 6))

    def score(i: int, j: int) -> float:
        a, b = ops.rope.forward(q, np.array([i]))[0], ops.rope.forward(k, np.array([j]))[0]
        return float((a * b).sum())

    assert score(3, 1) == pytest.approx(score(103, 101), rel=1e-13)
    assert score(3, 1) != pytest.approx(score(3, 2), rel=1e-3)
    assert distance(np.linalg.norm(ops.rope.forward(q, np.array([9]))[0]), np.linalg.norm(q)) < 64 * U64
    assert np.array_equal(ops.rope.forward(q, np.array([0]))[0], q)


def test_rope_of_base_one_turns_every_pair_alike() -> None:
    y, _ = ops.rope.forward(np.ones((1, 1, 1, 6)), np.array([2]), base=1.0)
    assert np.ptp(y[..., :3]) == np.ptp(y[..., 3:]) == 0 and y[0, 0, 0, 0] == pytest.approx(np.cos(2) - np.sin(2))


# --- mixtures --------------------------------------------------------------------------------------------------------


def test_a_mixture_of_one_model_is_its_cross_entropy() -> None:
    z, y = RNG(0).standard_normal((1, 7, 5)), RNG(1).integers(0, 5, 7)
    loss, cache = ops.mixture_nll.forward(z, np.ones(1), y)
    expected, other = ops.cross_entropy.forward(z[0], y)
    assert abs(loss - expected) <= 4 * U64 * expected
    assert distance(ops.mixture_nll.backward(1.0, cache)[0][0], ops.cross_entropy.backward(1.0, other)[0]) <= 8 * U64


def test_a_model_without_weight_has_a_gradient_by_its_weight_and_no_other() -> None:
    """dλ_i = -p_i(y) / Σ: how much the loss would fall, were it asked; verified by the complex step at λ = 0."""
    z, y = RNG(0).standard_normal((3, 2, 5)), np.array([4, 0])
    weight = np.array([[0.0, 0.3], [0.7, 0.0], [0.2, 0.9]])
    verify.gradcheck(ops.mixture_nll, z, weight, y, controls=True)
    dz, rest = ops.mixture_nll.backward(1.0, ops.mixture_nll.forward(z, weight, y)[1])
    assert not dz[0, 0].any() and not dz[1, 1].any() and (rest["weight"] < 0).all()


def test_a_mixture_does_not_overflow_where_only_a_model_without_weight_knows() -> None:
    z = np.zeros((2, 1, 3))
    z[0, 0, 0] = -2000.0  # the one with weight thinks it impossible
    loss, cache = ops.mixture_nll.forward(z, np.array([1.0, 0.0]), np.array([0]))
    assert abs(loss - (2000 + np.log(2))) <= 1e-12
    dz, rest = ops.mixture_nll.backward(1.0, cache)
    assert dz[0, 0].tolist() == [-1.0, 0.5, 0.5] and np.isfinite(rest["weight"]).all() and rest["weight"][1] < -1e300


def test_what_no_model_can_say_costs_infinitely_much_and_teaches_nothing() -> None:
    z = np.zeros((2, 1, 3))
    z[:, 0, 0] = -np.inf
    loss, cache = ops.mixture_nll.forward(z, np.array([0.5, 0.5]), np.array([0]))
    dz, rest = ops.mixture_nll.backward(1.0, cache)
    assert loss == np.inf and not dz.any() and not rest["weight"].any()


def test_a_model_that_can_say_nothing_leaves_the_word_to_the_others() -> None:
    """All its logits are -inf; the loss and both gradients are those of the mixture with p_0 = 0."""
    z, weight, y = RNG(0).standard_normal((3, 2, 5)), np.array([0.2, 0.3, 0.5]), np.array([4, 0])
    z[0, 1] = -np.inf
    loss, cache = ops.mixture_nll.forward(z, weight, y)
    p = np.exp(z) / np.exp(np.where(np.isinf(z), 0, z)).sum(-1, keepdims=True)
    said = weight @ p[:, [0, 1], y]
    assert abs(loss + np.log(said).mean()) <= 16 * U64
    dz, rest = ops.mixture_nll.backward(1.0, cache)
    assert not dz[0, 1].any() and distance(rest["weight"], -(p[:, [0, 1], y] / said).mean(1)) <= 16 * U64
    r = (weight[:, None] * p[:, [0, 1], y] / said)[:, :, None]
    assert distance(dz, r * (p - (np.arange(5) == y[:, None])) / 2) <= 16 * U64
    loss, cache = ops.mixture_nll.forward(z[:1], np.ones(1), y)
    assert loss == np.inf and not ops.mixture_nll.backward(1.0, cache)[0][0, 1].any()


def test_an_ignored_row_of_a_mixture_may_hold_nan() -> None:
    z, y = RNG(0).standard_normal((2, 3, 4)), np.array([1, -100, 2])
    z[:, 1] = np.nan
    loss, cache = ops.mixture_nll.forward(z, np.array([0.5, 0.5]), y)
    dz, rest = ops.mixture_nll.backward(1.0, cache)
    assert np.isfinite(loss) and not dz[:, 1].any() and np.isfinite(dz).all() and np.isfinite(rest["weight"]).all()
