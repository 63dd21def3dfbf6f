"""Published routers by name.  Each returns a ``MoEConfig``; every setting can be overridden by keyword.

Keywords of ``RouterConfig`` and of ``MoEConfig`` are told apart by name:

>>> mixtral(d_model=8, d_ff=16, n_experts=4, k=2, losses=("z",), d_shared=4).router.losses
('z',)
"""

from pymoe.presets.papers import (
    deepseek_v2,
    deepseek_v3,
    expert_choice,
    gshard,
    mixtral,
    noisy_topk,
    olmoe,
    switch,
)

__all__ = [
    "PRESETS",
    "deepseek_v2",
    "deepseek_v3",
    "expert_choice",
    "gshard",
    "mixtral",
    "noisy_topk",
    "olmoe",
    "switch",
]

PRESETS = {f.__name__: f for f in (mixtral, olmoe, switch, gshard, noisy_topk, deepseek_v2, deepseek_v3, expert_choice)}
