r"""Rotary position embedding: pairs of channels turn by an angle that grows with the position.

Forward, with x = [a | b] the halves of a head (the convention of Llama checkpoints: channel i is paired with i + d/2)
and an amplitude m that is 1 for a pure rotation::

    θ_i = base^{-2i/d}, or given        c = m cos(position θ)        s = m sin(position θ)
    y = [a c - b s | b c + a s]

Backward, the rotation by the opposite angle, with dy = [da' | db']::

    dx = [da' c + db' s | db' c - da' s]

Source: Su et al., *RoFormer*, arXiv:2104.09864, eq. 15 and 34 (there with neighbours as pairs: the same up to the order
of the channels).  Cost: O(B H S d), S d/2 cosines and sines a call, in double precision and then rounded, kept.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import device, namespace, real
from pymoe.backend.errors import ConfigError, DtypeError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


class Cache(NamedTuple):
    cos: Array  # (S, d/2) or (B, 1, S, d/2), real
    sin: Array  # the same


def forward(
    x: Array,
    positions: Array,
    *,
    base: float = 10000.0,
    frequencies: tuple[float, ...] | None = None,
    amplitude: float = 1.0,
) -> tuple[Array, Cache]:
    """x (B, H, S, d), d even, turned by positions (S,) or (B, S), integers -> y (B, H, S, d).

    ``frequencies``: θ, d/2 numbers in the place of those of ``base`` (``nn.rotary`` has the published stretches).

    >>> import numpy as np
    >>> forward(np.ones((1, 1, 2, 2)), np.array([0, 1]))[0].round(4)
    array([[[[ 1.    ,  1.    ],
             [-0.3012,  1.3818]]]])
    """
    xp = namespace(x, positions)
    if x.ndim != 4 or x.shape[-1] % 2:
        raise ShapeError(f"x must be (B, H, S, d) with an even d, got {tuple(x.shape)}")
    checks.floating("x", x)
    if tuple(positions.shape) not in ((x.shape[2],), (x.shape[0], x.shape[2])):
        raise ShapeError(
            f"positions must be (S,) = {(x.shape[2],)} or (B, S) = {(x.shape[0], x.shape[2])}, "
            f"got {tuple(positions.shape)}"
        )
    if not xp.isdtype(positions.dtype, "integral"):
        raise DtypeError(f"positions must be integers, got {positions.dtype}")
    if not base > 0:
        raise ConfigError(f"base, the number whose powers are the wave lengths, must be positive, got {base}")
    d = x.shape[-1]
    if frequencies is None:
        theta = xp.exp(xp.arange(d // 2, dtype=xp.float64, device=device(x)) * (-2 * math.log(base) / max(d, 1)))
    else:
        theta = xp.asarray(frequencies, dtype=xp.float64, device=device(x))
        check_shape("frequencies", theta, (d // 2,))
    angle = xp.astype(positions, xp.float64)[..., None] * theta  # (S, d/2) or (B, S, d/2)
    if angle.ndim == 3:
        angle = xp.expand_dims(angle, axis=1)  # (B, 1, S, d/2): the same for every head
    dtype = real(x).dtype
    cos = xp.astype(xp.cos(angle) * amplitude, dtype, copy=False)
    sin = xp.astype(xp.sin(angle) * amplitude, dtype, copy=False)
    return kernels.of(x).rotate(x, cos, sin), Cache(cos, sin)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (B, H, S, d) -> dx (B, H, S, d); positions are integers, so no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.ones((1, 1, 1, 2)), np.array([1]))
    >>> backward(np.array([[[[1.0, 0.0]]]]), cache)[0].round(4)
    array([[[[ 0.5403, -0.8415]]]])
    """
    cos, sin = cache
    # One cache serves any number of heads, those of q and of k, and positions (S,) serve any batch.
    check_shape("dy", dy, (cos.shape[0] if cos.ndim == 4 else None, None, cos.shape[-2], 2 * cos.shape[-1]))
    return kernels.of(dy).rotate(dy, cos, -sin), {}  # by the opposite angle
