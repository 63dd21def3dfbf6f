"""One weight of each kind, as a matrix and as a stack, with NaN-free values and inputs nobody can write into.

E 3, F 6, D 8 (blocks 2 x 4, 2:4), rank 2, T 5 tokens; expert 1 of a stack stores nothing where the form allows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe import storage
from pymoe.storage import Weight

E, F, D, R, T = 3, 6, 8, 2, 5
BLOCK, N, M = (2, 4), 2, 4
KINDS = ("csr", "bsr", "nm", "delta")
SPARSE = ("csr", "bsr", "nm")


def frozen(a: Any) -> np.ndarray:
    a = np.array(a)
    a.setflags(write=False)
    return a


def pattern(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of ``shape`` that this kind stores exactly."""
    if kind == "bsr":
        *lead, f, d = shape
        mask = np.repeat(np.repeat(rng.random((*lead, f // BLOCK[0], d // BLOCK[1])) < 0.5, 2, axis=-2), 4, axis=-1)
    elif kind == "nm":
        mask = (np.argsort(np.argsort(rng.random((*shape[:-1], shape[-1] // M, M)))) < N).reshape(shape)
    else:
        mask = rng.random(shape) < 0.4
    if len(shape) == 3 and kind != "nm":
        mask[1] = False
    return frozen(mask)


def stored(kind: str, w: np.ndarray, mask: np.ndarray | None = None) -> Weight:
    """``w`` in the form ``kind``."""
    if kind == "csr":
        return storage.csr.from_dense(w, mask)
    if kind == "bsr":
        return storage.bsr.from_dense(w, BLOCK, mask)
    return storage.nm.from_dense(w, N, M, mask)


def weight(kind: str, *, stack: bool, seed: int = 0, dtype: Any = np.float64) -> Weight:
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    lead = (E,) if stack else ()
    if kind == "delta":
        shapes = (F, D), (*lead, F, R), (*lead, R, D)
        return freeze(storage.Delta(*(rng.standard_normal(s).astype(dtype) for s in shapes)))
    w = rng.standard_normal((*lead, F, D)).astype(dtype)
    return freeze(stored(kind, w, pattern(kind, rng, w.shape)))


def freeze(w: Weight) -> Weight:
    for a in (*w.parts().values(), *w.structure().values()):
        if isinstance(a, np.ndarray):
            a.setflags(write=False)
    return w


def inputs(n: int = T, seed: int = 1, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """x (n, D) and dy (n, F)."""
    rng = np.random.default_rng(seed)
    return frozen(rng.standard_normal((n, D)).astype(dtype)), frozen(rng.standard_normal((n, F)).astype(dtype))


def relative(found: Any, wanted: Any) -> float:
    """max |found - wanted| / max |wanted|; the difference itself where all that is wanted is 0."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    gap, top = float(np.max(np.abs(found - wanted), initial=0)), float(np.max(np.abs(wanted), initial=0))
    return gap / top if top else gap
