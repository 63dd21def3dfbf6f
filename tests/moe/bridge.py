"""A case of the loop oracles in pymoe's words: settings -> MoEConfig, arrays -> parameter tree, and gradients back.

Nothing but names and layouts is translated here.  What pymoe's options cannot say raises ``Unsayable`` with the reason;
``test_layer_oracle`` lists every such case.  Where the two sides *define* a quantity in different ways (which choices a
balance loss counts, whether the importance sees the drop), ``Reading`` says what pymoe's definition is in the oracle's
terms: a sum of oracle runs, because every gradient is linear in its cotangents.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import tree
from pymoe.moe import Capacity, Draws, MoEConfig, RouterConfig

from ..oracles.cases import Case
from ..oracles.layer_backward_loops import weights_to_logits
from ..oracles.layer_loops import route, rows_of
from ..oracles.loops import (
    balance,
    balance_backward,
    capacity_of,
    complete,
    cv_squared,
    cv_squared_backward,
    moe_loop,
    moe_loop_backward,
    top_ids,
)


class Unsayable(Exception):
    """pymoe has no setting for this; the message is the reason."""


def places(case: Case) -> int | None:
    s = complete(case.settings)
    n_experts = len(case.params["router.weight"])
    tokens = math.prod(case.x.shape[:-1])
    real = tokens if case.mask is None else int(case.mask.sum())
    return capacity_of(s, real if s["capacity_tokens"] == "real" else tokens, n_experts)


def capacity(case: Case) -> Capacity | None:
    s = complete(case.settings)
    if s["capacity_rule"] is None:
        return None
    by_weight = s["priority"] == "weight" and s["renorm"] and s["renorm_when"] == "before"
    own = {
        "order": s["drop_order"], "renorm": s["renorm_when"], "priority": "weight" if by_weight else "score"
    }  # fmt: skip
    if s["capacity_rule"] == "fixed" or s["capacity_tokens"] == "all":
        return Capacity(factor=0.0, minimum=places(case), **own)  # a number of places is a minimum
    rounding = "ceil" if s["capacity_rule"] == "ceil" else "floor"
    factor = 1.0 if s["capacity_rule"] == "gshard" else s["capacity_factor"]
    return Capacity(factor=factor, minimum=s["capacity_min"], rounding=rounding, **own)


def config(case: Case) -> MoEConfig:
    """The same rule in pymoe's settings, or Unsayable."""
    s = complete(case.settings)
    n_experts, width = case.params["router.weight"].shape
    k, own = s["k"], {}
    norm = {"add": "l1", "clamp": "clamp"}[s["renorm_form"]] if s["renorm"] else "none"
    eps = s["renorm_eps"] if s["renorm"] else 0.0
    if s["score"] == "softmax_topk":
        norm, eps = "l1", 0.0  # softmax over the chosen = softmax over all, renormalised
    if s["second"] == "random":
        early = s["renorm"] and s["renorm_when"] == "before"
        own["second_gate"] = "weight" if s["second_gate"] == "weight" and early else "score"
        own["second_threshold"] = s["second_threshold"]
    if s["n_groups"] > 1:
        own.update(
            select="group_limited", n_group=s["n_groups"], topk_group=s["topk_groups"], group_score=s["group_score"]
        )
    if s["select"] == "expert_choice":
        own["select"] = "expert_choice"
        tokens = math.prod(case.x.shape[:-1]) if case.mask is None else int(case.mask.sum())
        fitting = [
            j for j in range(1, n_experts + 1) if min(tokens, j * tokens // n_experts) == min(tokens, places(case))
        ]
        if not fitting:
            raise Unsayable("expert choice of a fixed number of tokens: pymoe's is k·T/E")
        k = fitting[0]
    else:
        own["capacity"] = capacity(case)
    losses = s["losses"]
    if s["noisy"] and k >= n_experts:
        losses = tuple(name for name in losses if name != "load")  # pymoe refuses the load loss of a certain choice
    router = RouterConfig(
        n_experts,
        k,
        score="sigmoid" if s["score"] == "sigmoid" else "softmax",
        norm=norm,
        eps=eps,
        scale=s["scale"],
        bias="router.bias" in case.params,
        selection_bias="router.selection_bias" in case.params,
        noise="learned" if s["noisy"] else "none",
        jitter=0.25 if "jitter" in case.draws else 0.0,
        losses=losses,
        balance_choices=s["balance_choices"],
        importance_of="scores" if s["importance_of"] == "score" else "weights",
        cv_ddof=s["cv_ddof"],
        cv_eps=s["cv_eps"],
        skip=s["skip"],
        **own,
    )
    shared = case.params.get("shared.down_proj")
    return MoEConfig(
        width,
        case.params["experts.down_proj"].shape[2],
        router,
        gated=s["gated"],
        activation=s["activation"],
        bias="experts.down_proj_bias" in case.params,
        d_shared=0 if shared is None else shared.shape[0] * shared.shape[2],
        tied=s["tied"],
        weight_at=s["weight_on"],
    )


# ---- parameters: several shared experts are one of the joint width ----


def to_pymoe(params: dict[str, np.ndarray], gated: bool) -> dict[str, Any]:
    """The oracle's dotted parameters as pymoe's tree."""
    flat: dict[str, np.ndarray] = {}
    for name, a in params.items():
        if name.startswith("shared."):
            leaf = name.removeprefix("shared.")
            if leaf == "down_proj":
                a = np.concatenate(list(a), axis=1)  # (n, D, F) -> (D, n F)
            elif leaf == "down_proj_bias":
                a = a.sum(0)
            elif gated:
                gate, up = np.split(a, 2, axis=1)  # (n, 2F, ...) -> all gates, then all ups
                a = np.concatenate([gate.reshape(-1, *a.shape[2:]), up.reshape(-1, *a.shape[2:])])
            else:
                a = a.reshape(-1, *a.shape[2:])
        flat[name] = np.array(a)
        flat[name].setflags(write=False)
    return tree.unflatten(flat)


def from_pymoe(grads: dict[str, Any], params: dict[str, np.ndarray], gated: bool) -> dict[str, np.ndarray]:
    """A gradient tree of pymoe under the oracle's names and shapes."""
    found = {}
    for name, g in tree.flatten(grads).items():
        if name.startswith("shared."):
            n, *rest = params[name].shape
            leaf = name.removeprefix("shared.")
            if leaf == "down_proj":
                g = np.stack(np.split(g, n, axis=1))
            elif leaf == "down_proj_bias":
                g = np.broadcast_to(g, (n, *rest))
            elif gated:
                gate, up = np.split(g, 2)
                half = (n, rest[0] // 2, *rest[1:])
                g = np.concatenate([gate.reshape(half), up.reshape(half)], axis=1)
            else:
                g = g.reshape(n, *rest)
        found[name] = g
    return found


def draws(case: Case) -> Draws:
    return Draws(**case.draws)


# ---- what pymoe defines, computed by the loops ----


class Reading(NamedTuple):
    """What the loops say pymoe must return."""

    out: dict[str, Any]
    losses: dict[str, float]
    dx: np.ndarray
    grads: dict[str, np.ndarray]


def read(case: Case, cfg: MoEConfig) -> Reading:
    """The oracle's values and gradients for pymoe's definitions of the losses.

    z and load of the clean logits, as the oracle.  Balance of the scores that route (the noisy ones), counting with a
    selection bias what the scores alone would choose (DeepSeek-V3, eq. 18).  Importance of the weights after the drop.
    """
    names = cfg.router.losses
    settings = {**case.settings, "losses": names, "loss_logits": "clean"}
    biased = cfg.router.selection_bias
    dropped = cfg.router.capacity is not None or "second" in case.draws or cfg.router.skip is not None
    by_weight = cfg.router.importance_of == "weights"
    special = {"balance"} | ({"importance"} if dropped and by_weight else set())
    common = {n: d for n, d in case.dlosses.items() if n in names and n not in special}
    args = (case.mask, case.draws)
    out = moe_loop(case.x, case.params, settings, *args)
    dx, grads = moe_loop_backward(case.x, case.params, settings, case.dy, common, *args)
    losses = dict(out["losses"])
    parts = []
    if "balance" in names:
        if biased:
            losses["balance"], part = balance_of_the_scores(case)
        else:
            routed = {**settings, "losses": ("balance",), "loss_logits": "noisy"}
            losses["balance"] = moe_loop(case.x, case.params, routed, *args)["losses"]["balance"]
            only = {"balance": case.dlosses["balance"]}
            part = moe_loop_backward(case.x, case.params, routed, np.zeros_like(case.dy), only, *args)
        parts.append(part)
    if "importance" in special and "importance" in names:
        losses["importance"], part = importance_after_the_drop(case, out)
        parts.append(part)
    for dx_part, grads_part in parts:
        dx = dx + dx_part
        grads = {n: g + grads_part[n] if n in grads_part else g for n, g in grads.items()}
    return Reading(out, losses, dx, grads)


def from_logits(case: Case, dh: list[list[float]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """dh (T, E) of a router without noise, one token at a time -> (dx, gradients of the router)."""
    weight = case.params["router.weight"]
    x = case.x.reshape(-1, case.x.shape[-1])
    dx, dw, db = np.zeros_like(x), np.zeros_like(weight), np.zeros(len(weight))
    for t, row in enumerate(dh):
        factor = case.draws["jitter"][t] if "jitter" in case.draws else np.ones(x.shape[1])
        for e, d in enumerate(row):
            dw[e] += d * x[t] * factor
            db[e] += d
            dx[t] += d * weight[e] * factor
    grads = {"router.weight": dw}
    if "router.bias" in case.params:
        grads["router.bias"] = db
    return dx.reshape(case.x.shape), grads


def routed(case: Case) -> tuple[dict, list[bool], dict]:
    s = complete(case.settings)
    tokens, real = rows_of(case.x, case.mask, case.params)
    return route(tokens, real, case.params, s, case.draws), real, s


def balance_of_the_scores(case: Case):
    r, real, s = routed(case)
    members = [t for t, is_real in enumerate(real) if is_real]
    rows = [r["h"][t] for t in members]
    first = s["balance_choices"] == "first"
    counts = [0] * len(case.params["router.weight"])
    for t in members:
        for e in top_ids(r["s"][t], 1 if first else s["k"]):
            counts[e] += 1
    choices = 1 if first else s["k"]
    value = balance(s["score"], rows, counts, choices)
    back = iter(balance_backward(s["score"], rows, counts, choices, case.dlosses["balance"]))
    return value, from_logits(case, [next(back) if is_real else [] for is_real in real])


def importance_after_the_drop(case: Case, out: dict):
    r, real, s = routed(case)
    received = out["combine"].sum(0).tolist()
    value = cv_squared(received, s["cv_ddof"], s["cv_eps"])
    di = cv_squared_backward(received, s["cv_ddof"], s["cv_eps"], case.dlosses["importance"])
    dh = [
        weights_to_logits(r, t, [di[e] for e in r["chosen"][t]], [0.0] * len(r["chosen"][t]), s) if is_real else []
        for t, is_real in enumerate(real)
    ]
    return value, from_logits(case, dh)
