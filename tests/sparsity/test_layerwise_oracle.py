"""SparseGPT on the experts of a layer: each by the tokens that the loop layer sends it, the way up first."""

from __future__ import annotations

import numpy as np

from pymoe.sparsity import layerwise

from ..oracles.expert_loops import expert_forward
from ..oracles.layer_loops import moe_loop
from .oracles import obs_loops
from .oracles.judge import agree, close, numbers, same
from .oracles.layers import KINDS, nested, params, tokens
from .test_experts_oracle import EVERY, config


def one_expert(x, own: dict, settings: dict, s: float, block: int, pruned_first: bool = True) -> tuple[dict, dict]:
    """(weights, masks) of an expert given as lists, from its routed tokens x."""
    up = "gate_up_proj" if "gate_up_proj" in own else "up_proj"
    w_up, mask_up = obs_loops.sparsegpt(np.array(own[up]), numbers(obs_loops.hessian(x)), s, block=block)
    new = {**own, up: numbers(w_up).tolist()}
    full = {"gated": up == "gate_up_proj", "activation": settings.get("activation", "silu")}
    h = np.array([expert_forward(row, new if pruned_first else own, full)[2] for row in x.tolist()])
    w_down, mask_down = obs_loops.sparsegpt(np.array(own["down_proj"]), numbers(obs_loops.hessian(h)), s, block=block)
    return {up: numbers(w_up), "down_proj": numbers(w_down)}, {up: mask_up, "down_proj": mask_down}


@EVERY
def test_each_expert_by_its_tokens(kind):
    p, x = params(1, kind, e=3, f=5), tokens(1, t=60)
    cfg, tree, s, block = config(p, kind), nested(p), 0.4, 3
    got = layerwise.prune(x, tree, cfg, s, block=block)
    chosen = moe_loop(x, p, KINDS[kind])["idx"]
    for e in range(3):
        own = {name: tree["experts"][name][e].tolist() for name in tree["experts"]}
        routed = x[[t for t in range(60) if e in chosen[t]]]
        assert len(routed) > 6
        want, masks = one_expert(routed, own, KINDS[kind], s, block)
        for name in want:
            same(got.masks["experts." + name][e], masks[name])
            agree(got.p["experts"][name][e], want[name])
        if kind != "sigmoid with a bias that selects":  # there k = 3 = E: every expert has every token
            everyone, _ = one_expert(x, own, KINDS[kind], s, block)  # control: the tokens of all experts
            assert not close(got.p["experts"]["down_proj"][e], everyone["down_proj"], 1e-6)
        dense_up, _ = one_expert(
            routed, own, KINDS[kind], s, block, pruned_first=False
        )  # control: h of the dense way up
        assert not close(got.p["experts"]["down_proj"][e], dense_up["down_proj"], 1e-6)
