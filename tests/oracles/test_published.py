"""The loops against published model code (transformers): a second reading of the papers by other people.

Those routers compute in float32 whatever the input, so values agree to float32; the chosen experts agree exactly.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from .cases import SIGMOID, TOPK, V2, V3, any_bias, make
from .loops import moe_loop
from .test_oracles import mismatch

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SINGLE = 64 * 2.0**-24
pytestmark = pytest.mark.slow  # importing the models takes seconds


def tensor(a):
    return torch.from_numpy(np.array(a))


def loaded(module, one, names):
    """The module in float64 with the weights of the case; names: its parameter -> that of the case."""
    module = module.to(torch.float64)
    leaves = dict(module.named_parameters()) | dict(module.named_buffers())
    assert set(leaves) == set(names)
    with torch.no_grad():
        for name, source in names.items():
            leaves[name].copy_(tensor(source if isinstance(source, np.ndarray) else one.params[source]))
    return module


def config(one, **more):
    n_experts, width, hidden = one.params["experts.down_proj"].shape
    full = one.settings
    return SimpleNamespace(
        num_local_experts=n_experts,
        num_experts=n_experts,
        num_experts_per_tok=full["k"],
        hidden_size=width,
        intermediate_size=hidden,
        moe_intermediate_size=hidden,
        hidden_act="silu",
        n_group=full.get("n_groups", 1),
        topk_group=full.get("topk_groups", 1),
        norm_topk_prob=full.get("renorm", False),
        routed_scaling_factor=full.get("scale", 1.0),
        n_shared_experts=2,
        mlp_bias=False,
        router_jitter_noise=0.0,
        _experts_implementation="eager",
        **more,
    )


BASE = {
    "gate.weight": "router.weight",
    "experts.gate_up_proj": "experts.gate_up_proj",
    "experts.down_proj": "experts.down_proj",
}


def with_shared(one):
    gate, up = np.split(one.params["shared.gate_up_proj"][0], 2)
    return BASE | {
        "shared_experts.gate_proj.weight": gate,
        "shared_experts.up_proj.weight": up,
        "shared_experts.down_proj.weight": one.params["shared.down_proj"][0],
    }


def agree(module, one):
    out = moe_loop(one.x, one.params, one.settings)
    with torch.no_grad():
        y = module(tensor(one.x)[None])[0].numpy()
        _, weight, idx = module.gate(tensor(one.x))
    combine = np.zeros_like(out["combine"])
    np.put_along_axis(combine, idx.numpy(), weight.numpy().astype(np.float64), -1)
    assert np.array_equal(combine != 0, out["combine"] != 0)
    assert mismatch(combine, out["combine"]) < SINGLE
    assert mismatch(y, out["y"]) < SINGLE
    assert mismatch(y * 1.001, out["y"]) > SINGLE


def test_mixtral():
    from transformers.models.mixtral import modeling_mixtral as published

    one = make("published mixtral", TOPK, T=33)
    agree(loaded(published.MixtralSparseMoeBlock(config(one)), one, BASE), one)
    logits = tensor(one.x @ one.params["router.weight"].T)
    theirs = float(published.load_balancing_loss_func((logits,), 7, 3))
    ours = moe_loop(one.x, one.params, one.settings)["losses"]["balance"]
    assert theirs == pytest.approx(3 * ours, rel=SINGLE)  # it lacks the division by k
    mask = np.arange(33) % 4 != 1
    theirs = float(published.load_balancing_loss_func((logits,), 7, 3, tensor(mask)[None]))
    ours = moe_loop(one.x, one.params, one.settings, mask)["losses"]["balance"]
    assert theirs == pytest.approx(3 * ours, rel=SINGLE)


def test_switch_losses():
    from transformers.models.switch_transformers import modeling_switch_transformers as published

    one = make("published switch", {"k": 1}, T=33)
    out = moe_loop(one.x, one.params, one.settings)
    theirs = float(published.load_balancing_loss_func(tensor(out["scores"])[None], tensor(out["idx"])[None]))
    assert theirs == pytest.approx(out["losses"]["balance"], rel=SINGLE)
    theirs = float(published.router_z_loss_func(tensor(out["logits"])[None]))
    assert theirs == pytest.approx(out["losses"]["z"], rel=1e-14)


def test_deepseek_v2():
    from transformers.models.deepseek_v2 import modeling_deepseek_v2 as published

    one = make("published v2", V2, T=33, E=8, shared=1, shared_width=12)
    block = published.DeepseekV2Moe(config(one, topk_method="group_limited_greedy"))
    agree(loaded(block, one, with_shared(one)), one)


@pytest.mark.parametrize("rule", [V3, {**SIGMOID, "k": 4}], ids=["groups", "no groups"])
def test_deepseek_v3(rule):
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as published

    one = make("published v3", rule, T=33, E=12, selection_bias=any_bias, shared=1, shared_width=12)
    names = with_shared(one) | {"gate.e_score_correction_bias": "router.selection_bias"}
    agree(loaded(published.DeepseekV3MoE(config(one)), one, names), one)


def test_gpt_oss_router():
    from transformers.models.gpt_oss import modeling_gpt_oss as published

    one = make("published gpt-oss", {"score": "softmax_topk", "k": 3}, T=33, router_bias=True)
    router = published.GptOssTopKRouter(config(one))
    router = loaded(router, one, {"weight": "router.weight", "bias": "router.bias"})
    with torch.no_grad():
        logits, weight, idx = router(tensor(one.x))
    out = moe_loop(one.x, one.params, one.settings)
    assert np.array_equal(idx.numpy(), out["idx"])
    assert mismatch(weight.numpy(), out["weight"]) < 1e-14 and mismatch(logits.numpy(), out["logits"]) < 1e-15
