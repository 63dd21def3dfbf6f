"""What many families share: pieces of settings and of names, put together by the tables of the groups."""

from __future__ import annotations

from typing import Any

from pymoe.hf.blocks.family import Fields, Get, activation
from pymoe.hf.blocks.layouts import Layout, Pair, Same

Names = dict[str, Layout]


def normalised(flag: Any) -> str:
    return "l1" if flag else "none"


def sizes(f: str = "moe_intermediate_size") -> dict[str, Any]:
    """D, F, E, K and the activation; ``f`` is the field of the experts' width."""
    return {
        "d_model": Get("d_model"), "d_ff": Get(f), "n_experts": Get("n_experts"), "k": Get("k"),
        "activation": Get("activation", activation),
    }  # fmt: skip


# The loss of Mixtral's code, of one layer: E Σ f P with f not divided by K, of softmax whatever the router's score is.
POOLED: dict[str, Any] = {"losses": ("balance",), "balance_of": "softmax", "balance_factor": "mixtral"}
NO_LOSS: dict[str, Any] = {"losses": ()}


def times(*names: str) -> Any:
    """The product of fields: the width of n shared experts is n times that of one."""

    def value(fields: Fields) -> int:
        product = 1
        for name in names:
            product *= int(fields.maybe(name) or 0)
        return product

    return value


def router(name: str = "gate", weight: str = "weight", bias: str | None = None) -> Names:
    """Its matrix, and the selection bias where that is called ``bias`` (a full name)."""
    found: Names = {"router.weight": Same(f"{name}.{weight}"), "router.bias": Same(f"{name}.bias")}
    return found if bias is None else found | {"router.selection_bias": Same(bias)}


def stacked(name: str = "experts") -> Names:
    """(E, 2F, D) and (E, D, F), as pymoe has them."""
    return {
        "experts.gate_up_proj": Same(f"{name}.gate_up_proj"),
        "experts.up_proj": Same(f"{name}.up_proj"),
        "experts.down_proj": Same(f"{name}.down_proj"),
    }


def shared(name: str = "shared_experts") -> Names:
    """A feed-forward network with gate and up apart, with or without biases; or one without a gate."""
    at = f"{name}." if name else ""
    return {
        "shared.gate_up_proj": Pair(f"{at}gate_proj.weight", f"{at}up_proj.weight"),
        "shared.up_proj": Same(f"{at}up_proj.weight"),
        "shared.down_proj": Same(f"{at}down_proj.weight"),
        "shared.gate_up_proj_bias": Pair(f"{at}gate_proj.bias", f"{at}up_proj.bias", bias=True),
        "shared.up_proj_bias": Same(f"{at}up_proj.bias"),
        "shared.down_proj_bias": Same(f"{at}down_proj.bias"),
    }
