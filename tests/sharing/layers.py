"""What the tests of splitting share: dense feed-forwards and tokens, seeded, read-only, in floats or whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.nn import feed_forward
from pymoe.nn.feed_forward import FeedForwardConfig

U64 = 2.0**-53
D, F, T = 5, 12, 7


def frozen(a: Any) -> np.ndarray:
    a = np.asarray(a)
    a.setflags(write=False)
    return a


def settings(gated: bool = True, bias: bool = True, activation: str = "silu", f: int = F) -> FeedForwardConfig:
    return FeedForwardConfig(D, f, gated, activation, bias)


def dense(cfg: FeedForwardConfig, seed: int, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    """Normal parameters, the biases too."""
    rng = np.random.default_rng([seed, 1])
    p = feed_forward.init(rng, cfg, dtype)
    return {name: frozen(rng.standard_normal(a.shape).astype(dtype)) for name, a in p.items()}


def whole(cfg: FeedForwardConfig, seed: int) -> dict[str, np.ndarray]:
    """Parameters that are whole numbers from -3 to 3: with relu every sum is exact in any order."""
    rng = np.random.default_rng([seed, 2])
    return {name: frozen(rng.integers(-3, 4, a.shape).astype(float)) for name, a in dense(cfg, seed).items()}


def tokens(seed: int, dtype: Any = np.float64, t: int = T) -> np.ndarray:
    return frozen(np.random.default_rng([seed, 3]).standard_normal((t, D)).astype(dtype))


def whole_tokens(seed: int) -> np.ndarray:
    return frozen(np.random.default_rng([seed, 4]).integers(-3, 4, (T, D)).astype(float))


def off(a: np.ndarray, b: np.ndarray) -> float:
    """max |a - b| in units of u times max |b|."""
    u = float(np.finfo(b.dtype).eps) / 2
    return float(np.max(np.abs(a.astype(np.float64) - b)) / (u * np.max(np.abs(b)).astype(np.float64)))
