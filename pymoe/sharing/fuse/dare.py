r"""DARE: drop a random share of a difference, and rescale what is left so that its expectation stays.

    δ̃ = m ⊙ δ / (1 - p),   m_j ~ Bernoulli(1 - p)          E[δ̃] = δ

The draw m is a value: returned, and taken instead of a new one.  Source: Yu et al., arXiv:2311.03099, eq. 1-2; with the
sign election of TIES after it: ``ties.elect``.
"""

from __future__ import annotations

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.sharing import inputs


def drop(
    rng: np.random.Generator | None, delta: np.ndarray, rate: float, *, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(δ̃, m) with p = ``rate`` in [0, 1); ``mask``: a draw that was made before.

    >>> drop(None, np.array([1.0, 2.0]), 0.5, mask=np.array([True, False]))[0]
    array([2., 0.])
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"rate is the share that is dropped and must lie in [0, 1), got {rate!r}")
    inputs.finite("delta", delta)
    if mask is None:
        if rng is None:
            raise ConfigError("give a generator to draw the mask from, or a mask")
        mask = rng.random(delta.shape) >= rate
    elif mask.shape != delta.shape or mask.dtype != bool:
        raise ConfigError(f"mask must be bool of shape {delta.shape}, got {mask.dtype} {mask.shape}")
    return np.where(mask, delta / (1 - rate), np.zeros_like(delta)), mask
