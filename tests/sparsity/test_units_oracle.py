"""Hidden units: their norms number by number, and the cut layer against the loop layer with the units taken out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe import moe
from pymoe.sparsity import masked, units

from ..oracles.layer_loops import moe_loop
from .oracles import expert_scores
from .oracles.judge import agree, close, same
from .oracles.layers import KINDS, nested, params, tokens
from .test_experts_oracle import EVERY, config


def without_units(p: dict, kept: list[list[int]]) -> dict:
    """The flat parameters with only these units of each expert, one number at a time."""
    out = dict(p)
    for name, a in p.items():
        if not name.startswith("experts.") or name == "experts.down_proj_bias":
            continue
        if name == "experts.down_proj":
            out[name] = np.array([[[a[e, d, f] for f in own] for d in range(a.shape[1])] for e, own in enumerate(kept)])
        else:
            width = p["experts.down_proj"].shape[-1]
            halves = (0, width) if "gate_up" in name else (0,)
            out[name] = np.stack([np.stack([a[e, h + f] for h in halves for f in own]) for e, own in enumerate(kept)])
    return out


@EVERY
@pytest.mark.parametrize("order", [1, 2, math.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_norms(kind, order, dtype):
    for seed in range(3):
        p = {name: a.astype(dtype) for name, a in params(seed, kind, f=6).items()}
        cfg = config(p, kind)
        up = "experts.gate_up_proj" if cfg.gated else "experts.up_proj"
        want = expert_scores.unit_norms(p[up], p["experts.down_proj"], p.get(up + "_bias"), order, cfg.gated)
        agree(units.scores(nested(p, dtype)["experts"], cfg, order), want, "float64")
        if up + "_bias" in p and order != math.inf:  # control: the bias left out
            less = expert_scores.unit_norms(p[up], p["experts.down_proj"], None, order, cfg.gated)
            assert not close(units.scores(nested(p, dtype)["experts"], cfg, order), less, 1e-3)


@EVERY
def test_the_cut_layer(kind):
    for seed in range(2):
        p, x = params(seed, kind, f=6), tokens(seed)
        cfg, tree = config(p, kind), nested(p)
        score = units.scores(tree["experts"], cfg)
        for n in (1, 4, 6):
            kept = units.keep(score, n)
            same(kept, np.array([expert_scores.keep(row.tolist(), n) for row in score]))
            small, small_cfg = units.cut(tree, cfg, kept)
            want = moe_loop(x, without_units(p, kept.tolist()), KINDS[kind])["y"]
            agree(moe.forward(x, small, small_cfg)[0].y, want)
            agree(masked.forward(x, tree, cfg, units.as_masks(kept, cfg))[0].y, want)
        shifted = (units.keep(score, 4) + 1) % 6  # control: the neighbours of those units
        wrong = moe_loop(x, without_units(p, shifted.tolist()), KINDS[kind])["y"]
        assert not close(moe.forward(x, *units.cut(tree, cfg, units.keep(score, 4)))[0].y, wrong, 1e-3)
