"""Small models of pairwise different sizes, with inputs nobody can write into.

B 3, S 7, R 6 (decoder), V 11, C 4 classes, D 5, H 4 heads of width 10 over G 2 keys, d_ff 9, F 8, E 6, K 2, context 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pymoe import presets
from pymoe.backend import tree
from pymoe.models import ClassifierConfig, LMConfig, Multipliers, Seq2SeqConfig, classifier, lm, module_of, seq2seq
from pymoe.nn import RelativePositions

from . import loops

B, S, R = 3, 7, 6
SIZES: dict[str, Any] = dict(vocab=11, d_model=5, n_heads=4, n_kv_heads=2, head_dim=10, d_ff=9, context=13, std=0.4)
MIXTRAL = presets.mixtral(d_model=5, d_ff=8, n_experts=6, k=2)
SMALL = presets.mixtral(d_model=5, d_ff=3, n_experts=6, k=2)


FAR = RelativePositions(8, 6)


def frozen(a: Any) -> np.ndarray:
    a = np.asarray(a)
    a.setflags(write=False)
    return a


def parameters(cfg: Any, seed: int = 0, dtype: Any = np.float64) -> dict[str, Any]:
    """Every leaf random, biases and norm weights too, and exact in float32."""
    rng = np.random.default_rng(seed)

    def leaf(a: np.ndarray) -> np.ndarray:
        noise = 0.3 * rng.standard_normal(a.shape) if a.ndim < 2 or not a.any() else 0.0
        return frozen((a + noise).astype(np.float32).astype(dtype))

    return tree.map(leaf, module_of(cfg).init(rng, cfg, np.float64))


@dataclass(frozen=True)
class Case:
    """A config, and which of its layers are sparse (for the loops)."""

    name: str
    cfg: Any
    sparse: Any = ()
    masked: bool = False
    quick: bool = False  # small enough for its whole gradient in every test run

    @property
    def module(self) -> Any:
        return module_of(self.cfg)

    @property
    def oracle(self) -> Callable[..., Any]:
        return {lm: loops.language_model, classifier: loops.classifier, seq2seq: loops.encoder_decoder}[self.module]

    def args(self, seed: int = 1, dtype: Any = np.float64) -> tuple[Any, ...]:
        rng = np.random.default_rng(seed)
        ids = frozen(rng.integers(0, self.cfg.vocab, (B, S)))
        p = parameters(self.cfg, seed, dtype)
        if self.module is not seq2seq:
            return ids, p, self.cfg
        return ids, p, self.cfg, frozen(rng.integers(0, self.cfg.target_embedding.vocab, (B, R)))

    def keywords(self, seed: int = 2) -> dict[str, Any]:
        """targets and, where the case is masked, padding: a row with one real token, holes, a full row."""
        rng = np.random.default_rng(seed)
        if self.module is classifier:
            targets = np.array([2, -100, 0])
        else:
            n, width = (self.cfg.target_embedding.vocab, R) if self.module is seq2seq else (self.cfg.vocab, S)
            targets = rng.integers(0, n, (B, width))
            targets[0, 1] = targets[2, 3] = -100
        keywords: dict[str, Any] = {"targets": frozen(targets)}
        if self.masked:
            mask = np.ones((B, S), bool)
            mask[0, 3:] = mask[1, 1:] = mask[1, 0] = False
            mask[1, 2] = mask[1, 5] = True
            keywords["mask"] = frozen(mask)
            if self.module is seq2seq:
                decoder_mask = np.ones((B, R), bool)
                decoder_mask[1, 4:] = decoder_mask[2, 2:] = False
                keywords["decoder_mask"] = frozen(decoder_mask)
        return keywords


def _lm(**settings: Any) -> LMConfig:
    return LMConfig(**{**SIZES, "n_layers": 2, **settings})


def _classifier(**settings: Any) -> ClassifierConfig:
    return ClassifierConfig(**{**SIZES, "n_layers": 2, "n_classes": 4, **settings})


def _seq2seq(**settings: Any) -> Seq2SeqConfig:
    return Seq2SeqConfig(**{**SIZES, "n_layers": 1, "decoder_layers": 2, "target_vocab": 12, **settings})


CASES = (
    Case("lm dense", _lm()),
    Case("lm one sparse layer", _lm(moe=MIXTRAL, moe_layers=(1,)), (1,)),
    Case("lm small", _lm(moe=SMALL, moe_layers=(1,), head_dim=2), (1,), True, quick=True),
    Case("lm all sparse, masked", _lm(moe=MIXTRAL, d_ff=None), (0, 1), True),
    Case(
        "lm untied, layer norm, biases, GELU, multi-head, no positions, smoothed",
        _lm(
            tie=False,
            norm="layer",
            bias=True,
            gated=False,
            activation="gelu",
            n_kv_heads=None,
            rope_base=None,
            label_smoothing=0.2,
        ),
    ),  # fmt: skip
    Case("lm one key head, short waves", _lm(n_kv_heads=1, rope_base=50.0, n_layers=1)),
    Case(
        "lm multiplied, own scale",
        _lm(moe=MIXTRAL, moe_layers=(0,), multipliers=Multipliers(3.0, 0.3, 0.125), attention_scale=0.4, tie=False),
        (0,),
    ),
    Case("lm distances", _lm(rope_base=None, relative=RelativePositions(6, 5)), masked=True),
    Case("classifier dense", _classifier()),
    Case("classifier multiplied, distances", _classifier(n_layers=1, relative=FAR, multipliers=Multipliers(2, 3, 0.5))),
    Case("classifier small", _classifier(moe=SMALL, moe_layers=(1,), head_dim=2), (1,), True, quick=True),
    Case("classifier sparse, masked", _classifier(moe=MIXTRAL, moe_layers=(0,)), (0,), True),
    Case("classifier layer norm, biases", _classifier(norm="layer", bias=True, n_layers=1, label_smoothing=0.1)),
    Case("seq2seq dense", _seq2seq(), ((), ())),
    Case(
        "seq2seq small",
        _seq2seq(moe=SMALL, moe_layers=(), decoder_layers=1, decoder_moe_layers=(0,), head_dim=2),
        ((), (0,)),
        True,
        quick=True,
    ),
    Case(
        "seq2seq sparse, masked",
        _seq2seq(moe=MIXTRAL, moe_layers=(), decoder_moe_layers=(1,)),
        ((), (1,)),
        True,
    ),
    Case("seq2seq untied, biases", _seq2seq(tie=False, bias=True, moe=MIXTRAL, decoder_moe_layers=()), ((0,), ())),
    Case(
        "seq2seq distances, own scale",
        _seq2seq(rope_base=None, relative=FAR, attention_scale=1.0, multipliers=Multipliers(logits=0.4), gated=False),
        ((), ()),
        True,
    ),
    Case("seq2seq one table", _seq2seq(target_vocab=None, share_embeddings=True, norm="layer"), ((), ()), True),
    Case("seq2seq shared source, own head", _seq2seq(target_vocab=11, share_embeddings=True, tie=False), ((), ())),
)


def distance(a: Any, b: Any) -> float:
    """max |a - b| / max |b|."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not np.all(np.isfinite(a)):
        return np.inf
    gap = float(np.max(np.abs(a - b), initial=0.0))
    return gap / float(np.max(np.abs(b))) if gap else 0.0
