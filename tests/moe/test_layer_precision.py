"""Float32 within 64 roundings of float64, dtypes, purity, and the compiled kernels against their definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pymoe import kernels, moe, presets
from pymoe.backend import tree
from pymoe.moe import Capacity
from pymoe.verify import walk

from . import frames
from .frames import U32, U64, bits, config, everything, frozen, make, relative

COMBINATIONS = frames.combinations()
FEW = list(COMBINATIONS)[::4]
DECISIONS = ("idx", "kept", "load")


def worst(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> tuple[float, str]:
    """The largest error relative to the tensor's own largest entry; a tensor of zeros has to be zero."""
    assert found.keys() == wanted.keys()
    errors = []
    for n, want in wanted.items():
        if n in DECISIONS:
            assert np.array_equal(found[n], want), n
            continue
        size = float(np.abs(want).max(initial=0.0))
        gap = float(np.abs(found[n].astype(np.float64) - want).max(initial=0.0))
        errors.append((gap / size if size else math.inf if gap else 0.0, n))
    return max(errors)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_float32_is_float64_to_64_roundings(name: str) -> None:
    cfg, given = COMBINATIONS[name]
    single = make(cfg, **given).astype(np.float32)
    double = single.astype(np.float64)  # the same numbers
    error, where = worst(everything(single), everything(double))
    assert error <= 64 * U32, where


@pytest.mark.parametrize("size", [(64, 96, 160, 8, 2), (33, 64, 48, 32, 4)])
def test_float32_at_a_larger_size(size: tuple[int, ...]) -> None:
    tokens, d, f, e, k = size
    for preset in ("mixtral", "deepseek_v3"):
        single = make(presets.PRESETS[preset](d_model=d, d_ff=f, n_experts=e, k=k), tokens).astype(np.float32)
        error, where = worst(everything(single), everything(single.astype(np.float64)))
        assert error <= 64 * U32, where


def test_control_the_float32_tolerance_sees_a_thousandth() -> None:
    single = make(config(norm="l1")).astype(np.float32)
    wanted = everything(single.astype(np.float64))
    for n in ("y", "dx", "router.weight", "experts.down_proj"):
        assert worst(everything(single) | {n: wanted[n] * 1.001}, wanted)[0] > 100 * 64 * U32
        assert worst(everything(single) | {n: wanted[n] * 0.0}, wanted)[0] == 1.0


@pytest.mark.parametrize("name", COMBINATIONS)
def test_dtypes(name: str) -> None:
    """Outputs and gradients like the inputs, losses in double, ids and counts int64; draws and dy are float64 here."""
    cfg, given = COMBINATIONS[name]
    double = make(cfg, **given)
    f = double.astype(np.float32)._replace(dy=double.dy)
    out, dx, dp = f.both()
    r = out.routing
    assert out.y.dtype == r.weight.dtype == dx.dtype == np.float32
    assert {n: g.dtype for n, g in dp.items()} == dict.fromkeys(dp, np.dtype(np.float32))
    assert r.idx.dtype == r.load.dtype == np.int64 and (r.kept is None or r.kept.dtype == bool)
    assert all(v.dtype == np.float64 and v.shape == () for v in out.losses.values())
    assert list(dp) == list(tree.flatten(f.p)), "dp has the keys of p, in the order of p"
    assert {n: g.shape for n, g in dp.items()} == {n: a.shape for n, a in tree.flatten(f.p).items()}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_pure(name: str) -> None:
    """Read-only inputs and caches; nothing changes; twice the same bits, forward and backward."""
    cfg, given = COMBINATIONS[name]
    f = make(cfg, **given)
    before = walk.snapshot(f)
    out, cache = f.forward()
    walk.freeze(cache)
    walk.freeze(out)
    cached = walk.snapshot((cache, out))
    first, second = moe.backward(f.dy, cache, f.dlosses), moe.backward(f.dy, cache, f.dlosses)
    assert walk.changed(before) is None and walk.changed(cached) is None
    assert bits(first[0], *tree.flatten(first[1]).values()) == bits(second[0], *tree.flatten(second[1]).values())
    again, _ = f.forward()
    assert bits(out.y, out.routing.weight, *out.losses.values()) == bits(
        again.y, again.routing.weight, *again.losses.values()
    )


def test_control_purity_sees_a_write() -> None:
    a = np.zeros(3)
    before = walk.snapshot(a)
    a[1] = 1e-300
    assert walk.changed(before) is not None


@pytest.mark.skipif(not kernels.compiled(), reason="the Cython kernels are not built")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", FEW)
def test_compiled_kernels_agree_with_their_definition(name: str, dtype: Any) -> None:
    cfg, given = COMBINATIONS[name]
    f = make(cfg, **given).astype(dtype)
    with kernels.using("reference"):
        wanted = everything(f)
    with kernels.using("cython"):
        found = everything(f)
    error, where = worst(found, {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in wanted.items()})
    assert error <= 64 * (U64 if dtype is np.float64 else U32), where


@pytest.mark.skipif(not kernels.compiled(), reason="the Cython kernels are not built")
def test_compiled_kernels_are_bitwise_on_integers() -> None:
    """Integer-valued tokens, experts and cotangents, weights 1/2: partial sums are exact, so order cannot matter."""
    cfg = config(k=2, norm="l1", gated=False, activation="relu", losses=(), n_experts=5, bias=True)
    rng = np.random.default_rng(4)
    f = make(cfg, 70)
    whole = tree.map(lambda a: frozen(rng.integers(-3, 4, a.shape).astype(np.float32)), f.p)
    whole["router"] = {"weight": frozen(np.zeros((5, 3), np.float32))}  # all tie: experts 0 and 1, weight exactly 1/2
    f = f._replace(x=frozen(rng.integers(-3, 4, f.x.shape).astype(np.float32)), p=whole)
    f = f._replace(dy=frozen(rng.integers(-3, 4, f.x.shape).astype(np.float32)))
    results = []
    for name in ("reference", "cython"):
        with kernels.using(name):
            results.append(everything(f))
    assert np.abs(results[0]["y"]).max() > 0
    for n, a in results[0].items():
        assert np.array_equal(a, results[1][n]), n


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "byte-swapped", "unaligned"])
def test_layouts_do_not_change_the_numbers(layout: str) -> None:
    """Copied to C order at the door, the same bits would come; through BLAS the promise is 64 roundings."""

    def as_laid(a: np.ndarray) -> np.ndarray:
        if layout == "fortran":
            return frozen(np.asfortranarray(a)) if a.ndim < 2 else np.asfortranarray(a)
        if layout == "strided":
            wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan)
            wide[..., ::2] = a
            return wide[..., ::2]
        if layout == "reversed":
            return np.ascontiguousarray(a[::-1])[::-1]
        if layout == "byte-swapped":
            return a.astype(a.dtype.newbyteorder())
        raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        raw[...] = a
        return raw

    f = make(config(norm="l1", bias=True, d_shared=9, capacity=Capacity(factor=0.9)))
    laid = f._replace(x=as_laid(f.x), p=tree.map(as_laid, f.p), dy=as_laid(f.dy))
    error, where = worst(everything(laid), everything(f))
    assert error <= 64 * U64, where


def test_mixed_numbers_of_axes_are_one_batch() -> None:
    f = make(config(norm="l1"), (2, 5))
    flat = f._replace(x=frozen(f.x.reshape(10, 3)), dy=frozen(f.dy.reshape(10, 3)))
    a, b = everything(f), everything(flat)
    assert a["y"].shape == (2, 5, 3) and a["dx"].shape == (2, 5, 3)
    for n in a:
        assert np.array_equal(a[n].reshape(b[n].shape), b[n]), n
    assert relative(a["y"].reshape(10, 3), b["y"]) == 0.0
