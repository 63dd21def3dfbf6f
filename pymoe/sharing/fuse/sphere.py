r"""Interpolation along great circles, each tensor as one long vector.

``slerp`` of a and b, with Ω the angle between them::

    sin((1 - t) Ω) / sin Ω · a + sin(t Ω) / sin Ω · b             (nearly parallel, sin Ω < 1e-7: linear)

``multislerp`` of any number: the weighted mean on the sphere, one step of it from the normalised weighted mean m, in
the tangent plane there, with the lengths averaged::

    u_i = w_i / ‖w_i‖,  m = Σ c_i u_i / ‖...‖,  v = Σ c_i log_m(u_i),  w = (Σ c_i ‖w_i‖) exp_m(v)

Sources: Shoemake, SIGGRAPH 1985; Buss and Fillmore, ACM Trans. Graphics 20, 2001 (spherical averages); the merging of
models by them as mergekit has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.sharing.fuse import average

PARALLEL = 1e-7


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """From a (t = 0) to b (t = 1); a zero tensor, and tensors that are opposite to rounding, go in a straight line.

    >>> slerp(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 0.5).round(6)
    array([0.707107, 0.707107])
    """
    average.check([{"w": a}, {"w": b}])
    if not 0 <= t <= 1:
        raise ConfigError(f"t goes from 0, the first, to 1, the second; got {t!r}")
    u, v = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
    lengths = float(np.linalg.norm(u)) * float(np.linalg.norm(v))
    cos = float(np.clip(u @ v / lengths, -1, 1)) if lengths else 1.0
    omega = float(np.arccos(cos))
    sin = float(np.sin(omega))
    if sin < PARALLEL:
        mixed = (1 - t) * u + t * v
    else:
        mixed = np.sin((1 - t) * omega) / sin * u + np.sin(t * omega) / sin * v
    return mixed.reshape(a.shape).astype(a.dtype)


def multislerp(tensors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted spherical mean; ConfigError where the directions cancel and there is none.

    >>> multislerp([np.array([2.0, 0.0]), np.array([0.0, 2.0])], [0.5, 0.5]).round(6)
    array([1.414214, 1.414214])
    """
    average.check([{"w": w} for w in tensors])
    c = np.asarray(weights, dtype=np.float64)
    if c.shape != (len(tensors),) or (c < 0).any() or not c.sum() > 0:
        raise ConfigError(f"{len(tensors)} tensors need as many weights, not negative and not all 0, got {weights!r}")
    c = c / c.sum()
    flat = np.stack([w.astype(np.float64).reshape(-1) for w in tensors])
    lengths = np.linalg.norm(flat, axis=1)
    u = flat / np.where(lengths > 0, lengths, 1.0)[:, None]
    centre = c @ u
    size = float(np.linalg.norm(centre))
    if size < PARALLEL:
        if not lengths.any():
            return tensors[0].copy()
        raise ConfigError("the tensors point in directions that cancel: they have no mean on the sphere")
    m = centre / size
    cos = np.clip(u @ m, -1, 1)
    angle = np.arccos(cos)
    sin = np.sin(angle)
    factor = np.where(sin > PARALLEL, angle / np.where(sin > PARALLEL, sin, 1.0), 1.0)
    v = (c * factor) @ (u - cos[:, None] * m)
    step = float(np.linalg.norm(v))
    point = np.cos(step) * m + (np.sin(step) / step * v if step > 0 else 0.0)
    return ((c @ lengths) * point).reshape(tensors[0].shape).astype(tensors[0].dtype)
