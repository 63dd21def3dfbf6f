r"""Experts in a narrower space: a projection before all of them and one after their weighted sum.

Forward, L = d_latent, x (T, D)::

    z = x W_preᵀ (+ b_pre)        [z = norm(z)]        the experts see z (T, L) and sum up to m (T, L)
    y = m W_postᵀ (+ b_post)

Backward::

    dm = dy W_post        dW_post = dyᵀ m        db_post = Σ dy
    dz from the experts, then through the norm;   dx = dz W_pre        dW_pre = dzᵀ x        db_pre = Σ dz

The router and the shared expert see x itself.  With b_post a token that no expert took gets b_post.  Sources: the
latent experts of NemotronH (biases, no norm) and of MuseSpark (a norm, no biases), their published modelling code.
Cost: 2 T D L multiply-adds forward, twice that backward; x, z and m are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymoe.backend.namespace import Array
from pymoe.moe import norms
from pymoe.moe.form import Norm
from pymoe.ops import linear


def forward_pre(x: Array, p: Mapping[str, Array], norm: Norm | None) -> tuple[Array, Any]:
    """z (T, L) of x (T, D).

    >>> import numpy as np
    >>> forward_pre(np.array([[3.0, 1.0]]), {"pre_proj": np.array([[2.0, 0.0]])}, None)[0]
    array([[6.]])
    """
    z, c_linear = linear.forward(x, p["pre_proj"], p.get("pre_proj_bias"))
    if norm is None:
        return z, (c_linear, None)
    z, c_norm = norms.forward(z, p["pre_norm"], norm)
    return z, (c_linear, c_norm)


def backward_pre(dz: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
    """dx (T, D) and the gradients of what comes before the experts.

    >>> import numpy as np
    >>> _, cache = forward_pre(np.array([[3.0, 1.0]]), {"pre_proj": np.array([[2.0, 0.0]])}, None)
    >>> backward_pre(np.array([[1.0]]), cache)
    (array([[2., 0.]]), {'pre_proj': array([[3., 1.]])})
    """
    c_linear, c_norm = cache
    dp = {}
    if c_norm is not None:
        dz, dp["pre_norm"] = norms.backward(dz, c_norm)
    dx, d = linear.backward(dz, c_linear)
    return dx, dp | _named("pre_proj", d)


def forward_post(m: Array, p: Mapping[str, Array]) -> tuple[Array, Any]:
    """y (T, D) of m (T, L).

    >>> import numpy as np
    >>> forward_post(np.array([[3.0]]), {"post_proj": np.array([[2.0], [1.0]])})[0]
    array([[6., 3.]])
    """
    return linear.forward(m, p["post_proj"], p.get("post_proj_bias"))


def backward_post(dy: Array, cache: Any) -> tuple[Array, dict[str, Array]]:
    """dm (T, L) and the gradients of what comes after the experts.

    >>> import numpy as np
    >>> _, cache = forward_post(np.array([[3.0]]), {"post_proj": np.array([[2.0], [1.0]])})
    >>> backward_post(np.array([[1.0, 10.0]]), cache)[0]
    array([[12.]])
    """
    dm, d = linear.backward(dy, cache)
    return dm, _named("post_proj", d)


def _named(name: str, d: Mapping[str, Array]) -> dict[str, Array]:
    return {name: d["weight"]} | ({f"{name}_bias": d["bias"]} if "bias" in d else {})
