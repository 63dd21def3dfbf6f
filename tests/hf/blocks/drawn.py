"""Numbers that their names give (parameters, inputs, cotangents), so that only what came out of them is stored."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def seeded(*words: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(map(str, words)).encode()))


def parameter(name: str, shape: tuple[int, ...], label: str) -> np.ndarray:
    """Norms and scales lie around 1, selection biases are neither zero nor constant, matrices have no structure."""
    drawn = seeded(label, name).standard_normal(shape)
    last = name.rsplit(".", 2)[-2:]
    if any("norm" in part for part in last) or "scale" in last[-1]:
        return 1 + 0.3 * drawn
    if "correction_bias" in name or name.endswith(("expert_bias", "balancing_biases")):
        return 0.2 * drawn
    return 0.5 * drawn


def normal(name: str, shape: tuple[int, ...], label: str) -> np.ndarray:
    return seeded(label, name).standard_normal(shape)


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, shapes and bytes: another draw of any of them is another text."""
    digest = hashlib.sha256()
    for name, a in sorted(arrays.items()):
        digest.update(f"{name} {a.dtype.str} {a.shape}".encode() + np.ascontiguousarray(a).tobytes())
    return digest.hexdigest()


def shadow(name: str, a: np.ndarray) -> np.ndarray:
    """What is stored of a gradient: all of a small one; of a large one its products with a vector on either side.

    An error anywhere changes both, each by a multiple that is never 0.
    """
    if a.size <= 64 or a.ndim < 2:
        return a
    right, left = (seeded(name, side).uniform(1, 2, a.shape[axis]) for side, axis in (("right", -1), ("left", -2)))
    return np.concatenate([(a @ right).ravel(), (left @ a).ravel()])
