"""Tiny models whose weights follow from their names, and what ``vectors.json`` keeps of them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pymoe.hf import models, names

FILE = Path(__file__).with_name("vectors.json")
IDS = np.array([[3, 18, 0, 7, 7, 11, 2, 9], [16, 5, 1, 12, 4, 0, 8, 13]])
TARGETS = np.array([[18, 0, 7, 7, 11, 2, 9, 4], [5, 1, 12, 4, 0, 8, 13, 3]])
NEW = 6  # greedy tokens after the first three of the first row


def weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Each tensor of a file from a seed of its own; vectors around 1, so that no norm and no bias is at its start."""
    found = {}
    for name, shape in shapes.items():
        drawn = 0.4 * np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        found[name] = 1 + drawn if len(shape) == 1 else drawn
    return found


def probe(name: str, g: np.ndarray) -> float:
    """A gradient in one number: its product with a matrix of random signs that follow from its name."""
    signs = np.random.default_rng(zlib.crc32(name[::-1].encode())).integers(0, 2, g.shape) * 2 - 1
    return float((g * signs).sum())


def off(got: float, want: float, g: np.ndarray) -> float:
    """How far two probes of g are apart, by what they sum."""
    return abs(got - want) / max(float(np.abs(g).sum()), 1e-300)


def in_memory(p: Any, found: Any) -> dict[str, np.ndarray]:
    """A decoder's tree under the names of transformers' state dict."""
    if found.raw["model_type"] in models.FAMILIES:
        return models.dump(p, found.cfg, models.form(found.raw), hub=False)
    return names.to_hf(p, found.cfg, hub=False)


def summary(logits: Any, loss: float, gradients: dict[str, np.ndarray], tokens: list[int]) -> dict[str, Any]:
    """What is kept of one model: the logits of the last position, which sees all others, and a number a gradient."""
    kept = {name: probe(name, g) for name, g in sorted(gradients.items())}
    return {"logits": np.asarray(logits)[:, -1, :].tolist(), "loss": loss, "gradients": kept, "tokens": tokens}
