"""The second third of a router, s (+ bias) -> who.  No gradient, ever: a choice is piecewise constant.

A rule is a module with ``select(c, cfg, real_token) -> (idx, kept)``: c (T, E) real numbers, higher is better;
idx (T, K) distinct expert ids; kept (T, K) bool, or None when all are kept.  Ties go to the lowest id.  The two that
compare nothing, ``table`` and ``given``, take what they look up by keyword, and may name an expert twice.
"""

from __future__ import annotations

from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.moe.select import (
    assignment,
    expert_choice,
    given,
    group_limited,
    quantile,
    sinkhorn,
    table,
    top_p,
    topk,
)

SELECTORS: dict[str, Any] = {
    "topk": topk,
    "group_limited": group_limited,
    "expert_choice": expert_choice,
    "top_p": top_p,
    "table": table,
    "given": given,
    "assignment": assignment,
    "sinkhorn": sinkhorn,
    "quantile": quantile,
}


def get(rule: Any) -> Any:
    """The module of a name, or the caller's own module."""
    if isinstance(rule, str):
        if rule not in SELECTORS:
            raise ConfigError(f"select must be one of {sorted(SELECTORS)} or a module, got {rule!r}")
        return SELECTORS[rule]
    if not hasattr(rule, "select"):
        raise ConfigError(f"a selection rule needs select(c, cfg, real_token); {rule!r} has not")
    return rule
