"""The experts, the shared experts and what joins them, one token, one choice, one number at a time; settings in words.

Written from the papers and the published modelling code; imports nothing of pymoe.  Numbers are Python complex, so the
same loop gives values (imaginary part 0) and, with 1e-30 i added to one number, the derivative by it.

    y = outcome(x, choices, params, settings)    x: rows of numbers; choices[t]: [(expert id, weight), ...] that count
    gradient(x, choices, params, settings, dy)   {"weight": per choice, name: per parameter} of Σ dy y, by complex steps
"""

from __future__ import annotations

import cmath
import math

import numpy as np

STEP = 1e-30


def sigmoid(v):
    return 1 / (1 + cmath.exp(-v)) if v.real >= 0 else cmath.exp(v) / (1 + cmath.exp(v))


def erf(v):
    return math.erf(v.real) + 1j * v.imag * 2 / math.sqrt(math.pi) * math.exp(-v.real * v.real)


ACT = {
    "silu": lambda v: v * sigmoid(v),
    "gelu": lambda v: v * (1 + erf(v / math.sqrt(2))) / 2,
    "gelu_tanh": lambda v: v * (1 + cmath.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2,
    "relu": lambda v: v if v.real > 0 else 0j,
    "relu_squared": lambda v: v * v if v.real > 0 else 0j,
}


def times(matrix, v, bias=None):
    out = [sum(m * a for m, a in zip(row, v, strict=True)) for row in matrix]
    return out if bias is None else [o + b for o, b in zip(out, bias, strict=True)]


def at_most(v, top):
    return complex(top) if v.real > top else v


def hidden(a, form):
    """The hidden units of one expert from the outputs of its first matrix."""
    if not form["gated"]:
        return [ACT[form["activation"]](v) for v in a]
    half, out = len(a) // 2, []
    for gate, up in zip(a[:half], a[half:], strict=True):
        if form["softcap"]:
            cap, top = form["softcap"]
            out.append(cap * cmath.tanh(gate / cap) * sigmoid(gate) * (top * cmath.tanh(up / top)))
            continue
        limit = form["limit"]
        if limit is not None:
            up = at_most(-at_most(-up, limit), limit)
            if form["clamp"] == "before":
                gate = at_most(gate, limit)
        value = gate * sigmoid(form["alpha"] * gate) if form["activation"] == "silu" else ACT[form["activation"]](gate)
        if limit is not None and form["clamp"] == "after":
            value = at_most(value, limit)
        out.append(value * (up + form["offset"]))
    return out


def normed(v, weight, norm):
    """norm: (eps, is the weight on the input?)"""
    eps, on_input = norm
    if on_input:
        v = [a * w for a, w in zip(v, weight, strict=True)]
    length = cmath.sqrt(sum(a * a for a in v) / len(v) + eps)
    return [a / length * (1 if on_input else w) for a, w in zip(v, weight, strict=True)]


def part(params, name, e=None):
    found = params.get(name)
    return found if found is None or e is None else found[e]


def network(v, params, branch, form, e=None, weigh=None):
    """One feed-forward network; ``weigh`` multiplies the hidden units (a list) before the way down."""
    up = "gate_up_proj" if form["gated"] else "up_proj"
    a = times(part(params, f"{branch}.{up}", e), v, part(params, f"{branch}.{up}_bias", e))
    h = hidden(a, form)
    if weigh is not None:
        h = [u * w for u, w in zip(h, weigh, strict=True)]
    return times(part(params, f"{branch}.down_proj", e), h, part(params, f"{branch}.down_proj_bias", e))


def null(kind, x, params, number):
    """What an expert without matrices puts out for x; ``number`` counts the constant ones."""
    if kind in ("identity", "copy"):
        return x
    if kind == "constant":  # MoE++: softmax of two logits mixes x and a trained vector
        top, low = (cmath.exp(z) for z in times(params["null.weight"][number], x))
        return [(top * a + low * v) / (top + low) for a, v in zip(x, params["null.vector"][number], strict=True)]
    return [0j] * len(x)


def token(x, choices, params, s):
    seen = x
    if s["latent"]:
        seen = times(params["latent.pre_proj"], x, params.get("latent.pre_proj_bias"))
        if s["latent_norm"]:
            seen = normed(seen, params["latent.pre_norm"], s["latent_norm"])
    total = [0j] * len(seen)
    extra = [0j] * len(x)
    for expert, w in choices:
        if expert >= s["experts"]:
            kinds = s["null"]
            which = expert - s["experts"]
            o = null(kinds[which], x, params, kinds[:which].count("constant"))
            extra = [a + w * b for a, b in zip(extra, o, strict=True)]
            continue
        e = s["stored"][expert]
        if s["weight_at"] == "input":
            o, w = network([w * a for a in seen], params, "experts", s["form"], e), 1
        else:
            o = network(seen, params, "experts", s["form"], e)
        if s["post_norm"]:
            o = normed(o, params["experts.post_norm"], s["post_norm"])
        total = [a + w * b for a, b in zip(total, o, strict=True)]
    if s["latent"]:
        total = times(params["latent.post_proj"], total, params.get("latent.post_proj_bias"))
    total = [s["scale"] * (a + b) for a, b in zip(total, extra, strict=True)]
    if s["shared"]:
        weigh = None
        if s["shared"] == "joint":
            each = s["shared_width"] // len(s["joint"])
            weigh = [g for g in s["joint"] for _ in range(each)]
        f = network(x, params, "shared", s["shared_form"], weigh=weigh)
        if s["shared"] == "gated":
            c = sigmoid(times(params["shared.gate"], x)[0])
            f = [c * v for v in f]
        total = [a + b for a, b in zip(total, f, strict=True)]
        if s["shared"] == "average":
            total = [a / 2 for a in total]
    if s["output_norm"]:
        total = normed(total, params["output.norm"], s["output_norm"])
    if "output.bias" in params:
        total = [a + b for a, b in zip(total, params["output.bias"], strict=True)]
    return total


def outcome(x, choices, params, settings, joint=None):
    """y (T, D), complex; choices[t] is None for a padding token, whose row is 0."""
    rows = []
    for t, row in enumerate(x):
        if choices[t] is None:
            rows.append([0j] * len(row))
        else:
            own = settings if joint is None else {**settings, "joint": joint[t]}
            rows.append(token(list(row), choices[t], params, own))
    return rows


def complexes(a):
    return np.asarray(a, dtype=complex).tolist()


def entries(nest):
    """(list that holds it, index) of every number of nested lists."""
    for i, v in enumerate(nest):
        if isinstance(v, list):
            yield from entries(v)
        else:
            yield nest, i


def gradient(x, choices, params, settings, dy, joint=None):
    """{name: flat gradient}; "x" is that of the experts alone, "weight" that of each choice in order, "joint" γ's."""
    x, params = complexes(x), {n: complexes(a) for n, a in params.items()}
    choices = [None if c is None else [[e, complex(w)] for e, w in c] for c in choices]
    joint = None if joint is None else complexes(joint)

    def slope():
        y = outcome(x, choices, params, settings, joint)
        return math.fsum(d * v.imag for a, b in zip(dy, y, strict=True) for d, v in zip(a, b, strict=True)) / STEP

    def by(places):
        found = []
        for holder, i in places:
            kept = holder[i]
            holder[i] = kept + 1j * STEP
            found.append(slope())
            holder[i] = kept
        return np.array(found)

    out = {n: by(entries(a)) for n, a in params.items()}
    out["x"] = by(entries(x))
    out["weight"] = by([(pair, 1) for c in choices if c is not None for pair in c])
    if joint is not None:
        out["joint"] = by(entries(joint))
    return out
