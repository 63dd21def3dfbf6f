"""Invariants that no setting may break: random ones of the three tables of settings, random numbers, derandomised.

R1, D1, D8, D9, F12, F13, G1, G2, G13 and S5 of a layer with any experts, of a router with any rule.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe.backend import tree
from pymoe.moe import router

from . import frames, router_frames, test_forms, test_router_options
from .frames import U64, Frame, bits, everything, frozen, make, relative
from .test_shipped_bugs_cases import STEP, along

quick = settings(max_examples=40)
SEEDS = st.integers(0, 1 << 20)
LAYERS = {**frames.combinations(), **test_forms.COMBINATIONS}
ROUTERS = test_router_options.COMBINATIONS


SOME_LAYER = st.tuples(st.sampled_from(sorted(LAYERS)), SEEDS)
SOME_ROUTER = st.tuples(st.sampled_from(sorted(ROUTERS)), SEEDS)


def layer(at: tuple[str, int], mask: Any = None) -> Frame:
    cfg, keywords = LAYERS[at[0]]
    return make(cfg, 6, **{**keywords, **({} if mask is None else {"mask": mask})}, seed=at[1])


def router_of(at: tuple[str, int]) -> router_frames.Frame:
    cfg, keywords = ROUTERS[at[0]]
    return router_frames.Frame(cfg, **keywords, seed=at[1])


def real_tokens(f: Frame) -> np.ndarray:
    return np.ones(6, bool) if f.mask is None else f.mask.reshape(-1)


@quick
@given(SOME_LAYER)
def test_g13_the_complex_step_along_any_direction(at: tuple[str, int]) -> None:
    f = layer(at)
    found, wanted, size = along(f)
    assert abs(found - wanted) <= 1e-13 * size


@quick
@given(SOME_LAYER, st.sampled_from([0.0, -1.0, 2.0**-9, 2.0**5]))
def test_g1_backward_is_homogeneous_to_the_bit(at: tuple[str, int], factor: float) -> None:
    f = layer(at)
    _, dx, dp = f.both()
    scaled = {n: factor * d for n, d in f.dlosses.items()}
    _, found_dx, found = f.both(dy=frozen(factor * f.dy), dlosses=scaled)
    assert np.array_equal(found_dx, factor * dx)
    for n, g in dp.items():
        assert np.array_equal(found[n], factor * g), n


@quick
@given(SOME_LAYER, SEEDS)
def test_g2_backward_is_additive(at: tuple[str, int], seed: int) -> None:
    f = layer(at)
    other = frozen(np.random.default_rng(seed).standard_normal(f.dy.shape))
    parts = [f.both(dlosses={}), f.both(dy=other)]
    _, dx, dp = f.both(dy=frozen(f.dy + other))
    for n, g in ({"x": dx} | dp).items():
        a, b = ((d if n == "x" else grads[n]) for _, d, grads in parts)
        top = max(float(np.abs(v).max(initial=0.0)) for v in (a, b, g))
        assert float(np.abs(a + b - g).max(initial=0.0)) <= 64 * U64 * top, n


@quick
@given(SOME_LAYER, st.sampled_from(["fortran", "strided", "offset"]))
def test_f12_f13_s5_a_layer_is_a_function_of_the_values(at: tuple[str, int], layout: str) -> None:
    """A copy of everything gives the same bits; another layout other products, so other roundings of the same."""
    f = layer(at)
    want = everything(f)
    copy = f._replace(x=f.x.copy(), p=tree.map(np.copy, f.p), cfg=pickle.loads(pickle.dumps(f.cfg)))
    for n, a in everything(copy).items():
        assert bits(a) == bits(want[n]), n
    wide = np.zeros((12, 3 * f.x.shape[1]))
    places = {"strided": wide[::2, ::3], "offset": wide[3:9, 1 : 1 + f.x.shape[1]]}
    x = places.get(layout, np.asfortranarray(f.x))
    x[...] = f.x
    for n, a in everything(f._replace(x=x, p=tree.map(np.asfortranarray, f.p))).items():
        assert relative(a, want[n]) <= 256 * U64, n


@quick
@given(SOME_LAYER)
def test_d1_d9_every_choice_is_counted_once_and_a_dropped_one_is_nothing(at: tuple[str, int]) -> None:
    f = layer(at)
    r = f.forward()[0].routing
    real = real_tokens(f)
    kept = np.ones(r.idx.shape, bool) if r.kept is None else r.kept
    assert not kept[~real].any() and not r.weight[~kept].any()
    served = np.bincount(r.idx[kept], minlength=len(r.load))
    assert (served <= r.load).all() and r.load.sum() <= r.idx[real].size
    if f.cfg.router.select != "expert_choice":
        assert all(len(set(row)) == len(row) for row in r.idx.tolist())
        assert np.array_equal(r.load, np.bincount(r.idx[real].reshape(-1), minlength=len(r.load)))


@quick
@given(SOME_LAYER, SEEDS)
def test_p_whatever_stands_in_the_padding_stays_there(at: tuple[str, int], seed: int) -> None:
    """NaN in a padded row: no bit of anything else moves, and the row itself gives and gets 0."""
    mask = np.random.default_rng(seed).random(6) < 0.6
    f = layer(at, mask)
    x = f.x.copy()
    x[~mask] = np.nan
    want, found = everything(f), everything(f._replace(x=frozen(x)))
    for n, a in want.items():
        assert bits(found[n]) == bits(a), n
    assert not want["y"][~mask].any() and not want["dx"][~mask].any()


# ---- any router ----


@quick
@given(SOME_ROUTER)
def test_g13_any_router_along_any_direction(at: tuple[str, int]) -> None:
    f = router_of(at)
    (r, losses), cache = f.forward()
    rng = np.random.default_rng(1)
    dg, dz = rng.standard_normal(r.weight.shape), rng.standard_normal(r.logits.shape)
    dshared = None if r.shared_weight is None else rng.standard_normal(r.shared_weight.shape)
    dlosses = {n: float(rng.uniform(0.5, 2)) for n in losses}
    dx, dp = router.backward(dg, dlosses, cache, dlogits=dz, dshared=dshared)
    values = {"x": f.x, **f.p}
    v = {n: rng.standard_normal(a.shape) for n, a in values.items() if a.dtype.kind == "f"}
    moved = {n: frozen(a + 1j * STEP * v[n]) if n in v else a for n, a in values.items()}
    (r2, losses2), _ = f.forward(x=moved.pop("x"), p=moved)
    assert np.array_equal(r2.idx, r.idx)
    stepped = np.sum(dg * r2.weight.imag) + np.sum(dz * r2.logits.imag)
    stepped += sum(d * losses2[n].imag for n, d in dlosses.items())
    stepped += 0.0 if dshared is None else np.sum(dshared * r2.shared_weight.imag)
    terms = [v[n] * g for n, g in ({"x": dx} | dp).items() if n in v]
    assert abs(sum(float(np.sum(t)) for t in terms) - stepped / STEP) <= 1e-13 * sum(np.sum(np.abs(t)) for t in terms)


@quick
@given(SOME_ROUTER)
def test_r1_r2_r4_who_a_router_chooses(at: tuple[str, int]) -> None:
    """Ids in range, counted once; top-k of what is compared, best first, when nothing but a top-k chooses."""
    f = router_of(at)
    (r, _), _ = f.forward()
    cfg, real = f.cfg, np.ones(len(f.x), bool) if f.mask is None else f.mask
    assert r.idx.min() >= 0 and r.idx.max() < cfg.n_ids and r.load.shape == (cfg.n_ids,)
    assert r.load.sum() <= r.idx[real].size
    if r.kept is not None:
        assert not r.weight[~r.kept].any() and not r.kept[~real].any()
    if cfg.select == "topk" and cfg.select_on == "logits" and f.draws.gumbel is None and f.draws.noise is None:
        c = r.logits + (f.p["selection_bias"] if cfg.selection_bias else 0.0)
        assert np.array_equal(r.idx, np.argsort(-c, axis=1, kind="stable")[:, : cfg.k])


@quick
@given(SOME_ROUTER)
def test_f12_a_router_is_a_function(at: tuple[str, int]) -> None:
    f = router_of(at)
    (r, losses), cache = f.forward()
    (again, same_losses), other = f.forward(x=f.x.copy(), p={n: a.copy() for n, a in f.p.items()})
    assert bits(*[a for a in r if a is not None]) == bits(*[a for a in again if a is not None])
    assert bits(*losses.values()) == bits(*same_losses.values())
    dg = np.random.default_rng(0).standard_normal(r.weight.shape)
    a, b = (router.backward(dg, dict.fromkeys(losses, 1.0), c) for c in (cache, other))
    assert bits(a[0], *a[1].values()) == bits(b[0], *b[1].values())
    assert a[1].keys() == f.p.keys() and relative(a[0], b[0]) == 0
