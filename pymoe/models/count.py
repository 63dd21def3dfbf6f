"""How many parameters a model has, and how many of them one token passes.

========================= =====================================================================================
total                     all elements of p, of a sparse stored weight the stored ones; a tied table counts once
active                    total, but of the routed experts only k of the E stored: what one token is multiplied with
embedding                 the tables that ids are looked up in (``embed_tokens``), tied or not
total_non_embedding       total - embedding
active_non_embedding      active - embedding
========================= =====================================================================================

Router, shared experts, norms and biases are active for every token.  A tied table is also the head, so every token does
pass it: then ``active`` is what costs time, and ``active_non_embedding`` leaves the head out.  nanoGPT's "number of
parameters" leaves out position tables only; there are none here, so it is ``total``.  In an encoder-decoder a source
token passes the encoder and a target token the decoder; the numbers are for both together.  Of experts that store
different numbers of values k/E of all are taken, which is the mean; the mean matrix of a ``storage.Delta`` is passed by
every token.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.models import classifier, lm, seq2seq
from pymoe.models.config import TransformerConfig
from pymoe.moe import MoEConfig
from pymoe.storage import Delta, Weight

MODULES: dict[type, ModuleType] = {
    lm.LMConfig: lm,
    classifier.ClassifierConfig: classifier,
    seq2seq.Seq2SeqConfig: seq2seq,
}


class Count(NamedTuple):
    """Numbers of parameters; see the module for what each counts."""

    total: int
    active: int
    embedding: int

    @property
    def total_non_embedding(self) -> int:
        """total - embedding."""
        return self.total - self.embedding

    @property
    def active_non_embedding(self) -> int:
        """active - embedding."""
        return self.active - self.embedding


def module_of(cfg: TransformerConfig) -> ModuleType:
    """The model module (``lm``, ``classifier``, ``seq2seq``) that ``cfg`` belongs to."""
    for kind, module in MODULES.items():
        if isinstance(cfg, kind):
            return module
    raise ConfigError(f"expected the config of a model of pymoe.models, got {type(cfg).__name__}")


def count_parameters(cfg: TransformerConfig, p: dict[str, Any] | None = None) -> Count:
    """The numbers of ``p``; without it, of a model that is made for the purpose (its memory is needed for a moment).

    >>> count = count_parameters(lm.LMConfig(vocab=7, d_model=6, n_layers=1, n_heads=3, d_ff=4, context=5))
    >>> count  # 7·6 table, 18·6 + 6·6 attention, 8·6 + 6·4 feed-forward, 3·6 norms
    Count(total=276, active=276, embedding=42)
    >>> count.active_non_embedding
    234
    """
    if p is None:
        p = module_of(cfg).init(np.random.default_rng(0), cfg)
    total = active = embedding = 0
    for name, leaf in tree.flatten(p).items():
        n, parts = int(leaf.nnz if isinstance(leaf, Weight) else leaf.size), name.split(".")
        total += n
        moe = _moe_of(cfg, parts) if "experts" in parts else None
        common = int(leaf.mean.size) if isinstance(leaf, Delta) else 0
        active += n if moe is None else common + (n - common) * min(moe.k, moe.n_stored) // moe.n_stored
        embedding += n if "embed_tokens" in parts else 0
    return Count(total, active, embedding)


def _moe_of(cfg: TransformerConfig, parts: list[str]) -> MoEConfig:
    """The settings of the layer that a parameter <...>.layers.<i>.mlp.experts.<...> belongs to."""
    at = parts.index("layers")
    stack = cfg.stack if at == 0 else getattr(cfg, parts[at - 1])  # type: ignore[attr-defined]
    feed_forward: MoEConfig = stack.blocks[int(parts[at + 1])].feed_forward
    return feed_forward
