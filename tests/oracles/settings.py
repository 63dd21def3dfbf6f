"""The settings of the loop oracles: plain dict entries, each with its meaning.

``complete(settings)`` fills in the defaults and refuses unknown keys, so that a misspelt key cannot make an oracle
agree with a library that ignores the setting too.
"""

from __future__ import annotations

DEFAULTS: dict[str, object] = {
    # ---- score: h are the logits used for routing, h = z = x Wᵀ + b, or the noised ones if "noisy" ----
    # "softmax": s = softmax(h) over all experts.  "sigmoid": s = σ(h).
    # "softmax_topk": the choice is made on h itself and w = softmax over the k chosen logits (Mixtral, GPT-OSS, R1).
    "score": "softmax",
    # R1: h = z + noise ⊙ (softplus(x W_nᵀ) + 1e-2), params["router.noise_weight"] (E, D), draws["noise"] (T, E).
    # With no draws["noise"]: evaluation, h = z.
    "noisy": False,
    # ---- select ----
    # "topk": each token takes the k experts of greatest (s + selection bias), lowest id first among equals.
    # "expert_choice": each expert takes its C tokens of greatest s, lowest token first among equals; needs a capacity.
    "select": "topk",
    "k": 1,
    # Groups of E / n_groups neighbouring experts; only the topk_groups (None: all) best groups stay, the rest is −inf.
    "n_groups": 1,
    "topk_groups": None,
    "group_score": "max",  # of s + bias in the group: "max" (DeepSeek-V2) or "top2", the sum of the two best (V3)
    # ---- weigh: w = scale · renorm(s without bias) ----
    "renorm": False,  # L1 over the slots of the token
    "renorm_form": "add",  # "add": v / (Σ v + eps).  "clamp": v / max(Σ v, eps)
    "renorm_eps": 0.0,
    "renorm_when": "before",  # "before" the drop: over all k slots.  "after": over the kept slots
    "scale": 1.0,
    # ---- skipping (Lu 2024): a choice j >= 1 of v_j < skip v_0 is dropped, and renormalised weights are those of the
    # others; before anything else is dropped.  None: no choice is ----
    "skip": None,
    # ---- second choice (GShard; k == 2 only) ----
    # "all": always offered.  "random": offered if draws["second"][t] < g / second_threshold, i.e. with probability
    # min(1, g / second_threshold); a rejected choice takes no place in a queue.
    "second": "all",
    "second_threshold": 0.2,
    # g: "weight", the weight at that moment without scale (renormalised if renorm_when is "before"), or "score", raw s
    "second_gate": "weight",
    # ---- capacity: n tokens, E experts, cf = capacity_factor, m = capacity_min ----
    # None: dropless.  "fixed": capacity.  "switch": max(min(n, int(n·cf/E)), m).  "floor": max(int(cf·k·n/E), m).
    # "ceil": max(ceil(k·n/E·cf), m).  "gshard": max(k·n//E, m).  "expert_choice": min(n, max(int(n·cf/E), m)).
    "capacity_rule": None,
    "capacity": None,
    "capacity_factor": 1.0,
    "capacity_min": 0,
    "capacity_tokens": "real",  # n counts "real" tokens (padding changes nothing) or "all" of them
    # ---- drop order: who is in the first C of an expert ----
    # "token": t outer, slot inner.  "choice": slot outer, t inner (all first choices first).
    # "score": as "choice" with tokens in descending order of their best priority (V-MoE's batch priority).
    # "score_token": as "token" in that order.  "probability": within each expert the C greatest priorities.
    "drop_order": "token",
    "drop_offset": "kept",  # places before the j-th choices: "kept" (mesh) or "all" (fairscale) earlier choices
    "priority": "weight",  # "weight": pre-drop weight of the slot; "score": raw s of the slot
    # ---- experts ----
    "activation": "silu",  # relu relu_squared gelu gelu_tanh silu
    "gated": True,  # GLU h = act(gate) ⊙ up with gate_up_proj (E, 2F, D), gate first; else MLP h = act(up_proj x)
    # for each of the E ids the stored expert it stands for; None: its own.  params["experts.*"] have max + 1 matrices
    "tied": None,
    "weight_on": "output",  # y += w f(x); "input" (Llama 4): y += f(w x)
    # ---- losses ----
    "losses": (),  # of "balance", "z", "importance", "load"
    "balance_choices": "all",  # f counts "all" k choices / (k T_real), or the "first" ones / T_real (GShard)
    "importance_of": "weight",  # Σ_t of pre-drop "weight" (R1), or of the normalised "score" (V-MoE)
    "loss_logits": "clean",  # balance and z of the "clean" logits z or of the "noisy" ones h
    "cv_ddof": 0,  # CV² = Var / (mean² + eps), Var over E − ddof
    "cv_eps": 0.0,
}

CHOICES: dict[str, tuple[object, ...]] = {
    "score": ("softmax", "sigmoid", "softmax_topk"),
    "select": ("topk", "expert_choice"),
    "group_score": ("max", "top2"),
    "renorm_form": ("add", "clamp"),
    "renorm_when": ("before", "after"),
    "second": ("all", "random"),
    "second_gate": ("weight", "score"),
    "capacity_rule": (None, "fixed", "switch", "floor", "ceil", "gshard", "expert_choice"),
    "capacity_tokens": ("real", "all"),
    "drop_order": ("token", "choice", "score", "score_token", "probability"),
    "drop_offset": ("kept", "all"),
    "priority": ("weight", "score"),
    "activation": ("relu", "relu_squared", "gelu", "gelu_tanh", "silu"),
    "weight_on": ("output", "input"),
    "balance_choices": ("all", "first"),
    "importance_of": ("weight", "score"),
    "loss_logits": ("clean", "noisy"),
}


def complete(settings: dict) -> dict:
    """The settings with every default filled in; unknown keys and values are errors."""
    unknown = sorted(set(settings) - set(DEFAULTS))
    if unknown:
        raise KeyError(f"unknown settings {unknown}")
    full = {**DEFAULTS, **settings}
    for name, allowed in CHOICES.items():
        if full[name] not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {full[name]!r}")
    if full["topk_groups"] is None:
        full["topk_groups"] = full["n_groups"]
    if full["second"] == "random" and full["k"] != 2:
        raise ValueError("a random second choice needs k = 2")
    if full["select"] == "expert_choice":
        if full["capacity_rule"] is None:
            raise ValueError("expert choice needs a capacity_rule")
        if full["renorm"] or full["score"] == "softmax_topk" or full["noisy"] or full["n_groups"] != 1:
            raise ValueError("expert choice has no renorm, softmax_topk, noise or groups")
        if full["skip"] is not None:
            raise ValueError("expert choice has no first choice to compare with")
    return full


def flatten(tree: dict, prefix: str = "") -> dict:
    """{"router": {"weight": a}} -> {"router.weight": a}; None leaves and empty branches vanish."""
    flat: dict = {}
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            flat.update(flatten(leaf, f"{prefix}{name}."))
        elif leaf is not None:
            flat[prefix + name] = leaf
    return flat
