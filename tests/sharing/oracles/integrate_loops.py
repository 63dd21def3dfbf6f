"""Results of several models made one, a token and a class at a time, logarithms with 50 digits.

Votes; averages of probabilities and of logits; BTM 2208.03306 and c-BTM 2303.14177 section 3 (weights ∝ exp(-d²/T), the
k greatest, renormalised; probabilities are mixed, not logits); mixture log-likelihood Σ_t log Σ_i λ_i p_i(y_t) and its
responsibilities r_i = λ_i p_i / Σ.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np


def softmax(z: list) -> list:
    top = max(z)
    raised = [mpmath.exp(mpmath.mpf(v) - top) for v in z]
    total = mpmath.fsum(raised)
    return [v / total for v in raised]


def hard_vote(choices, n_classes: int, weights=None) -> list[list[float]]:
    """choices (n, T): for each token the weight that each class got."""
    n, t = choices.shape
    c = [1.0] * n if weights is None else [float(w) for w in weights]
    return [[math.fsum(c[i] for i in range(n) if choices[i, s] == k) for k in range(n_classes)] for s in range(t)]


def argmax(values: list) -> int:
    """The first of the greatest."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def mean_of(arrays, weights=None) -> np.ndarray:
    """Σ c_i a_i / Σ c_i of arrays (n, T, C); weights (n,) or (n, T)."""
    n, t, k = arrays.shape
    out = np.empty((t, k))
    for s in range(t):
        c = [
            1.0 if weights is None else float(weights[i] if np.ndim(weights) == 1 else weights[i, s]) for i in range(n)
        ]
        for j in range(k):
            out[s, j] = math.fsum(c[i] * arrays[i, s, j].item() for i in range(n)) / math.fsum(c)
    return out


def probabilities(logits) -> np.ndarray:
    """Softmax along the last axis."""
    with mpmath.workdps(50):
        rows = np.asarray(logits).reshape(-1, np.shape(logits)[-1]).tolist()
        return np.array([[float(v) for v in softmax(row)] for row in rows]).reshape(np.shape(logits))


def cluster_weights(squared, temperature: float, k: int | None) -> np.ndarray:
    """squared (T, n) distances -> (T, n) weights: exp(-d²/T), the k greatest (the first among equals), renormalised."""
    out = np.zeros(squared.shape)
    with mpmath.workdps(50):
        for t, row in enumerate(squared.tolist()):
            raised = [mpmath.exp(-mpmath.mpf(v) / mpmath.mpf(temperature)) for v in row]
            order = sorted(range(len(row)), key=lambda i: (row[i], i))[: len(row) if k is None else k]
            total = mpmath.fsum(raised[i] for i in order)
            for i in order:
                out[t, i] = float(raised[i] / total)
    return out


def log_mixture(logits, weights) -> np.ndarray:
    """log Σ_i λ_i softmax(z_i) (T, C) of logits (n, T, C), weights (n,) or (n, T)."""
    n, t, k = logits.shape
    out = np.empty((t, k))
    with mpmath.workdps(50):
        for s in range(t):
            own = [softmax(logits[i, s].tolist()) for i in range(n)]
            c = [mpmath.mpf(float(weights[i] if np.ndim(weights) == 1 else weights[i, s])) for i in range(n)]
            for j in range(k):
                out[s, j] = float(mpmath.log(mpmath.fsum(a * p[j] for a, p in zip(c, own, strict=True))))
    return out


def mixture_loss(logits, weights, targets) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """(-1/T Σ_t log Σ_i λ_i p_i(y_t), its gradients in the logits (n, T, C) and in λ (n,) or (n, T), responsibilities
    (n, T)): dL/dz_i = r_i (p_i - e_y) / T, dL/dλ_i = -p_i(y) / Σ / T."""
    n, t, k = logits.shape
    dz, dw, r = np.zeros(logits.shape), np.zeros(np.shape(weights)), np.zeros((n, t))
    with mpmath.workdps(50):
        loss = mpmath.mpf(0)
        for s, y in enumerate(np.asarray(targets).tolist()):
            own = [softmax(logits[i, s].tolist()) for i in range(n)]
            c = [mpmath.mpf(float(weights[i] if np.ndim(weights) == 1 else weights[i, s])) for i in range(n)]
            total = mpmath.fsum(a * p[y] for a, p in zip(c, own, strict=True))
            loss -= mpmath.log(total) / t
            for i in range(n):
                share = c[i] * own[i][y] / total
                r[i, s] = float(share)
                for j in range(k):
                    dz[i, s, j] = float(share * (own[i][j] - (1 if j == y else 0)) / t)
                if np.ndim(weights) == 1:
                    dw[i] -= float(own[i][y] / total / t)
                else:
                    dw[i, s] = -float(own[i][y] / total / t)
        return float(loss), dz, dw, r
