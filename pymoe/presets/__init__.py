"""Published routers by name.  Each returns a ``MoEConfig``; every setting can be overridden by keyword.

Keywords of ``RouterConfig`` and of ``MoEConfig`` are told apart by name:

>>> mixtral(d_model=8, d_ff=16, n_experts=4, k=2, losses=("z",), d_shared=4).router.losses
('z',)
"""

from pymoe.presets.adaptive import adamoe, hash_layer, moe_plus_plus, top_p
from pymoe.presets.balanced import quantile_balancing, s_base
from pymoe.presets.biased import deepseek_v3, deepseek_v4, ernie, inkling, logit_bias, longcat, sigmoid_bias
from pymoe.presets.papers import (
    dbrx,
    deepseek_v2,
    deepspeed_top1,
    deepspeed_top2,
    deepspeed_topk,
    expert_choice,
    fairscale_top2,
    gemma4,
    gpt_oss,
    gshard,
    llama4,
    megablocks,
    mixtral,
    noisy_topk,
    olmoe,
    switch,
    vmoe,
)

_ALL = (
    mixtral, olmoe, switch, gshard, fairscale_top2, deepspeed_top1, deepspeed_top2, deepspeed_topk, noisy_topk, vmoe,
    megablocks, dbrx, gpt_oss, llama4, gemma4, deepseek_v2, deepseek_v3, deepseek_v4, sigmoid_bias, logit_bias, ernie,
    longcat, inkling, hash_layer, top_p, adamoe, moe_plus_plus, expert_choice,
    s_base, quantile_balancing,
)  # fmt: skip
PRESETS = {f.__name__: f for f in _ALL}
__all__ = [
    "PRESETS",
    "adamoe",
    "dbrx",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v4",
    "deepspeed_top1",
    "deepspeed_top2",
    "deepspeed_topk",
    "ernie",
    "expert_choice",
    "fairscale_top2",
    "gemma4",
    "gpt_oss",
    "gshard",
    "hash_layer",
    "inkling",
    "llama4",
    "logit_bias",
    "longcat",
    "megablocks",
    "mixtral",
    "moe_plus_plus",
    "noisy_topk",
    "olmoe",
    "quantile_balancing",
    "s_base",
    "sigmoid_bias",
    "switch",
    "top_p",
    "vmoe",
]
