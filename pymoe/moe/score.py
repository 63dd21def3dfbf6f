"""The first third of a router, z -> s: which op turns logits into scores.

A rule of your own is any module with ``forward(z) -> (s, cache)`` and ``backward(ds, cache) -> (dz, {})``; give the
module itself as ``RouterConfig.score``.
"""

from __future__ import annotations

from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.ops import identity, relu, sigmoid, softmax, sqrt_softplus

SCORES: dict[str, Any] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "sqrtsoftplus": sqrt_softplus,
    "relu": relu,
    "identity": identity,
}


def get(rule: Any) -> Any:
    """The op module of a name, or the caller's own module."""
    if isinstance(rule, str):
        if rule not in SCORES:
            raise ConfigError(f"score must be one of {sorted(SCORES)} or a module, got {rule!r}")
        return SCORES[rule]
    if not (hasattr(rule, "forward") and hasattr(rule, "backward")):
        raise ConfigError(f"a score rule needs forward(z) and backward(ds, cache); {rule!r} has not")
    return rule
