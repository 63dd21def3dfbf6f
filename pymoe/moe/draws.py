"""Random draws as values: made once by the caller's generator, kept in the cache, never made again in backward.

A forward without draws is the evaluation mode: no noise, no jitter, every second choice kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.moe.config import MoEConfig


class Draws(NamedTuple):
    noise: Array | None = None  # (T, E) standard normal: learned noise
    jitter: Array | None = None  # (T, D) U(1 - jitter, 1 + jitter): the router's input
    second: Array | None = None  # (T,) U(0, 1): is the second choice kept?


def draw(rng: np.random.Generator, cfg: MoEConfig, tokens: int, dtype: type = np.float64) -> Draws:
    """The draws that ``cfg`` asks for, None for those it does not.

    >>> from pymoe import presets
    >>> draw(np.random.default_rng(0), presets.mixtral(d_model=4, d_ff=8, n_experts=4, k=2), 3)
    Draws(noise=None, jitter=None, second=None)
    """
    r = cfg.router
    return Draws(
        rng.standard_normal((tokens, r.n_experts)).astype(dtype) if r.noise == "learned" else None,
        rng.uniform(1 - r.jitter, 1 + r.jitter, (tokens, cfg.d_model)).astype(dtype) if r.jitter else None,
        rng.random(tokens).astype(dtype) if r.second_threshold is not None else None,
    )
