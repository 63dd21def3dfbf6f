"""Every op once more, from its paper, as loops over Python floats: nothing of pymoe and no array maths.

A function of rows takes lists of floats; ``by_row`` runs it over the leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Row = list[float]


def by_row(f: Callable[..., Row | float]) -> Callable[..., np.ndarray]:
    """f(row, *parameters as nested lists, **static) for every row of the first argument."""

    def run(x: np.ndarray, *parameters: np.ndarray | None, **static: float) -> np.ndarray:
        lists = [None if p is None else p.tolist() for p in parameters]
        rows = {i: f(x[i].tolist(), *lists, **static) for i in np.ndindex(*x.shape[:-1])}
        width = np.shape(next(iter(rows.values())))
        y = np.empty((*x.shape[:-1], *width))
        for i, row in rows.items():
            y[i] = row
        return y

    return run


def by_element(f: Callable[[float], float]) -> Callable[..., np.ndarray]:
    return by_row(lambda row: [f(v) for v in row])


# --- rows ------------------------------------------------------------------------------------------------------------


def linear(x: Row, weight: list[Row], bias: Row | None = None) -> Row:
    return [math.fsum([w * v for w, v in zip(column, x, strict=True)] + ([] if bias is None else [bias[o]]))
            for o, column in enumerate(weight)]  # fmt: skip


def csr_linear(x: Row, data: Row, indices: np.ndarray, indptr: np.ndarray) -> Row:
    y = []
    for first, last in zip(indptr, indptr[1:], strict=False):
        y.append(math.fsum(data[e] * x[indices[e]] for e in range(first, last)))
    return y


def bsr_linear(x: Row, data: list[list[Row]], indices: np.ndarray, indptr: np.ndarray) -> Row:
    r, c = len(data[0]), len(data[0][0])
    y = []
    for first, last in zip(indptr, indptr[1:], strict=False):
        for a in range(r):
            y.append(math.fsum(data[e][a][b] * x[indices[e] * c + b] for e in range(first, last) for b in range(c)))
    return y


def nm_linear(x: Row, data: list[Row], position: np.ndarray, m: int) -> Row:
    n = len(data[0]) * m // len(x)
    y = []
    for row, places in zip(data, position, strict=True):
        y.append(math.fsum(v * x[q // n * m + places[q]] for q, v in enumerate(row)))
    return y


def logsumexp(x: Row) -> float:
    top = max(x)
    return top + math.log(math.fsum(math.exp(v - top) for v in x))


def log_softmax(x: Row) -> Row:
    total = logsumexp(x)
    return [v - total for v in x]


def softmax(x: Row) -> Row:
    return [math.exp(v) for v in log_softmax(x)]


def layer_norm(x: Row, weight: Row, bias: Row, eps: float = 1e-5) -> Row:
    mean = math.fsum(x) / len(x)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in x) / len(x) + eps)
    return [(v - mean) / deviation * w + b for v, w, b in zip(x, weight, bias, strict=True)]


def rms_norm(x: Row, weight: Row, eps: float = 1e-6) -> Row:
    rms = math.sqrt(math.fsum(v * v for v in x) / len(x) + eps)
    return [v / rms * w for v, w in zip(x, weight, strict=True)]


# --- elements --------------------------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2


def silu(x: float) -> float:
    return x * sigmoid(x)


def gelu(x: float) -> float:
    return x * math.erfc(-x / math.sqrt(2)) / 2


def gelu_tanh(x: float) -> float:
    return x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))  # (1 + tanh u) / 2 = σ(2 u)


def relu(x: float) -> float:
    return max(x, 0.0)


def relu_squared(x: float) -> float:
    return x**2 if x > 0 else 0.0


def softplus(x: float) -> float:
    return math.log1p(math.exp(x)) if x < 30 else x


def gated(f: Callable[[float], float]) -> Callable[..., np.ndarray]:
    def row(x: Row) -> Row:
        half = len(x) // 2
        return [f(x[i]) * x[half + i] for i in range(half)]

    return by_row(row)


def variant(
    x: Row,
    act: str = "silu",
    limit: float | None = None,
    clamp: str = "before",
    alpha: float = 1.0,
    offset: float = 0.0,
    softcap: Row | None = None,
) -> Row:
    """The gated activations of published experts, one hidden unit at a time."""
    half, h = len(x) // 2, []
    for g, u in zip(x[:half], x[half:], strict=True):
        if softcap is not None:
            gate, up = (
                softcap[0] * math.tanh(g / softcap[0]) * sigmoid(alpha * g),
                softcap[1] * math.tanh(u / softcap[1]),
            )
        else:
            up = u if limit is None else max(-limit, min(limit, u))
            g = min(g, limit) if limit is not None and clamp == "before" else g
            gate = g * sigmoid(alpha * g) if act == "silu" else {"gelu": gelu, "relu": relu}[act](g)
            gate = min(gate, limit) if limit is not None and clamp == "after" else gate
        h.append(gate * (up + offset))
    return h


def scaled_rms_norm(x: Row, weight: Row, eps: float = 1e-6) -> Row:
    return rms_norm([v * w for v, w in zip(x, weight, strict=True)], [1.0] * len(x), eps)


# --- the rest --------------------------------------------------------------------------------------------------------


def embedding(ids: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return by_row(lambda i, table: table[i[0]])(ids[..., None], weight)


def rope(
    x: np.ndarray,
    positions: np.ndarray,
    base: float = 10000.0,
    frequencies: tuple[float, ...] | None = None,
    amplitude: float = 1.0,
) -> np.ndarray:
    """Channel pair (i, i + d/2) as one complex number, multiplied by e^{i position θ}, in polar form."""
    b, h, s, d = x.shape
    y = np.empty(x.shape)
    for n in np.ndindex(b, h, s):
        position = int(positions[n[2]] if positions.ndim == 1 else positions[n[0], n[2]])
        for i in range(d // 2):
            re, im = float(x[n][i]), float(x[n][i + d // 2])
            theta = 1 / base ** (2 * i / d) if frequencies is None else frequencies[i]
            radius, angle = amplitude * math.hypot(re, im), math.atan2(im, re) + position * theta
            y[n][i], y[n][i + d // 2] = radius * math.cos(angle), radius * math.sin(angle)
    return y


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    sinks: np.ndarray | None = None,
    causal: bool = False,
    scale: float | None = None,
    first: np.ndarray | None = None,
) -> np.ndarray:
    """One query at a time over the list of the keys it may see; a sink is a key whose value is 0."""
    b, h, queries, d = q.shape
    groups, keys, width = k.shape[1], k.shape[2], v.shape[3]
    factor = 1 / math.sqrt(d) if scale is None else scale
    y = np.zeros((b, h, queries, width))
    for n, head, i in np.ndindex(b, h, queries):
        g = head * groups // h
        seen = [j for j in range(keys) if (mask is None or mask[n, j]) and (not causal or j - i <= keys - queries)]
        seen = [j for j in seen if first is None or j >= first[i]]
        if seen:
            q_i = q[n, head, i].tolist()
            s = [factor * linear(q_i, [k[n, g, j].tolist()])[0] for j in seen]
            s = s if bias is None else [z + float(bias[head, i, j]) for z, j in zip(s, seen, strict=True)]
            p = softmax(s if sinks is None else [*s, float(sinks[head])])[: len(seen)]
            y[n, head, i] = [math.fsum(p_j * float(v[n, g, j, c]) for p_j, j in zip(p, seen, strict=True))
                             for c in range(width)]  # fmt: skip
    return y


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, ignore_index: int = -100, label_smoothing: float = 0.0
) -> np.ndarray:
    """-Σ_j q_j log p_j with the smoothed target distribution q written out."""
    losses = []
    for i in np.ndindex(*targets.shape):
        if targets[i] != ignore_index:
            log_p = log_softmax(logits[i].tolist())
            share = label_smoothing / len(log_p)
            losses.append(
                -math.fsum((share + (1 - label_smoothing) * (j == targets[i])) * v for j, v in enumerate(log_p))
            )
    return np.array(math.fsum(losses) / len(losses) if losses else 0.0)


def mixture(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Σ_i λ_i x_i, a place at a time."""
    y = np.empty(x.shape[1:])
    for place in np.ndindex(*y.shape):
        lam = [weight[i] if weight.ndim == 1 else weight[(i, *place[:-1])] for i in range(len(x))]
        y[place] = math.fsum(float(v) * float(x[(i, *place)]) for i, v in enumerate(lam))
    return y


def mixture_nll(logits: np.ndarray, weight: np.ndarray, targets: np.ndarray, ignore_index: int = -100) -> np.ndarray:
    """-log Σ_i λ_i p_i(y), with the probabilities themselves."""
    losses = []
    for row in np.ndindex(*targets.shape):
        if targets[row] != ignore_index:
            lam = [float(weight[i] if weight.ndim == 1 else weight[(i, *row)]) for i in range(len(logits))]
            said = [math.exp(log_softmax(z[row].tolist())[targets[row]]) for z in logits]
            losses.append(-math.log(math.fsum(v * p for v, p in zip(lam, said, strict=True))))
    return np.array(math.fsum(losses) / len(losses) if losses else 0.0)


def dropout(x: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    y = [v / (1 - rate) if kept else 0.0 for v, kept in zip(x.ravel().tolist(), mask.ravel().tolist(), strict=True)]
    return np.array(y).reshape(x.shape)


def masked(w: np.ndarray, mask: np.ndarray) -> np.ndarray:
    y = [v if stays else 0.0 for v, stays in zip(w.ravel().tolist(), mask.ravel().tolist(), strict=True)]
    return np.array(y).reshape(w.shape)


def mean_pool(x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    b, s, d = x.shape
    y = np.zeros((b, d))
    for n, c in np.ndindex(b, d):
        real = [float(x[n, i, c]) for i in range(s) if mask is None or mask[n, i]]
        y[n, c] = math.fsum(real) / len(real) if real else 0.0
    return y
