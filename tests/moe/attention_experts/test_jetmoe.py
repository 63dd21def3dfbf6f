"""MoA against transformers' JetMoeAttention in float64: output, logits, and the gradient of every parameter."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.moe import RouterConfig
from pymoe.moe.attention_experts import moa

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from ...hf.blocks.precise import Precise  # noqa: E402
from ..frames import relative  # noqa: E402

B, S, D, E, K, G, HEAD = 2, 5, 12, 7, 3, 2, 4


@pytest.mark.slow
def test_every_number_of_jetmoes_attention() -> None:
    from transformers.models.jetmoe.configuration_jetmoe import JetMoeConfig
    from transformers.models.jetmoe.modeling_jetmoe import JetMoeAttention

    published = JetMoeConfig(
        hidden_size=D, num_local_experts=E, num_experts_per_tok=K, num_key_value_heads=G, kv_channels=HEAD,
        num_attention_heads=G * K, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(3)
    layer = JetMoeAttention(published, layer_idx=0).double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn_like(weight) / weight.shape[-1] ** 0.5)
    rng = np.random.default_rng(4)
    x, dy, dz = (rng.standard_normal(s) for s in ((B, S, D), (B, S, D), (B * S, E)))
    given = torch.tensor(x, requires_grad=True)
    angle = np.arange(S)[:, None] * 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD)
    angle = torch.tensor(np.concatenate([angle, angle], 1))[None].expand(B, S, HEAD)
    causal = torch.full((S, S), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    with Precise() as watched:
        y, _, logits = layer(given, causal, (angle.cos(), angle.sin()))
        torch.autograd.backward([y, logits], [torch.tensor(dy), torch.tensor(dz)])
    assert watched.margin > 1e-5 and watched.answered

    cfg = moa.Config(D, G, HEAD, RouterConfig(E, K, score_at="chosen", losses=()), bias=True)
    names = {
        "q_proj": "experts.input_linear.weight", "o_proj": "experts.output_linear.weight", "kv_proj": "kv_proj.weight",
        "bias": "experts.bias",
    }  # fmt: skip
    theirs = dict(layer.named_parameters())
    p = {n: theirs[m].detach().numpy() for n, m in names.items()}
    p["router"] = {"weight": theirs["experts.router.layer.weight"].detach().numpy()}
    out, cache = moa.forward(x, p, cfg)
    dx, dp = moa.backward(dy, cache, dlogits=dz)
    errors = {
        "y": relative(out.y, y.detach()), "logits": relative(out.routing.logits, logits.detach()),
        "x": relative(dx, given.grad),
        "router": relative(dp["router"]["weight"], theirs["experts.router.layer.weight"].grad),
    } | {n: relative(dp[n], theirs[m].grad) for n, m in names.items()}  # fmt: skip
    assert max(errors.values()) <= 1e-12, errors

    swapped = {**p, "kv_proj": np.roll(p["kv_proj"], G * HEAD, axis=0)}  # control: values before keys
    assert relative(moa.forward(x, swapped, cfg)[0].y, y.detach()) > 1e-2
