"""Upcycled copies: U1 (the dense layer at the start), U2 (only when renormalised), U3 (the gradients), U4 (delta 0)."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from pymoe import moe
from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from pymoe.nn import feed_forward
from pymoe.sharing.split import drop_upcycle, upcycle
from pymoe.storage import Delta
from pymoe.verify import gradcheck

from ..layers import dense, frozen, off, settings, tokens, whole, whole_tokens

quick = run(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 1 << 20)
EXPERTS = st.integers(1, 6).flatmap(lambda e: st.tuples(st.just(e), st.integers(1, e)))


def made(seed: int, e: int, k: int, gated: bool = True, dtype: Any = np.float64) -> tuple[Any, Any, Any, Any]:
    ff = settings(gated)
    p = dense(ff, seed, dtype)
    layer, cfg = upcycle(p, ff, e, k, rng=np.random.default_rng(seed), std=1.0)
    return p, ff, layer, cfg


@quick
@given(SEEDS, EXPERTS, st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_u1_the_layer_is_the_dense_one_at_the_start(seed: int, ek: tuple[int, int], gated: bool, dtype: type) -> None:
    p, ff, layer, cfg = made(seed, *ek, gated, dtype)
    x = tokens(seed, dtype)
    y = moe.forward(x, layer, cfg)[0].y
    assert y.dtype == dtype
    assert off(y, feed_forward.forward(x, p, ff)[0]) <= 64  # BLAS may add the same products in another order


@run(derandomize=True, database=None, deadline=None, max_examples=200)
@given(SEEDS, EXPERTS, st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_u1_of_whole_numbers_only_the_weights_round(seed: int, ek: tuple[int, int], gated: bool, dtype: type) -> None:
    """One choice: the very bits.  Two: 3 u.  k: at most 2 k u, of every single number."""
    e, k = ek
    ff, x = settings(gated, activation="relu"), whole_tokens(seed).astype(dtype)
    p = {name: frozen(a.astype(dtype)) for name, a in whole(ff, seed).items()}
    layer, cfg = upcycle(p, ff, e, k, rng=np.random.default_rng(seed), std=0.3)
    out, _ = moe.forward(x, layer, cfg)
    y = feed_forward.forward(x, p, ff)[0]
    if k == 1:
        assert (out.routing.weight == 1).all() and (out.y == y).all()
    else:
        u = float(np.finfo(dtype).eps) / 2
        assert (np.abs(out.y.astype(np.float64) - y) <= (3 if k == 2 else 2 * k) * u * np.abs(y)).all()


@quick
@given(SEEDS, st.integers(2, 6).flatmap(lambda e: st.tuples(st.just(e), st.integers(1, e - 1))))
def test_u2_without_the_renormalisation_it_is_not_and_dividing_by_the_sum_of_weights_mends_it(
    seed: int, ek: tuple[int, int]
) -> None:
    p, ff, layer, cfg = made(seed, *ek)
    plain = dataclasses.replace(cfg, router=dataclasses.replace(cfg.router, norm="none"))
    x, y = tokens(seed), feed_forward.forward(tokens(seed), p, ff)[0]
    out, _ = moe.forward(x, layer, plain)
    total = out.routing.weight.sum(1, keepdims=True)
    assert (total < 1).all() and off(out.y, y) > 1e6
    assert off(out.y / total, y) <= 64


@quick
@given(SEEDS, EXPERTS, st.booleans())
def test_u3_the_experts_gradients_add_up_to_the_dense_one_and_the_router_has_none(
    seed: int, ek: tuple[int, int], gated: bool
) -> None:
    p, ff, layer, cfg = made(seed, *ek, gated)
    x, dy = tokens(seed), tokens(seed + 1)
    dx, dp = moe.backward(dy, moe.forward(x, layer, cfg)[1])
    dx_dense, dp_dense = feed_forward.backward(dy, feed_forward.forward(x, p, ff)[1])
    assert off(dx, dx_dense) <= 64
    for name, g in dp_dense.items():
        assert off(dp["experts"][name].sum(0), g) <= 64, name
    said = np.abs(dy).max() * np.abs(feed_forward.forward(x, p, ff)[0]).max() * np.abs(x).max()
    assert np.abs(dp["router"]["weight"]).max() <= 64 * 2.0**-53 * said * len(x)


@quick
@given(SEEDS, EXPERTS, st.integers(0, 3))
def test_u4_differences_of_zero_give_the_very_bits(seed: int, ek: tuple[int, int], rank: int) -> None:
    """Experts as mean + a_e b_e with a = 0, as LoRA starts: the stored weight, and the layer that runs on it."""
    ff, rng = settings(activation="relu"), np.random.default_rng(seed)
    p, x = whole(ff, seed), whole_tokens(seed)
    layer, cfg = upcycle(p, ff, *ek, rng=rng, std=1.0)
    experts = dict(layer["experts"])
    for name in ("gate_up_proj", "down_proj"):
        e, rows, columns = experts[name].shape
        experts[name] = Delta(p[name], np.zeros((e, rows, rank)), rng.integers(-3, 4, (e, rank, columns)).astype(float))
        assert (experts[name].dense() == layer["experts"][name]).all()
    assert (moe.forward(x, layer | {"experts": experts}, cfg)[0].y == moe.forward(x, layer, cfg)[0].y).all()


def test_the_gradient_of_an_upcycled_layer_is_verified_where_its_router_has_one() -> None:
    """With drop-upcycling the experts differ, so that every gradient is alive."""
    ff = settings(f=6)
    layer, cfg = drop_upcycle(dense(ff, 0), ff, 4, 2, ratio=0.5, rng=np.random.default_rng(0), std=1.0)
    gradcheck(moe, tokens(0), layer, cfg, losses=[], controls=True)


@quick
@given(SEEDS, st.floats(0, 1), st.booleans())
def test_dropped_units_are_whole_and_as_many_as_said(seed: int, ratio: float, gated: bool) -> None:
    ff = settings(gated)
    p = dense(ff, seed)
    layer, _ = drop_upcycle(p, ff, 3, 2, ratio=ratio, rng=np.random.default_rng(seed))
    n = int(Fraction(repr(ratio)) * ff.d_ff)
    up, down = layer["experts"][ff.up_name], layer["experts"]["down_proj"]
    for e in range(3):
        new = (down[e] != p["down_proj"]).any(0)
        assert new.sum() == n
        for start in (0, ff.d_ff) if gated else (0,):
            rows = slice(start, start + ff.d_ff)
            assert ((up[e, rows] != p[ff.up_name][rows]).any(1) == new).all()
    assert (layer["experts"]["down_proj_bias"] == p["down_proj_bias"]).all()


def test_ratio_zero_is_upcycling_bit_for_bit_and_equal_seeds_agree() -> None:
    ff = settings()
    p = dense(ff, 3)
    first, _ = upcycle(p, ff, 4, 2, rng=np.random.default_rng(5))
    same, _ = drop_upcycle(p, ff, 4, 2, ratio=0.0, rng=np.random.default_rng(5))
    drawn = [drop_upcycle(p, ff, 4, 2, ratio=0.3, rng=np.random.default_rng(5))[0] for _ in range(2)]
    for branch in first:
        for name, a in first[branch].items():
            assert (a == same[branch][name]).all()
            assert (drawn[0][branch][name] == drawn[1][branch][name]).all()
    assert not (drawn[0]["experts"]["down_proj"] == first["experts"]["down_proj"]).all()


def test_new_arrays_are_the_callers_to_write_and_the_dense_ones_are_not_written() -> None:
    ff = settings()
    p = dense(ff, 0)
    before = {n: a.copy() for n, a in p.items()}
    layer, _ = drop_upcycle(p, ff, 3, 2, ratio=0.5, rng=np.random.default_rng(0))
    for a in [*layer["experts"].values(), layer["router"]["weight"]]:
        a[...] = 0
    assert all((p[n] == before[n]).all() for n in p)


@pytest.mark.parametrize(
    "change, error, says",
    [
        ({"n_experts": 0}, ConfigError, "n_experts must be an integer of at least 1"),
        ({"k": 5}, ConfigError, "k must not exceed n_experts"),
        ({"k": 1.5}, ConfigError, "k must be an integer"),
        ({"std": -1.0}, ConfigError, "std"),
        ({"ratio": 1.5}, ConfigError, "ratio must be a number in [0, 1]"),
        ({"ratio": float("nan")}, ConfigError, "ratio must be a number in [0, 1]"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], error: type[Exception], says: str) -> None:
    ff = settings()
    given_ = {"n_experts": 4, "k": 2, "ratio": 0.5, "rng": np.random.default_rng(0)} | change
    with pytest.raises(error) as caught:
        drop_upcycle(dense(ff, 0), ff, **given_)
    assert says in str(caught.value)


def test_bad_trees_are_refused() -> None:
    ff = settings()
    p, rng = dense(ff, 0), np.random.default_rng(0)
    with pytest.raises(ShapeError, match="missing \\['down_proj_bias'\\], unexpected \\[\\]"):
        upcycle({n: a for n, a in p.items() if n != "down_proj_bias"}, ff, 2, 1, rng=rng)
    with pytest.raises(ShapeError, match="down_proj must have shape"):
        upcycle(p | {"down_proj": p["down_proj"][:, 1:]}, ff, 2, 1, rng=rng)
    bad = p["down_proj"].copy()
    bad[1, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"down_proj is nan at \(1, 2\)"):
        upcycle(p | {"down_proj": frozen(bad)}, ff, 2, 1, rng=rng)
    with pytest.raises(DtypeError, match="floating"):
        upcycle(p | {"down_proj": frozen(np.ones((5, 12), int))}, ff, 2, 1, rng=rng)
