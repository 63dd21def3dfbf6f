"""How far the decisions of a case are from changing: a guard against comparisons that rounding could turn over."""

from __future__ import annotations

import math

from .layer_loops import route, rows_of
from .settings import complete, flatten


def score_identity(settings: dict, h, e: int):
    """What fixes the score of expert e exactly: its logit, for softmax all logits up to a common shift."""
    if settings["score"] == "softmax":
        top = max(h)
        return (h[e] - top, *sorted(v - top for v in h))
    return (h[e],)


def best_identity(settings: dict, r: dict, t: int, token, priority):
    """What fixes the best priority of a token exactly; renormalised weights: the token itself."""
    early = settings["renorm"] and settings["renorm_when"] == "before" and settings["priority"] == "weight"
    if early or settings["score"] == "softmax_topk":
        return tuple(token)
    return score_identity(settings, r["h"][t], r["chosen"][t][priority.index(max(priority))])


def compared_values(case):
    """Lists of (value, identity) that a rule compares; equal identity: a tie in exact arithmetic."""
    settings, params = complete(case.settings), flatten(case.params)
    tokens, real = rows_of(case.x, case.mask, params)
    r = route(tokens, real, params, settings, case.draws)
    members = [t for t, is_real in enumerate(real) if is_real]
    n_experts = len(params["router.weight"])
    bias = params["router.selection_bias"].tolist() if "router.selection_bias" in params else [0.0] * n_experts
    if settings["select"] == "expert_choice":
        for e in range(n_experts):
            yield [(r["s"][t][e], score_identity(settings, r["h"][t], e)) for t in members]
        return
    size = n_experts // settings["n_groups"]
    top = 1 if settings["group_score"] == "max" else 2
    for t in members:
        c = [(s + b, (h, b)) for s, b, h in zip(r["s"][t], bias, r["h"][t], strict=True)]
        if settings["n_groups"] > 1:
            groups = [sorted(c[g * size : (g + 1) * size], reverse=True)[:top] for g in range(settings["n_groups"])]
            yield [(math.fsum(v for v, _ in best), tuple(name for _, name in best)) for best in groups]
            for g in range(settings["n_groups"]):
                yield c[g * size : (g + 1) * size]
        yield c
    if settings["skip"] is not None:
        for t in members:
            for e, v in zip(r["chosen"][t][1:], r["v"][t][1:], strict=True):
                first = score_identity(settings, r["h"][t], r["chosen"][t][0])
                limit = first if settings["skip"] == 1.0 else ("limit", *first)
                yield [(v, score_identity(settings, r["h"][t], e)), (settings["skip"] * r["v"][t][0], limit)]
    if settings["second"] == "random":
        gates = r["before"] if settings["second_gate"] == "weight" else r["v"]
        for t in members:
            gate = gates[t][1] / (settings["scale"] if settings["second_gate"] == "weight" else 1.0)
            yield [(float(case.draws["second"][t]), "draw"), (gate / settings["second_threshold"], "gate")]
    if r["capacity"] is not None:
        priority = r["before"] if settings["priority"] == "weight" else r["v"]
        if settings["drop_order"] in ("score", "score_token"):
            yield [(max(priority[t]), best_identity(settings, r, t, tokens[t], priority[t])) for t in members]
        if settings["drop_order"] == "probability":
            for e in range(n_experts):
                yield [
                    (p, tuple(tokens[t]))
                    for t in members
                    for i, p in zip(r["chosen"][t], priority[t], strict=True)
                    if i == e
                ]


def margin(case) -> float:
    """The smallest relative gap between neighbouring compared values, exact ties left out; 0.0: a tie made by rounding.

    Scores that saturate (a sigmoid of 1.0) tie in every float64 implementation and count as exact ties.
    """
    smallest = math.inf
    for values in compared_values(case):
        ordered = sorted(values, key=lambda pair: pair[0], reverse=True)
        for (a, name_a), (b, name_b) in zip(ordered, ordered[1:], strict=False):
            if name_a == name_b or (a == b and a in (0.0, 1.0)):
                continue
            smallest = min(smallest, (a - b) / max(math.fabs(a), math.fabs(b)))
    return smallest
