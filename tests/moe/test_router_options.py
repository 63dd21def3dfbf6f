"""The router against the complex step: every pair of its settings that may stand together, to 1e-13."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend.errors import ConfigError
from pymoe.moe import router

from ..oracles import router_loops
from . import frames
from .frames import U64, relative
from .router_frames import FIRST, OPTIONS, OTHER, Frame, config

COMBINATIONS = frames.design(OPTIONS, build=config, draws=8)
FAST = list(COMBINATIONS)[:30]  # the greedy design sees most pairs in its first combinations


def check(f: Frame, **keywords: Any) -> verify.Report:
    report = verify.gradcheck(f.subject, f.x, f.p, mode="gradient", **keywords)
    assert report.error <= 1e-13
    return report


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in COMBINATIONS])
def test_every_pair_of_settings(name: str) -> None:
    cfg, given = COMBINATIONS[name]
    check(Frame(cfg, **given))


def test_the_table_covers_every_pair_that_can_stand_together() -> None:
    """What is not in the table must be refused by the settings themselves."""
    chosen = [tuple(int(i) for i in name.split("-")) for name in COMBINATIONS]
    names = list(OPTIONS)
    for a, b in itertools.combinations(range(len(names)), 2):
        seen = {(c[a], c[b]) for c in chosen}
        for i, j in itertools.product(range(len(OPTIONS[names[a]])), range(len(OPTIONS[names[b]]))):
            if (i, j) not in seen:
                with pytest.raises(ConfigError):
                    frames._config(dict.fromkeys(names, 0) | {names[a]: i, names[b]: j}, OPTIONS, config)


CONTROLS = {
    "learned noise": {"noise": "learned", "jitter": 0.25, "norm": "l1"},
    "both scales": {"global_scale": True, "expert_scale": True, "norm": "l1", "input_multiplier": 2.0},
    "joint": {"norm": "joint", "score": "sigmoid", "n_shared_logits": 2, "global_scale": True, "selection_bias": True},
    "gemma": {"norm": "l1", "expert_scale": True, "input_norm": "rms", "input_multiplier": 0.7},
    "after the choice": {"score_at": "chosen", "bias": True, "soft_cap": 2.0, "logit_multiplier": 1.5},
    "dbrx": {"norm": "lp", "norm_p": 3.0, "score": "sqrtsoftplus"},
    "table": {"select": "table", "table_size": 5, "norm": "l1", "score": "sqrtsoftplus"},
    "twice the same": {"select": "given", "norm": "clamp", "eps": 0.5, "expert_scale": True},
    "v-moe": {"noise": "gaussian", "noise_std": 4.0, "importance_of": "scores"},
    "top-p": {"select": "top_p", "top_p": 0.6, "k": 4, "norm": "l1"},
    "null": {"null_experts": ("zero", "copy"), "null_norm": "true", "norm": "l1", "null_balance": "mean"},
    "by sequence": {"score": "sigmoid", "balance_over": "sequence", "norm": "l1", "scale": 2.5},
    "of the softmax": {"score": "identity", "balance_of": "softmax", "balance_factor": "mixtral"},
    "total": {"score": "relu", "balance_normalise": "total", "losses": ("balance", "l1", "entropy")},
}


@pytest.mark.parametrize("name", CONTROLS)
def test_planted_faults_of_a_thousandth_are_caught(name: str) -> None:
    cfg = config(**{"losses": FIRST, **CONTROLS[name]})
    report = check(Frame(cfg, mask=True), controls=True)
    assert "planted faults caught" in report.notes[0]


def test_every_parameter_and_every_loss_has_a_live_gradient_somewhere() -> None:
    live: set[str] = set()
    for cfg, given in COMBINATIONS.values():
        f = Frame(cfg, **given)
        for loss in (None, *cfg.losses):
            (r, _), cache = f.forward()
            dg = np.random.default_rng(1).standard_normal(r.weight.shape) * (loss is None)
            _, dp = router.backward(dg, {} if loss is None else {loss: 1.0}, cache)
            live |= {name for name, g in dp.items() if g.any()}
            live |= {loss} if loss and any(g.any() for g in dp.values()) else set()
    decides = {"selection_bias", "table"}
    wanted = {"weight", "bias", "noise_weight", "input_scale", "global_scale", "expert_scale", *FIRST, *OTHER}
    assert live == wanted and not live & decides


def compare(f: Frame, settings: Any = None) -> dict[str, float]:
    """Relative error of every value of the router against the loops; decisions are asserted."""
    (r, losses), _ = f.forward()
    settings = settings or dataclasses.asdict(f.cfg)
    given = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in f.given._asdict().items()}
    draws = {n: v.tolist() for n, v in f.draws._asdict().items() if v is not None}
    real = [True] * len(f.x) if f.mask is None else f.mask.tolist()
    want = router_loops.route(f.x.tolist(), {n: a.tolist() for n, a in f.p.items()}, settings, real, draws, given)
    where = np.array(real)
    kept = np.ones(r.idx.shape, bool) if r.kept is None else r.kept
    assert np.array_equal(r.idx[where], np.array(want["idx"])[where])
    assert np.array_equal(kept, np.array(want["kept"]))
    assert r.load.tolist() == want["load"]
    errors = {"weight": relative(r.weight, want["weight"]), "logits": relative(r.logits, want["logits"])}
    if r.shared_weight is not None:
        errors["shared"] = relative(r.shared_weight, want["shared"])
    assert list(losses) == list(want["losses"])
    for name, value in want["losses"].items():  # a CV² below u² is the rounding of equal numbers
        errors[name] = abs(float(losses[name]) - value) / max(abs(value), U64)
    return errors


@pytest.mark.parametrize("name", COMBINATIONS)
def test_agrees_with_the_loops(name: str) -> None:
    cfg, given = COMBINATIONS[name]
    errors = compare(Frame(cfg, **given))
    assert max(errors.values()) <= 64 * U64, errors


def test_control_a_wrong_setting_is_seen_by_the_loops() -> None:
    """Each setting changed behind the router's back makes the loops disagree."""
    wrong = {
        "norm_p": ("dbrx", 2.0), "scale": ("dbrx", 1.001), "eps": ("twice the same", 0.505), "soft_cap": (
        "after the choice", 2.002), "input_norm_eps": ("gemma", 1e-3), "noise_std": ("v-moe", 4.004), "balance_over": (
        "by sequence", "batch"), "balance_factor": ("of the softmax", "switch"), "null_balance": ("null", "each"),
        "null_norm": ("null", "all"), "balance_normalise": ("total", "token"), "importance_of": ("v-moe", "weights"),
    }  # fmt: skip
    for name, (control, value) in wrong.items():
        f = Frame(config(**{"losses": FIRST, **CONTROLS[control]}))
        assert max(compare(f).values()) <= 64 * U64, control
        try:
            errors = compare(f, settings=dataclasses.asdict(f.cfg) | {name: value})
        except AssertionError:  # another decision
            continue
        assert max(errors.values()) > 1e5 * U64, name
