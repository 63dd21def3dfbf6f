"""Capacity and the order in which an expert's places are taken, one (token, slot) pair at a time.

Sources: Switch (2101.03961, section 2.2), GShard (2006.16668, algorithm 1), V-MoE (2106.05974, algorithm 1 and batch
prioritised routing), Megatron and DeepSpeed for the order by probability.
"""

from __future__ import annotations

import math

from .routing_loops import top_ids


def capacity_of(settings: dict, n_tokens: int, n_experts: int) -> int | None:
    """C, the places of each expert; None: no limit.  The arithmetic is float, in the order the formula is written."""
    rule, k = settings["capacity_rule"], settings["k"]
    factor, least = settings["capacity_factor"], settings["capacity_min"]
    if rule is None:
        return None
    if rule == "fixed":
        return settings["capacity"]
    if rule == "switch":
        return max(min(n_tokens, int(n_tokens * factor / n_experts)), least)
    if rule == "floor":
        return max(int(factor * k * n_tokens / n_experts), least)
    if rule == "ceil":
        return max(math.ceil(k * n_tokens / n_experts * factor), least)
    if rule == "gshard":
        return max(k * n_tokens // n_experts, least)
    return min(n_tokens, max(int(n_tokens * factor / n_experts), least))


def second_choice_offered(gate: float, draw: float, threshold: float) -> bool:
    """True with probability min(1, gate / threshold), for a uniform draw in [0, 1)."""
    return draw < gate / threshold


def keep_pairs(chosen, offered, priority, settings: dict, n_experts: int, capacity: int | None):
    """kept[t][j]: which (token, slot) pairs find a place.

    chosen[t] lists the experts of a token ([] for padding), offered[t][j] says which pairs stand in a queue at all,
    priority[t][j] is what the orders by score compare.
    """
    if capacity is None:
        return [list(row) for row in offered]
    kept = [[False] * len(row) for row in chosen]
    order = settings["drop_order"]
    if order == "probability":
        for e in range(n_experts):
            queue = [(t, j) for t, row in enumerate(chosen) for j, i in enumerate(row) if i == e and offered[t][j]]
            for n in top_ids([priority[t][j] for t, j in queue], min(capacity, len(queue))):
                kept[queue[n][0]][queue[n][1]] = True
        return kept

    tokens = [t for t, row in enumerate(chosen) if row]
    if order in ("score", "score_token"):
        best = [max(priority[t]) for t in tokens]
        tokens = [tokens[i] for i in top_ids(best, len(best))]
    slots = settings["k"]
    if order in ("token", "score_token"):
        places = [0] * n_experts
        for t in tokens:
            for j in range(slots):
                if offered[t][j]:
                    e = chosen[t][j]
                    kept[t][j] = places[e] < capacity
                    places[e] += 1
        return kept

    offset = [0] * n_experts  # places spoken for by the earlier choices
    for j in range(slots):
        rank = [0] * n_experts
        admitted = [0] * n_experts
        for t in tokens:
            if offered[t][j]:
                e = chosen[t][j]
                kept[t][j] = offset[e] + rank[e] < capacity
                rank[e] += 1
                admitted[e] += kept[t][j]
        for e in range(n_experts):
            offset[e] += admitted[e] if settings["drop_offset"] == "kept" else rank[e]
    return kept
