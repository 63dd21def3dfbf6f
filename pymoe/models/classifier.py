r"""A transformer encoder with a classification head; its feed-forward is dense or a Mixture-of-Experts, layer by layer.

Forward, with N the norm after the last block (``stack``)::

    x      = m_e W[ids]                                  (B, S, D), multipliers m_e and m_l, 1 unless given
    y      = stack(x), every token sees every real token
    h      = mean of y over the real tokens              (B, D)
    logits = m_l h Uᵀ + b                                (B, C)
    classify = mean cross-entropy of logits against targets
    balance, z, ... = mean over the MoE layers           (``losses``)

Backward, from bottom to top::

    dlogits += dclassify · cross-entropy',   dh = m_l dlogits U,   dU = m_l dlogitsᵀ h,   db = Σ dlogits
    dy = mask dh / (real tokens of the row),   dx, d(blocks) = stack backward,   dW = scatter of dx at ids

Sources: the encoder, Vaswani et al., arXiv:1706.03762; mean pooling in place of a class token, as in Reimers
and Gurevych, arXiv:1908.10084, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.models import inputs, losses, stack
from pymoe.models.block import scaled
from pymoe.models.config import TransformerConfig, make_stack
from pymoe.models.losses import LayerLosses, LayerNames
from pymoe.models.stack import StackConfig
from pymoe.nn import embedding
from pymoe.nn import linear as head
from pymoe.nn.embedding import EmbeddingConfig
from pymoe.nn.linear import LinearConfig
from pymoe.ops import cross_entropy, mean_pool

LOSS = "classify"  # the name of the loss that ``targets`` give


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TransformerConfig):
    """The classifier's settings: those of ``TransformerConfig``, and n_classes, C."""

    n_classes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stack, self.head  # noqa: B018 - made here, so that every setting is checked

    @cached_property
    def stack(self) -> StackConfig:
        """The blocks."""
        return make_stack(self, self.n_layers, self.moe_layers, moe=self.moe, causal=False)

    @cached_property
    def head(self) -> LinearConfig:
        """D -> C."""
        return LinearConfig(self.d_model, self.n_classes, std=self.std)

    @property
    def embedding(self) -> EmbeddingConfig:
        """The embedding table."""
        return EmbeddingConfig(self.vocab, self.d_model, self.std, self.multipliers.embedding)


class Output(NamedTuple):
    logits: Array  # (B, C)
    losses: dict[str, Array]  # 0-d: "classify" if targets were given; "balance", "z", ... means over the MoE layers
    layer_losses: LayerLosses  # the same losses layer by layer; empty where dense
    routing: tuple[Any, ...]  # layer by layer; None where dense

    @property
    def y(self) -> Array:
        """The logits, under the name that every layer's output has."""
        return self.logits


class Cache(NamedTuple):
    cfg: ClassifierConfig
    c_embedding: embedding.Cache
    c_stack: stack.Cache
    c_pool: mean_pool.Cache
    c_head: head.Cache
    c_loss: cross_entropy.Cache | None  # None without targets
    layer_names: LayerNames  # which losses each layer has


def init(rng: np.random.Generator, cfg: ClassifierConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters at their start: embed_tokens.weight, layers.<i>.*, norm.weight, classifier.weight and .bias.

    >>> cfg = ClassifierConfig(vocab=7, n_classes=3, d_model=6, n_layers=2, n_heads=3, d_ff=4, context=5)
    >>> sorted(init(np.random.default_rng(0), cfg))
    ['classifier', 'embed_tokens', 'layers', 'norm']
    """
    p = {"embed_tokens": embedding.init(rng, cfg.embedding, dtype)} | stack.init(rng, cfg.stack, dtype)
    return p | {"classifier": head.init(rng, cfg.head, dtype)}


def draw(rng: np.random.Generator, cfg: ClassifierConfig, batch: int, seq: int) -> stack.Draws | None:
    """The random draws of one training step over (batch, seq) tokens; None if there are none."""
    return stack.draw(rng, cfg.stack, batch, seq)


def forward(
    ids: Array,
    p: dict[str, Any],
    cfg: ClassifierConfig,
    *,
    targets: Array | None = None,
    mask: Array | None = None,
    draws: stack.Draws | None = None,
) -> tuple[Output, Cache]:
    """ids (B, S) -> Output(logits (B, C), losses, ...).

    targets (B,): class ids, -100 = none; mask (B, S) bool, True = a real token: what stands in the padding changes
    nothing.

    >>> cfg = ClassifierConfig(vocab=7, n_classes=3, d_model=6, n_layers=2, n_heads=3, d_ff=4, context=5)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.array([[1, 2, 3], [4, 5, 0]]), p, cfg, targets=np.array([0, 2]))
    >>> out.logits.shape, sorted(out.losses)
    ((2, 3), ['classify'])
    """
    inputs.check_ids("ids", ids, cfg.context)
    inputs.check_mask("mask", mask, tuple(ids.shape))
    x, c_embedding = embedding.forward(ids, p["embed_tokens"], cfg.embedding)
    trunk, c_stack = stack.forward(x, p, cfg.stack, mask=mask, draws=draws)
    h, c_pool = mean_pool.forward(trunk.y, mask)
    logits, c_head = head.forward(scaled(h, cfg.multipliers.logits), p["classifier"], cfg.head)
    by_name: dict[str, Array] = {}
    c_loss = None
    if targets is not None:
        by_name[LOSS], c_loss = cross_entropy.forward(
            logits, targets, ignore_index=inputs.IGNORE, label_smoothing=cfg.label_smoothing
        )
    by_name |= losses.mean(trunk.layer_losses)
    cache = Cache(cfg, c_embedding, c_stack, c_pool, c_head, c_loss, losses.names(trunk.layer_losses))
    return Output(logits, by_name, trunk.layer_losses, trunk.routing), cache


def backward(dlogits: Array | None, cache: Cache, dlosses: dict[str, Any] | None = None) -> tuple[None, dict[str, Any]]:
    """dlogits (B, C) or None, dlosses such as {"classify": 1.0, "balance": 0.01} -> (None, dp).

    >>> cfg = ClassifierConfig(vocab=7, n_classes=3, d_model=6, n_layers=2, n_heads=3, d_ff=4, context=5)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> _, cache = forward(np.array([[1, 2, 3]]), p, cfg, targets=np.array([2]))
    >>> backward(None, cache, {"classify": 1.0})[1]["classifier"]["bias"].round(1)
    array([ 0.3,  0.3, -0.7], dtype=float32)
    """
    cfg, c_embedding, c_stack, c_pool, c_head, c_loss, names = cache
    dloss, d_layers = losses.split(dlosses, LOSS, c_loss is not None, names)
    dh, d_head = head.backward(losses.logits_backward(dlogits, dloss, c_loss, c_head), c_head)
    dy, _ = mean_pool.backward(scaled(dh, cfg.multipliers.logits), c_pool)
    dx, dp, _ = stack.backward(dy, c_stack, losses.share(d_layers, names))
    _, d_embedding = embedding.backward(dx, c_embedding)
    return None, {"embed_tokens": d_embedding} | dp | {"classifier": d_head}


def predict(logits: Array) -> Array:
    """The most likely class of each row (B,); the lowest id among equals.

    >>> predict(np.array([[0.1, 0.7, 0.7]]))
    array([1])
    """
    return namespace(logits).argmax(logits, axis=-1)
