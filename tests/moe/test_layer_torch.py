"""The layer against PyTorch autograd in float64, in the styles of published models: 1e-13 of each tensor's maximum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import moe, presets
from pymoe.backend import tree

from ..oracles.cases import make
from . import bridge
from .frames import relative

torch = pytest.importorskip("torch")

LOSSES = ("balance", "z")
STYLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # the settings of the oracle, and of the preset they must be
    "mixtral": ({"k": 2, "renorm": True, "losses": LOSSES}, {}),
    "olmoe": ({"k": 3, "losses": LOSSES}, {}),
    "deepseek_v3": (
        {
            "score": "sigmoid",
            "k": 3,
            "n_groups": 4,
            "topk_groups": 2,
            "group_score": "top2",
            "renorm": True,
            "scale": 2.5,
            "losses": (),
        },
        {"n_group": 4, "topk_group": 2, "losses": (), "d_shared": 4},
    ),
    "deepseek_v2": (
        {"k": 3, "n_groups": 4, "topk_groups": 2, "scale": 16.0, "losses": LOSSES},
        {"n_group": 4, "topk_group": 2, "scale": 16.0},
    ),
    "switch": (
        {
            "k": 1,
            "capacity_rule": "switch",
            "capacity_factor": 1.25,
            "capacity_min": 4,
            "gated": False,
            "activation": "relu",
            "losses": ("balance",),
        },
        {},
    ),
    "gshard": (
        {
            "k": 2,
            "renorm": True,
            "capacity_rule": "ceil",
            "drop_order": "choice",
            "balance_choices": "first",
            "gated": False,
            "activation": "relu",
            "losses": ("balance",),
        },
        {},
    ),
    "noisy_topk": (
        {
            "score": "softmax_topk",
            "noisy": True,
            "k": 2,
            "gated": False,
            "activation": "relu",
            "losses": ("importance", "load"),
        },
        {},
    ),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("where", ["none", "padding"])
def test_the_preset_agrees_with_autograd(style: str, where: str) -> None:
    from ..oracles.torch_layer import moe_torch_backward

    settings, preset = STYLES[style]
    biased = (lambda rng, n: rng.integers(-16, 17, n) / 16) if style == "deepseek_v3" else None
    mask = None if where == "none" else [[1, 1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]]
    case = make(
        f"torch {style} {where}", settings, E=8, shape=(3, 7), mask=mask, selection_bias=biased,
        shared=1 if style == "deepseek_v3" else 0,
    )  # fmt: skip
    cfg = presets.PRESETS[style](d_model=5, d_ff=6, n_experts=8, k=settings["k"], **preset)
    y, losses, dx, grads = moe_torch_backward(
        case.x, case.params, case.settings, case.dy, case.dlosses, case.mask, case.draws
    )
    out, cache = moe.forward(case.x, bridge.to_pymoe(case.params, cfg.gated), cfg, case.mask, bridge.draws(case))
    found_dx, dp = moe.backward(case.dy, cache, case.dlosses)
    assert relative(out.y, y) <= 1e-13
    assert out.losses.keys() == losses.keys()
    for name, value in losses.items():
        assert relative(out.losses[name], value) <= 1e-13, name
    assert relative(found_dx, dx) <= 1e-13
    found = bridge.from_pymoe(dp, case.params, cfg.gated)
    assert found.keys() == grads.keys()
    for name, g in grads.items():
        assert relative(found[name], g) <= 1e-13, name
        assert not g.any() or relative(found[name] * 1.001, g) > 1e-4, "control"
    assert tree.flatten(dp).keys() == tree.flatten(bridge.to_pymoe(case.params, cfg.gated)).keys()
    assert np.abs(dx).max() > 0
