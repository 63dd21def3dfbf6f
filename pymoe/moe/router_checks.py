"""Which settings of a router have a meaning, and which mean something together.  A ConfigError names the rule."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

from pymoe.backend.errors import ConfigError, check_integer

if TYPE_CHECKING:
    from pymoe.moe.router_config import RouterConfig

SCORES = ("softmax", "sigmoid", "sqrtsoftplus", "relu", "identity")  # the names of ``score.SCORES``
SELECTORS = (  # of ``select.SELECTORS``
    "topk",
    "group_limited",
    "expert_choice",
    "top_p",
    "table",
    "given",
    "assignment",
    "sinkhorn",
    "quantile",
)
LOSSES = ("balance", "balance_second", "z", "importance", "load", "entropy", "l1")
NULL_KINDS = ("zero", "identity", "copy", "constant", "skip")

WORDS: dict[str, tuple[Any, ...]] = {
    "score_at": ("all", "chosen"),
    "select_on": ("scores", "logits"),
    "norm": ("none", "l1", "clamp", "lp", "joint"),
    "scale_at": ("weights", "output"),
    "input_norm": (None, "rms"),
    "group_score": ("max", "top2", "sum_topm"),
    "noise": ("none", "learned", "gaussian"),
    "jitter_form": ("uniform", "dropout"),
    "sample": ("none", "all", "second"),
    "second_policy": ("random", "threshold", "none"),
    "second_gate": ("weight", "score"),
    "null_norm": ("all", "true", "nonzero"),
    "null_balance": ("each", "mean"),
    "balance_choices": ("all", "first"),
    "balance_of": ("scores", "softmax"),
    "balance_over": ("batch", "sequence"),
    "balance_normalise": ("token", "total"),
    "balance_factor": ("switch", "fairscale", "mixtral"),
    "importance_of": ("weights", "scores"),
    "nonfinite": ("raise", "propagate"),
}
AT_LEAST: dict[str, float] = {
    "eps": 0, "cv_eps": 0, "input_norm_eps": 0, "noise_std": 0, "scale": -math.inf, "jitter": -math.inf,
    "input_multiplier": -math.inf, "logit_multiplier": -math.inf, "norm_p": 1, "top_p": 0,
}  # fmt: skip


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


def check(cfg: RouterConfig) -> None:
    """ConfigError unless every setting has a meaning, by itself and beside the others."""
    check_integer("n_experts", cfg.n_experts)
    check_integer("k", cfg.k)
    for kind in cfg.null_experts:
        one_of("null_experts", kind, NULL_KINDS)
    if cfg.k > cfg.n_ids:
        raise ConfigError(f"k must not exceed n_experts: got k={cfg.k}, n_experts={cfg.n_ids}")
    rule("score", cfg.score, SCORES, ("forward", "backward"))
    rule("select", cfg.select, SELECTORS, ("select",))
    for name, allowed in WORDS.items():
        one_of(name, getattr(cfg, name), allowed)
    for name, least in AT_LEAST.items():
        finite(name, getattr(cfg, name), least)
    for loss in cfg.losses:
        one_of("losses", loss, LOSSES)
    check_integer("cv_ddof", cfg.cv_ddof, 0)
    if not 0 <= cfg.jitter < 1:
        raise ConfigError(f"jitter must be in [0, 1), got {cfg.jitter!r}")
    if cfg.soft_cap is not None:
        finite("soft_cap", cfg.soft_cap)
        if cfg.soft_cap <= 0:
            raise ConfigError(f"soft_cap must be positive, got {cfg.soft_cap}")
    if cfg.skip is not None:
        finite("skip", cfg.skip, 0)
    _groups(cfg)
    _second(cfg)
    _losses(cfg)
    _weights(cfg)
    _sources(cfg)
    if cfg.select == "expert_choice":
        _experts_choose(cfg)


def _groups(cfg: RouterConfig) -> None:
    check_integer("n_group", cfg.n_group)
    check_integer("topk_group", cfg.topk_group)
    check_integer("group_best", cfg.group_best)
    if cfg.n_ids % cfg.n_group or cfg.topk_group > cfg.n_group:
        raise ConfigError(
            "groups must divide the experts and topk_group must not exceed n_group: "
            f"got n_experts={cfg.n_ids}, n_group={cfg.n_group}, topk_group={cfg.topk_group}"
        )
    held = cfg.topk_group * (cfg.n_ids // cfg.n_group)
    if cfg.k > held:
        raise ConfigError(f"the {cfg.topk_group} chosen groups hold {held} experts, fewer than k={cfg.k}")
    if cfg.n_group > 1 and isinstance(cfg.select, str) and cfg.select != "group_limited":
        raise ConfigError(f"n_group > 1 needs select='group_limited', got {cfg.select!r}")


def _second(cfg: RouterConfig) -> None:
    """What concerns the second choice of two."""
    if cfg.second_threshold is not None:
        finite("second_threshold", cfg.second_threshold)
        if cfg.k != 2 or cfg.second_threshold <= 0:
            raise ConfigError(
                f"second_threshold is for k=2 and must be positive, got {cfg.second_threshold} with k={cfg.k}"
            )
    if cfg.second_policy == "threshold" and cfg.second_threshold is None:
        raise ConfigError("second_policy='threshold' needs second_threshold, got None")
    if cfg.second_policy == "none" and cfg.k != 2:
        raise ConfigError(f"second_policy='none' is for k=2, got k={cfg.k}")
    if cfg.sample != "none" and (cfg.select != "topk" or cfg.selection_bias):
        raise ConfigError("sample draws by the logits alone: it needs select='topk' and no selection bias")
    if cfg.sample == "second" and cfg.k < 2:
        raise ConfigError(f"sample='second' needs k of at least 2, got {cfg.k}")


def _losses(cfg: RouterConfig) -> None:
    wanted = set(cfg.losses)
    if cfg.noise != "none" and cfg.k >= cfg.n_ids and "load" in wanted:
        raise ConfigError(
            "the load loss of noisy top-k needs k < n_experts: with k = n_experts every expert is certain"
        )
    if cfg.noise == "gaussian" and not cfg.noise_std and "load" in wanted:
        raise ConfigError("the load loss divides by the noise: noise_std must be positive")
    if cfg.cv_ddof >= cfg.n_ids and {"importance", "load"} & wanted:
        raise ConfigError(f"cv_ddof must be smaller than n_experts, got {cfg.cv_ddof} and {cfg.n_ids}")
    if "balance_second" in wanted and cfg.k < 2:
        raise ConfigError(f"the loss balance_second needs k of at least 2, got {cfg.k}")
    if cfg.score == "identity" and {"balance", "balance_second"} & wanted and cfg.balance_of == "scores":
        raise ConfigError(
            "scores of any sign have no shares: with score='identity' set balance_of='softmax', or leave the loss out"
        )
    if cfg.score == "identity" and "importance" in wanted and cfg.importance_of == "scores":
        raise ConfigError("scores of any sign have no shares: with score='identity' leave importance_of='weights'")


def _weights(cfg: RouterConfig) -> None:
    """What concerns the norm."""
    if cfg.norm == "lp" and cfg.eps:
        raise ConfigError(f"norm='lp' has no eps, got {cfg.eps}")
    if (cfg.norm == "joint") != (cfg.n_shared_logits > 0):
        raise ConfigError(
            "norm='joint' weighs the chosen together with n_shared_logits shared experts: set both or neither, "
            f"got norm={cfg.norm!r}, n_shared_logits={cfg.n_shared_logits}"
        )
    check_integer("n_shared_logits", cfg.n_shared_logits, 0)
    if cfg.norm == "joint":
        after = cfg.capacity is not None and cfg.capacity.renorm == "after"
        other = cfg.score != "sigmoid" or cfg.score_at != "all" or cfg.select not in ("topk", "group_limited", "given")
        if other or cfg.noise != "none" or cfg.skip is not None or cfg.expert_scale or cfg.null_experts or after:
            raise ConfigError(
                "norm='joint' is σ(z) over the chosen and the shared: it needs score='sigmoid', score_at='all', a "
                "top-k selection, and no noise, skip, expert_scale, null_experts or renorm='after'"
            )
    if cfg.gate_residual and cfg.n_shared_logits:
        raise ConfigError("gate_residual adds up logits of the same ids: not with the logits of shared experts")
    if cfg.null_balance != "each" and not cfg.null_experts:
        raise ConfigError(f"null_balance={cfg.null_balance!r} is about null_experts, and there are none")
    if cfg.null_norm != "all" and (not cfg.null_experts or cfg.norm not in ("l1", "clamp", "lp")):
        raise ConfigError(
            f"null_norm={cfg.null_norm!r} leaves null experts out of a norm: it needs null_experts, and norm 'l1', "
            "'clamp' or 'lp'"
        )


def _sources(cfg: RouterConfig) -> None:
    """What concerns where the choice comes from."""
    check_integer("table_size", cfg.table_size, 0)
    if (cfg.select == "table") != (cfg.table_size > 0):
        raise ConfigError(
            "select='table' needs table_size, the number of token ids, and nothing else does: "
            f"got select={cfg.select!r}, table_size={cfg.table_size}"
        )
    if cfg.select == "assignment" and cfg.k != 1:
        raise ConfigError(f"a balanced assignment gives each token one expert: it needs k=1, got k={cfg.k}")
    if cfg.select == "sinkhorn" and cfg.selection_bias:
        raise ConfigError("select='sinkhorn' balances the columns itself: a selection bias on one would be taken out")
    if cfg.select in ("table", "given", "top_p") and cfg.selection_bias:
        raise ConfigError(f"select={cfg.select!r} compares nothing that a selection bias could move")
    if cfg.select == "top_p" and not 0 < cfg.top_p <= 1:
        raise ConfigError(f"top_p is a share in (0, 1], got {cfg.top_p}")
    if cfg.select == "top_p" and (cfg.select_on == "logits" or cfg.score_at == "chosen"):
        raise ConfigError("top_p adds up scores: it needs select_on='scores' and score_at='all'")


def _experts_choose(cfg: RouterConfig) -> None:
    """What has no meaning when an expert chooses its tokens."""
    if cfg.capacity is not None:
        raise ConfigError("expert choice has its own capacity, k·T/E tokens an expert: leave capacity=None")
    if cfg.norm != "none":
        raise ConfigError("expert choice weighs by the score itself (arXiv:2202.09368, eq. 2): leave norm='none'")
    if cfg.score_at != "all":
        raise ConfigError("with expert choice every expert is scored for every token: leave score_at='all'")
    if (
        cfg.second_threshold is not None
        or cfg.skip is not None
        or cfg.balance_choices != "all"
        or cfg.second_policy == "none"
        or "balance_second" in cfg.losses
    ):
        raise ConfigError(
            "with expert choice a token has no first and second choice: leave second_threshold=None, "
            "skip=None, balance_choices='all'"
        )
    if cfg.selection_bias:
        raise ConfigError("expert choice compares tokens, not experts: a selection bias would change nothing")
