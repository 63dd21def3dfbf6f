"""Names, shapes and first values of the parameter tree."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import moe, presets
from pymoe.backend import tree
from pymoe.moe import parameters

from . import frames
from .frames import config


@pytest.mark.parametrize("name", presets.PRESETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_init_has_the_shapes_and_passes_the_check(name: str, dtype: type) -> None:
    shared = {"d_shared": 6} if name == "inkling" else {"bias": True, "d_shared": 5}
    for more in ({}, {"router_bias": True, **shared}):
        cfg = presets.PRESETS[name](d_model=3, d_ff=4, n_experts=6, k=2, **more)
        p = moe.init(np.random.default_rng(0), cfg, dtype)
        assert {n: a.shape for n, a in tree.flatten(p).items()} == parameters.shapes(cfg)
        assert all(a.dtype == dtype for n, a in tree.flatten(p).items() if n != "router.table")
        parameters.check(p, cfg)


def test_every_option_that_has_a_parameter() -> None:
    every = config(
        router_bias=True, selection_bias=True, noise="learned", losses=(), bias=True, d_shared=5
    )  # fmt: skip
    assert parameters.shapes(every) == {
        "router.weight": (6, 3), "router.bias": (6,), "router.selection_bias": (6,), "router.noise_weight": (6, 3),
        "experts.gate_up_proj": (6, 8, 3), "experts.down_proj": (6, 3, 4),
        "experts.gate_up_proj_bias": (6, 8), "experts.down_proj_bias": (6, 3),
        "shared.gate_up_proj": (10, 3), "shared.down_proj": (3, 5),
        "shared.gate_up_proj_bias": (10,), "shared.down_proj_bias": (3,),
    }  # fmt: skip


def test_first_values() -> None:
    """Normal with variance 1 / fan_in, biases and noise weights zero, the same seed the same bits."""
    cfg = config(d_model=40, d_ff=60, n_experts=20, noise="learned", losses=(), bias=True)
    p = moe.init(np.random.default_rng(1), cfg)
    assert p["experts"]["gate_up_proj"].std() == pytest.approx(40**-0.5, rel=0.02)
    assert p["experts"]["down_proj"].std() == pytest.approx(60**-0.5, rel=0.02)
    assert not p["router"]["noise_weight"].any() and not p["experts"]["down_proj_bias"].any()
    again = moe.init(np.random.default_rng(1), cfg)
    assert frames.bits(*tree.flatten(p).values()) == frames.bits(*tree.flatten(again).values())
