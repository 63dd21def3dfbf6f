"""The settings of a router as frozen values, checked when they are made.

A router is score -> select -> weigh.  Each of the three is a name (of the tables in ``score``, ``select``) or a module
of the caller's with the same functions, so that a new rule is a file of its own and never an edit here.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

from pymoe.backend.errors import ConfigError, check_integer

SCORES = ("softmax", "sigmoid")  # the names of ``score.SCORES``
SELECTORS = ("topk", "group_limited", "expert_choice")  # of ``select.SELECTORS``


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {allowed}, got {value!r}")


def finite(name: str, value: float, least: float = -math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value) or value < least:
        bound = "" if least == -math.inf else f" and at least {least}"
        raise ConfigError(f"{name} must be a finite number{bound}, got {value!r}")


def rule(name: str, value: Any, known: tuple[str, ...], functions: tuple[str, ...]) -> None:
    """A known name, or a module (or object) that has the functions of such a rule."""
    if isinstance(value, str):
        if value not in known:
            raise ConfigError(
                f"{name} must be one of {known}, or a module with {' and '.join(functions)}, got {value!r}"
            )
    elif not all(callable(getattr(value, f, None)) for f in functions):
        raise ConfigError(f"a {name} rule needs {' and '.join(functions)}; {value!r} has not")


@dataclasses.dataclass(frozen=True)
class Capacity:
    """How many tokens an expert takes, and which are dropped when more want it.

    C = max(minimum, min(T, r(factor · K · T / E))), r = floor or ceil; T counts real tokens only.

    ============= =====================================================================================================
    order         who comes first in the queue of an expert
    ============= =====================================================================================================
    token         token by token, a token's choices in their rank order (Switch, k = 1)
    choice        all first choices, then all second choices, ... (GShard, arXiv:2006.16668)
    score         as ``choice``, tokens in descending order of their best score (V-MoE's BPR, arXiv:2106.05974)
    probability   by descending score within the expert (DeepSpeed ``probs``, Megatron)
    ============= =====================================================================================================

    renorm: are the weights normalised ``before`` the drop (mesh) or ``after`` it (fairscale, DeepSpeed: the survivor of
    a half-dropped token gets weight 1)?  Whether later choices queue behind the *kept* or behind *all* earlier ones
    makes no difference to who is kept: min(n, C) and n leave the same C - n places, or none.
    """

    factor: float = 1.25
    minimum: int = 0
    rounding: str = "floor"
    order: str = "token"
    renorm: str = "before"

    def __post_init__(self) -> None:
        finite("capacity factor", self.factor, 0)
        check_integer("capacity minimum", self.minimum, 0)
        one_of("capacity rounding", self.rounding, ("floor", "ceil"))
        one_of("capacity order", self.order, ("token", "choice", "score", "probability"))
        one_of("capacity renorm", self.renorm, ("before", "after"))


@dataclasses.dataclass(frozen=True)
class RouterConfig:
    """score -> select -> weigh, and what goes round it.  ``pymoe.presets`` has the published combinations.

    n_experts, k     E experts, K choices a token (expert choice: k is the mean number of choices)
    score            z -> s: "softmax", "sigmoid", or a module with forward(z), backward(ds, cache)
    select           s (+ bias) -> idx: "topk", "group_limited", "expert_choice", or a module with select(...)
    norm, eps, scale s[idx] -> g: "none" | "l1" (v / (Σv + eps)), then times scale
    bias             a bias on the logits (trained)
    selection_bias   a bias that only selects; no gradient; moved by ``moe.bias_update`` (arXiv:2408.15664)
    n_group, topk_group, group_score   groups of experts; score of a group "max" (DeepSeek-V2) | "top2" (V3)
    noise            "none" | "learned" (arXiv:1701.06538, eq. 4)
    jitter           the router's input (and nothing else) times U(1 - jitter, 1 + jitter) (arXiv:2101.03961)
    second_threshold GShard's random second choice: kept with probability min(1, g₂ / threshold); None keeps all
    skip             dynamic skipping: a later choice of a weight below skip times the first's is dropped, before any
                     capacity, and the others renormalised (arXiv:2402.14800, sec. 3); equal stays; None and 0 keep all
    capacity         None is dropless
    losses           which of "balance", "z", "importance", "load" are computed
    balance_choices  "all" choices count for f, or the "first" only (GShard)
    cv_ddof, cv_eps  CV² = Var / (mean² + eps), variance with ddof (the paper: 0, many ports: 1 and 1e-10)
    nonfinite        "raise" on NaN or +inf logits, or "propagate" within that token's row
    """

    n_experts: int
    k: int
    score: Any = "softmax"
    select: Any = "topk"
    norm: str = "none"
    eps: float = 0.0
    scale: float = 1.0
    bias: bool = False
    selection_bias: bool = False
    n_group: int = 1
    topk_group: int = 1
    group_score: str = "top2"
    noise: str = "none"
    jitter: float = 0.0
    second_threshold: float | None = None
    skip: float | None = None
    capacity: Capacity | None = None
    losses: tuple[str, ...] = ("balance", "z")
    balance_choices: str = "all"
    cv_ddof: int = 0
    cv_eps: float = 0.0
    nonfinite: str = "raise"

    def __post_init__(self) -> None:
        check_integer("n_experts", self.n_experts)
        check_integer("k", self.k)
        if self.k > self.n_experts:
            raise ConfigError(f"k must not exceed n_experts: got k={self.k}, n_experts={self.n_experts}")
        rule("score", self.score, SCORES, ("forward", "backward"))
        rule("select", self.select, SELECTORS, ("select",))
        one_of("norm", self.norm, ("none", "l1"))
        finite("eps", self.eps, 0)
        finite("scale", self.scale)
        one_of("group_score", self.group_score, ("max", "top2"))
        one_of("noise", self.noise, ("none", "learned"))
        one_of("balance_choices", self.balance_choices, ("all", "first"))
        one_of("nonfinite", self.nonfinite, ("raise", "propagate"))
        check_integer("n_group", self.n_group)
        check_integer("topk_group", self.topk_group)
        if self.n_experts % self.n_group or self.topk_group > self.n_group:
            raise ConfigError(
                "groups must divide the experts and topk_group must not exceed n_group: "
                f"got n_experts={self.n_experts}, n_group={self.n_group}, topk_group={self.topk_group}"
            )
        if self.k > self.topk_group * (self.n_experts // self.n_group):
            held = self.topk_group * (self.n_experts // self.n_group)
            raise ConfigError(f"the {self.topk_group} chosen groups hold {held} experts, fewer than k={self.k}")
        if self.n_group > 1 and self.select in ("topk", "expert_choice"):
            raise ConfigError(f"n_group > 1 needs select='group_limited', got {self.select!r}")
        if isinstance(self.losses, str):
            raise ConfigError(f"losses must be a tuple of names, got the string {self.losses!r}")
        for name in self.losses:
            one_of("losses", name, ("balance", "z", "importance", "load"))
        object.__setattr__(self, "losses", tuple(self.losses))
        if self.second_threshold is not None:
            finite("second_threshold", self.second_threshold)
            if self.k != 2 or self.second_threshold <= 0:
                raise ConfigError(
                    f"second_threshold is for k=2 and must be positive, got {self.second_threshold} with k={self.k}"
                )
        if self.skip is not None:
            finite("skip", self.skip, 0)
        check_integer("cv_ddof", self.cv_ddof, 0)
        finite("cv_eps", self.cv_eps, 0)
        finite("jitter", self.jitter)
        if self.noise == "learned" and self.k >= self.n_experts and "load" in self.losses:
            raise ConfigError(
                "the load loss of noisy top-k needs k < n_experts: with k = n_experts every expert is certain"
            )
        if self.cv_ddof >= self.n_experts and {"importance", "load"} & set(self.losses):
            raise ConfigError(f"cv_ddof must be smaller than n_experts, got {self.cv_ddof} and {self.n_experts}")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"jitter must be in [0, 1), got {self.jitter!r}")
        if self.select == "expert_choice":
            self._experts_choose()

    def _experts_choose(self) -> None:
        """What has no meaning when an expert chooses its tokens."""
        if self.capacity is not None:
            raise ConfigError("expert choice has its own capacity, k·T/E tokens an expert: leave capacity=None")
        if self.norm != "none":
            raise ConfigError("expert choice weighs by the score itself (arXiv:2202.09368, eq. 2): leave norm='none'")
        if self.second_threshold is not None or self.skip is not None or self.balance_choices != "all":
            raise ConfigError(
                "with expert choice a token has no first and second choice: leave second_threshold=None, "
                "skip=None, balance_choices='all'"
            )
        if self.selection_bias:
            raise ConfigError("expert choice compares tokens, not experts: a selection bias would change nothing")
