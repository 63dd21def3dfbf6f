r"""An embedding table, y = weight[ids], with its parameter in a tree.

p = {"weight": (vocab, d_model)}.  Formulas of both directions: ``pymoe.ops.embedding``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.nn import initial
from pymoe.ops import embedding

Cache = embedding.Cache


@dataclass(frozen=True)
class EmbeddingConfig:
    """y (..., d_model) = weight[ids]; the table starts at N(0, std²)."""

    vocab: int
    d_model: int
    std: float = 0.02

    def __post_init__(self) -> None:
        initial.check_sizes("EmbeddingConfig", vocab=self.vocab, d_model=self.d_model)
        initial.check_std("EmbeddingConfig", std=self.std)


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
    return embedding.forward(ids, p["weight"])


def backward(dy: Array, cache: Cache) -> tuple[None, dict[str, Any]]:
    """dy (..., d_model) -> None (ids are integers), {"weight"}."""
    return embedding.backward(dy, cache)
