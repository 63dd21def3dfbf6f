"""The sizes and rates that `pymoe train` starts from, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pymoe import presets as routers
from pymoe.models.lm import LMConfig
from pymoe.train.settings import TrainSettings


class Preset(NamedTuple):
    about: str
    model: Callable[[int, int], LMConfig]  # (size of the vocabulary, window) -> configuration
    settings: TrainSettings


def _default(vocab: int, window: int) -> LMConfig:
    moe = routers.mixtral(d_model=128, d_ff=64, n_experts=16, k=2)
    return LMConfig(vocab=vocab, context=window, d_model=128, n_layers=4, n_heads=4, moe=moe)


def _shakespeare(vocab: int, window: int) -> LMConfig:
    moe = routers.mixtral(d_model=128, d_ff=128, n_experts=8, k=2)
    return LMConfig(vocab=vocab, context=window, d_model=128, n_layers=3, n_heads=4, moe=moe)


def _tiny(vocab: int, window: int) -> LMConfig:
    moe = routers.mixtral(d_model=16, d_ff=12, n_experts=5, k=2)
    return LMConfig(vocab=vocab, context=window, d_model=16, n_layers=2, n_heads=2, moe=moe)


PRESETS = {
    "default": Preset(
        "about two minutes on two cores with --compare-dense",
        _default,
        TrainSettings(steps=1200, rows=16, window=64, lr=2e-3, floor=2e-4, warmup=100, balance=0.05, z=0.0),
    ),
    "shakespeare": Preset(
        "nanoGPT's CPU budget: 2,000 steps of 12 x 64 characters, at most 0.8 M active parameters",
        _shakespeare,
        TrainSettings(steps=2000, rows=12, window=64, lr=2e-3, floor=2e-4, warmup=100, eval_every=250),
    ),
    "tiny": Preset(
        "seconds, for trying things and for tests",
        _tiny,
        TrainSettings(steps=40, rows=4, window=16, lr=3e-3, floor=3e-4, warmup=5, eval_every=10, eval_windows=8),
    ),
}
