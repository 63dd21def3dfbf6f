"""A preset: what a paper fixes, and whatever the caller says otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.moe.config import MoEConfig
from pymoe.moe.router_config import RouterConfig

_ROUTER = {f.name for f in dataclasses.fields(RouterConfig)}
_LAYER = {f.name for f in dataclasses.fields(MoEConfig)} - {"router"}


def make(
    d_model: int, d_ff: int, n_experts: int, k: int, defaults: dict[str, Any], settings: dict[str, Any]
) -> MoEConfig:
    """``defaults``, then ``settings``: keywords of ``RouterConfig`` and of ``MoEConfig`` are told apart by their names.

    ``bias`` is that of the experts; ``router_bias`` that of the router.
    """
    merged = {**defaults, **settings}
    router_bias = merged.pop("router_bias", None)
    unknown = sorted(set(merged) - _ROUTER - _LAYER)
    if unknown:
        raise ConfigError(f"unknown settings {unknown}; a router has {sorted(_ROUTER)}, a layer {sorted(_LAYER)}")
    router = {name: merged.pop(name) for name in list(merged) if name in _ROUTER and name != "bias"}
    if router_bias is not None:
        router["bias"] = router_bias
    return MoEConfig(d_model, d_ff, RouterConfig(n_experts, k, **router), **merged)
