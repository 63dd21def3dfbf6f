"""Every form of the experts and of what goes round them: each pair of options under the complex step, and by a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import moe, verify
from pymoe.backend import tree
from pymoe.moe import Capacity, Form, Norm, experts, plan

from . import frames
from .frames import config, make

FORMS: dict[str, list[Any]] = {
    "form": [
        {},
        {"limit": 0.4},
        {"limit": 0.3, "clamp": "after"},
        {"limit": 0.5, "gate_alpha": 1.702, "up_offset": 1.0},
        {"softcap": (0.75, 0.5)},
        {"activation": "gelu_tanh", "limit": 0.25, "up_offset": -0.5},
        {"activation": "relu_squared", "gated": False},
    ],
    "bias": [False, True],
    "weight_at": ["output", "input", "pre_down"],
    "post_expert_norm": [None, Norm(0.125), Norm(0.25, "input")],
    "latent": [
        {},
        {"d_latent": 5},
        {"d_latent": 2, "latent_bias": True},
        {"d_latent": 5, "latent_norm": Norm(0.5, "input"), "latent_bias": True},
    ],
    "shared": [
        {},
        {"d_shared": 9},
        {"d_shared": 9, "shared": "gated", "shared_bias": True},
        {"d_shared": 9, "shared": "average", "shared_bias": False},
        {"d_shared": 9, "shared_form": Form("gelu", gated=False)},
        {"d_shared": 9, "shared": "gated", "shared_form": Form(limit=0.6)},
        {"d_shared": 9, "shared": "joint", "n_shared": 3, "shared_bias": False},
    ],
    "output_norm": [None, Norm(0.125), Norm(0.25, "input")],
    "output_bias": [False, True],
    "tied": [None, (1, 0, 2, 1, 0, 1)],
    "rule": [
        {"norm": "l1", "k": 3},
        {"score": "sigmoid", "capacity": Capacity(factor=0.9, minimum=1, order="choice")},
        {"score": "sigmoid", "norm": "joint", "n_shared_logits": 3},
    ],
    "scale": [{}, {"scale": -2.5}, {"scale": 1.75, "scale_at": "output"}],
    "null_experts": [
        (),
        ("zero", "identity"),
        ("skip", "constant", "copy", "constant"),
    ],
    "mask": [None, True],
}
COMBINATIONS = frames.design(FORMS)


def cover() -> list[str]:
    """A few combinations in which every value of every option occurs: what the quick run takes."""
    values = {name: {(at, value) for at, value in enumerate(name.split("-"))} for name in COMBINATIONS}
    left, chosen = set().union(*values.values()), []
    while left:
        chosen.append(max(values, key=lambda name: len(values[name] & left)))
        left -= values[chosen[-1]]
    return chosen


QUICK = cover()
MARKED = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in COMBINATIONS]


@pytest.mark.parametrize("name", MARKED)
def test_every_pair_of_options_in_random_directions(name: str) -> None:
    """Jointly and tensor by tensor; entry by entry is ``test_every_entry_of_every_pair``."""
    cfg, given = COMBINATIONS[name]
    f = make(cfg, 5, **given)
    assert verify.directional(moe, f.x, f.p, cfg, directions=2, mask=f.mask, draws=f.draws).error <= 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMBINATIONS)[::4])
def test_every_entry_of_every_pair(name: str) -> None:
    cfg, given = COMBINATIONS[name]
    f = make(cfg, 4, **given)
    report = verify.gradcheck(moe, f.x, f.p, cfg, mask=f.mask, draws=f.draws, mode="gradient")
    assert report.error <= 1e-13


def test_gradients_are_not_vacuous() -> None:
    """In the whole table every kind of parameter has a live gradient somewhere, and every limit cuts something."""
    live: set[str] = set()
    every: set[str] = set()
    for cfg, given in COMBINATIONS.values():
        f = make(cfg, 5, **given)
        every |= set(tree.flatten(f.p))
        live |= {n for n, g in f.both()[2].items() if g.any()}
    assert live == every and len(every) > 20


CONTROLS: dict[str, dict[str, Any]] = {
    "gpt-oss": {"limit": 0.5, "gate_alpha": 1.702, "up_offset": 1.0, "bias": True},
    "clamped after, at the input": {"limit": 0.3, "clamp": "after", "weight_at": "input", "d_shared": 9},
    "latent and normed": {
        "d_latent": 2,
        "latent_norm": Norm(),
        "post_expert_norm": Norm(0.1, "input"),
        "output_bias": True,
    },
    "joint": {
        "score": "sigmoid",
        "norm": "joint",
        "n_shared_logits": 3,
        "d_shared": 9,
        "shared": "joint",
        "n_shared": 3,
        "scale": 2.5,
        "scale_at": "output",
    },
    "null experts": {"null_experts": ("constant", "identity"), "k": 4, "norm": "none", "d_ff": 4},
    "gated shared": {"d_shared": 9, "shared": "gated", "output_norm": Norm(0.1), "weight_at": "pre_down", "bias": True},
}


@pytest.mark.parametrize("name", CONTROLS)
def test_planted_faults_of_a_thousandth_are_caught(name: str) -> None:
    f = make(config(**{"norm": "l1", "losses": (), "d_ff": 2, "n_experts": 3, **CONTROLS[name]}), 4)
    report = verify.gradcheck(moe, f.x, f.p, f.cfg, controls=True, mode="gradient")
    assert report.error <= 1e-13 and "planted faults caught" in report.notes[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"output_bias": True},
        {"output_norm": Norm(0.1), "d_shared": 9, "shared": "average"},
        {"d_latent": 2},
        {"d_latent": 2, "latent_bias": True, "latent_norm": Norm()},
        {"d_shared": 9, "shared": "gated", "bias": True},
        {"null_experts": ("constant", "identity"), "k": 5},
        {"weight_at": "input", "bias": True, "post_expert_norm": Norm(0.1)},
    ],
)
def test_padding_gets_zeros_and_gives_none(settings: dict[str, Any]) -> None:
    """NaN in a padding token, infinity in its cotangent: nothing of it comes out, and the rest is as without it."""
    f = make(config(losses=(), **settings), mask=True)
    f = f._replace(p=tree.map(lambda a: frames.frozen(a + 0.5), f.p))
    real = f.mask
    dirty, upstream = f.x.copy(), f.dy.copy()
    dirty[~real], upstream[~real] = np.nan, np.inf
    out, dx, dp = f.both(x=dirty, dy=upstream)
    assert not out.y[~real].any() and not dx[~real].any()
    alone, want_dx, want = f.both(x=f.x[real], dy=f.dy[real], mask=None)
    assert frames.relative(out.y[real], alone.y) <= 64 * frames.U64
    assert frames.relative(dx[real], want_dx) <= 64 * frames.U64
    for n, g in want.items():
        assert frames.relative(dp[n], g) <= 256 * frames.U64, n


def test_a_sentinel_id_gets_and_gives_exactly_nothing() -> None:
    """id == E, as kernels mark another worker's expert: a null expert "zero".  Only its own weight could move it."""
    cfg = config(null_experts=("zero",), select="given", norm="none", losses=(), k=3)
    f = make(cfg, 5)
    idx = np.array([[0, 6, 3], [6, 2, 5], [1, 4, 6], [3, 0, 1], [5, 6, 4]])  # 6 = E: nobody's
    out, cache = moe.forward(f.x, f.p, cfg, given=moe.Given(idx=idx))
    dx, dp = moe.backward(f.dy, cache)
    none = idx == 6
    g = np.where(none, 0.0, out.routing.weight)
    chosen = plan.make(np.where(none, 0, idx), ~none, 6)
    y, own = experts.forward(f.x, g, f.p["experts"], chosen, form=cfg.form)
    assert out.y.tobytes() == y.tobytes()
    _, d = experts.backward(f.dy, own)
    assert all(dp["experts"][n].tobytes() == d[n].tobytes() for n in dp["experts"]) and not d["g"][none].any()
    unused = moe.forward(f.x, f.p, cfg, given=moe.Given(idx=np.full_like(idx, 6) - np.arange(3) * np.array([[1]])))
    rows = unused[0].routing.load
    assert rows[:4].sum() == 0 and rows[6] == 5
    grads = moe.backward(f.dy, unused[1])[1]["experts"]
    assert not any(a[:4].any() for a in grads.values()) and all(a[4:].any() for a in grads.values())
