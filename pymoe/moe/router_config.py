"""The settings of a router as frozen values, checked when they are made (the checks: ``router_checks``).

A router is score -> select -> weigh.  Score and select are a name (of the tables in ``score``, ``select``) or a module
of the caller's with the same functions, so that a new rule is a file of its own and never an edit here.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from pymoe.backend.errors import ConfigError, check_integer
from pymoe.moe import router_checks
from pymoe.moe.router_checks import finite, one_of

ORDERS = ("token", "interleaved", "choice", "score", "score_token", "probability", "random")
PLACES = (
    "plain", "switch", "gshard", "deepspeed", "megatron", "megablocks", "tutel", "vmoe", "maxtext", "nllb", "fraction",
)  # fmt: skip
READ_BY: dict[str, tuple[str, ...]] = {  # which rules have this in their formula
    "minimum": ("plain", "switch", "gshard", "deepspeed", "megatron"),
    "rounding": ("plain", "vmoe"),
    "multiple": ("tutel", "vmoe"),
}


@dataclasses.dataclass(frozen=True)
class Capacity:
    """How many tokens an expert takes, and which are dropped when more want it.

    T counts real tokens only, E experts, K choices; cf is ``factor``, m ``minimum``.  A minimum, a rounding or a
    multiple that the rule does not have is refused.

    ============= =====================================================================================================
    rule          C, the places of each expert
    ============= =====================================================================================================
    plain         max(m, min(T, r(cf K T / E))), r the ``rounding``: floor or ceil
    switch        max(min(T, int(T cf / E)), m): no factor K (arXiv:2101.03961; mesh)
    gshard        max(K T // E, m): no cf (fairscale)
    deepspeed     max(ceil(K T / E cf), m)
    megatron      min(max(ceil(T K / E cf), m), T)
    megablocks    int(cf K T / E); cf = 0: nothing is dropped (arXiv:2211.15841)
    tutel         K int(cf ceil(T / E)), then up to a multiple of ``multiple``; cf <= 0: as many as the fullest expert
                  is offered, and with cf < 0 no more than K int(-cf ceil(T / E))
    vmoe          r(K T cf / E), then up to a multiple of ``multiple``, theirs is 4 (arXiv:2106.05974)
    maxtext       int(max(ceil(T K / E) cf, cf)): rounded up before cf
    nllb          2 ceil(T / E) (theirs was kept on the module after the first batch; here it follows T)
    fraction      ceil(cf T): the evaluation rule of fairseq and NLLB
    ============= =====================================================================================================

    ============= =====================================================================================================
    order         who comes first in the queue of an expert
    ============= =====================================================================================================
    token         token by token, a token's choices in their rank order (Switch, k = 1); ``interleaved`` is maxtext's
                  name for the same
    choice        all first choices, then all second choices, ... (GShard, arXiv:2006.16668)
    score         as ``choice``, tokens in descending order of their best priority (V-MoE's BPR, arXiv:2106.05974)
    score_token   as ``token``, tokens in that order
    probability   by descending priority within the expert (DeepSpeed ``probs``, Megatron)
    random        by random priority within the expert (DeepSpeed's random token selection); without draws as ``token``
    ============= =====================================================================================================

    priority: the raw ``score`` of the choice, or its ``weight`` as it is before the drop, without the scale.
    per: ``batch``, or ``sequence``: each sequence has queues and a C of its own (T its real tokens).
    renorm: are the weights normalised ``before`` the drop (mesh) or ``after`` it (fairscale, DeepSpeed: the survivor of
    a half-dropped token gets weight 1)?  Whether later choices queue behind the *kept* or behind *all* earlier ones
    makes no difference to who is kept: min(n, C) and n leave the same C - n places, or none.
    """

    factor: float = 1.25
    minimum: int = 0
    rounding: str = "floor"
    order: str = "token"
    renorm: str = "before"
    rule: str = "plain"
    multiple: int = 1
    priority: str = "score"
    per: str = "batch"

    def __post_init__(self) -> None:
        one_of("capacity rule", self.rule, PLACES)
        finite("capacity factor", self.factor, -math.inf if self.rule == "tutel" else 0)
        check_integer("capacity minimum", self.minimum, 0)
        check_integer("capacity multiple", self.multiple)
        one_of("capacity rounding", self.rounding, ("floor", "ceil", "round"))
        for name, rules in READ_BY.items():
            value = getattr(self, name)
            if value != getattr(Capacity, name) and self.rule not in rules:
                raise ConfigError(
                    f"the capacity rule {self.rule!r} has no {name}, got {value!r}: it belongs to {', '.join(rules)}"
                )
        one_of("capacity order", self.order, ORDERS)
        one_of("capacity renorm", self.renorm, ("before", "after"))
        one_of("capacity priority", self.priority, ("score", "weight"))
        one_of("capacity per", self.per, ("batch", "sequence"))


@dataclasses.dataclass(frozen=True)
class RouterConfig:
    """score -> select -> weigh, and what goes round it.  ``pymoe.presets`` has the published combinations.

    **Logits**, z = m (W x' + b), soft-capped

    n_experts, k      E experts, K choices a token (expert choice: the mean number; top-p: the greatest)
    bias              a bias b on the logits (trained)
    input_norm        None | "rms": x' = x / √(mean x² + input_norm_eps) ⊙ router.input_scale (Gemma 4)
    input_multiplier  a factor on x' (Gemma 4: D^-1/2)
    gate_residual     W_g of the logits of the layer before is added, router.residual_weight: ``gate_residual`` (MoE++)
    logit_multiplier  m;  soft_cap: None, or the logits become cap tanh(z / cap)
    jitter            x' (and nothing else) times U(1 - jitter, 1 + jitter) (arXiv:2101.03961); jitter_form "dropout":
                      times 0 with probability jitter, else 1 / (1 - jitter)
    noise             "none" | "learned" (arXiv:1701.06538, eq. 4) | "gaussian": deviation noise_std / E (V-MoE)

    **Score and select**

    score             z -> s: "softmax", "sigmoid", "sqrtsoftplus", "relu", "identity", or a module with forward(z),
                      backward(ds, cache)
    score_at          "all" experts, then choose | "chosen": choose by the logits, then score the K chosen ones only
    select            who: "topk", "group_limited", "expert_choice", "top_p" (the fewest that hold the share ``top_p``),
                      "table" (by token id: router.table, (table_size, K)), "given" (by the caller), or a module with
                      select(...)
    select_on         what is compared: "scores" | "logits"; either with router.selection_bias added
    selection_bias    a bias that only selects; no gradient; moved by ``moe.bias_update`` (arXiv:2408.15664)
    n_group, topk_group, group_score   groups of experts; score of a group "max" (DeepSeek-V2) | "top2" (V3) |
                      "sum_topm", the sum of its ``group_best`` best
    sample            "none" | "all" choices, or the later ones ("second"), by Gumbel-max: logits plus Gumbel noise
    second_threshold, second_policy, second_gate   GShard's second choice, of gate g₂ ("weight", or the raw "score"):
                      "random": kept with probability min(1, g₂ / threshold) | "threshold": kept if g₂ > threshold |
                      "none": never.  Without a threshold the first two keep all
    skip              dynamic skipping: a later choice of a weight below skip times the first's is dropped, before any
                      capacity, and the others renormalised (arXiv:2402.14800, sec. 3); equal stays; None and 0 keep all
    null_experts      the kinds of extra ids E, E + 1, ...: "zero", "identity", "copy", "constant", "skip"

    **Weigh**

    norm, eps, norm_p s[idx] -> g: "none" | "l1": v / (Σv + eps) | "clamp": v / max(Σv, eps) | "lp": v / ‖v‖_p |
                      "joint": with the logits of ``n_shared_logits`` shared experts (Inkling), see ``joint``
    null_norm         which choices the norm sums over: "all" | "true" experts (AdaMoE) | "nonzero": all but the kinds
                      "zero" and "skip" (MoE++); the others get weight 0
    scale, scale_at   a factor on the "weights", or on the routed "output" (the layer applies it)
    global_scale, expert_scale   trained factors router.global_scale (1,), and router.expert_scale (E,), any sign
    capacity          None is dropless

    **Losses** (the formulas: ``pymoe.moe.losses``)

    losses            which of "balance", "balance_second", "z", "importance", "load", "entropy", "l1" are computed
    balance_choices   "all" choices count for f, or the "first" only (GShard)
    balance_of        P and f from the "scores", or from the "softmax" of the clean logits and its top-k
    balance_over      f and P of the whole "batch", or of each "sequence" and then the mean (DeepSeek-V3)
    balance_normalise scores are made shares "token" by token, or by their "total"
    balance_factor    "switch": E Σ f P | "fairscale": Σ f P / E | "mixtral": K E Σ f P
    null_balance      f of null experts: "each" its own | "mean": all have the mean of them (AdaMoE)
    importance_of     "weights" | "scores": the clean scores (V-MoE)
    cv_ddof, cv_eps   CV² = Var / (mean² + eps), variance with ddof (the paper: 0, many ports: 1 and 1e-10)
    nonfinite         "raise" on NaN or +inf logits, or "propagate" within that token's row
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
    score_at: str = "all"
    select_on: str = "scores"
    norm_p: float = 2.0
    scale_at: str = "weights"
    global_scale: bool = False
    expert_scale: bool = False
    input_norm: str | None = None
    input_norm_eps: float = 1e-6
    input_multiplier: float = 1.0
    logit_multiplier: float = 1.0
    soft_cap: float | None = None
    gate_residual: bool = False
    group_best: int = 2
    top_p: float = 0.5
    table_size: int = 0
    n_shared_logits: int = 0
    null_experts: tuple[str, ...] = ()
    null_norm: str = "all"
    null_balance: str = "each"
    noise_std: float = 1.0
    sample: str = "none"
    jitter_form: str = "uniform"
    second_policy: str = "random"
    second_gate: str = "weight"
    balance_of: str = "scores"
    balance_over: str = "batch"
    balance_normalise: str = "token"
    balance_factor: str = "switch"
    importance_of: str = "weights"

    def __post_init__(self) -> None:
        for name in ("losses", "null_experts"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigError(f"{name} must be a tuple of names, got the string {value!r}")
            object.__setattr__(self, name, tuple(value))
        router_checks.check(self)

    @property
    def n_ids(self) -> int:
        """E and the null experts: how many ids a choice may have."""
        return self.n_experts + len(self.null_experts)

    @property
    def n_logits(self) -> int:
        """The rows of router.weight: one for each id, then one for each jointly weighted shared expert."""
        return self.n_ids + self.n_shared_logits
