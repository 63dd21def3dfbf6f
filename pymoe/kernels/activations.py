"""The elementwise formulas, value and derivative side by side, once for ops and for the fused expert kernels.

============== ============================================ ===============================================
name           f(x)                                         f'(x)
============== ============================================ ===============================================
sigmoid        σ(x) = 1 / (1 + e^{-x})                      σ (1 - σ)
silu           x σ(x)                                       σ (1 + x (1 - σ))
gelu           x Φ(x), Φ(x) = (1 + erf(x/√2)) / 2           Φ(x) + x φ(x), φ(x) = e^{-x²/2} / √(2π)
gelu_tanh      x (1 + t) / 2, t = tanh(c (x + a x³))        (1 + t)/2 + x (1 - t²) c (1 + 3 a x²) / 2
relu           max(x, 0)                                    1[x > 0]
relu_squared   max(x, 0)²                                   2 max(x, 0)
identity       x                                            1
============== ============================================ ===============================================

c = √(2/π), a = 0.044715.  Sources: silu and gelu arXiv:1606.08415; relu_squared arXiv:2109.08668.  Complex-safe: what
decides looks at the real part, and |x| is never written with abs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pymoe.backend import erf, namespace, real
from pymoe.backend.namespace import Array

_C = math.sqrt(2 / math.pi)
_A = 0.044715


def sigmoid(x: Array) -> Array:
    """σ(x) from e = exp(-|x|) ∈ (0, 1], which cannot overflow: 1/(1+e) for x >= 0, e/(1+e) below."""
    xp = namespace(x)
    positive = real(x) >= 0
    e = xp.exp(xp.where(positive, -x, x))
    return xp.where(positive, xp.ones_like(x), e) / (1 + e)


def d_sigmoid(x: Array) -> Array:
    s = sigmoid(x)
    return s * (1 - s)


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def d_silu(x: Array) -> Array:
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def gelu(x: Array) -> Array:
    return x * ((1 + erf(x * math.sqrt(0.5))) * 0.5)


def d_gelu(x: Array) -> Array:
    phi = namespace(x).exp(-x * x * 0.5) * (1 / math.sqrt(2 * math.pi))
    return (1 + erf(x * math.sqrt(0.5))) * 0.5 + x * phi


def gelu_tanh(x: Array) -> Array:
    return x * ((1 + namespace(x).tanh(_C * (x + _A * x * x * x))) * 0.5)


def d_gelu_tanh(x: Array) -> Array:
    t = namespace(x).tanh(_C * (x + _A * x * x * x))
    return (1 + t) * 0.5 + x * ((1 - t * t) * (0.5 * _C) * (1 + 3 * _A * x * x))


def relu(x: Array) -> Array:
    xp = namespace(x)
    return xp.where(real(x) > 0, x, xp.zeros_like(x))


def d_relu(x: Array) -> Array:
    xp = namespace(x)
    return xp.where(real(x) > 0, xp.ones_like(x), xp.zeros_like(x))


def relu_squared(x: Array) -> Array:
    r = relu(x)
    return r * r


def d_relu_squared(x: Array) -> Array:
    return 2 * relu(x)


def identity(x: Array) -> Array:
    return x


def d_identity(x: Array) -> Array:
    return namespace(x).ones_like(x)


Pair = tuple[Callable[[Array], Array], Callable[[Array], Array]]

ACTIVATIONS: dict[str, Pair] = {
    "silu": (silu, d_silu),
    "gelu": (gelu, d_gelu),
    "gelu_tanh": (gelu_tanh, d_gelu_tanh),
    "relu": (relu, d_relu),
    "relu_squared": (relu_squared, d_relu_squared),
    "sigmoid": (sigmoid, d_sigmoid),
    "identity": (identity, d_identity),
}
