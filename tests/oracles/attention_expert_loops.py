"""Attention experts one token, one choice, one number at a time, from arXiv:2404.07413 and arXiv:2312.07987.

Python complex numbers throughout (see ``form_loops``); imports nothing of pymoe.  ``choices[t]`` lists (expert, weight)
of MoA; for SwitchHead ``choices[side][t][h]`` does.  A padding token has none and may not be looked at.
"""

from __future__ import annotations

import cmath
import math

from .form_loops import STEP, complexes, entries, times


def turned(v, position, base):
    """Rotary positions: channel i turns with channel i + d/2."""
    half = len(v) // 2
    angles = [position * base ** (-2 * i / len(v)) for i in range(half)]
    first = [v[i] * math.cos(a) - v[i + half] * math.sin(a) for i, a in enumerate(angles)]
    return first + [v[i + half] * math.cos(a) + v[i] * math.sin(a) for i, a in enumerate(angles)]


def looked(q, keys, values):
    """softmax(q · k / √d) v over the given keys; nothing to see: zeros."""
    if not keys:
        return [0j] * len(q)
    scores = [sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(len(q)) for k in keys]
    top = max(s.real for s in scores)
    raised = [cmath.exp(s - top) for s in scores]
    total = sum(raised)
    return [sum(r * v[i] for r, v in zip(raised, values, strict=True)) / total for i in range(len(values[0]))]


def seen_by(t, real, causal):
    return [u for u in range(len(real)) if real[u] and (u <= t or not causal)]


def plus(a, b, w=1):
    return [x + w * y for x, y in zip(a, b, strict=True)]


def moa(x, choices, p, s):
    """y of one sequence x (rows); s: heads, d, causal, base, real."""
    heads, d, real = s["heads"], s["d"], s["real"]
    kv = [times(p["kv_proj"], row) for row in x]

    def head(v, t, i, turn=True):
        v = v[i * d : (i + 1) * d]
        return turned(v, t, s["base"]) if turn and s["base"] else v

    rows = []
    for t, row in enumerate(x):
        total = [0j] * len(row)
        if real[t]:
            for e, w in choices[t]:
                q, out = times(p["q_proj"][e], row), []
                for i in range(heads):
                    seen = seen_by(t, real, s["causal"])
                    keys = [head(kv[u], u, i) for u in seen]
                    values = [head(kv[u][heads * d :], u, i, False) for u in seen]
                    out += looked(head(q, t, i), keys, values)
                total = plus(total, times(p["o_proj"][e], out), w)
            total = plus(total, p["bias"]) if "bias" in p else total
        rows.append(total)
    return rows


def switch_head(x, choices, p, s):
    """y of one sequence; s: heads, d, causal, base, real, on (which projections are mixtures)."""
    heads, d, real = s["heads"], s["d"], s["real"]
    side = {"k": "source", "v": "source", "q": "target", "o": "target"}

    def project(n, v, t, h):
        if n in s["on"]:
            out = [0j] * len(p[f"{n}_proj"][h][0])
            for e, w in choices[side[n]][t][h]:
                out = plus(out, times(p[f"{n}_proj"][h][e], v), w)
            return out
        if n == "o":
            return times([row[h * d : (h + 1) * d] for row in p["o_proj"]], v)
        return times(p[f"{n}_proj"][h * d : (h + 1) * d], v)

    def turn(v, t):
        return turned(v, t, s["base"]) if s["base"] else v

    rows = []
    for t, row in enumerate(x):
        total = [0j] * len(row)
        for h in range(heads if real[t] else 0):
            seen = seen_by(t, real, s["causal"])
            keys = [turn(project("k", x[u], u, h), u) for u in seen]
            values = [project("v", x[u], u, h) for u in seen]
            total = plus(total, project("o", looked(turn(project("q", row, t, h), t), keys, values), t, h))
        rows.append(total)
    return rows


def pairs_of(nest):
    """Every [expert, weight] of nested choices, in order."""
    if isinstance(nest, dict):
        for part in nest.values():
            yield from pairs_of(part)
    elif nest and isinstance(nest[0], int):
        yield nest
    else:
        for part in nest:
            yield from pairs_of(part)


def listed(nest):
    """Choices with lists for pairs and complex weights, so that they can be changed in place."""
    if isinstance(nest, dict):
        return {n: listed(v) for n, v in nest.items()}
    if isinstance(nest, tuple):
        return [nest[0], complex(nest[1])]
    return [listed(v) for v in nest]


def gradient(layer, x, choices, params, settings, dy):
    """{name: flat gradient} of Σ dy y over the batch of sequences: parameters, "x" (projections only), "weight"."""
    x, params = complexes(x), {n: complexes(a) for n, a in params.items()}
    choices = [listed(c) for c in choices]

    def slope():
        total = []
        for one, own, real, out in zip(x, choices, settings["real"], dy, strict=True):
            y = layer(one, own, params, {**settings, "real": real})
            total += [d * v.imag for a, b in zip(out, y, strict=True) for d, v in zip(a, b, strict=True)]
        return math.fsum(total) / STEP

    def by(places):
        found = []
        for holder, i in places:
            kept = holder[i]
            holder[i] = kept + 1j * STEP
            found.append(slope())
            holder[i] = kept
        return found

    out = {n: by(entries(a)) for n, a in params.items()}
    return out | {"x": by(entries(x)), "weight": by([(pair, 1) for pair in pairs_of(choices)])}
