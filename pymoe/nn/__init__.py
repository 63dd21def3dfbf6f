"""F3: layers with parameters.  A layer is a module: a config, ``init``, ``forward``, ``backward`` on parameter trees.

- ``linear``, ``embedding``, ``norm``: one op each, its parameters in a tree;
- ``feed_forward``: the dense MLP or GLU; an expert of the MoE layer has the same names;
- ``self_attention``, ``cross_attention``: grouped queries, rotary positions, padding mask, KV cache;
- ``latent_attention``: the same through low-rank bottlenecks;
- ``qk_norm``, ``rotary``, ``relative_positions``: what attention is told about norms and positions.
"""

from pymoe.nn import (
    cross_attention,
    embedding,
    feed_forward,
    latent_attention,
    linear,
    norm,
    qk_norm,
    relative_positions,
    rotary,
    self_attention,
)
from pymoe.nn.cross_attention import CrossAttentionConfig
from pymoe.nn.embedding import EmbeddingConfig
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.nn.latent_attention import LatentAttentionConfig
from pymoe.nn.linear import LinearConfig
from pymoe.nn.norm import NormConfig
from pymoe.nn.relative_positions import RelativePositions
from pymoe.nn.self_attention import KV, SelfAttentionConfig, Temperature

__all__ = [
    "KV",
    "CrossAttentionConfig",
    "EmbeddingConfig",
    "FeedForwardConfig",
    "LatentAttentionConfig",
    "LinearConfig",
    "NormConfig",
    "RelativePositions",
    "SelfAttentionConfig",
    "Temperature",
    "cross_attention",
    "embedding",
    "feed_forward",
    "latent_attention",
    "linear",
    "norm",
    "qk_norm",
    "relative_positions",
    "rotary",
    "self_attention",
]
