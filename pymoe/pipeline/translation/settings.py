"""How a translator is trained, and the sizes it starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pymoe import presets as routers
from pymoe.backend.errors import ConfigError, check_integer
from pymoe.models.seq2seq import Seq2SeqConfig
from pymoe.train.settings import UpdateSettings

MOST_STEPS = 8000


@dataclass(frozen=True, kw_only=True)
class TranslateSettings(UpdateSettings):
    """Everything but the model, the vocabulary, the data and the place.

    batch_tokens            a step's padded batch has at most so many tokens, source and target together
    loss_pairs, bleu_pairs  held-out pairs whose loss, and whose greedy translation, are measured while it trains
    width, alpha, beta      beam, length normalisation and coverage of what is reported at the end (``models.beam``)

    and all of ``UpdateSettings``.
    """

    batch_tokens: int = 2000
    loss_pairs: int = 500
    bleu_pairs: int = 200
    width: int = 5
    alpha: float = 0.6
    beta: float = 0.0

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), "batch_tokens", "loss_pairs", "width")

    def _amounts(self) -> tuple[str, ...]:
        return ("bleu_pairs", "alpha", "beta")


class Sizes(NamedTuple):
    """The sizes of a model; ``layers`` a side, every ``every``-th of them sparse."""

    d_model: int
    layers: int
    heads: int
    d_ff: int  # of one expert
    experts: int
    k: int
    every: int = 1
    dropout: float = 0.1
    smoothing: float = 0.1
    context: int = 128


class Preset(NamedTuple):
    about: str
    sizes: Sizes
    vocabulary: int
    epochs: int  # from which the number of steps follows
    settings: Callable[[int], TranslateSettings]  # of the number of steps


def config(sizes: Sizes, vocabulary: int) -> Seq2SeqConfig:
    """The model; one table for both languages and the head."""
    for name in ("d_model", "layers", "heads", "experts", "k"):
        check_integer(name, getattr(sizes, name))
    if sizes.k > sizes.experts:
        raise ConfigError(f"k must be at most the number of experts, {sizes.experts}, got {sizes.k}")
    if sizes.d_model % (2 * sizes.heads):
        raise ConfigError(f"d_model must be a multiple of twice the heads, {2 * sizes.heads}, got {sizes.d_model}")
    sparse = tuple(range(sizes.every - 1, sizes.layers, sizes.every))
    return Seq2SeqConfig(
        vocab=vocabulary,
        context=sizes.context,
        d_model=sizes.d_model,
        n_layers=sizes.layers,
        n_heads=sizes.heads,
        d_ff=sizes.k * sizes.d_ff,
        moe=routers.mixtral(d_model=sizes.d_model, d_ff=sizes.d_ff, n_experts=sizes.experts, k=sizes.k),
        moe_layers=sparse,
        share_embeddings=True,
        dropout=sizes.dropout,
        label_smoothing=sizes.smoothing,
        std=sizes.d_model**-0.5,  # of a product with unit rows: at 0.02 attention takes hold three times as late
    )


def steps(preset: Preset, batches: int) -> int:
    """The number of optimiser steps for so many batches an epoch: the preset's epochs, of no fewer than 10 batches."""
    return min(MOST_STEPS, preset.epochs * max(batches, 10))


def _default(n: int) -> TranslateSettings:
    return TranslateSettings(
        steps=n, lr=2e-3, floor=1e-4, warmup=min(300, n // 10), beta2=0.98, decay=0.01, balance=0.02, z=0.0,
        eval_every=max(1, n // 10), batch_tokens=2000,
    )  # fmt: skip


def _names(n: int) -> TranslateSettings:
    return TranslateSettings(
        steps=n, lr=3e-3, floor=1e-4, warmup=min(100, n // 10), beta2=0.98, decay=0.01, balance=0.02, z=0.0,
        eval_every=max(1, n // 5), batch_tokens=1500,
    )  # fmt: skip


def _tiny(n: int) -> TranslateSettings:
    return TranslateSettings(
        steps=n, lr=3e-3, floor=3e-4, warmup=min(5, n // 5), eval_every=max(1, n // 3), batch_tokens=300,
        loss_pairs=20, bleu_pairs=8, width=2, z=0.0,
    )  # fmt: skip


PRESETS = {
    "default": Preset(
        "sentences: 29,000 pairs in about 25 minutes on two cores",
        Sizes(d_model=192, layers=2, heads=4, d_ff=192, experts=8, k=2),
        4000,
        15,
        _default,
    ),
    "names": Preset(
        "names and dates: about a minute on two cores",
        Sizes(d_model=128, layers=2, heads=4, d_ff=128, experts=8, k=2, context=64),
        700,
        20,
        _names,
    ),
    "tiny": Preset(
        "seconds, for trying things and for tests",
        Sizes(d_model=16, layers=1, heads=2, d_ff=12, experts=4, k=2, context=48),
        320,
        1,
        _tiny,
    ),
}
