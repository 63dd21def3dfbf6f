"""What a row of the table of blocks is: where its block is found, how it is made small, how its router is read.

A row names the folder and the config class; its block is found in the folder's modelling file.  ``tiny`` gives every
config the same awkward sizes (D = 8, F = 5, E = 6 or 9 with groups, k = 3 or 4, nothing at its default); ``variants``
are what is changed besides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

_SIZES: list[tuple[tuple[str, ...], Any]] = [
    (("hidden_size", "d_model"), 8),
    (("num_attention_heads", "num_key_value_heads", "num_heads", "n_heads", "encoder_attention_heads"), 2),
    (("decoder_attention_heads",), 2),
    (("norm_topk_prob", "moe_renormalize"), True),
    (
        (
            "routed_scaling_factor", "router_scaling_factor", "route_scale", "moe_router_scaling_factor",
            "moe_routed_scaling_factor",
        ),
        1.7,
    ),
    (("n_group", "num_expert_group"), 3),
    (("topk_group",), 2),
    (
        (
            "shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size",
            "share_expert_dim", "shared_experts_intermediate_size",
        ),
        7,
    ),
    (("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 2),
    (("swiglu_limit",), 0.3),
]  # fmt: skip
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOICES = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k", "top_k_experts")
_GROUPS = ("n_group", "num_expert_group")
_WIDTHS = ("moe_intermediate_size", "expert_ffn_hidden_size", "ffn_hidden_size", "intermediate_size", "d_ff")


def tiny(kind: Any) -> dict[str, Any]:
    """Small and unusual values for whatever of these a config class has."""
    has = {f.name for f in dataclasses.fields(kind)}
    found = {name: value for names, value in _SIZES for name in names if name in has}
    grouped = bool(has & set(_GROUPS))
    found |= {name: 9 if grouped else 6 for name in _EXPERTS if name in has}
    found |= {name: 4 if grouped else 3 for name in _CHOICES if name in has}
    widths = [name for name in _WIDTHS if name in has]
    return found | {name: 5 if i == 0 else 11 for i, name in enumerate(widths)}


def the(name: str, *more: Any) -> Callable[[Any, Any], Any]:
    """The class of that name, made from the config and ``more`` arguments."""
    return lambda module, cfg: getattr(module, name)(cfg, *more)


class Together(nn.Module):
    """What a decoder layer does with parts that are no module of their own: y = experts(x) (+ shared(x))."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Any) -> Any:
        if hasattr(self, "router"):  # Gemma: the router beside the experts
            flat = x.reshape(-1, x.shape[-1])
            _, weight, idx = self.router(flat)
            return self.experts(flat, idx, weight).reshape(x.shape)
        return self.block_sparse_moe(x) + self.shared_mlp(x)


def granite(prefix: str) -> Callable[[Any, Any], Any]:
    def build(module: Any, cfg: Any) -> Any:
        return Together(
            block_sparse_moe=getattr(module, f"{prefix}MoE")(cfg), shared_mlp=getattr(module, f"{prefix}MLP")(cfg)
        )

    return build


def gemma(prefix: str) -> Callable[[Any, Any], Any]:
    return lambda module, cfg: Together(
        router=getattr(module, f"{prefix}TextRouter")(cfg), experts=getattr(module, f"{prefix}TextExperts")(cfg)
    )


def gate(block: Any) -> Any:
    """The router inside a block, whatever it is called."""
    for name in ("gate", "router"):
        if hasattr(block, name):
            return getattr(block, name)
    return gate(block.block_sparse_moe)


def triple(block: Any, out: Any) -> tuple[Any, Any, Any]:
    """(logits, weights, indices) of what most routers give."""
    return out[0], out[1], out[2]


def pooled(module: Any, logits: Any, cfg: Any) -> Any:
    """Mixtral's loss on the logits of this layer alone."""
    return module.load_balancing_loss_func((logits,), logits.shape[-1], choices(cfg))


def choices(cfg: Any) -> int:
    for name in _CHOICES:
        if isinstance(getattr(cfg, name, None), int):
            return int(getattr(cfg, name))
    raise AssertionError(f"{type(cfg).__name__} names no number of choices")


def no_inputs(rng: np.random.Generator, cfg: Any, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    return {}


def no_table(rng: np.random.Generator, cfg: Any, shape: tuple[int, ...]) -> np.ndarray:
    raise AssertionError("a buffer of integers, and the row does not say what is in it")


def width(cfg: Any) -> int:
    return int(cfg.hidden_size)


@dataclasses.dataclass(frozen=True)
class Row:
    folder: str
    config: str
    build: Callable[[Any, Any], Any]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    aux: Callable[..., Any] | None = None
    router: Callable[[Any], Any] = gate
    routing: Callable[[Any, Any], tuple[Any, Any, Any]] = triple
    inputs: Callable[..., dict[str, np.ndarray]] = no_inputs
    table: Callable[..., np.ndarray] = no_table
    width: Callable[[Any], int] = width
    shape: tuple[int, int] = (2, 7)
    part: str | None = None  # what hf.config is told
    layer: int | None = None
    family: str | None = None  # where two rows are one family
    factor: float = 1.0  # of the loss: how often theirs is what pymoe calls by that name
    raw: Callable[[Any], Any] = lambda cfg: cfg  # what hf.config is given: as a rule the config object itself
