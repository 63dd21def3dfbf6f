"""Which way of making a model smaller costs least?  Try them, measure each the same way, lay the numbers side by side.

A candidate is a method at a level; for each: held-out loss, zeros, parameters, bytes as stored, tokens a second, and
after some steps of (masked) fine-tuning the loss again.  The answer to "how do I choose the sparsity constraint?" is
the picture of loss against zeros, bytes and speed, for one's own model and text (the article's question 9.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.models.lm import LMConfig
from pymoe.surgery import experts, measure, targets, weights
from pymoe.surgery.calibration import Calibration, Watch
from pymoe.surgery.weights import Pattern


@dataclass(frozen=True)
class Candidate:
    """One way to make a model smaller.

    family   "weights" (single entries, or groups of them), "experts" (whole experts) or "units" (hidden units)
    method   of ``surgery.weights.METHODS`` or ``surgery.experts.METHODS``; "magnitude" for units
    level    the share that goes
    pattern  of weights
    """

    family: str
    method: str
    level: float
    pattern: Pattern = Pattern()

    @property
    def label(self) -> str:
        """What a table and a legend call it."""
        if self.family != "weights":
            return f"{self.method} {self.family}"
        plain = self.pattern.kind == "unstructured"
        return f"{self.method} weights" if plain else f"{self.method} {self.pattern}"

    @property
    def form(self) -> str:
        """How the pruned matrices are stored where speed and bytes are measured."""
        if self.family != "weights":
            return "dense"
        return {"n:m": "nm", "blocks": "bsr"}.get(self.pattern.kind, "csr")


class Made(NamedTuple):
    cfg: LMConfig
    p: dict[str, Any]  # dense, zeros where pruned
    masks: dict[str, np.ndarray]


@dataclass
class Row:
    """One line of the table."""

    label: str
    family: str
    level: float
    zeros: float  # share of the prunable matrices' entries that are gone: zero, or cut away
    parameters: int
    active: int
    bytes: int
    loss: float
    tuned: float | None  # after fine-tuning
    speed: float  # tokens a second


def candidates(
    cfg: LMConfig, levels: Sequence[float], weight_methods: Sequence[str], expert_methods: Sequence[str]
) -> Iterator[Candidate]:
    """The default round: methods times levels, N:M and blocks where they fit the level and the sizes."""
    for level in levels:
        for method in weight_methods:
            yield Candidate("weights", method, level)
        best = "wanda" if "wanda" in weight_methods else "magnitude"
        for n, m in ((2, 4), (1, 4)):
            if 1 - n / m == level:
                yield Candidate("weights", best, level, Pattern("n:m", nm=(n, m)))
        block = _block(cfg)
        if block > 1:
            yield Candidate("weights", "magnitude", level, Pattern("blocks", block=(block, block)))
        yield Candidate("units", "magnitude", level)
        for method in expert_methods:
            yield Candidate("experts", method, level)


def _block(cfg: LMConfig) -> int:
    """The largest power of two up to 32 that divides every side of the experts' matrices at least twice."""
    sides = [side for m in experts.moe_layers(cfg).values() for side in (m.d_model, m.d_ff)]
    return max((b for b in (2, 4, 8, 16, 32) if all(side % (2 * b) == 0 for side in sides)), default=1)


def make(p: dict[str, Any], cfg: LMConfig, c: Candidate, text: Calibration, watch: Watch | None = None) -> Made:
    """The model of one candidate."""
    if c.family == "weights":
        names = targets.names(p, "experts")
        done = weights.prune(
            p, cfg, names, method=c.method, sparsity=c.level, pattern=c.pattern, text=text, watch=watch
        )
        return Made(cfg, done.p, done.masks)
    if c.family == "units":
        cut = experts.prune_units(p, cfg, sparsity=c.level)
    elif c.family == "experts":
        cut = experts.prune(p, cfg, method=c.method, sparsity=c.level, text=text, watch=watch)
    else:
        raise ConfigError(f"a candidate's family must be weights, units or experts, got {c.family!r}")
    return Made(cut.cfg, cut.p, {})


def gone(cfg: LMConfig, p: dict[str, Any], made: Made) -> float:
    """The share of the experts' weights that is zero or cut away."""
    before = _expert_weights(p)
    after = _expert_weights(made.p)
    zeros = sum(int(m.size - np.count_nonzero(m)) for n, m in made.masks.items() if ".experts." in n)
    return 1 - (after - zeros) / before


def _expert_weights(p: dict[str, Any]) -> int:
    return sum(int(np.prod(tree.flatten(p)[name].shape)) for name in targets.names(p, "experts"))


def run(
    p: dict[str, Any],
    cfg: LMConfig,
    which: Sequence[Candidate],
    *,
    text: Calibration,
    loss: Callable[[LMConfig, dict[str, Any]], float],
    speed_on: np.ndarray,
    tune: Callable[[Made], dict[str, Any]] | None = None,
    watch: Callable[[str], None] | None = None,
) -> list[Row]:
    """The table: the dense-stored original first, then every candidate.

    ``loss`` judges (held-out text), ``tune`` trains a candidate on and returns its parameters, ``speed_on`` (B, S) is
    what speed is measured on; ``watch`` is told what is done next.
    """
    say = watch if watch is not None else lambda what: None
    models: dict[str, tuple[LMConfig, dict[str, Any]]] = {"as it is": (cfg, p)}
    size = measure.size(cfg, p, {})
    say("the model as it is")
    tuned = None if tune is None else loss(cfg, tune(Made(cfg, p, {})))  # what training on gives without any pruning
    rows = [Row("as it is", "none", 0.0, 0.0, size.parameters, size.active, size.bytes, loss(cfg, p), tuned, 0.0)]
    for c in which:
        say(f"{c.label} at {c.level:.0%}")
        made = make(p, cfg, c, text)
        kept = measure.stored(made.p, made.masks, c.form, nm=c.pattern.nm, block=c.pattern.block)
        size = measure.size(made.cfg, kept, made.masks)
        tuned = None if tune is None else loss(made.cfg, tune(made))
        share = gone(cfg, p, made)
        before = loss(made.cfg, made.p)
        rows.append(
            Row(c.label, c.family, c.level, share, size.parameters, size.active, size.bytes, before, tuned, 0.0)
        )
        models[f"{c.label} {c.level}"] = (made.cfg, kept)
    say("speed")
    speeds = measure.tokens_per_second(models, speed_on)
    for row, speed in zip(rows, speeds.values(), strict=True):
        row.speed = speed
    return rows
