"""A masked layer and what is read off a layer, against the loop layer at the masked weights."""

from __future__ import annotations

import numpy as np

from pymoe import moe
from pymoe.sparsity import masked, statistics

from ..oracles.expert_loops import expert_at, expert_forward
from ..oracles.layer_backward_loops import moe_loop_backward
from ..oracles.layer_loops import moe_loop
from ..oracles.settings import complete
from .oracles import mask_loops
from .oracles.judge import agree, close, locked
from .oracles.layers import KINDS, nested, params, tokens
from .test_experts_oracle import EVERY, config


@EVERY
def test_the_masked_layer_and_its_gradients(kind):
    """G11: the gradient of a pruned layer is the mask over the dense gradient at the masked weights."""
    for seed in range(2):
        p, x = params(seed, kind), tokens(seed)
        cfg, tree = config(p, kind), nested(p)
        chosen = {name: locked(mask_loops.magnitude(a, 0.57)) for name, a in p.items() if name.endswith("_proj")}
        thin = dict(p)
        for name, mask in chosen.items():
            thin[name] = np.array(p[name])
            for i in mask_loops.places(mask.shape):
                thin[name][i] = p[name][i] if mask[i] else 0.0
        dy = locked(np.random.default_rng(seed).standard_normal(x.shape))
        out, cache = masked.forward(x, tree, cfg, chosen)
        agree(out.y, moe_loop(x, thin, KINDS[kind])["y"])
        dx, dp = masked.backward(dy, cache)
        want_dx, want = moe_loop_backward(x, thin, KINDS[kind], dy, {})
        agree(dx, want_dx)
        for name in p:
            branch, leaf = name.split(".")
            full = np.asarray(want[name]) if name in want else np.zeros(p[name].shape)
            kept = full * chosen[name] if name in chosen else full
            agree(dp[branch][leaf], kept)
            if name in chosen:
                assert np.all(dp[branch][leaf][~chosen[name]] == 0)
                assert not close(dp[branch][leaf], full, 1e-3)  # control: the dense gradient
        dense = moe_loop(x, p, KINDS[kind])["y"]
        assert not close(out.y, dense, 1e-3)


@EVERY
def test_outputs_logits_and_activations_of_all_experts_on_all_tokens(kind):
    p, x = params(3, kind), tokens(3)
    cfg, tree, settings = config(p, kind), nested(p), complete(KINDS[kind])
    said = [[expert_forward(row, expert_at(p, "experts", e), settings) for row in x.tolist()] for e in range(5)]
    agree(statistics.mean_outputs(x, tree, cfg), np.array([np.mean([o for o, _, _ in own], axis=0) for own in said]))
    agree(statistics.activations(x, tree, cfg), np.array([[h for _, _, h in own] for own in said]))
    agree(statistics.logits(x, tree, cfg), moe_loop(x, p, KINDS[kind])["logits"])
    assert moe.forward(x, tree, cfg)[0].y.shape == x.shape
