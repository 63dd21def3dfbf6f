r"""A bias on attention scores that depends on the distance between query and key: one number a head and bucket.

Forward, with the distance δ = j - i of key j from query i, and a table (n, H)::

    bias[h, i, j] = table[bucket(δ), h]

    both ways:   m = n/2 buckets for δ <= 0 and as many, behind them, for δ > 0, each by r = |δ|
    causal:      m = n buckets by r = max(-δ, 0)
    bucket(r)  = r                                                             r < e = m // 2, one bucket a distance
    bucket(r)  = min(m - 1, e + ⌊ln(r/e) / ln(max_distance/e) (m - e)⌋)        beyond: ever wider ones

Backward::

    dtable[b, h] = Σ_{i,j: bucket = b} dbias[h, i, j]

The floor is decided in integers, r^{m-e} e^k >= max_distance^k e^{m-e}, so no rounding of a logarithm moves a bound.
Source: Raffel et al. (T5), arXiv:1910.10683, section 2.1.  Cost: H Sq Sk reads forward, as many additions backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from pymoe.backend import device, namespace
from pymoe.backend.errors import ConfigError, check_shape
from pymoe.backend.namespace import Array
from pymoe.nn import initial
from pymoe.ops import embedding


@dataclass(frozen=True)
class RelativePositions:
    """buckets n; max_distance: from there on all distances are one bucket."""

    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        initial.check_sizes("RelativePositions", buckets=self.buckets, max_distance=self.max_distance)
        if self.buckets < 4 or self.buckets % 2 or self.max_distance <= self.buckets // 2:
            raise ConfigError(
                "RelativePositions needs an even number of at least 4 buckets and a max_distance above half of it, "
                f"got {self.buckets} and {self.max_distance}"
            )

    @cached_property
    def bounds(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The first distance of every bucket but the first of one direction: (both ways, causal)."""
        return _bounds(self.buckets // 2, self.max_distance), _bounds(self.buckets, self.max_distance)


class Cache(NamedTuple):
    c_table: embedding.Cache  # the buckets (Sq, Sk) and the table (n, H)


def forward(table: Array, cfg: RelativePositions, queries: int, keys: int, *, causal: bool) -> tuple[Array, Cache]:
    """table (n, H) -> bias (H, Sq, Sk); the last query stands at the last key.

    >>> import numpy as np
    >>> table = np.arange(4.0)[:, None]
    >>> forward(table, RelativePositions(4, 8), 3, 3, causal=True)[0][0].tolist()  # 1 back, 2 back: other buckets
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 1.0, 0.0]]
    """
    xp = namespace(table)
    check_shape("table", table, (cfg.buckets, None))
    where = device(table)
    i = xp.arange(keys - queries, keys, dtype=xp.int64, device=where)[:, None]
    delta = xp.arange(keys, dtype=xp.int64, device=where)[None, :] - i  # (Sq, Sk)
    zero = xp.zeros_like(delta)
    back = xp.where(delta < 0, -delta, zero if causal else delta)
    bounds = xp.asarray(cfg.bounds[1 if causal else 0], dtype=xp.int64, device=where)
    bucket = xp.reshape(xp.searchsorted(bounds, xp.reshape(back, (-1,)), side="right"), back.shape)
    if not causal:
        bucket = bucket + xp.where(delta > 0, xp.full_like(zero, cfg.buckets // 2), zero)
    values, cache = embedding.forward(bucket, table)  # (Sq, Sk, H)
    return xp.permute_dims(values, (2, 0, 1)), Cache(cache)


def backward(dbias: Array, cache: Cache) -> Array:
    """dbias (H, Sq, Sk) -> dtable (n, H)."""
    _, d = embedding.backward(namespace(dbias).permute_dims(dbias, (1, 2, 0)), cache.c_table)
    return d["weight"]


def _bounds(m: int, max_distance: int) -> tuple[int, ...]:
    exact = m // 2
    bounds = list(range(1, exact + 1))
    for k in range(1, m - exact):
        r = bounds[-1]
        while r ** (m - exact) * exact**k < max_distance**k * exact ** (m - exact):
            r += 1
        bounds.append(r)
    return tuple(bounds)
