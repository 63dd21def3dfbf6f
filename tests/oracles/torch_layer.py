"""The same layer a second time, in plain PyTorch (float64) with a Python loop over the tokens: gradients by autograd.

Shares only `settings.py` with the loop oracles.  The drop orders are written another way (sort all pairs by a key, then
serve the first C of each expert), and the choice of experts by sorting.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from .settings import complete, flatten

torch = pytest.importorskip("torch")

ACTIVATIONS = {
    "relu": torch.relu,
    "relu_squared": lambda a: torch.relu(a) ** 2,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda a: torch.nn.functional.gelu(a, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}


def best_first(values) -> list[int]:
    values = values.detach().tolist() if torch.is_tensor(values) else list(values)
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def ffn(x, p, branch, e, cfg):
    def leaf(name, rank):
        a = p.get(f"{branch}.{name}")
        return None if a is None else a if a.ndim == rank else a[e]

    act = ACTIVATIONS[cfg["activation"]]
    linear = torch.nn.functional.linear
    if cfg["gated"]:
        gate, up = linear(x, leaf("gate_up_proj", 2), leaf("gate_up_proj_bias", 1)).chunk(2)
        hidden = act(gate) * up
    else:
        hidden = act(linear(x, leaf("up_proj", 2), leaf("up_proj_bias", 1)))
    return linear(hidden, leaf("down_proj", 2), leaf("down_proj_bias", 1))


def normalise(v, live, cfg):
    total = (v * live).sum()
    bottom = total + cfg["renorm_eps"] if cfg["renorm_form"] == "add" else total.clamp(min=cfg["renorm_eps"])
    return v * live / bottom if bool(live.any()) and float(bottom.detach()) != 0.0 else v * 0.0


def places(cfg, n, e):
    rule, k, cf = cfg["capacity_rule"], cfg["k"], cfg["capacity_factor"]
    if rule == "fixed":
        return cfg["capacity"]
    found = {
        "switch": lambda: min(n, int(n * cf / e)),
        "floor": lambda: int(cf * k * n / e),
        "ceil": lambda: math.ceil(k * n / e * cf),
        "gshard": lambda: (k * n) // e,
        "expert_choice": lambda: int(n * cf / e),
    }[rule]()
    found = max(found, cfg["capacity_min"])
    return min(found, n) if rule == "expert_choice" else found


def serve(pairs, order, best, priority, capacity):
    """pairs (t, j, e) -> the set of served (t, j)."""
    key = {
        "token": lambda q: (q[0], q[1]),
        "choice": lambda q: (q[1], q[0]),
        "score": lambda q: (q[1], -best[q[0]], q[0]),
        "score_token": lambda q: (-best[q[0]], q[0], q[1]),
        "probability": lambda q: (-priority[q[0], q[1]], q[0], q[1]),
    }[order]
    taken: dict[int, int] = {}
    served = set()
    for t, j, e in sorted(pairs, key=key):
        taken[e] = taken.get(e, 0) + 1
        if capacity is None or taken[e] <= capacity:
            served.add((t, j))
    return served


def cv2(values, ddof, eps):
    bottom = values.mean() ** 2 + eps
    if len(values) == 1 or float(bottom.detach()) == 0.0:
        return values.sum() * 0.0
    return values.var(correction=ddof) / bottom


def moe_torch(x, params, settings, mask=None, draws=None):
    """(y, losses) as tensors; x and params are float64 tensors, draws NumPy arrays or None."""
    cfg, p, draws = complete(settings), flatten(params), draws or {}
    n_experts, k = len(p["router.weight"]), cfg["k"]
    flat = x.reshape(-1, x.shape[-1])
    n = len(flat)
    real = [True] * n if mask is None else np.asarray(mask).reshape(-1).tolist()
    members = [t for t in range(n) if real[t]]
    draws = {name: torch.from_numpy(np.array(value)) for name, value in draws.items() if value is not None}
    noisy = cfg["noisy"] and "noise" in draws

    source = flat * draws["jitter"] if "jitter" in draws else flat
    z = torch.nn.functional.linear(source, p["router.weight"], p.get("router.bias"))
    sigma = torch.nn.functional.softplus(source @ p["router.noise_weight"].T, threshold=700) + 1e-2 if noisy else None
    h = z + draws["noise"] * sigma if noisy else z
    sigmoid_scores = torch.sigmoid(h)
    s = {"softmax": torch.softmax(h, -1), "sigmoid": sigmoid_scores, "softmax_topk": h}[cfg["score"]]
    capacity = None
    if cfg["capacity_rule"] is not None:
        capacity = places(cfg, len(members) if cfg["capacity_tokens"] == "real" else n, n_experts)

    chosen: dict[int, list[int]] = {t: [] for t in range(n)}
    before, final = {}, {}
    if cfg["select"] == "expert_choice":
        for e in range(n_experts):
            ranking = [members[i] for i in best_first(s[members, e])] if members else []
            for t in ranking[:capacity]:
                chosen[t].append(e)
        for t in members:
            before[t] = final[t] = cfg["scale"] * s[t, chosen[t]]
        served = {(t, j) for t in members for j in range(len(chosen[t]))}
    else:
        bias = p["router.selection_bias"].detach() if "router.selection_bias" in p else torch.zeros(n_experts)
        raw, now, pairs = {}, {}, []
        for t in members:
            c = s[t].detach() + bias
            if cfg["n_groups"] > 1:
                grouped = c.reshape(cfg["n_groups"], -1)
                top = 1 if cfg["group_score"] == "max" else min(2, grouped.shape[1])
                value = grouped.sort(dim=-1, descending=True).values[:, :top].sum(-1)
                closed = best_first(value)[cfg["topk_groups"] :]
                grouped = grouped.clone()
                grouped[closed] = -math.inf
                c = grouped.reshape(-1)
            chosen[t] = best_first(c)[:k]
            raw[t] = torch.softmax(s[t, chosen[t]], -1) if cfg["score"] == "softmax_topk" else s[t, chosen[t]]
            early = cfg["renorm"] and cfg["renorm_when"] == "before"
            live = torch.ones(k, dtype=torch.bool)
            if cfg["skip"] is not None:
                live[1:] = raw[t][1:].detach() >= cfg["skip"] * raw[t][0].detach()
            now[t] = normalise(raw[t], live, cfg) if early else raw[t] * live
            before[t] = cfg["scale"] * now[t]
            for j in live.nonzero()[:, 0].tolist():
                if j == 1 and cfg["second"] == "random" and "second" in draws:
                    gate = (now if cfg["second_gate"] == "weight" else raw)[t][1]
                    if not float(draws["second"][t]) < float(gate.detach()) / cfg["second_threshold"]:
                        continue
                pairs.append((t, j, chosen[t][j]))
        ranked = before if cfg["priority"] == "weight" else raw
        priority = {(t, j): float(ranked[t][j].detach()) for t in members for j in range(k)}
        best = {t: max(priority[t, j] for j in range(k)) for t in members}
        served = serve(pairs, cfg["drop_order"], best, priority, capacity)
        for t in members:
            live = torch.tensor([(t, j) in served for j in range(k)])
            late = cfg["renorm"] and cfg["renorm_when"] == "after"
            final[t] = cfg["scale"] * normalise(raw[t], live, cfg) if late else before[t] * live

    rows = []
    for t in range(n):
        row = flat[t] * 0.0
        for j, e in enumerate(chosen[t]):
            if (t, j) in served:
                w = final[t][j]
                given = w * flat[t] if cfg["weight_on"] == "input" else flat[t]
                out = ffn(given, p, "experts", e if cfg["tied"] is None else cfg["tied"][e], cfg)
                row = row + (out if cfg["weight_on"] == "input" else w * out)
        down = p.get("shared.down_proj")
        if down is not None and real[t]:
            for i in range(1 if down.ndim == 2 else len(down)):
                row = row + ffn(flat[t], p, "shared", i, cfg)
        rows.append(row)
    y = torch.stack(rows).reshape(x.shape) if rows else x * 0.0
    return y, torch_losses(cfg, members, chosen, before, z, h, sigma, n_experts)


def torch_losses(cfg, members, chosen, before, z, h, sigma, n_experts):
    zero = z.sum() * 0.0
    if not members:
        return {name: zero for name in cfg["losses"]}
    logits = (h if cfg["loss_logits"] == "noisy" else z)[members]
    probability = torch.softmax(logits, -1)
    if cfg["score"] == "sigmoid":
        probability = torch.nn.functional.normalize(torch.sigmoid(logits), p=1, dim=-1, eps=0.0)
    counts, first, gates = torch.zeros((3, n_experts), dtype=z.dtype).unbind()
    importance = gates + zero
    for t in members:
        for j, e in enumerate(chosen[t]):
            counts[e] += 1
            first[e] += j == 0
            importance = importance + before[t][j] * torch.nn.functional.one_hot(torch.tensor(e), n_experts)
    f = first if cfg["balance_choices"] == "first" and cfg["select"] == "topk" else counts
    f = f / f.sum() if float(f.sum()) else f
    if cfg["importance_of"] == "score":
        importance = probability.sum(0)
    load = counts + zero
    if sigma is not None and cfg["k"] < n_experts:
        normal = torch.distributions.Normal(0.0, 1.0)
        load = torch.zeros(n_experts, dtype=z.dtype)
        for t in members:
            order = best_first(h[t])
            k = cfg["k"]
            theta = torch.stack([h[t, order[k] if e in order[:k] else order[k - 1]] for e in range(n_experts)])
            load = load + normal.cdf((z[t] - theta) / sigma[t])
    values = {
        "balance": n_experts * (f * probability.mean(0)).sum(),
        "z": (torch.logsumexp(logits, -1) ** 2).mean(),
        "importance": cv2(importance, cfg["cv_ddof"], cfg["cv_eps"]),
        "load": cv2(load, cfg["cv_ddof"], cfg["cv_eps"]),
    }
    return {name: values[name] for name in cfg["losses"]}


def moe_torch_backward(x, params, settings, dy, dlosses=None, mask=None, draws=None):
    """Values and gradients by autograd: (y, losses, dx, {dotted name: gradient}) as NumPy arrays and floats."""
    leaf = {name: torch.tensor(np.array(a), requires_grad=True) for name, a in flatten(params).items()}
    x = torch.tensor(np.array(x), requires_grad=True)
    y, losses = moe_torch(x, leaf, settings, mask, draws)
    total = (y * torch.from_numpy(np.array(dy))).sum()
    for name, d in (dlosses or {}).items():
        total = total + d * losses[name]
    found = torch.autograd.grad(total, [x, *leaf.values()], allow_unused=True)
    grads = [
        np.zeros(tuple(a.shape)) if g is None else g.numpy() for a, g in zip([x, *leaf.values()], found, strict=True)
    ]
    values = {name: float(v.detach()) for name, v in losses.items()}
    return y.detach().numpy(), values, grads[0], dict(zip(leaf, grads[1:], strict=True))
