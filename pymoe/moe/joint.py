r"""Weights of the chosen experts together with those of the shared ones: sigmoids that sum to one over both.

Forward, L (T, K + n) the logits of the K chosen experts and of the n shared ones::

    a = log σ(L)           w = softmax(a)          (= σ(L) / Σ σ(L), without its 0/0 where every σ rounds to 0)

Backward::

    da = w ⊙ (dw - ⟨dw, w⟩)        dL = σ(-L) ⊙ da

Source: transformers, ``models/inkling``, whose router slices ``[..., :-n_shared]`` and so has no routed expert at
n = 0.  Cost: three exponentials and a logarithm an element.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend.namespace import Array
from pymoe.ops import softmax, softplus


class Cache(NamedTuple):
    log_sigmoid: softplus.Cache
    softmax: softmax.Cache


def forward(logits: Array) -> tuple[Array, Cache]:
    """w (T, C) from the logits (T, C).

    >>> import numpy as np
    >>> forward(np.array([[0.0, 0.0], [-800.0, -800.0]]))[0]
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    sp, inner = softplus.forward(-logits)  # -log σ(L)
    w, outer = softmax.forward(-sp)
    return w, Cache(inner, outer)


def backward(dw: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dL (T, C); no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.zeros((1, 2)))
    >>> backward(np.array([[1.0, 0.0]]), cache)[0]
    array([[ 0.125, -0.125]])
    """
    da, _ = softmax.backward(dw, cache.softmax)
    return softplus.backward(da, cache.log_sigmoid)[0], {}  # two signs, from -L and -log σ, cancel
