r"""The gated activations of published experts: clamped, scaled, offset or soft-capped GLU on x = [g | u].

Forward, L the limit, α and δ the slope of the sigmoid and the offset of up (1 and 0: the plain GLU)::

    clamp "before":  h = act(g̃) ⊙ (ũ + δ),          g̃ = min(g, L),  ũ = min(max(u, -L), L)
    clamp "after":   h = min(act(g), L) ⊙ (ũ + δ)
    soft caps c, C:  h = c tanh(g/c) σ(α g) ⊙ (C tanh(u/C) + δ)

act(g) = g σ(α g) for silu; other activations have α = 1.  The gate has no lower limit.

Backward, A the gate's factor and U = ũ + δ (or C tanh(u/C) + δ)::

    dg = dh ⊙ U ⊙ A'(g)                      A' = act'(g̃) 1[g <= L]     or     act'(g) 1[act(g) <= L]
    du = dh ⊙ A ⊙ U'(u)                      U' = 1[-L <= u <= L]       or     1 - tanh²(u/C)
    act'(g) = σ(α g) (1 + α g (1 - σ(α g)))  for silu
    (c tanh(g/c) σ(α g))' = (1 - tanh²(g/c)) σ(α g) + c tanh(g/c) α σ(α g) (1 - σ(α g))

A gradient passes *at* the limit and not beyond it, and the mask looks at what came before the clamp.

Source: the GLU arXiv:2002.05202; clamped before, α = 1.702, δ = 1: gpt-oss, arXiv:2508.10925; clamped before, plain:
DeepSeek-V4, GLM-5, HY-V4; after: Step-3.7 (its published modelling code); soft caps arXiv:2408.00118, as in Inkling 2.
Cost: one exponential a hidden unit (two more for soft caps), a few passes over memory; x is kept.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace, real
from pymoe.backend.errors import ConfigError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.kernels.activations import ACTIVATIONS, sigmoid


class Cache(NamedTuple):
    x: Array  # (..., 2F) [g | u], the pre-activations
    act: str  # name of the activation
    limit: float | None  # L; None: no clamp
    clamp: str  # where: "before" or "after" the activation
    alpha: float
    offset: float
    softcap: tuple[float, float] | None  # (c, C)


def forward(
    x: Array,
    *,
    act: str = "silu",
    limit: float | None = None,
    clamp: str = "before",
    alpha: float = 1.0,
    offset: float = 0.0,
    softcap: tuple[float, float] | None = None,
) -> tuple[Array, Cache]:
    """h (..., F) of x = [g | u] (..., 2F).

    An odd last axis is a ShapeError; α or soft caps with another activation than silu, or both a limit and soft caps, a
    ConfigError.

    >>> import numpy as np
    >>> forward(np.array([[9.0, 1.0, -9.0, 2.0]]), limit=7.0, alpha=1.702, offset=1.0)[0].round(4)  # gpt-oss
    array([[-41.9997,   2.5374]])
    """
    _check(x, act, limit, clamp, alpha, softcap)
    cache = Cache(x, act, limit, clamp, alpha, offset, softcap)
    gate, up, _, _ = _factors(cache)
    return gate * (up + offset), cache


def backward(dh: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dh (..., F) -> dx (..., 2F); no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[9.0, 1.0, 0.5, -9.0]]), act="identity", limit=7.0)
    >>> backward(np.array([[1.0, 1.0]]), cache)[0]  # g = 9 and u = -9 lie beyond the limit
    array([[ 0., -7.,  7.,  0.]])
    """
    x, offset = cache.x, cache.offset
    check_shape("dh", dh, (*x.shape[:-1], x.shape[-1] // 2))
    gate, up, dgate, dup = _factors(cache)
    return namespace(dh, x).concat([dh * (up + offset) * dgate, dh * gate * dup], axis=-1), {}


def _factors(cache: Cache) -> tuple[Array, Array, Array, Array]:
    """A, U - δ, A', U'."""
    x, act, limit, clamp, alpha, _, softcap = cache
    xp = namespace(x)
    half = int(x.shape[-1]) // 2
    g, u = x[..., :half], x[..., half:]
    if softcap is not None:
        c, top = softcap
        a, b, s = xp.tanh(g / c), xp.tanh(u / top), sigmoid(alpha * g)
        return c * a * s, top * b, (1 - a * a) * s + c * a * alpha * s * (1 - s), 1 - b * b
    one = xp.ones_like(u)
    gate_in, dlimit = g, None
    if limit is not None and clamp == "before":
        gate_in, dlimit = _below(g, limit)
    if act == "silu":
        s = sigmoid(alpha * gate_in)
        gate, dgate = gate_in * s, s * (1 + alpha * gate_in * (1 - s))
    else:
        f, df = ACTIVATIONS[act]
        gate, dgate = f(gate_in), df(gate_in)
    if limit is None:
        return gate, u, dgate, one
    if clamp == "after":
        gate, dlimit = _below(gate, limit)
    low, dlow = _below(-u, limit)
    up, dhigh = _below(-low, limit)
    return gate, up, dgate * dlimit, dlow * dhigh


def _below(v: Array, limit: float) -> tuple[Array, Array]:
    """min(v, L) and 1[v <= L]; NaN stays NaN."""
    xp = namespace(v)
    beyond = real(v) > limit
    return xp.where(beyond, xp.full_like(v, limit), v), xp.where(beyond, xp.zeros_like(v), xp.ones_like(v))


def _check(
    x: Array, act: str, limit: float | None, clamp: str, alpha: float, softcap: tuple[float, float] | None
) -> None:
    checks.activation(act)
    checks.floating("x", x)
    checks.halves("gated", x)
    if clamp not in ("before", "after"):
        raise ConfigError(f"clamp must be 'before' or 'after' the activation, got {clamp!r}")
    if act != "silu" and (alpha != 1 or softcap is not None):
        raise ConfigError(f"alpha and softcap are parts of g σ(alpha g), activation 'silu'; got them with {act!r}")
    if softcap is not None and limit is not None:
        raise ConfigError("a soft cap and a clamp bound the same values: give limit or softcap, not both")
