"""Scalars and lists of Python floats: every sum is `math.fsum`, so that the oracle rounds as little as it can."""

from __future__ import annotations

import math

SQRT2 = math.sqrt(2.0)
SQRT_2PI = math.sqrt(2.0 * math.pi)


def dot(a, b) -> float:
    assert len(a) == len(b)
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def sigmoid(a: float) -> float:
    return 1.0 / (1.0 + math.exp(-a)) if a >= 0.0 else math.exp(a) / (1.0 + math.exp(a))


def softplus(a: float) -> float:
    return max(a, 0.0) + math.log1p(math.exp(-math.fabs(a)))


def logsumexp(z) -> float:
    top = max(z)
    return top + math.log(math.fsum(math.exp(v - top) for v in z))


def softmax(z) -> list[float]:
    top = max(z)
    raised = [math.exp(v - top) for v in z]
    total = math.fsum(raised)
    return [v / total for v in raised]


def softmax_backward(p, dp) -> list[float]:
    """dz = p ⊙ (dp − ⟨p, dp⟩)."""
    mean = dot(p, dp)
    return [p_e * (dp_e - mean) for p_e, dp_e in zip(p, dp, strict=True)]


def normal_cdf(u: float) -> float:
    return 0.5 * math.erfc(-u / SQRT2)


def normal_pdf(u: float) -> float:
    return math.exp(-0.5 * u * u) / SQRT_2PI


TANH_GELU = math.sqrt(2.0 / math.pi)


def activation(name: str, a: float) -> float:
    if name == "relu":
        return a if a > 0.0 else 0.0
    if name == "relu_squared":
        return a * a if a > 0.0 else 0.0
    if name == "gelu":
        return a * normal_cdf(a)
    if name == "gelu_tanh":
        return 0.5 * a * (1.0 + math.tanh(TANH_GELU * (a + 0.044715 * a**3)))
    if name == "silu":
        return a * sigmoid(a)
    raise ValueError(name)


def activation_slope(name: str, a: float) -> float:
    if name == "relu":
        return 1.0 if a > 0.0 else 0.0
    if name == "relu_squared":
        return 2.0 * a if a > 0.0 else 0.0
    if name == "gelu":
        return normal_cdf(a) + a * normal_pdf(a)
    if name == "gelu_tanh":
        t = math.tanh(TANH_GELU * (a + 0.044715 * a**3))
        return 0.5 * (1.0 + t) + 0.5 * a * (1.0 - t * t) * TANH_GELU * (1.0 + 3.0 * 0.044715 * a * a)
    if name == "silu":
        s = sigmoid(a)
        return s + a * s * (1.0 - s)
    raise ValueError(name)
