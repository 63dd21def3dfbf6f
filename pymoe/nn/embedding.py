r"""An embedding table, y = scale weight[ids], with its parameter in a tree.

p = {"weight": (vocab, d_model)}.  Formulas of both directions: ``pymoe.ops.embedding``; dweight is times scale as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.nn import initial
from pymoe.ops import embedding


class Cache(NamedTuple):
    c_table: embedding.Cache  # the ids and the table
    scale: float


@dataclass(frozen=True)
class EmbeddingConfig:
    """y (..., d_model) = scale weight[ids]; the table starts at N(0, std²)."""

    vocab: int
    d_model: int
    std: float = 0.02
    scale: float = 1.0

    def __post_init__(self) -> None:
        initial.check_sizes("EmbeddingConfig", vocab=self.vocab, d_model=self.d_model)
        initial.check_std("EmbeddingConfig", std=self.std, scale=self.scale)


def init(rng: np.random.Generator, cfg: EmbeddingConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The table at its start.

    >>> init(np.random.default_rng(0), EmbeddingConfig(5, 2))["weight"].shape
    (5, 2)
    """
    return {"weight": initial.normal(rng, (cfg.vocab, cfg.d_model), cfg.std, dtype)}


def forward(ids: Array, p: dict[str, Any], cfg: EmbeddingConfig) -> tuple[Array, Cache]:
    """ids (...) integers -> y (..., d_model).

    >>> forward(np.array([1, 0]), {"weight": np.array([[1.0, 2.0], [3.0, 4.0]])}, EmbeddingConfig(2, 2))[0]
    array([[3., 4.],
           [1., 2.]])
    """
    y, cache = embedding.forward(ids, p["weight"])
    return y if cfg.scale == 1 else y * cfg.scale, Cache(cache, cfg.scale)


def backward(dy: Array, cache: Cache) -> tuple[None, dict[str, Any]]:
    """dy (..., d_model) -> None (ids are integers), {"weight"}."""
    return embedding.backward(dy if cache.scale == 1 else dy * cache.scale, cache.c_table)
