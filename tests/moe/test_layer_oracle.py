"""The layer against per-token loops written from the papers: every case both can express, values and all gradients.

Float64, 64 units of roundoff of the tensor's maximum; decisions exactly.  The only thing shared with the oracle are
the inputs; ``bridge`` translates names and layouts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend import tree
from pymoe.moe import MoEConfig

from ..oracles.cases import Case, cases
from ..oracles.cases import make as build
from ..oracles.margins import margin
from . import bridge
from .frames import U64, frozen, relative

TOLERANCE = 64 * U64

# What pymoe's settings cannot say.  Reason -> the cases of the oracle that need it.
UNSAYABLE = {
    "expert choice of a fixed number of tokens: pymoe's is k·T/E": [f"expert choice of {n}" for n in (0, 1)],
}
CASES = {case.name: case for case in cases()}
OTHERS = {name for names in UNSAYABLE.values() for name in names}


def compare(case: Case, cfg: MoEConfig, p: dict[str, Any], cast: Any = None) -> dict[str, float]:
    """Relative error of every value and gradient; decisions are asserted."""
    want = bridge.read(case, cfg)
    given = {n: d for n, d in case.dlosses.items() if n in cfg.router.losses}
    out, cache = moe.forward(case.x, p, cfg, mask=case.mask, draws=bridge.draws(case))
    dx, dp = moe.backward(case.dy, cache, given)
    grads = bridge.from_pymoe(dp, case.params, cfg.gated)
    assert set(grads) == set(want.grads)

    r = out.routing
    real = np.ones(len(r.idx), bool) if case.mask is None else case.mask.reshape(-1)
    kept = np.ones(r.idx.shape, bool) if r.kept is None else r.kept
    assert not kept[~real].any(), "padding was routed"
    combine, chosen = np.zeros((len(real), cfg.n_experts)), np.zeros((len(real), cfg.n_experts), bool)
    for t, (row, weights, live) in enumerate(zip(r.idx, r.weight, kept, strict=True)):
        assert len(set(row.tolist())) == len(row), "an expert twice"
        for e, w, keep in zip(row, weights, live, strict=True):
            combine[t, e], chosen[t, e] = w, keep
    errors = {"combine": relative(combine, want.out["combine"]), "y": relative(out.y, want.out["y"])}
    if want.out["idx"] is not None:
        assert np.array_equal(r.idx[real], want.out["idx"][real]), "idx"
        assert np.array_equal(kept[real], want.out["kept"][real]), "kept"
        errors["weight"] = relative(r.weight, np.where(real[:, None], want.out["weight"], 0.0))
    else:
        for e, tokens in enumerate(want.out["tokens"]):
            assert np.flatnonzero(chosen[:, e]).tolist() == sorted(tokens.tolist()), f"tokens of expert {e}"
    assert np.array_equal(r.load, want.out["load"]), "load"
    assert list(out.losses) == list(cfg.router.losses)
    for name, value in want.losses.items():  # a CV² below u² is the rounding of equal numbers
        gap = float(np.abs(out.losses[name] - value))
        errors[f"loss {name}"] = gap / max(abs(value), U64)
    errors["dx"] = relative(dx, want.dx)
    for name, g in want.grads.items():
        # a gradient that cancels to nothing is judged by what it is a sum of
        top = float(np.abs(g).max(initial=0.0))
        noise = U64 * max((float(np.abs(v).max(initial=0.0)) for v in want.grads.values()), default=0.0)
        errors[name] = 0.0 if top < noise and np.abs(grads[name]).max(initial=0.0) < noise else relative(grads[name], g)
    return errors


@pytest.mark.parametrize("name", [n for n in CASES if n not in OTHERS])
def test_layer_agrees_with_the_loops(name: str) -> None:
    case = CASES[name]
    cfg = bridge.config(case)
    errors = compare(case, cfg, bridge.to_pymoe(case.params, cfg.gated))
    bad = {k: f"{e / U64:.0f} u" for k, e in errors.items() if not e <= TOLERANCE}
    assert not bad, bad


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_what_cannot_be_said_is_listed_with_its_reason(name: str) -> None:
    reason = next(r for r, names in UNSAYABLE.items() if name in names)
    with pytest.raises(bridge.Unsayable) as refused:
        bridge.config(CASES[name])
    assert str(refused.value) == reason


BIASED = {"score": "sigmoid", "k": 3, "renorm": True, "capacity_rule": "fixed", "capacity": 3, "priority": "score"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("order", ["token", "choice", "score", "probability"])
def test_the_queue_is_ordered_by_the_scores_not_by_the_selection_bias(order: str, when: str) -> None:
    """The bias decides who is chosen; who is dropped is decided by the unbiased score."""
    rule = {**BIASED, "drop_order": order, "renorm_when": when}
    case = build(f"biased queue {order} {when}", rule, T=13, selection_bias=lambda rng, n: np.arange(n) % 3 / 2.0)
    assert margin(case) > 1e-12
    cfg = bridge.config(case)
    errors = compare(case, cfg, bridge.to_pymoe(case.params, cfg.gated))
    assert max(errors.values()) <= TOLERANCE, errors


def test_decisions_are_not_a_matter_of_rounding() -> None:
    """No case rests on a comparison that float64 rounding could turn over."""
    assert min(margin(case) for case in CASES.values()) > 1e-12


# ---- negative controls: a pymoe that is wrong in one thing ----


def control(name: str, **wrong: Any) -> dict[str, float] | None:
    """The errors with one setting of pymoe's router changed; None: a decision differs."""
    case = CASES[name]
    cfg = bridge.config(case)
    cfg = dataclasses.replace(cfg, router=dataclasses.replace(cfg.router, **wrong))
    try:
        return compare(case, cfg, bridge.to_pymoe(case.params, cfg.gated))
    except AssertionError:
        return None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("softmax top-k renormalised", {"norm": "none"}),
        ("softmax top-k", {"norm": "l1"}),
        ("softmax top-k", {"scale": 1.001}),
        ("softmax top-k", {"score": "sigmoid"}),
        ("softmax top-k renormalised with a large epsilon", {"eps": 0.1251}),
        ("groups by top two", {"group_score": "max"}),
        ("gshard renormalised before the drop", {"balance_choices": "all"}),
        ("noisy top-k unbiased variance", {"cv_ddof": 0}),
        ("skip below 0.55", {"skip": 0.3}),
        ("skip below 0.55, plain", {"skip": None}),
        ("skip beyond the first", {"skip": 1.0}),
    ],
)
def test_control_wrong_setting(name: str, wrong: dict[str, Any]) -> None:
    errors = control(name, **wrong)
    assert errors is None or max(errors.values()) > 1e4 * TOLERANCE


def test_control_wrong_ties() -> None:
    case = CASES["tied experts"]
    cfg = bridge.config(case)
    swapped = dataclasses.replace(cfg, tied=(0, 1, 1, 2, 1, 0, 2))
    errors = compare(case, swapped, bridge.to_pymoe(case.params, cfg.gated))
    assert errors["y"] > 1e4 * TOLERANCE and errors["experts.down_proj"] > 1e4 * TOLERANCE


@pytest.mark.parametrize(
    ("name", "leaf"),
    [
        ("softmax top-k renormalised", "router.weight"),
        ("softmax top-k renormalised", "experts.down_proj_bias"),
        ("sigmoid with selection bias", "shared.gate_up_proj"),
        ("noisy top-k", "router.noise_weight"),
    ],
)
def test_control_wrong_parameter(name: str, leaf: str) -> None:
    """One entry of one parameter off by 0.1 % (and no decision changed) shows far above the tolerance."""
    case = CASES[name]
    cfg = bridge.config(case)
    flat = tree.flatten(bridge.to_pymoe(case.params, cfg.gated))
    wrong = flat[leaf].copy()
    place = np.unravel_index(int(np.argmax(np.abs(wrong))), wrong.shape)
    wrong[place] *= 1.001
    errors = compare(case, cfg, tree.unflatten({**flat, leaf: frozen(wrong)}))
    assert max(errors.values()) > 1e6 * TOLERANCE


# ---- in float32 the loops stay the judge ----


@pytest.mark.parametrize("name", [n for n in CASES if n not in OTHERS and not n.startswith("E = 60")][::3])
def test_float32_agrees_with_the_loops(name: str) -> None:
    case = CASES[name]
    if margin(case) < 1e-5:
        pytest.skip("a decision within float32 rounding")
    single = np.float32
    case = case._replace(
        params={n: frozen(a.astype(single).astype(np.float64)) for n, a in case.params.items()},
        dy=frozen(case.dy.astype(single).astype(np.float64)),
        draws={n: frozen(a.astype(single).astype(np.float64)) for n, a in case.draws.items()},
    )
    cfg = bridge.config(case)
    p = tree.map(lambda a: frozen(a.astype(single)), bridge.to_pymoe(case.params, cfg.gated))
    want = bridge.read(case, cfg)
    out, cache = moe.forward(frozen(case.x.astype(single)), p, cfg, mask=case.mask, draws=bridge.draws(case))
    assert out.y.dtype == out.routing.weight.dtype == single
    dx, dp = moe.backward(case.dy, cache, {n: d for n, d in case.dlosses.items() if n in cfg.router.losses})
    assert dx.dtype == single and all(g.dtype == single for g in tree.flatten(dp).values())
    tolerance = 64 * 2.0**-24
    assert relative(out.y, want.out["y"]) <= tolerance
    for loss, value in want.losses.items():
        assert abs(float(out.losses[loss]) - value) <= tolerance * max(abs(value), 1.0), loss
    largest = max(float(np.abs(g).max(initial=0.0)) for g in want.grads.values())
    errors = {"dx": (dx, want.dx)} | {
        n: (g, want.grads[n]) for n, g in bridge.from_pymoe(dp, case.params, cfg.gated).items()
    }
    for n, (found, wanted) in errors.items():
        if np.abs(wanted).max(initial=0.0) > 1e-6 * largest:
            assert relative(found, wanted) <= tolerance, n
