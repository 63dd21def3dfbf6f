"""Weights, masks and layers that the tests of this part share: seeded, read-only, sizes pairwise different."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=60)


def frozen(a: Any) -> np.ndarray:
    a = np.array(a)
    a.setflags(write=False)
    return a


def normal(*shape: int, seed: int = 0, dtype: str = "f8") -> np.ndarray:
    return frozen(np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype))


def inputs(t: int, d: int, seed: int = 0) -> np.ndarray:
    """(T, D) correlated inputs: without correlation nothing can make up for anything."""
    rng = np.random.default_rng([seed, t, d])
    return frozen(rng.standard_normal((t, d)) @ (np.eye(d) + 0.5 * rng.standard_normal((d, d))))


@st.composite
def weights(draw: Any, *, tied: bool = True, least: int = 1) -> np.ndarray:
    """(F, D) float64 or float32 weights, among them zeros and equal magnitudes (none if not ``tied``)."""
    f, d = draw(st.integers(least, 7)), draw(st.integers(least, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(["f4", "f8"]))
    kind = draw(st.sampled_from(["plain", "few", "halves"])) if tied else "distinct"
    if kind == "few":
        w = rng.integers(-2, 3, (f, d)) / 2
    elif kind == "halves":
        w = np.where(rng.random((f, d)) < 0.5, 0.0, rng.standard_normal((f, d)))
    elif kind == "distinct":
        w = rng.permutation(np.arange(1, f * d + 1)).reshape(f, d) * rng.choice([-0.5, 0.5], (f, d))
    else:
        w = rng.standard_normal((f, d))
    return frozen(w.astype(dtype))


SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.29, 1 / 3, 0.5, 0.75, 0.9, 1.0])
