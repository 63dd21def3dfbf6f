"""The layer's backward against the complex step of its forward: every pair of options, every size, with controls.

Full Jacobians to 1e-13 of each tensor's maximum, every output (y and each loss) by itself; inputs read-only.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from pymoe import moe, presets, verify
from pymoe.backend.errors import ConfigError, GradientError
from pymoe.moe import Capacity, MoEConfig

from . import frames
from .frames import ALL, Frame, config, make

COMBINATIONS = frames.combinations()


def check(f: Frame, **keywords: Any) -> verify.Report:
    report = verify.gradcheck(moe, f.x, f.p, f.cfg, mask=f.mask, draws=f.draws, given=f.given, **keywords)
    assert report.error <= 1e-13
    return report


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_pair_of_options(name: str) -> None:
    cfg, given = COMBINATIONS[name]
    check(make(cfg, **given))


def test_the_table_covers_every_pair_that_can_stand_together() -> None:
    """What is not in the table must be refused by the settings themselves."""
    chosen = [tuple(int(i) for i in name.split("-")) for name in COMBINATIONS]
    options = list(frames.OPTIONS)
    missing = 0
    for a, b in itertools.combinations(range(len(options)), 2):
        seen = {(c[a], c[b]) for c in chosen}
        for i, j in itertools.product(range(len(frames.OPTIONS[options[a]])), range(len(frames.OPTIONS[options[b]]))):
            if (i, j) not in seen:
                missing += 1
                pick = {n: 0 for n in options} | {options[a]: i, options[b]: j}
                with pytest.raises(ConfigError):
                    frames._config(pick)
    assert missing, "settings that exclude each other exist, so some pair must be missing"


SIZES = {
    "no tokens": ({}, 0),
    "no tokens, capacity": ({"capacity": Capacity()}, 0),
    "no tokens, noise": ({"noise": "learned"}, 0),
    "no tokens, expert choice": ({"select": "expert_choice"}, 0),
    "one token": ({"norm": "l1"}, 1),
    "one token, noise": ({"noise": "learned"}, 1),
    "one token, expert choice": ({"select": "expert_choice"}, 1),
    "two tokens": ({"norm": "l1", "capacity": Capacity(factor=0.5, minimum=1)}, 2),
    "k = 1": ({"k": 1}, 7),
    "k = 1 renormalised with epsilon": ({"k": 1, "norm": "l1", "eps": 0.25}, 7),
    "k = E": ({"k": 6, "norm": "l1"}, 7),
    "k = E, sigmoid": ({"k": 6, "score": "sigmoid"}, 7),
    "E = 1": ({"n_experts": 1, "k": 1}, 7),
    "E = 1, sigmoid": ({"n_experts": 1, "k": 1, "score": "sigmoid", "select": "expert_choice"}, 7),
    "E = 11, T = 2": ({"n_experts": 11}, 2),
    "square D = F": ({"d_model": 4, "d_ff": 4, "norm": "l1"}, 7),
    "square D = 2F": ({"d_model": 6, "d_ff": 3, "n_experts": 4}, 7),
    "all places taken": ({"capacity": Capacity(factor=0.0)}, 7),
    "more places than tokens": ({"capacity": Capacity(factor=40.0, minimum=9)}, 7),
    "batch of sequences": ({"norm": "l1", "bias": True, "d_shared": 9}, (2, 5)),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    settings, tokens = SIZES[name]
    check(make(config(**{"losses": ALL, **settings}), tokens))


SMALLER = {"hash_layer": {"table_size": 5}}


@pytest.mark.parametrize("preset", [p for p in presets.PRESETS if p != "expert_choice"])
@pytest.mark.parametrize("mask", [None, True])
def test_presets(preset: str, mask: Any) -> None:
    k = {"switch": 1}.get(preset, 2)
    cfg = presets.PRESETS[preset](d_model=3, d_ff=4, n_experts=6, k=k, **SMALLER.get(preset, {}))
    if cfg.activation == "relu":  # the kinks are those of its own tests
        cfg = dataclasses.replace(cfg, activation="gelu")
    check(make(cfg, mask=mask))


def crowd(cfg: MoEConfig) -> Frame:
    """Expert 4 first for every token, by far but not so far that its gradient vanishes."""
    f = make(cfg)
    x, weight = f.x.copy(), f.p["router"]["weight"].copy()
    x[:, 0] = 3.0
    weight[:, 0] = -0.3
    weight[4, 0] = 1.0
    p = {**f.p, "router": {**f.p["router"], "weight": frames.frozen(weight)}}
    return f._replace(x=frames.frozen(x), p=p)


@pytest.mark.parametrize(
    "settings", [{"k": 1}, {"score": "sigmoid", "norm": "l1", "k": 1}, {"k": 1, "capacity": Capacity()}]
)
def test_one_expert_takes_all(settings: dict[str, Any]) -> None:
    f = crowd(config(losses=ALL, **settings))
    out, _, dp = f.both()
    assert out.routing.load.tolist() == [0, 0, 0, 0, 7, 0]
    others = [0, 1, 2, 3, 5]
    assert not dp["experts.down_proj"][others].any() and not dp["experts.gate_up_proj"][others].any()
    assert dp["experts.down_proj"][4].any()
    check(f)


@pytest.mark.parametrize("mask", [np.zeros(7, bool), np.eye(7, dtype=bool)[3], np.ones(7, bool)])
def test_padding(mask: np.ndarray) -> None:
    for settings in (
        {"noise": "learned"},
        {"capacity": Capacity(factor=0.9, order="score"), "bias": True, "d_shared": 5},
    ):
        f = make(config(norm="l1", losses=ALL, **settings), mask=mask)
        check(f)
        _, dx, dp = f.both()
        assert not dx[~mask].any()
        if not mask.any():
            assert not any(g.any() for g in dp.values())


CONTROLS = {
    "softmax": {"norm": "l1", "router_bias": True},
    "noise": {"noise": "learned", "jitter": 0.25, "gated": False},
    "v3": {
        "score": "sigmoid",
        "norm": "l1",
        "selection_bias": True,
        "select": "group_limited",
        "n_group": 2,
        "scale": 2.5,
    },
    "capacity": {"norm": "l1", "capacity": Capacity(factor=0.9, order="probability", renorm="after"), "bias": True},
    "shared": {"d_shared": 9, "bias": True},
    "expert choice": {"select": "expert_choice", "score": "sigmoid"},
}


@pytest.mark.parametrize("name", CONTROLS)
def test_planted_faults_of_a_thousandth_are_caught(name: str) -> None:
    """Each gradient tensor with one entry off by 0.1 %, its sign turned, zeroed, or two rows swapped must fail."""
    f = make(config(losses=ALL, d_model=3, d_ff=2, n_experts=4, **CONTROLS[name]), 5)
    report = check(f, controls=True, mode="gradient")
    assert "planted faults caught" in report.notes[0]


def test_gradients_are_not_vacuous() -> None:
    """In the whole table every kind of parameter has a live gradient somewhere."""
    live: set[str] = set()
    for cfg, given in COMBINATIONS.values():
        live |= {n for n, g in make(cfg, **given).both()[2].items() if g.any()}
    every = {"router.weight", "router.bias", "router.noise_weight"}
    for branch in ("experts", "shared"):
        every |= {f"{branch}.{n}{b}" for n in ("gate_up_proj", "up_proj", "down_proj") for b in ("", "_bias")}
    assert live == every


def test_a_wrong_loss_coefficient_is_caught() -> None:
    """A backward that forgets the factor E of the balance loss, built from the real one, must not pass."""

    class Broken:
        forward = staticmethod(moe.forward)

        @staticmethod
        def backward(dy: Any, cache: Any, dlosses: Any = None) -> Any:
            return moe.backward(dy, cache, {n: d / 6 if n == "balance" else d for n, d in dlosses.items()})

    f = make(config(losses=ALL))
    with pytest.raises(GradientError, match="router.weight|'x'"):
        verify.gradcheck(Broken, f.x, f.p, f.cfg)


def test_a_million_parameters_along_random_directions() -> None:
    cfg = presets.deepseek_v3(d_model=96, d_ff=48, n_experts=72, k=6, n_group=8, topk_group=4, d_shared=64)
    f = make(cfg, 130)
    assert verify.directional(moe, f.x, f.p, cfg, directions=2).error <= 1e-13
