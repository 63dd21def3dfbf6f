"""F2: one module an op, each with its formulas in both directions, ``Cache``, ``forward`` and ``backward``.

    y, cache = op.forward(x, ..., static=...)
    dx, {"weight": dweight, ...} = op.backward(dy, cache)

>>> import numpy as np
>>> from pymoe.ops import linear
>>> y, cache = linear.forward(np.ones((1, 2)), np.array([[3.0, 4.0]]))
>>> dx, dp = linear.backward(np.ones_like(y), cache)
>>> y, dx, dp["weight"]
(array([[7.]]), array([[3., 4.]]), array([[1., 1.]]))
"""

from pymoe.ops import (
    attention,
    bsr_linear,
    cross_entropy,
    csr_linear,
    dropout,
    embedding,
    gated,
    geglu,
    geglu_tanh,
    gelu,
    gelu_tanh,
    identity,
    layer_norm,
    linear,
    log_softmax,
    logsumexp,
    masked,
    mean_pool,
    mixture,
    mixture_nll,
    nm_linear,
    reglu,
    relu,
    relu_squared,
    rms_norm,
    rope,
    scaled_rms_norm,
    sigmoid,
    silu,
    softmax,
    softplus,
    sqrt_softplus,
    swiglu,
    tanh,
)

__all__ = [
    "attention",
    "bsr_linear",
    "cross_entropy",
    "csr_linear",
    "dropout",
    "embedding",
    "gated",
    "geglu",
    "geglu_tanh",
    "gelu",
    "gelu_tanh",
    "identity",
    "layer_norm",
    "linear",
    "log_softmax",
    "logsumexp",
    "masked",
    "mean_pool",
    "mixture",
    "mixture_nll",
    "nm_linear",
    "reglu",
    "relu",
    "relu_squared",
    "rms_norm",
    "rope",
    "scaled_rms_norm",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "sqrt_softplus",
    "swiglu",
    "tanh",
]
