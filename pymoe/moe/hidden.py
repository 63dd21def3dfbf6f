r"""h of a: the plain forms by the fused kernels, the others by ``ops.gated``.

    h = act(g) ⊙ u or act(a), or a published variant of it (``form.Form``)
    weighted_backward: with dh not yet weighted, da = ∂h/∂aᵀ (w dh), w h, and dw = ⟨dh, h⟩, the gradient of the weight

A variant's weighted backward computes h once more; that is the cost of keeping only a.  Sources: ``ops.gated``.
"""

from __future__ import annotations

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.moe.form import Form
from pymoe.ops import gated


def forward(a: Array, form: Form) -> Array:
    """h (N, F) of a (N, 2F) or (N, F).

    >>> import numpy as np
    >>> forward(np.array([[9.0, 3.0]]), Form("identity", limit=7.0)), forward(np.array([[-1.0]]), Form("relu", False))
    (array([[21.]]), array([[0.]]))
    """
    kernel = kernels.of(a)
    if not form.plain:
        return _variant(a, form)[0]
    h: Array = kernel.glu_forward(a, form.activation) if form.gated else kernel.act_forward(a, form.activation)
    return h


def backward(dh: Array, a: Array, form: Form) -> Array:
    """da, like a, of dh (N, F).

    >>> import numpy as np
    >>> backward(np.array([[1.0]]), np.array([[9.0, 3.0]]), Form("identity", limit=7.0))
    array([[0., 7.]])
    """
    kernel = kernels.of(a)
    if not form.plain:
        return gated.backward(dh, _variant(a, form)[1])[0]
    da: Array = (
        kernel.glu_backward(dh, a, form.activation) if form.gated else kernel.act_backward(dh, a, form.activation)
    )
    return da


def weighted_backward(dh: Array, a: Array, weight: Array, form: Form) -> tuple[Array, Array, Array]:
    """da (like a), w h (N, F), dw (N,) of dh (N, F) and weight (N,).

    >>> import numpy as np
    >>> da, wh, dw = weighted_backward(
    ...     np.array([[1.0]]), np.array([[9.0, 3.0]]), np.array([0.5]), Form("identity", limit=7.0)
    ... )
    >>> da.tolist(), wh.tolist(), dw.tolist()
    ([[0.0, 3.5]], [[10.5]], [21.0])
    """
    kernel = kernels.of(a)
    if form.plain:
        fused = kernel.weighted_glu_backward if form.gated else kernel.weighted_act_backward
        found: tuple[Array, Array, Array] = fused(dh, a, weight, form.activation)
        return found
    h, cache = _variant(a, form)
    wide = weight[:, None]
    return gated.backward(wide * dh, cache)[0], wide * h, namespace(dh, h).sum(dh * h, axis=1)


def _variant(a: Array, form: Form) -> tuple[Array, gated.Cache]:
    return gated.forward(
        a,
        act=form.activation,
        limit=form.limit,
        clamp=form.clamp,
        alpha=form.gate_alpha,
        offset=form.up_offset,
        softcap=form.softcap,
    )
