"""Switch Transformers: T5 with experts in some layers, an encoder-decoder; its settings and tensors.

One table of ids for both sides and the head (where it is not tied: three); RMS norms before each part; distances in the
place of positions, one table for all blocks of a side; scores without 1/√d; a tied head reads y / √D.  An expert takes
``expert_capacity`` tokens of a sequence at most, the first that choose it.

============================================================= =========================================================
published                                                     here
============================================================= =========================================================
shared.weight; untied <side>.embed_tokens, lm_head (.weight)  decoder.embed_tokens.weight; the same names
<side>.block.i.layer.0.SelfAttention.q, k, v, o               <side>.layers.i.self_attn.qkv_proj, o_proj
<side>.block.0.layer.0.SelfAttention.relative_attention_bias  <side>.relative_bias.weight
<side>.block.i.layer.0.layer_norm, layer.<last>.layer_norm    <side>.layers.i.input_layernorm, post_attention_layernorm
decoder.block.i.layer.1.EncDecAttention.q, k, v, o            decoder.layers.i.cross_attn.q_proj, kv_proj, o_proj
decoder.block.i.layer.1.layer_norm                            decoder.layers.i.cross_attn_layernorm
<side>.block.i.layer.<last>.mlp.wi, wo                        <side>.layers.i.mlp.up_proj, down_proj
<side>.block.i.layer.<last>.mlp.router, experts               <side>.layers.i.mlp (``hf.blocks``)
<side>.final_layer_norm.weight                                <side>.norm.weight
============================================================= =========================================================

Sources: Fedus et al., arXiv:2101.03961; Raffel et al., arXiv:1910.10683; the layout as transformers 5.23 writes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pymoe.backend import tree
from pymoe.hf import blocks
from pymoe.hf.blocks.family import BlockConfig, activation
from pymoe.hf.blocks.layouts import Same
from pymoe.hf.models import tensors
from pymoe.hf.models.fields import Said, damaged
from pymoe.hf.models.layouts import Entries, Rows
from pymoe.hf.models.tensors import Entry, Stack
from pymoe.models import Multipliers, Seq2SeqConfig
from pymoe.nn import FeedForwardConfig, RelativePositions

NAME = "switch_transformers"
CONTEXT = 1 << 20  # distances have no last one
_TABLES = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}  # the shared table again, in some files


def config(raw: Mapping[str, Any]) -> Seq2SeqConfig:
    """The settings of a Switch Transformer from its config.json.

    >>> cfg = config({"model_type": "switch_transformers", "d_model": 8, "d_kv": 3, "d_ff": 5, "num_heads": 2,
    ...               "num_layers": 4, "num_sparse_encoder_layers": 2, "num_experts": 4, "vocab_size": 11})
    >>> [b.sparse for b in cfg.encoder.blocks]
    [False, True, False, True]
    """
    with damaged():
        return _config(raw, Said.of(NAME, raw))


def _config(raw: Mapping[str, Any], said: Said) -> Seq2SeqConfig:
    n, d = said.whole("num_layers"), said.whole("d_model")
    m = n if said["num_decoder_layers"] is None else said.whole("num_decoder_layers")
    tie = bool(said["tie_word_embeddings"])
    moe = blocks.config(raw)
    assert isinstance(moe, BlockConfig)
    return Seq2SeqConfig(
        vocab=said.whole("vocab_size"),
        context=CONTEXT,
        d_model=d,
        n_layers=n,
        n_heads=said.whole("num_heads"),
        head_dim=said.whole("d_kv"),
        d_ff=said.whole("d_ff"),
        gated=False,
        activation=activation(said["dense_act_fn"]),
        moe=moe,
        moe_layers=_sparse(n, said.whole("num_sparse_encoder_layers")),
        decoder_layers=m,
        decoder_moe_layers=_sparse(m, said.whole("num_sparse_decoder_layers")),
        norm_eps=float(said["layer_norm_epsilon"]),
        rope_base=None,
        attention_scale=1.0,
        relative=RelativePositions(
            said.whole("relative_attention_num_buckets"), said.whole("relative_attention_max_distance")
        ),
        multipliers=Multipliers(logits=1 / math.sqrt(d) if tie else 1.0),
        tie=tie,
        share_embeddings=tie,
    )


def _sparse(n: int, wanted: int) -> tuple[int, ...]:
    """Every n // wanted-th layer from the second on; where none is wanted transformers still has the second."""
    step = n // wanted if wanted > 0 else n
    return tuple(i for i in range(n) if step == 1 or i % step == 1)


def load(given: Mapping[str, Any], cfg: Seq2SeqConfig, dtype: Any = None, stack: Stack | None = None) -> dict[str, Any]:
    """The tree of ``models.seq2seq``; a missing, surplus or misshapen tensor is a CheckpointError that names it."""
    unread = _TABLES | {"lm_head.weight"} if cfg.tie else {"shared.weight"}
    if not cfg.tie and "shared.weight" in given:  # files that never kept the two tables apart
        given = dict.fromkeys(_TABLES, given["shared.weight"]) | dict(given)
    return tensors.read(given, entries(cfg), dtype, stack, unread)


def dump(p: tree.Tree, cfg: Seq2SeqConfig) -> dict[str, Any]:
    """The inverse, for values or gradients; files and memory have one layout."""
    return tensors.written(p, entries(cfg), hub=False)


def entries(cfg: Seq2SeqConfig) -> dict[str, Entry]:
    """{name in the tree: how it lies} of every parameter."""
    assert cfg.head_dim is not None and cfg.relative is not None
    d, inner = cfg.d_model, cfg.n_heads * cfg.head_dim
    tables = {"decoder.embed_tokens.weight": "shared.weight"} if cfg.tie else {name: name for name in sorted(_TABLES)}
    found: Entries = {own: (Same(name), (cfg.vocab, d)) for own, name in tables.items()}
    experts: dict[str, Entry] = {}
    for side, stack, last in (("encoder", cfg.encoder, 1), ("decoder", cfg.decoder, 2)):
        for i, b in enumerate(stack.blocks):
            own, at = f"{side}.layers.{i}", f"{side}.block.{i}.layer"
            found |= _norm(f"{own}.input_layernorm", f"{at}.0.layer_norm", d)
            found |= _joined(f"{own}.self_attn.qkv_proj", f"{at}.0.SelfAttention", "qkv", (inner, d))
            found[f"{own}.self_attn.o_proj"] = (Same(f"{at}.0.SelfAttention.o.weight"), (d, inner))
            if b.cross is not None:
                found |= _norm(f"{own}.cross_attn_layernorm", f"{at}.1.layer_norm", d)
                found[f"{own}.cross_attn.q_proj"] = (Same(f"{at}.1.EncDecAttention.q.weight"), (inner, d))
                found |= _joined(f"{own}.cross_attn.kv_proj", f"{at}.1.EncDecAttention", "kv", (inner, d))
                found[f"{own}.cross_attn.o_proj"] = (Same(f"{at}.1.EncDecAttention.o.weight"), (d, inner))
            found |= _norm(f"{own}.post_attention_layernorm", f"{at}.{last}.layer_norm", d)
            if isinstance(b.feed_forward, BlockConfig):
                experts |= tensors.of_block(b.feed_forward, f"{own}.mlp.", f"{at}.{last}.mlp.")
            elif isinstance(b.feed_forward, FeedForwardConfig):
                f = b.feed_forward.d_ff
                found[f"{own}.mlp.up_proj"] = (Same(f"{at}.{last}.mlp.wi.weight"), (f, d))
                found[f"{own}.mlp.down_proj"] = (Same(f"{at}.{last}.mlp.wo.weight"), (d, f))
        found |= _norm(f"{side}.norm", f"{side}.final_layer_norm", d)
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found[f"{side}.relative_bias.weight"] = (Same(table), (cfg.relative.buckets, cfg.n_heads))
    if not cfg.tie:
        found["lm_head.weight"] = (Same("lm_head.weight"), (cfg.vocab, d))
    return tensors.plain(found) | experts


def _norm(own: str, name: str, d: int) -> Entries:
    return {f"{own}.weight": (Same(f"{name}.weight"), (d,))}


def _joined(own: str, at: str, letters: str, one: tuple[int, int]) -> Entries:
    """Matrices of one shape, one below the other."""
    n = len(letters)
    layout = Rows(tuple(f"{at}.{letter}.weight" for letter in letters), (one[0],) * n, (None,) * n)
    return {own: (layout, (n * one[0], one[1]))}
