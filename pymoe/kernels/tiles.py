"""How the compiled sparse products cut their work: blocks of tokens, pieces for the threads, scratch.

None of it changes a bit of y or dx.  The pieces of a sum over tokens (ddata) depend on the number of tokens alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.kernels.parallel import build, threads

LANES = {np.dtype("f4"): 16, np.dtype("f8"): 8}  # numbers in one vector; the other dtypes have none
WIDE = build().simd == "x86-64-v4"  # 32 registers of a whole vector: a tile of 4 x 4 of them fits
_FIRST_CACHE = 16 << 10  # bytes of packed tokens that stay there beside what streams through


class Tiles(NamedTuple):
    vectors: int  # vectors of tokens in a block: 1, 2 or 4
    width: int  # tokens of a block
    pieces: int  # of the rows or columns of the output, each a task with each block
    threads: int


def workers(n: int, entries: int) -> int:
    """Threads for n tokens: a product of vectors is cheaper than the element operations that ``threads`` counts."""
    return threads(n * entries // 8)


def over_tokens(n: int, entries: int, dtype: np.dtype[Any], most: int = 4) -> Tiles:
    """Blocks of up to ``most`` vectors of n tokens; with several threads at least two tasks for each."""
    lanes, wanted = LANES.get(dtype, 1), workers(n, entries)
    vectors = next((v for v in (4, 2) if v <= most and n > lanes * (v - v // 2)), 1)
    blocks = -(-n // (lanes * vectors))
    return Tiles(vectors, lanes * vectors, -(-2 * wanted // blocks) if wanted > 1 else 1, wanted)


def scratch(numbers: int, dtype: np.dtype[Any]) -> Array:
    """Room for ``numbers``, and for moving their beginning to where a cache line begins."""
    return np.empty(numbers + 64 // dtype.itemsize, dtype=dtype)


def pieces(n: int, dtype: np.dtype[Any]) -> tuple[int, int, int]:
    """(vectors, width, count) of the pieces in which a sum over n tokens goes: equal, at most 8 vectors, few padded."""
    lanes = LANES.get(dtype, 1)
    count = -(-n // (8 * lanes))
    wanted = -(-n // (count * lanes))
    vectors = wanted + (wanted > 1 and wanted % 2)
    return vectors, vectors * lanes, count


def span(width: int, m: int, dtype: np.dtype[Any]) -> int:
    """How many groups of m columns, of ``width`` tokens each, fit the first cache."""
    return max(1, _FIRST_CACHE // (width * m * dtype.itemsize))


def worth(entries: int, outputs: int, spans: int) -> bool:
    """Does an output have so many entries in each span that going span by span pays?"""
    return spans > 1 and entries >= 16 * outputs * spans
