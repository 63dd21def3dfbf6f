"""The whole layer, backward, from the formulas: decisions, counts and capacities are constants.

do = w dy,  dw = ⟨dy, o⟩ on kept slots, 0 on dropped ones;  renormalisation, score, logits, then x and W_r.
"""

from __future__ import annotations

import numpy as np

from .expert_loops import expert_at, expert_backward, expert_forward, shared_count
from .layer_loops import loss_inputs, route, rows_of
from .loss_loops import (
    balance_backward,
    cv_squared_backward,
    smooth_load_of_token_backward,
    z_loss_backward,
)
from .routing_loops import normalised_scores_backward, renormalise_backward, slot_values_backward
from .scalar_math import dot, sigmoid, softmax_backward
from .settings import complete, flatten


def zeros_like_lists(tree):
    return [zeros_like_lists(branch) for branch in tree] if isinstance(tree, list) else 0.0


def add_to(target: list, source) -> None:
    for i, v in enumerate(source):
        target[i] += v


def loss_cotangents(r: dict, real, settings: dict, dlosses: dict, n_experts: int) -> dict:
    """What each loss sends to: dz, dh (T, E), ddeviation (T, E), dbefore (one entry per slot)."""
    n_tokens = len(real)
    back = {name: [[0.0] * n_experts for _ in range(n_tokens)] for name in ("z", "h", "deviation")}
    back["before"] = [[0.0] * len(row) for row in r["chosen"]]
    given = loss_inputs(r, real, settings, n_experts)
    source = back["h" if settings["loss_logits"] == "noisy" else "z"]
    members, ddof, eps = given["members"], settings["cv_ddof"], settings["cv_eps"]
    if not members:
        return back

    if dlosses.get("balance"):
        rows = balance_backward(
            settings["score"], given["h_rows"], given["counts"], given["choices"], dlosses["balance"]
        )
        for t, row in zip(members, rows, strict=True):
            add_to(source[t], row)
    if dlosses.get("z"):
        for t, row in zip(members, z_loss_backward(given["h_rows"], dlosses["z"]), strict=True):
            add_to(source[t], row)
    if dlosses.get("importance"):
        dimportance = cv_squared_backward(given["importance"], ddof, eps, dlosses["importance"])
        for n, t in enumerate(members):
            if settings["importance_of"] == "score":
                add_to(source[t], normalised_scores_backward(settings["score"], given["h_rows"][n], dimportance))
            else:
                add_to(back["before"][t], [dimportance[e] for e in r["chosen"][t]])
    if dlosses.get("load") and given["smooth"]:
        dload = cv_squared_backward(given["load"], ddof, eps, dlosses["load"])
        for t in members:
            dz, dh, ddeviation = smooth_load_of_token_backward(
                r["z"][t], r["h"][t], r["deviation"][t], settings["k"], dload
            )
            add_to(back["z"][t], dz)
            add_to(back["h"][t], dh)
            add_to(back["deviation"][t], ddeviation)
    return back


def weights_to_logits(r: dict, t: int, dweight, dbefore, settings: dict):
    """dL/d(final weight) and dL/d(pre-drop weight) of one token -> dh over the experts."""
    scale, form, eps = settings["scale"], settings["renorm_form"], settings["renorm_eps"]
    v, kept, chosen, s, stands = r["v"][t], r["kept"][t], r["chosen"][t], r["s"][t], r["stands"][t]
    dbefore = [d if stays else 0.0 for d, stays in zip(dbefore, stands, strict=True)]
    dlive = [d if keep else 0.0 for d, keep in zip(dweight, kept, strict=True)]
    if settings["renorm"] and settings["renorm_when"] == "after":
        dv = renormalise_backward(v, [scale * d for d in dlive], form, eps, kept)
        dv = [a + scale * b for a, b in zip(dv, dbefore, strict=True)]
    else:
        dv = [scale * (a + b) for a, b in zip(dlive, dbefore, strict=True)]
        if settings["renorm"]:
            dv = renormalise_backward(v, dv, form, eps, stands)
    if settings["select"] == "expert_choice":
        ds = [0.0] * len(s)
        for e, d in zip(chosen, dv, strict=True):
            ds[e] += d
        return (
            softmax_backward(s, ds)
            if settings["score"] == "softmax"
            else [a * (1.0 - a) * d for a, d in zip(s, ds, strict=True)]
        )
    return slot_values_backward(settings["score"], s, chosen, v, dv)


def moe_loop_backward(x, params: dict, settings: dict, dy, dlosses=None, mask=None, draws=None):
    """(dx shaped like x, {dotted parameter name: gradient}); the gradient of the selection bias is zeros."""
    settings, params, draws = complete(settings), flatten(params), draws or {}
    dlosses = dlosses or {}
    assert set(dlosses) <= set(settings["losses"]), "a cotangent for a loss that is not computed"
    tokens, real = rows_of(x, mask, params)
    n_tokens, n_experts, width = len(tokens), len(params["router.weight"]), np.shape(x)[-1]
    dy_rows = np.asarray(dy, dtype=np.float64).reshape(n_tokens, width).tolist()
    r = route(tokens, real, params, settings, draws)
    back = loss_cotangents(r, real, settings, dlosses, n_experts)
    stored = list(range(n_experts)) if settings["tied"] is None else settings["tied"]
    experts = [expert_at(params, "experts", g) for g in range(max(stored) + 1)]
    shared = [expert_at(params, "shared", e) for e in range(shared_count(params))]
    dexperts = [{name: zeros_like_lists(leaf) for name, leaf in one.items()} for one in experts]
    dshared = [{name: zeros_like_lists(leaf) for name, leaf in one.items()} for one in shared]
    router = {n: params[n].tolist() for n in ("router.weight", "router.noise_weight") if n in params}
    drouter = {name: zeros_like_lists(leaf) for name, leaf in router.items()}
    dbias = [0.0] * n_experts
    dx = [[0.0] * width for _ in range(n_tokens)]

    for t in range(n_tokens):
        if not real[t]:
            continue
        x_t, dy_t, dweight = tokens[t], dy_rows[t], [0.0] * len(r["chosen"][t])
        for j, e in enumerate(r["chosen"][t]):
            if not r["kept"][t][j]:
                continue
            w, e = r["weight"][t][j], stored[e]
            if settings["weight_on"] == "input":
                scaled = [w * a for a in x_t]
                _, pre, hidden = expert_forward(scaled, experts[e], settings)
                dscaled = expert_backward(scaled, experts[e], settings, pre, hidden, dy_t, dexperts[e])
                dweight[j] = dot(dscaled, x_t)
                add_to(dx[t], [w * d for d in dscaled])
            else:
                o, pre, hidden = expert_forward(x_t, experts[e], settings)
                dweight[j] = dot(dy_t, o)
                do = [w * d for d in dy_t]
                add_to(dx[t], expert_backward(x_t, experts[e], settings, pre, hidden, do, dexperts[e]))
        for n, one in enumerate(shared):
            _, pre, hidden = expert_forward(x_t, one, settings)
            add_to(dx[t], expert_backward(x_t, one, settings, pre, hidden, dy_t, dshared[n]))

        dh = weights_to_logits(r, t, dweight, back["before"][t], settings)
        add_to(dh, back["h"][t])
        dz = [a + b for a, b in zip(dh, back["z"][t], strict=True)]
        router_x, drouter_x = r["router_x"][t], [0.0] * width
        sources = {"router.weight": dz}
        if r["deviation"][t] is not None:
            noise = draws["noise"][t].tolist()
            ddeviation = [d * n + extra for d, n, extra in zip(dh, noise, back["deviation"][t], strict=True)]
            raw = [dot(router_x, row) for row in router["router.noise_weight"]]
            sources["router.noise_weight"] = [d * sigmoid(a) for d, a in zip(ddeviation, raw, strict=True)]
        for name, dlogits in sources.items():
            for e, d in enumerate(dlogits):
                add_to(drouter[name][e], [d * a for a in router_x])
                add_to(drouter_x, [d * a for a in router[name][e]])
        add_to(dbias, dz)
        jitter = draws["jitter"][t].tolist() if draws.get("jitter") is not None else [1.0] * width
        add_to(dx[t], [d * m for d, m in zip(drouter_x, jitter, strict=True)])

    grads = {name: np.array(leaf) for name, leaf in drouter.items()}
    if "router.bias" in params:
        grads["router.bias"] = np.array(dbias)
    if "router.selection_bias" in params:
        grads["router.selection_bias"] = np.zeros(n_experts)
    for branch, parts in (("experts", dexperts), ("shared", dshared)):
        for name in parts[0] if parts else ():
            leaf = np.array([part[name] for part in parts])
            grads[f"{branch}.{name}"] = leaf.reshape(params[f"{branch}.{name}"].shape)
    assert set(grads) == set(params), f"parameters without a gradient: {set(params) ^ set(grads)}"
    return np.array(dx).reshape(np.shape(x)), grads
