"""The one door to the loop oracles: import from here."""

from __future__ import annotations

from .dispatch_loops import capacity_of, keep_pairs, second_choice_offered
from .expert_loops import expert_backward, expert_forward
from .layer_backward_loops import moe_loop_backward
from .layer_loops import moe_loop, route
from .loss_loops import (
    balance,
    balance_backward,
    cv_squared,
    cv_squared_backward,
    smooth_load_of_token,
    smooth_load_of_token_backward,
    z_loss,
    z_loss_backward,
)
from .routing_loops import bias_update, expert_choice, renormalise, renormalise_backward, select_experts, top_ids
from .settings import DEFAULTS, complete, flatten

__all__ = [
    "DEFAULTS",
    "balance",
    "balance_backward",
    "bias_update",
    "capacity_of",
    "complete",
    "cv_squared",
    "cv_squared_backward",
    "expert_backward",
    "expert_choice",
    "expert_forward",
    "flatten",
    "keep_pairs",
    "moe_loop",
    "moe_loop_backward",
    "renormalise",
    "renormalise_backward",
    "route",
    "second_choice_offered",
    "select_experts",
    "smooth_load_of_token",
    "smooth_load_of_token_backward",
    "top_ids",
    "z_loss",
    "z_loss_backward",
]
