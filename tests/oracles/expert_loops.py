"""One expert on one token, unit by unit: MLP and GLU, with or without biases (GLU: Shazeer, 2002.05202)."""

from __future__ import annotations

from .scalar_math import activation, activation_slope, dot


def expert_at(params: dict, branch: str, e: int) -> dict:
    """The weights of expert e of "experts" or "shared" as lists; a single shared one may lack the expert axis."""
    found = {}
    for name in ("gate_up_proj", "up_proj", "down_proj"):
        for suffix, rank in (("", 2), ("_bias", 1)):
            leaf = params.get(f"{branch}.{name}{suffix}")
            if leaf is not None:
                found[name + suffix] = (leaf if leaf.ndim == rank else leaf[e]).tolist()
    return found


def shared_count(params: dict) -> int:
    down = params.get("shared.down_proj")
    return 0 if down is None else 1 if down.ndim == 2 else down.shape[0]


def expert_forward(x, expert: dict, settings: dict):
    """o (D), and what the backward needs: pre-activations (F or 2F) and hidden units (F)."""
    first = "gate_up_proj" if settings["gated"] else "up_proj"
    bias = expert.get(first + "_bias")
    pre = [dot(row, x) + (0.0 if bias is None else bias[i]) for i, row in enumerate(expert[first])]
    act = settings["activation"]
    if settings["gated"]:
        width = len(pre) // 2
        hidden = [activation(act, pre[f]) * pre[width + f] for f in range(width)]
    else:
        hidden = [activation(act, a) for a in pre]
    bias = expert.get("down_proj_bias")
    out = [dot(row, hidden) + (0.0 if bias is None else bias[d]) for d, row in enumerate(expert["down_proj"])]
    return out, pre, hidden


def expert_backward(x, expert: dict, settings: dict, pre, hidden, do, grads: dict):
    """Adds the gradients of one row to `grads` (lists shaped like `expert`), returns dx (D)."""
    first = "gate_up_proj" if settings["gated"] else "up_proj"
    act, width = settings["activation"], len(hidden)
    for d, do_d in enumerate(do):
        for f in range(width):
            grads["down_proj"][d][f] += do_d * hidden[f]
        if "down_proj_bias" in grads:
            grads["down_proj_bias"][d] += do_d
    dpre = [0.0] * len(pre)
    for f in range(width):
        dh = dot(do, [row[f] for row in expert["down_proj"]])
        if settings["gated"]:
            dpre[f] = dh * pre[width + f] * activation_slope(act, pre[f])
            dpre[width + f] = dh * activation(act, pre[f])
        else:
            dpre[f] = dh * activation_slope(act, pre[f])
    for i, da in enumerate(dpre):
        for d, x_d in enumerate(x):
            grads[first][i][d] += da * x_d
        if first + "_bias" in grads:
            grads[first + "_bias"][i] += da
    return [dot(dpre, [row[d] for row in expert[first]]) for d in range(len(x))]
