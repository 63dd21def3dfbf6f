r"""An encoder-decoder transformer; the feed-forward of both halves is dense or a Mixture-of-Experts, layer by layer.

Forward, source ids (B, S), decoder ids (B, R) (the target shifted right: it begins with the start token)::

    m      = encoder stack(W[ids])                       (B, S, D), every token sees every real token
    y      = decoder stack(W'[decoder_ids], m), causal   (B, R, D), each block reads m by cross-attention
    logits = m_l y Uᵀ                                    (B, R, V), multipliers m_l, and m_e on W[ids]; 1 unless given
    seq2seq = mean cross-entropy of logits against targets (teacher forcing: the decoder is shown the true past)
    balance, z, ... = mean over all MoE layers           (``losses``)

Backward, from bottom to top; dm sums over the decoder blocks, and a shared table's gradient over its readers::

    dlogits += dseq2seq · cross-entropy',    dy = m_l dlogits U,    dU = m_l dlogitsᵀ y
    dx', dm, d(decoder blocks) = decoder stack backward(dy),    dW' = scatter of dx' at decoder ids
    dx, d(encoder blocks) = encoder stack backward(dm),         dW  = scatter of dx at ids

cfg.tie: U = W' (the decoder's table is its head); cfg.share_embeddings: W = W' (one vocabulary for both sides).
Source: Vaswani et al., arXiv:1706.03762, fig. 1 and section 3.4 (all three matrices shared).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.backend.namespace import Array
from pymoe.models import inputs, losses, stack
from pymoe.models.block import scaled
from pymoe.models.config import MoELayers, TransformerConfig, make_stack, sparse_layers
from pymoe.models.losses import LayerLosses, LayerNames
from pymoe.models.stack import StackConfig
from pymoe.nn import cross_attention, embedding
from pymoe.nn.embedding import EmbeddingConfig
from pymoe.nn.self_attention import KV
from pymoe.ops import cross_entropy, linear

LOSS = "seq2seq"  # the name of the loss that ``targets`` give


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(TransformerConfig):
    """The encoder-decoder's settings: those of ``TransformerConfig``, for both halves unless said otherwise, and these.

    target_vocab         V of the decoder (None: ``vocab``)
    decoder_layers       blocks of the decoder (None: n_layers)
    decoder_moe_layers   which of them are sparse (None: ``moe_layers``)
    tie                  is the head the decoder's embedding table?
    share_embeddings     is the encoder's embedding table the decoder's?  Needs one vocabulary.
    """

    target_vocab: int | None = None
    decoder_layers: int | None = None
    decoder_moe_layers: MoELayers | None = None
    tie: bool = True
    share_embeddings: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share_embeddings and self.target_vocab not in (None, self.vocab):
            raise ConfigError(
                "Seq2SeqConfig.share_embeddings needs one vocabulary, "
                f"got vocab={self.vocab} and target_vocab={self.target_vocab}"
            )
        self.encoder, self.decoder, self.target_embedding  # noqa: B018 - made here, so that every setting is checked

    @cached_property
    def encoder(self) -> StackConfig:
        """The encoder's blocks."""
        first = self._encoder_moe_layers
        moe = self.moe[:first] if isinstance(self.moe, tuple) else self.moe
        return make_stack(self, self.n_layers, self.moe_layers, moe=moe, causal=False)

    @cached_property
    def decoder(self) -> StackConfig:
        """The decoder's blocks."""
        n = self.n_layers if self.decoder_layers is None else self.decoder_layers
        sparse = self.moe_layers if self.decoder_moe_layers is None else self.decoder_moe_layers
        moe = self.moe[self._encoder_moe_layers :] if isinstance(self.moe, tuple) else self.moe
        return make_stack(self, n, sparse, moe=moe, causal=True, cross=True)

    @property
    def _encoder_moe_layers(self) -> int:
        """How many of the encoder's layers are sparse: the decoder's settings come after theirs."""
        return len(sparse_layers("Seq2SeqConfig", self.n_layers, self.moe, self.moe_layers))

    @property
    def source_embedding(self) -> EmbeddingConfig:
        """The encoder's table."""
        return EmbeddingConfig(self.vocab, self.d_model, self.std, self.multipliers.embedding)

    @property
    def target_embedding(self) -> EmbeddingConfig:
        """The decoder's table, and the head where it is not tied."""
        vocab = self.vocab if self.target_vocab is None else self.target_vocab
        return EmbeddingConfig(vocab, self.d_model, self.std, self.multipliers.embedding)


class Draws(NamedTuple):
    encoder: stack.Draws | None
    decoder: stack.Draws | None


class Output(NamedTuple):
    logits: Array  # (B, R, V)
    losses: dict[str, Array]  # 0-d: "seq2seq" if targets were given; "balance", "z", ... means over the MoE layers
    layer_losses: LayerLosses  # the same layer by layer, encoder first; empty where dense
    routing: tuple[Any, ...]  # layer by layer, encoder first; None where dense

    @property
    def y(self) -> Array:
        """The logits, under the name that every layer's output has."""
        return self.logits


class Cache(NamedTuple):
    cfg: Seq2SeqConfig
    c_source: embedding.Cache
    c_encoder: stack.Cache
    c_target: embedding.Cache
    c_decoder: stack.Cache
    c_head: linear.Cache
    c_loss: cross_entropy.Cache | None  # None without targets
    layer_names: LayerNames  # which losses each layer has


class State(NamedTuple):
    """What the next decoder step needs; a value, never written into."""

    memory: tuple[KV, ...]  # keys and values of the encoded source, one a block
    mask: Array | None  # (B, S) of the source
    past: tuple[KV, ...] | None  # keys and values of the decoder's earlier tokens, one a block
    attention: Array | None = None  # (B, S) of the last step's token on the source: mean of the last block's heads


def init(rng: np.random.Generator, cfg: Seq2SeqConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters at their start: encoder.*, decoder.*, each with embed_tokens, layers, norm[; lm_head.weight].

    A shared table stands once, in the decoder.

    >>> cfg = Seq2SeqConfig(vocab=7, d_model=6, n_layers=1, n_heads=3, d_ff=4, context=5, share_embeddings=True)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> sorted(p), sorted(p["encoder"]), sorted(p["decoder"])
    (['decoder', 'encoder'], ['layers', 'norm'], ['embed_tokens', 'layers', 'norm'])
    """
    encoder = stack.init(rng, cfg.encoder, dtype)
    if not cfg.share_embeddings:
        encoder = {"embed_tokens": embedding.init(rng, cfg.source_embedding, dtype)} | encoder
    decoder = {"embed_tokens": embedding.init(rng, cfg.target_embedding, dtype)} | stack.init(rng, cfg.decoder, dtype)
    p = {"encoder": encoder, "decoder": decoder}
    return p if cfg.tie else p | {"lm_head": embedding.init(rng, cfg.target_embedding, dtype)}


def draw(rng: np.random.Generator, cfg: Seq2SeqConfig, batch: int, seq: int, target_seq: int) -> Draws | None:
    """The random draws of one training step over (batch, seq) source and (batch, target_seq) target tokens."""
    draws = Draws(stack.draw(rng, cfg.encoder, batch, seq), stack.draw(rng, cfg.decoder, batch, target_seq))
    return None if draws == (None, None) else draws


def shift_right(targets: Array, start: int) -> Array:
    """decoder_ids for teacher forcing: the start token, then all targets but the last; -100 becomes the start token.

    >>> shift_right(np.array([[5, 6, -100]]), 1)
    array([[1, 5, 6]])
    """
    xp = namespace(targets)
    first = xp.full_like(targets[:, :1], start)
    shifted = xp.concat([first, targets[:, :-1]], axis=1)
    return xp.where(shifted == inputs.IGNORE, xp.full_like(shifted, start), shifted)


def forward(
    ids: Array,
    p: dict[str, Any],
    cfg: Seq2SeqConfig,
    decoder_ids: Array,
    *,
    targets: Array | None = None,
    mask: Array | None = None,
    decoder_mask: Array | None = None,
    draws: Draws | None = None,
) -> tuple[Output, Cache]:
    """ids (B, S), decoder_ids (B, R) -> Output(logits (B, R, V), losses, ...).

    targets (B, R): the id after each decoder token, -100 = none; mask (B, S) and decoder_mask (B, R) bool, True = a
    real token.

    >>> cfg = Seq2SeqConfig(vocab=7, d_model=6, n_layers=1, n_heads=3, d_ff=4, context=5)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> targets = np.array([[4, 5]])
    >>> out, cache = forward(np.array([[1, 2, 3]]), p, cfg, shift_right(targets, 0), targets=targets)
    >>> out.logits.shape, sorted(out.losses)
    ((1, 2, 7), ['seq2seq'])
    """
    inputs.check_ids("ids", ids, cfg.context)
    inputs.check_ids("decoder_ids", decoder_ids, cfg.context)
    if ids.shape[0] != decoder_ids.shape[0]:
        raise ShapeError(f"ids and decoder_ids must have one batch size, got {ids.shape[0]} and {decoder_ids.shape[0]}")
    inputs.check_mask("mask", mask, tuple(ids.shape))
    inputs.check_mask("decoder_mask", decoder_mask, tuple(decoder_ids.shape))
    draws = Draws(None, None) if draws is None else draws
    source, target, head = _tables(p, cfg)
    x, c_source = embedding.forward(ids, source, cfg.source_embedding)
    encoded, c_encoder = stack.forward(x, p["encoder"], cfg.encoder, mask=mask, draws=draws.encoder)
    x, c_target = embedding.forward(decoder_ids, target, cfg.target_embedding)
    decoded, c_decoder = stack.forward(
        x, p["decoder"], cfg.decoder, encoded.y, mask=decoder_mask, memory_mask=mask, draws=draws.decoder
    )
    logits, c_head = linear.forward(scaled(decoded.y, cfg.multipliers.logits), head["weight"])
    by_name: dict[str, Array] = {}
    c_loss = None
    if targets is not None:
        wanted = inputs.kept_targets(targets, decoder_mask)
        by_name[LOSS], c_loss = cross_entropy.forward(
            logits, wanted, ignore_index=inputs.IGNORE, label_smoothing=cfg.label_smoothing
        )
    layer_losses = encoded.layer_losses + decoded.layer_losses
    by_name |= losses.mean(layer_losses)
    cache = Cache(cfg, c_source, c_encoder, c_target, c_decoder, c_head, c_loss, losses.names(layer_losses))
    return Output(logits, by_name, layer_losses, encoded.routing + decoded.routing), cache


def backward(dlogits: Array | None, cache: Cache, dlosses: dict[str, Any] | None = None) -> tuple[None, dict[str, Any]]:
    """dlogits (B, R, V) or None, dlosses such as {"seq2seq": 1.0, "balance": 0.01} -> (None, dp)."""
    cfg, c_source, c_encoder, c_target, c_decoder, c_head, c_loss, names = cache
    n = len(c_encoder.c_blocks)
    dloss, d_layers = losses.split(dlosses, LOSS, c_loss is not None, names)
    shares = losses.share(d_layers, names)
    dy, d_head = linear.backward(losses.logits_backward(dlogits, dloss, c_loss, c_head), c_head)
    dx, d_decoder, dmemory = stack.backward(scaled(dy, cfg.multipliers.logits), c_decoder, shares[n:])
    _, d_target = embedding.backward(dx, c_target)
    dx, d_encoder, _ = stack.backward(dmemory, c_encoder, shares[:n])
    _, d_source = embedding.backward(dx, c_source)
    d_table = d_target["weight"]  # up to three readers: decoder, head, encoder; the written sum
    if cfg.tie:
        d_table = d_table + d_head["weight"]
    if cfg.share_embeddings:
        d_table = d_table + d_source["weight"]
    else:
        d_encoder = {"embed_tokens": d_source} | d_encoder
    dp = {"encoder": d_encoder, "decoder": {"embed_tokens": {"weight": d_table}} | d_decoder}
    return None, dp if cfg.tie else dp | {"lm_head": d_head}


def encode(ids: Array, p: dict[str, Any], cfg: Seq2SeqConfig, *, mask: Array | None = None) -> State:
    """The source (B, S), encoded once for generation: the keys and values that every decoder block reads."""
    inputs.check_ids("ids", ids, cfg.context)
    inputs.check_mask("mask", mask, tuple(ids.shape))
    source, _, _ = _tables(p, cfg)
    x, _ = embedding.forward(ids, source, cfg.source_embedding)
    encoded, _ = stack.forward(x, p["encoder"], cfg.encoder, mask=mask)
    layers = p["decoder"]["layers"]
    memory = tuple(
        cross_attention.keys_values(encoded.y, layers[str(i)]["cross_attn"], b.cross)[0]
        for i, b in enumerate(cfg.decoder.blocks)
        if b.cross is not None
    )
    return State(memory, mask, None)


def step(decoder_ids: Array, p: dict[str, Any], cfg: Seq2SeqConfig, state: State) -> tuple[Array, State]:
    """The logits (B, V) after the last of decoder_ids (B, R), given the state before them; and the state after."""
    memory, mask, past, _ = state
    inputs.check_ids("decoder_ids", decoder_ids, cfg.context, 0 if past is None else int(past[0].k.shape[2]))
    _, target, head = _tables(p, cfg)
    x, _ = embedding.forward(decoder_ids, target, cfg.target_embedding)
    decoded, cache = stack.forward(x, p["decoder"], cfg.decoder, memory_mask=mask, past=past, memory_kv=memory)
    logits, _ = linear.forward(scaled(decoded.y[:, -1, :], cfg.multipliers.logits), head["weight"])
    return logits, State(memory, mask, decoded.kv, _on_source(cache.c_blocks[-1].c_cross, int(decoder_ids.shape[1])))


def _on_source(cache: cross_attention.Cache | None, queries: int) -> Array | None:
    """(B, S): what the last of the queries attends to, the mean of the heads."""
    if cache is None:
        return None
    a = cache.c_attention.p  # (B, G, H/G·R, S), of a head all queries in a row
    xp = namespace(a)
    b, g, rows, s = a.shape
    return xp.mean(xp.reshape(a, (b, g * (rows // queries), queries, s))[:, :, -1, :], axis=1)


def _tables(p: dict[str, Any], cfg: Seq2SeqConfig) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(the encoder's table, the decoder's, the head), which may be one."""
    target = p["decoder"]["embed_tokens"]
    return target if cfg.share_embeddings else p["encoder"]["embed_tokens"], target, target if cfg.tie else p["lm_head"]
