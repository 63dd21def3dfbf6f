"""The whole layer, forward: one token, one slot, one scalar at a time.

``moe_loop`` is the function to compare with; ``route`` is its decision part, which the backward repeats.
"""

from __future__ import annotations

import math

import numpy as np

from .dispatch_loops import capacity_of, keep_pairs, second_choice_offered
from .expert_loops import expert_at, expert_forward, shared_count
from .loss_loops import balance, cv_squared, smooth_load_of_token, z_loss
from .routing_loops import (
    expert_choice,
    logits_of,
    noise_deviations,
    normalised_scores,
    renormalise,
    scores_of,
    select_experts,
    slot_values,
    worth_keeping,
)
from .settings import complete, flatten


def rows_of(x, mask, params):
    """x (..., D) as a list of tokens, and which of them are real."""
    x = np.asarray(x, dtype=np.float64)
    n_tokens = math.prod(x.shape[:-1])
    real = [True] * n_tokens if mask is None else [bool(m) for m in np.asarray(mask).reshape(-1).tolist()]
    assert len(real) == n_tokens
    return x.reshape(n_tokens, x.shape[-1]).tolist(), real


def route(tokens, real, params: dict, settings: dict, draws: dict) -> dict:
    """Every decision and every weight; lists with one entry per token ([] for padding)."""
    weight = params["router.weight"].tolist()
    bias = params["router.bias"].tolist() if "router.bias" in params else None
    selection_bias = params["router.selection_bias"].tolist() if "router.selection_bias" in params else None
    n_experts, n_tokens, scale = len(weight), len(tokens), settings["scale"]
    noise = draws["noise"].tolist() if settings["noisy"] and draws.get("noise") is not None else None
    jitter = draws["jitter"].tolist() if draws.get("jitter") is not None else None

    r: dict = {"router_x": [], "z": [], "h": [], "deviation": [], "s": []}
    for t, x in enumerate(tokens):
        router_x = x if jitter is None else [a * b for a, b in zip(x, jitter[t], strict=True)]
        z = logits_of(router_x, weight, bias)
        deviation = noise_deviations(router_x, params["router.noise_weight"].tolist()) if noise is not None else None
        h = z if noise is None else [a + n * d for a, n, d in zip(z, noise[t], deviation, strict=True)]
        for name, value in (("router_x", router_x), ("z", z), ("h", h), ("deviation", deviation)):
            r[name].append(value)
        r["s"].append(scores_of(settings["score"], h))
    r["capacity"] = capacity_of(settings, sum(real) if settings["capacity_tokens"] == "real" else n_tokens, n_experts)

    if settings["select"] == "expert_choice":
        columns = [[s[e] for s in r["s"]] for e in range(n_experts)]
        r["tokens"] = expert_choice(columns, r["capacity"], real)
        r["chosen"] = [[e for e in range(n_experts) if t in r["tokens"][e]] for t in range(n_tokens)]
        r["v"] = [[r["s"][t][e] for e in row] for t, row in enumerate(r["chosen"])]
        r["before"] = [[scale * v for v in row] for row in r["v"]]
        r["stands"] = r["offered"] = r["kept"] = [[True] * len(row) for row in r["chosen"]]
        r["weight"] = r["before"]
        return r

    r.update({"chosen": [], "v": [], "stands": [], "before": [], "offered": []})
    form, eps = settings["renorm_form"], settings["renorm_eps"]
    for t in range(n_tokens):
        chosen = select_experts(r["s"][t], selection_bias, settings) if real[t] else []
        v = slot_values(settings["score"], r["s"][t], chosen) if chosen else []
        stands = worth_keeping(v, settings["skip"])
        early = settings["renorm"] and settings["renorm_when"] == "before"
        now = renormalise(v, form, eps, stands) if early else [a if s else 0.0 for a, s in zip(v, stands, strict=True)]
        offered = list(stands)
        if settings["second"] == "random" and chosen and draws.get("second") is not None:
            gate = now[1] if settings["second_gate"] == "weight" else v[1]
            offered[1] = stands[1] and second_choice_offered(
                gate, float(draws["second"][t]), settings["second_threshold"]
            )
        r["chosen"].append(chosen)
        r["v"].append(v)
        r["stands"].append(stands)
        r["before"].append([scale * w for w in now])
        r["offered"].append(offered)
    priority = r["before"] if settings["priority"] == "weight" else r["v"]
    r["kept"] = keep_pairs(r["chosen"], r["offered"], priority, settings, n_experts, r["capacity"])
    r["weight"] = []
    for v, before, kept in zip(r["v"], r["before"], r["kept"], strict=True):
        if settings["renorm"] and settings["renorm_when"] == "after":
            r["weight"].append([scale * w for w in renormalise(v, form, eps, kept)])
        else:
            r["weight"].append([w if keep else 0.0 for w, keep in zip(before, kept, strict=True)])
    return r


def counts_of(rows, n_experts: int, live=None, first_only: bool = False) -> list[int]:
    counts = [0] * n_experts
    for t, row in enumerate(rows):
        for j, e in enumerate(row[:1] if first_only else row):
            counts[e] += 1 if live is None or live[t][j] else 0
    return counts


def loss_inputs(r: dict, real, settings: dict, n_experts: int) -> dict:
    """What the losses are functions of: rows of real tokens, counts, gate sums."""
    members = [t for t, is_real in enumerate(real) if is_real]
    h_rows = [r["h" if settings["loss_logits"] == "noisy" else "z"][t] for t in members]
    first = settings["balance_choices"] == "first"
    counts = counts_of(r["chosen"], n_experts, first_only=first)
    choices = 1 if first else settings["k"]
    if settings["select"] == "expert_choice":
        counts = counts_of(r["chosen"], n_experts)
        choices = sum(counts) / len(members) if sum(counts) else 1
    importance = [0.0] * n_experts
    for n, t in enumerate(members):
        if settings["importance_of"] == "score":
            for e, p in enumerate(normalised_scores(settings["score"], h_rows[n])):
                importance[e] += p
        else:
            for e, w in zip(r["chosen"][t], r["before"][t], strict=True):
                importance[e] += w
    load = [float(c) for c in counts_of(r["chosen"], n_experts)]
    smooth = bool(members) and r["deviation"][members[0]] is not None and settings["k"] < n_experts
    if smooth:
        rows = [smooth_load_of_token(r["z"][t], r["h"][t], r["deviation"][t], settings["k"])[0] for t in members]
        load = [math.fsum(row[e] for row in rows) for e in range(n_experts)]
    return {
        "members": members,
        "h_rows": h_rows,
        "counts": counts,
        "choices": choices,
        "importance": importance,
        "load": load,
        "smooth": smooth,
    }


def losses_of(r: dict, real, settings: dict, n_experts: int) -> dict[str, float]:
    given = loss_inputs(r, real, settings, n_experts)
    ddof, eps = settings["cv_ddof"], settings["cv_eps"]
    values = {
        "balance": lambda: balance(settings["score"], given["h_rows"], given["counts"], given["choices"]),
        "z": lambda: z_loss(given["h_rows"]),
        "importance": lambda: cv_squared(given["importance"], ddof, eps),
        "load": lambda: cv_squared(given["load"], ddof, eps),
    }
    return {name: values[name]() if given["members"] else 0.0 for name in settings["losses"]}


def moe_loop(x, params: dict, settings: dict, mask=None, draws=None) -> dict:
    """The layer by loops; see `settings.DEFAULTS` for the rule and README.md for parameters, draws and results."""
    settings, params, draws = complete(settings), flatten(params), draws or {}
    tokens, real = rows_of(x, mask, params)
    n_tokens, n_experts, width = len(tokens), len(params["router.weight"]), np.shape(x)[-1]
    r = route(tokens, real, params, settings, draws)
    stored = range(n_experts) if settings["tied"] is None else settings["tied"]
    experts = [expert_at(params, "experts", g) for g in stored]
    shared = [expert_at(params, "shared", e) for e in range(shared_count(params))]

    y = np.zeros((n_tokens, width))
    combine = np.zeros((n_tokens, n_experts))
    for t in range(n_tokens):
        if not real[t]:
            continue
        parts = []
        for e, w, kept in zip(r["chosen"][t], r["weight"][t], r["kept"][t], strict=True):
            if not kept:
                continue
            combine[t, e] = w
            if settings["weight_on"] == "input":
                parts.append(expert_forward([w * a for a in tokens[t]], experts[e], settings)[0])
            else:
                parts.append([w * o for o in expert_forward(tokens[t], experts[e], settings)[0]])
        parts += [expert_forward(tokens[t], one, settings)[0] for one in shared]
        for d in range(width):
            y[t, d] = math.fsum(part[d] for part in parts)

    out = {
        "y": y.reshape(np.shape(x)),
        "losses": losses_of(r, real, settings, n_experts),
        "load": np.array(counts_of(r["chosen"], n_experts), dtype=np.int64),
        "offered_load": np.array(counts_of(r["chosen"], n_experts, r["offered"]), dtype=np.int64),
        "kept_load": np.array(counts_of(r["chosen"], n_experts, r["kept"]), dtype=np.int64),
        "combine": combine,
        "capacity": r["capacity"],
        "logits": np.array(r["z"]).reshape(n_tokens, n_experts),
        "scores": np.array(r["s"]).reshape(n_tokens, n_experts),
    }
    if settings["select"] == "expert_choice":
        shape = (n_experts, len(r["tokens"][0]))
        out["tokens"] = np.array(r["tokens"], dtype=np.int64).reshape(shape)
        out["idx"] = None
        out["weight"] = np.array([[combine[t, e] for t in row] for e, row in enumerate(r["tokens"])]).reshape(shape)
        out["kept"] = np.ones(shape, dtype=bool)
        return out
    shape = (n_tokens, settings["k"])
    out["idx"] = np.full(shape, -1, dtype=np.int64)
    out["weight"], out["weight_before"], out["kept"] = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
    for t in range(n_tokens):
        if real[t]:
            out["idx"][t, :] = r["chosen"][t]
            out["weight"][t, :] = r["weight"][t]
            out["weight_before"][t, :] = r["before"][t]
            out["kept"][t, :] = r["kept"][t]
    return out
