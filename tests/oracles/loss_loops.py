"""The four auxiliary losses as scalars, with their gradients; n is the number of real tokens, and 0 tokens cost 0.

balance     E Σ_e f_e P_e, f = count / (choices · n) constant, P = mean of the normalised scores (Switch, GShard)
z           mean of lse(z)² (ST-MoE, 2202.08906)
importance  CV² of Σ_t gate, load: CV² of Σ_t Φ((z − θ) / σ) (1701.06538, appendix A)
"""

from __future__ import annotations

import math

from .routing_loops import normalised_scores, normalised_scores_backward, top_ids
from .scalar_math import logsumexp, normal_cdf, normal_pdf, softmax


def balance(kind: str, h_rows, counts, choices: int) -> float:
    """h_rows: the logits of the real tokens; counts[e]: how often the real tokens chose e, before any drop."""
    n, n_experts = len(h_rows), len(counts)
    if n == 0:
        return 0.0
    mean = [math.fsum(normalised_scores(kind, h)[e] for h in h_rows) / n for e in range(n_experts)]
    return n_experts * math.fsum(counts[e] / (choices * n) * mean[e] for e in range(n_experts))


def balance_backward(kind: str, h_rows, counts, choices: int, dloss: float):
    """dh for each real token: dP_e = dloss E f_e, each token has 1/n of it."""
    n, n_experts = len(h_rows), len(counts)
    dn = [dloss * n_experts * (c / (choices * n)) / n for c in counts] if n else []
    return [normalised_scores_backward(kind, h, dn) for h in h_rows]


def z_loss(h_rows) -> float:
    return math.fsum(logsumexp(h) ** 2 for h in h_rows) / len(h_rows) if h_rows else 0.0


def z_loss_backward(h_rows, dloss: float):
    return [[dloss * 2.0 * logsumexp(h) * p / len(h_rows) for p in softmax(h)] for h in h_rows]


def cv_squared(values, ddof: int, eps: float) -> float:
    """Var / (mean² + eps); a single value, or a mean of 0 with no eps, has no variation: 0."""
    n = len(values)
    mean = math.fsum(values) / n
    bottom = mean * mean + eps
    if n == 1 or bottom == 0.0:
        return 0.0
    return math.fsum((v - mean) ** 2 for v in values) / (n - ddof) / bottom


def cv_squared_backward(values, ddof: int, eps: float, dloss: float) -> list[float]:
    """2 (v − m) / ((E − ddof)(m² + eps)) − 2 V m / (E (m² + eps)²)."""
    n = len(values)
    mean = math.fsum(values) / n
    bottom = mean * mean + eps
    if n == 1 or bottom == 0.0:
        return [0.0] * n
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - ddof)
    second = 2.0 * variance * mean / (n * bottom * bottom)
    return [dloss * (2.0 * (v - mean) / ((n - ddof) * bottom) - second) for v in values]


def smooth_load_of_token(z, h, deviation, k: int):
    """P_e = Φ((z_e − θ_e) / σ_e), u_e, and whose h θ_e is: the (k+1)-th greatest for a chosen e, else the k-th."""
    order = top_ids(h, k + 1)
    chosen, runner_up = order[:k], order[k]
    threshold_at = [runner_up if e in chosen else order[k - 1] for e in range(len(h))]
    u = [(z[e] - h[threshold_at[e]]) / deviation[e] for e in range(len(h))]
    return [normal_cdf(v) for v in u], u, threshold_at


def smooth_load_of_token_backward(z, h, deviation, k: int, dload):
    """dz, dh and dσ of one token; θ is an entry of h, so its share goes to dh there."""
    _, u, threshold_at = smooth_load_of_token(z, h, deviation, k)
    n = len(h)
    dz, dh, ddeviation = [0.0] * n, [0.0] * n, [0.0] * n
    for e in range(n):
        du = normal_pdf(u[e]) * dload[e]
        dz[e] += du / deviation[e]
        dh[threshold_at[e]] -= du / deviation[e]
        ddeviation[e] -= du * u[e] / deviation[e]
    return dz, dh, ddeviation
