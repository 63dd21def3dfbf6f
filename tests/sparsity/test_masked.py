"""The masked layer: every kind of mask through the gradient check, exact zeros, G11, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pymoe import moe, presets, verify
from pymoe.backend import tree
from pymoe.backend.errors import DtypeError, GradientError, ShapeError
from pymoe.sparsity import masked, masks, units

from .given import frozen, normal

D, F, E, K, T = 4, 6, 3, 2, 7


def layer(**settings: Any) -> tuple[Any, dict[str, Any]]:
    cfg = presets.mixtral(**({"d_model": D, "d_ff": F, "n_experts": E, "k": K} | settings))
    p = moe.init(np.random.default_rng(0), cfg)
    return cfg, tree.map(lambda a: normal(*a.shape), p)


GATED = {"up": "experts.gate_up_proj", "down": "experts.down_proj"}


def kinds(p: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Masks of every kind, by name."""
    flat = tree.flatten(p)
    up, down = flat["experts.gate_up_proj"], flat["experts.down_proj"]
    one = {
        "unstructured": lambda w: masks.magnitude(w, 0.5),
        "by row": lambda w: masks.magnitude(w, 0.5, by="row"),
        "random": lambda w: masks.random(np.random.default_rng(1), w.shape, 0.6, by="matrix"),
        "rows": lambda w: masks.rows(w, 0.5, ord=1),
        "columns": lambda w: masks.columns(w, 0.5),
        "heads in rows": lambda w: masks.heads(w, 0.5, 2, ord=math.inf),
        "heads in columns": lambda w: masks.heads(w, 0.5, 2, axis=-1),
        "blocks": lambda w: masks.blocks(w, 0.5, (2, 2)),
        "2:4": lambda w: masks.nm(np.abs(w), w.shape[-1] // 2, w.shape[-1]),
        "threshold": lambda w: masks.threshold(w, masks.quantile(w, 0.7)),
    }
    found = {name: {GATED["up"]: rule(up), GATED["down"]: rule(down)} for name, rule in one.items()}
    found["over the model"] = masks.over_model({n: np.abs(w) for n, w in flat.items()}, 0.5)
    found["router only"] = {"router.weight": masks.magnitude(flat["router.weight"], 0.5)}
    return found


KINDS = list(kinds(layer()[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_verified_through_every_kind_of_mask(kind: str) -> None:
    cfg, p = layer()
    report = verify.gradcheck(masked, normal(T, D), p, cfg, kinds(p)[kind], mode="gradient", controls=True)
    assert report.error <= 1e-13 and "planted faults caught" in report.notes[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"gated": False, "activation": "gelu", "bias": True, "d_shared": 5},
        {"norm": "none", "score": "sigmoid", "bias": True},
        {"capacity": moe.Capacity(factor=0.7), "d_shared": 3},
    ],
    ids=["shared", "sigmoid", "capacity"],
)
def test_the_gradient_is_verified_with_masks_on_everything(settings: dict[str, Any]) -> None:
    cfg, p = layer(**settings)
    everything = {n: frozen(np.random.default_rng(len(n)).random(a.shape) < 0.6) for n, a in tree.flatten(p).items()}
    real_token = frozen(np.arange(T) != 3)
    report = verify.gradcheck(masked, normal(T, D), p, cfg, everything, real_token, mode="gradient")
    assert report.error <= 1e-13


def test_draws_and_padding_are_passed_on() -> None:
    cfg, p = layer(noise="learned")
    draws = moe.draw(np.random.default_rng(2), cfg, T)
    chosen = {GATED["down"]: masks.magnitude(p["experts"]["down_proj"], 0.5)}
    real_token = frozen(np.arange(T) != 3)
    x = normal(T, D)
    out, _ = masked.forward(x, p, cfg, chosen, real_token, draws)
    want, _ = moe.forward(x, masked.apply(p, chosen), cfg, real_token, draws)
    assert np.array_equal(out.y, want.y) and not out.y[3].any()
    assert not np.array_equal(out.y, masked.forward(x, p, cfg, chosen)[0].y)


def test_control_a_backward_without_the_mask_is_caught() -> None:
    cfg, p = layer()
    chosen = kinds(p)["unstructured"]

    class Unmasked:
        forward = staticmethod(masked.forward)

        @staticmethod
        def backward(dy: Any, cache: Any, dlosses: Any = None) -> Any:
            return moe.backward(dy, cache.moe, dlosses)

    with pytest.raises(GradientError, match="_proj"):
        verify.gradcheck(Unmasked, normal(T, D), p, cfg, chosen, mode="gradient")


@pytest.mark.parametrize("kind", KINDS)
def test_g11_the_gradients_are_the_dense_ones_at_the_masked_weights_masked(kind: str) -> None:
    cfg, p = layer()
    chosen = kinds(p)[kind]
    x, dy, dlosses = normal(T, D), normal(T, D, seed=1), {"balance": 0.3, "z": 0.2}
    out, cache = masked.forward(x, p, cfg, chosen)
    dx, dp = masked.backward(dy, cache, dlosses)
    dense = tree.unflatten({n: np.where(chosen.get(n, True), a, 0.0) for n, a in tree.flatten(p).items()})
    want, dense_cache = moe.forward(x, dense, cfg)
    dx_want, dp_want = moe.backward(dy, dense_cache, dlosses)
    assert np.array_equal(out.y, want.y) and np.array_equal(dx, dx_want)
    assert all(np.array_equal(out.losses[n], want.losses[n]) for n in want.losses)
    flat, flat_want = tree.flatten(dp), tree.flatten(dp_want)
    assert list(flat) == list(flat_want) == list(tree.flatten(p))
    for name, g in flat_want.items():
        assert np.array_equal(flat[name], np.where(chosen.get(name, True), g, 0.0))
    pruned = [flat[n][~m] for n, m in chosen.items()]
    assert any(a.size for a in pruned) and not any(a.any() for a in pruned)


def test_p1_all_kept_is_the_dense_layer_and_nothing_kept_is_zero() -> None:
    cfg, p = layer()
    x, dy = normal(T, D), normal(T, D, seed=1)
    dense, dense_cache = moe.forward(x, p, cfg)
    out, cache = masked.forward(x, p, cfg, {n: np.ones(a.shape, bool) for n, a in tree.flatten(p).items()})
    assert np.array_equal(out.y, dense.y)
    for got, want in zip(masked.backward(dy, cache), moe.backward(dy, dense_cache), strict=True):
        for a, b in zip(*(tree.flatten(t if isinstance(t, dict) else {"x": t}).values() for t in (got, want))):  # noqa: B905
            assert np.array_equal(a, b)
    none, cache = masked.forward(x, p, cfg, {GATED["down"]: np.zeros((E, D, F), bool)})
    assert not none.y.any()
    assert not tree.flatten(masked.backward(dy, cache)[1])[GATED["up"]].any()
    free, cache = masked.forward(x, p, cfg, {})
    assert np.array_equal(free.y, dense.y) and cache.masks == {}


def test_what_is_pruned_does_not_leak_even_where_it_is_no_number() -> None:
    cfg, p = layer()
    chosen = kinds(p)["unstructured"]
    broken = tree.flatten(p)
    for name, mask in chosen.items():
        w = broken[name].copy()
        w[~mask] = np.resize([np.nan, np.inf, -np.inf], np.count_nonzero(~mask))
        broken[name] = frozen(w)
    x, dy = normal(T, D), normal(T, D, seed=1)
    want, want_cache = masked.forward(x, p, cfg, chosen)
    got, cache = masked.forward(x, tree.unflatten(broken), cfg, chosen)
    assert np.array_equal(got.y, want.y)
    for a, b in zip(
        tree.flatten(masked.backward(dy, cache)[1]).values(),
        tree.flatten(masked.backward(dy, want_cache)[1]).values(),
        strict=True,
    ):
        assert np.array_equal(a, b)


def test_apply_leaves_the_rest_alone() -> None:
    _, p = layer()
    chosen = {GATED["up"]: masks.magnitude(p["experts"]["gate_up_proj"], 0.5)}
    done = masked.apply(p, chosen)
    assert list(tree.flatten(done)) == list(tree.flatten(p))
    assert (
        done["experts"]["down_proj"] is p["experts"]["down_proj"] and done["router"]["weight"] is p["router"]["weight"]
    )
    up, mask = done["experts"]["gate_up_proj"], chosen[GATED["up"]]
    assert np.array_equal(up[mask], p["experts"]["gate_up_proj"][mask])  # P7
    assert not up[~mask].any() and not np.signbit(up[~mask]).any() and up.dtype == np.float64
    narrow = tree.map(lambda a: a.astype("f4"), p)
    assert masked.apply(narrow, chosen)["experts"]["gate_up_proj"].dtype == np.float32


def test_masked_units_are_cut_units() -> None:
    cfg, p = layer()
    kept = units.keep(units.scores(p["experts"], cfg), 4)
    narrow, smaller = units.cut(p, cfg, kept)
    x = normal(T, D)
    got, want = masked.forward(x, p, cfg, units.as_masks(kept, cfg))[0], moe.forward(x, narrow, smaller)[0]
    assert np.max(np.abs(got.y - want.y)) <= 1e-14 * np.max(np.abs(want.y))


def test_wrong_masks_get_an_error_that_names_them() -> None:
    cfg, p = layer()
    x, good = normal(T, D), np.ones((E, D, F), bool)
    for call in (lambda m: masked.apply(p, m), lambda m: masked.forward(x, p, cfg, m)):
        with pytest.raises(
            ShapeError, match=r"the mask of experts.down_proj must have shape \(3, 4, 6\), got \(4, 6\)"
        ):
            call({GATED["down"]: good[0]})
        with pytest.raises(DtypeError, match="the mask of experts.down_proj must be bool.*float64"):
            call({GATED["down"]: good.astype(float)})
        with pytest.raises(ShapeError, match=r"not there: \['experts.up_proj'\]; there are \['experts.down_proj', "):
            call({"experts.up_proj": good})
        with pytest.raises(ShapeError, match="not there"):
            call({"experts": good})
