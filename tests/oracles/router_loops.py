"""A router by itself, one token, one choice, one scalar at a time: every setting that the published models differ in.

Written from the papers and the model files (Shazeer 2017, V-MoE 2106.05974, Switch 2101.03961, GShard 2006.16668, DBRX,
DeepSeek-V2 2405.04434 and V3 2412.19437, Ernie 4.5, Gemma 4, GPT-OSS, Llama 4, Inkling, Hash layers 2106.04426, top-p
2403.07652, AdaMoE 2406.13233, MoE++ 2410.07348, ReMoE 2412.14711).  Settings are the plain values of a router's
settings under their own names; nothing of the library is called.
"""

from __future__ import annotations

import math

from .dispatch_loops import keep_pairs
from .loss_loops import cv_squared
from .routing_loops import top_ids
from .scalar_math import dot, logsumexp, normal_cdf, sigmoid, softmax, softplus

MINUS_INFINITY = -math.inf


def score_one(kind: str, z: float) -> float:
    """The scores that look at one expert only."""
    if kind == "sigmoid":
        return sigmoid(z)
    if kind == "sqrtsoftplus":
        return math.sqrt(softplus(z)) if z > -30 else math.exp(z / 2) * math.sqrt(1 - math.exp(z) / 2)
    return max(z, 0.0) if kind == "relu" else z


def scores(kind: str, z) -> list[float]:
    return softmax(z) if kind == "softmax" else [score_one(kind, v) for v in z]


def logits(x, p: dict, s: dict, t: int, draws: dict) -> tuple[list[float], list[float], list[float] | None]:
    """z, h and σ of one token."""
    n_ids = s["n_experts"] + len(s["null_experts"])
    if draws.get("jitter") is not None:
        x = [a * b for a, b in zip(x, draws["jitter"][t], strict=True)]
    if s["input_norm"] == "rms":
        size = math.sqrt(math.fsum(a * a for a in x) / len(x) + s["input_norm_eps"])
        x = [a / size * w for a, w in zip(x, p["input_scale"], strict=True)]
    x = [a * s["input_multiplier"] for a in x]
    z = [s["logit_multiplier"] * (dot(x, row) + p["bias"][e] if "bias" in p else dot(x, row)) for e, row in
         enumerate(p["weight"])]  # fmt: skip
    if s["soft_cap"] is not None:
        z = [s["soft_cap"] * math.tanh(v / s["soft_cap"]) for v in z]
    if draws.get("noise") is None:
        return z, z[:n_ids], None
    if s["noise"] == "learned":
        deviation = [softplus(dot(x, row)) + 1e-2 for row in p["noise_weight"]]
    else:
        deviation = [s["noise_std"] / s["n_experts"]] * n_ids
    return z, [a + b * d for a, b, d in zip(z[:n_ids], draws["noise"][t], deviation, strict=True)], deviation


def choose(h, v, p: dict, s: dict, t: int, draws: dict, given: dict) -> tuple[list[int], list[bool]]:
    """The ids of one token, and which of them its selection takes."""
    k, n = s["k"], len(h)
    c = list(h) if v is None or s["select_on"] == "logits" else list(v)
    if "selection_bias" in p:
        c = [a + b for a, b in zip(c, p["selection_bias"], strict=True)]
    if draws.get("gumbel") is not None:
        noisy = [a + b for a, b in zip(h, draws["gumbel"][t], strict=True)]
        if s["sample"] == "all":
            return top_ids(noisy, k), [True] * k
        first = top_ids(c, 1)[0]
        noisy[first] = MINUS_INFINITY
        return [first, *top_ids(noisy, k - 1)], [True] * k
    if s["select"] == "table":
        return list(p["table"][given["token_ids"][t]]), [True] * k
    if s["select"] == "given":
        return list(given["idx"][t]), [True] * k
    if s["select"] == "top_p":
        ranked, kept, held = top_ids(c, k), [], 0.0
        for e in ranked:
            kept.append(held < s["top_p"] * math.fsum(c))
            held += c[e]
        return ranked, kept
    if s["select"] == "group_limited":
        size = n // s["n_group"]
        best = {"max": 1, "top2": 2, "sum_topm": s["group_best"]}[s["group_score"]]
        worth = [math.fsum(sorted(c[g * size : (g + 1) * size])[::-1][:best]) for g in range(s["n_group"])]
        allowed = top_ids(worth, s["topk_group"])
        c = [a if e // size in allowed else MINUS_INFINITY for e, a in enumerate(c)]
    return top_ids(c, k), [True] * k


def normalise(v, counted, s: dict) -> list[float]:
    live = [a if c else 0.0 for a, c in zip(v, counted, strict=True)]
    total, norm = math.fsum(live), s["norm"]
    if norm == "lp":
        top = max(map(abs, live)) or 1.0  # one live choice alone weighs exactly 1: equal weights are ties
        total = top * math.fsum((abs(a) / top) ** s["norm_p"] for a in live) ** (1 / s["norm_p"])
    elif norm == "l1":
        total += s["eps"]
    elif norm == "clamp":
        total = max(total, s["eps"])
    else:
        return live
    return [a / total if total else 0.0 for a in live]


def places(c: dict, tokens: int, n: int, k: int, fullest: int) -> int:
    """C by the rule's own formula, in the order in which its source writes it."""
    cf, least, rule = c["factor"], c["minimum"], c["rule"]
    up = math.ceil(tokens / n)

    def multiple(count: int) -> int:
        while count % c["multiple"]:
            count += 1
        return count

    rounded = {"floor": math.floor, "ceil": math.ceil, "round": round}[c["rounding"]]
    return {
        "plain": lambda: max(least, min(tokens, rounded(cf * k * tokens / n))),
        "switch": lambda: max(min(tokens, int(tokens * cf / n)), least),
        "gshard": lambda: max((k * tokens) // n, least),
        "deepspeed": lambda: max(math.ceil((k * tokens / n) * cf), least),
        "megatron": lambda: min(max(math.ceil((tokens * k / n) * cf), least), tokens),
        "megablocks": lambda: int(cf * k * tokens / n) if cf > 0 else fullest,
        "tutel": lambda: multiple(
            k * int(cf * up) if cf > 0 else fullest if cf == 0 else min(fullest, k * int(-cf * up))
        ),
        "vmoe": lambda: multiple(rounded(tokens * k * cf / n)),
        "maxtext": lambda: int(max(math.ceil(tokens * k / n) * cf, cf)),
        "nllb": lambda: 2 * up,
        "fraction": lambda: math.ceil(cf * tokens),
    }[rule]()


def within_capacity(chosen, offered, priority, s: dict, real, draws: dict, sequences: int):
    """kept[t][j]; the queues of each sequence by themselves if the settings say so."""
    c = s["capacity"]
    n, k, t_all = s["n_experts"] + len(s["null_experts"]), len(chosen[0]), len(chosen)
    groups = sequences if c["per"] == "sequence" else 1
    order = {"interleaved": "token", "random": "probability" if draws.get("places") is not None else "token"}
    if c["order"] == "random" and draws.get("places") is not None:
        priority = draws["places"]
    kept = []
    for g in range(groups):
        rows = range(g * t_all // groups, (g + 1) * t_all // groups)
        counts = [0] * n
        for t in rows:
            for e, o in zip(chosen[t], offered[t], strict=True):
                counts[e] += o
        limit = places(c, sum(real[t] for t in rows), n, s["k"], max(counts))
        rule = {"drop_order": order.get(c["order"], c["order"]), "k": k, "drop_offset": "all"}
        kept += keep_pairs(
            [chosen[t] for t in rows], [offered[t] for t in rows], [priority[t] for t in rows], rule, n, limit
        )
    return kept


def route(x, p: dict, s: dict, real, draws: dict, given: dict) -> dict:
    """idx, kept, weight, load, logits, shared and the losses of tokens x (lists); real[t] is False for padding."""
    n_tokens, n_ids = len(x), s["n_experts"] + len(s["null_experts"])
    rows = [logits(x[t], p, s, t, draws) for t in range(n_tokens)]
    z, h, deviation = ([row[i] for row in rows] for i in range(3))
    early = None if s["score_at"] == "chosen" else [scores(s["score"], row) for row in h]
    if s["select"] == "expert_choice":
        table = early if s["select_on"] == "scores" else h
        members = [t for t in range(n_tokens) if real[t]]
        take = min(len(members), s["k"] * len(members) // n_ids)
        picked = [[members[i] for i in top_ids([table[t][e] for t in members], take)] for e in range(n_ids)]
        chosen = [list(range(n_ids)) for _ in range(n_tokens)]
        selected = [[t in picked[e] for e in range(n_ids)] for t in range(n_tokens)]
    else:
        both = [choose(h[t], early and early[t], p, s, t, draws, given) for t in range(n_tokens)]
        chosen, selected = [list(map(int, b[0])) for b in both], [b[1] for b in both]
    kinds = [None] * s["n_experts"] + list(s["null_experts"])

    def sums(e: int) -> bool:
        nothing = kinds[e] in ("zero", "skip")
        return {"all": True, "true": kinds[e] is None, "nonzero": not nothing}[s["null_norm"]]

    v, before, counted, offered = [], [], [], []
    for t in range(n_tokens):
        if early is None:
            values = scores(s["score"], [h[t][e] for e in chosen[t]])
        else:
            values = [early[t][e] for e in chosen[t]]
        in_sum = [sums(e) and (selected[t][j] or s["select"] != "top_p") for j, e in enumerate(chosen[t])]
        stays = [selected[t][j] and real[t] for j in range(len(chosen[t]))]
        if s["skip"] is not None:
            worth = [j == 0 or not a < s["skip"] * values[0] for j, a in enumerate(values)]
            in_sum, stays = (
                [a and b for a, b in zip(in_sum, worth, strict=True)],
                [a and b for a, b in zip(stays, worth, strict=True)],
            )
        now = normalise(values, in_sum, s) if s["norm"] != "joint" else values
        if s["second_policy"] == "none":
            stays[1] = False
        elif s["second_threshold"] is not None:
            gate = values[1] if s["second_gate"] == "score" else now[1]
            if s["second_policy"] == "threshold":
                stays[1] = stays[1] and gate > s["second_threshold"]
            elif draws.get("second") is not None:
                stays[1] = stays[1] and draws["second"][t] < gate / s["second_threshold"]
        v.append(values)
        before.append(now)
        counted.append(in_sum)
        offered.append(stays)
    kept = offered
    if s["capacity"] is not None:
        priority = v if s["capacity"]["priority"] == "score" else before
        kept = within_capacity(chosen, offered, priority, s, real, draws, given["sequences"])
    scale = s["scale"] if s["scale_at"] == "weights" else 1.0
    if "global_scale" in p:
        scale *= p["global_scale"][0]
    weight, shared = [], []
    for t in range(n_tokens):
        in_sum = counted[t]
        if s["capacity"] is not None and s["capacity"]["renorm"] == "after":
            in_sum = [a and b for a, b in zip(in_sum, kept[t], strict=True)]
        w = normalise(v[t], in_sum, s)
        if s["norm"] == "joint":
            both = [sigmoid(z[t][e]) for e in chosen[t]] + [sigmoid(a) for a in z[t][n_ids:]]
            w = [a / math.fsum(both) for a in both]
            shared.append([scale * a if real[t] else 0.0 for a in w[len(chosen[t]) :]])
            w = w[: len(chosen[t])]
        own = p.get("expert_scale", [1.0] * n_ids)
        weight.append([scale * own[e] * a if k else 0.0 for e, a, k in zip(chosen[t], w, kept[t], strict=True)])
    load = [0] * n_ids
    for t in range(n_tokens):
        for e, took in zip(chosen[t], selected[t], strict=True):
            load[e] += bool(took and real[t])
    found = {"idx": chosen, "kept": kept, "weight": weight, "load": load, "logits": [row[:n_ids] for row in z],
             "shared": shared}  # fmt: skip
    state = {"z": found["logits"], "h": h, "deviation": deviation, "selected": selected, **found}
    return {**found, "losses": losses(state, early, s, real, given)}


def losses(r: dict, early, s: dict, real, given: dict) -> dict[str, float]:
    members = [t for t, is_real in enumerate(real) if is_real]
    n = len(r["z"][0]) if r["z"] else 0
    if early is None:
        early = [scores(s["score"], row) for row in r["h"]]
    found = {}
    for name in s["losses"]:
        if name == "z":
            found[name] = math.fsum(logsumexp(r["z"][t]) ** 2 for t in members) / len(members)
        elif name == "entropy":
            rows = [softmax(r["h"][t]) for t in members]
            found[name] = -math.fsum(a * math.log(a) for row in rows for a in row) / len(members)
        elif name == "l1":
            fires = [sum(early[t][e] > 0 for t in members) * n / (s["k"] * len(members)) for e in range(n)]
            found[name] = math.fsum(fires[e] * early[t][e] for t in members for e in range(n)) / (len(members) * n)
        elif name == "importance":
            total = [0.0] * n
            for t in members:
                if s["importance_of"] == "scores":
                    q = scores(s["score"], r["z"][t])
                    total = [a + b / math.fsum(q) for a, b in zip(total, q, strict=True)] if math.fsum(q) else total
                else:
                    for e, w in zip(r["idx"][t], r["weight"][t], strict=True):
                        total[e] += w
            found[name] = cv_squared(total, s["cv_ddof"], s["cv_eps"])
        elif name == "load":
            found[name] = cv_squared(smooth_load(r, members, n, s), s["cv_ddof"], s["cv_eps"])
        else:
            found[name] = balance(r, early, s, members, n, given, second=name == "balance_second")
    return found


def smooth_load(r: dict, members, n: int, s: dict) -> list[float]:
    if r["deviation"][0] is None:
        return [float(a) for a in r["load"]]
    load = [0.0] * n
    for t in members:
        order = top_ids(r["h"][t], s["k"] + 1)
        for e in range(n):
            rival = order[s["k"]] if s["noise"] == "learned" and e in order[: s["k"]] else order[s["k"] - 1]
            load[e] += normal_cdf((r["z"][t][e] - r["h"][t][rival]) / r["deviation"][t][e])
    return load


def balance(r: dict, early, s: dict, members, n: int, given: dict, *, second: bool) -> float:
    rows = [softmax(row) for row in r["z"]] if s["balance_of"] == "softmax" else early
    b = given["sequences"] if s["balance_over"] == "sequence" else 1
    size = len(rows) // b
    factor = {"switch": n, "fairscale": 1 / n, "mixtral": s["k"] * n}[s["balance_factor"]]
    values = []
    for g in range(b):
        mine = [t for t in members if t // size == g]
        if not mine:
            continue
        counts = [0.0] * n
        left = [list(row) for row in rows]
        for t in mine:
            ids, takes = r["idx"][t], r["selected"][t]
            if s["balance_of"] == "softmax" or s["selection_bias"]:
                ids = top_ids(rows[t], min(s["k"], n))
                takes = [True] * len(ids)
            if second:  # what is left once the first has been taken
                left[t][ids[0]] = 0.0
            places_ = [1] if second else [0] if s["balance_choices"] == "first" else range(len(ids))
            for j in places_:
                counts[ids[j]] += bool(takes[j] or second or s["balance_choices"] == "first")
        if b == 1 and given.get("counts") is not None:
            counts = [a + c for a, c in zip(counts, given["counts"], strict=True)]
        if s["null_balance"] == "mean" and s["null_experts"]:
            null = counts[s["n_experts"] :]
            counts[s["n_experts"] :] = [math.fsum(null) / len(null)] * len(null)
        total = math.fsum(counts)
        f = [c / total if total else 0.0 for c in counts]
        mass = math.fsum(math.fsum(left[t]) for t in mine)
        share = [0.0] * n
        for e in range(n):
            if s["balance_normalise"] == "total":
                share[e] = math.fsum(left[t][e] for t in mine) / mass if mass else 0.0
            else:
                sums = {t: math.fsum(left[t]) for t in mine}
                share[e] = math.fsum(left[t][e] / sums[t] for t in mine if sums[t]) / len(mine)
        values.append(factor * math.fsum(a * c for a, c in zip(f, share, strict=True)))
    return math.fsum(values) / len(values) if values else 0.0
