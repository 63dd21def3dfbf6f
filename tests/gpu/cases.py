"""One call of every kernel: sizes pairwise different, ties, dropped choices, an empty group, a group of one row."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.kernels.activations import ACTIVATIONS

T, D, F, E, K = 13, 37, 34, 9, 3
GROUPS = (0, 4, 1, 0, 11, 2, 6, 3, 1)  # rows of each expert
N = sum(GROUPS)


def _plan(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, slot, start): N rows over T tokens, every row used once in slot, -1 elsewhere."""
    slot = np.full(T * K, -1, dtype=np.int64)
    slot[rng.permutation(T * K)[:N]] = rng.permutation(N)
    rows = np.empty(N, dtype=np.int64)
    rows[slot[slot >= 0]] = np.nonzero(slot >= 0)[0] // K
    return rows, slot.reshape(T, K), np.concatenate([[0], np.cumsum(GROUPS)]).astype(np.int64)


Case = tuple[str, tuple[Any, ...], dict[str, Any]]  # kernel, arguments, keywords


def cases(rng: np.random.Generator, dtype: Any, integers: bool = False) -> dict[str, Case]:
    """The table; with ``integers`` all values are small integers, so sums are exact."""

    def real(*shape: int) -> np.ndarray:
        values = rng.integers(-4, 5, shape) if integers else rng.normal(size=shape)
        return values.astype(dtype)

    rows, slot, start = _plan(rng)
    ties = real(T, E)
    ties[:, 4] = ties[:, 2]
    ties[1, :] = 0.5
    ties[2, 3], ties[2, 5], ties[3, 0] = -0.0, 0.0, np.nan
    ties[4, :], ties[5, 1], ties[5, 7] = np.nan, np.inf, -np.inf
    masked = real(T, D)
    masked[3, :], masked[5, 7:] = -np.inf, -np.inf
    probability = np.exp(real(T, D))
    blocks = real(T, 40)
    blocks[0, :4] = (1, -1, 1, 1)
    blocks[2, 5] = np.nan
    ids = rng.integers(-1, E, size=T * K)
    stored = rng.random((F, D)) < 0.2
    stored[3, :], stored[:, 5] = False, False
    indices, indptr = np.nonzero(stored)[1], np.concatenate([[0], np.cumsum(stored.sum(1))])
    entries = real(indices.size)
    grid = rng.random((F // 2, 12)) < 0.4  # blocks of 2 x 3 on (F, 36)
    grid[4, :], grid[:, 7] = False, False
    cut, offsets = np.nonzero(grid)[1], np.concatenate([[0], np.cumsum(grid.sum(1))])
    tiles = real(cut.size, 2, 3)
    position = np.sort(np.argsort(rng.random((F, 8, 5)), axis=2)[:, :, :2], axis=2).reshape(F, 16)  # 2 of 5 on (F, 40)
    pairs = real(F, 16)
    table: dict[str, Case] = {
        "topk": ("topk", (ties, K), {}),
        "topk_all": ("topk", (ties, E), {}),
        "topk_wide": ("topk", (real(K, 101), 32), {}),
        "topk_sort": ("topk", (real(K, 101), 50), {}),
        "counting_sort": ("counting_sort", (ids, E), {}),
        "counting_sort_inverse": ("counting_sort", (rng.permutation(T), T), {}),
        "nm_mask": ("nm_mask", (blocks, 2, 4), {}),
        "nm_mask_5": ("nm_mask", (blocks, 2, 5), {}),
        "gather": ("gather", (real(T, D), rows), {}),
        "gather_int32": ("gather", (real(T, 300), rows.astype(np.int32)), {}),
        "combine": ("combine", (real(N, D), real(T, K), slot), {}),
        "combine_sum": ("combine", (real(N, D), None, slot), {}),
        "combine_dweight": ("combine_dweight", (real(T, D), real(N, D), slot), {}),
        "expand": ("expand", (real(T, K), np.argsort(rng.random((T, E)), axis=1)[:, :K], E), {}),
        "segment_sum": ("segment_sum", (real(N, D), start), {}),
        "grouped_linear": ("grouped_linear", (real(N, D), real(E, F, D), start), {}),
        "grouped_linear_dx": ("grouped_linear_dx", (real(N, F), real(E, F, D), start), {}),
        "grouped_linear_dw": ("grouped_linear_dw", (real(N, F), real(N, D), start), {}),
        "softmax": ("softmax", (masked,), {}),
        "softmax_limit": ("softmax", (masked, np.arange(T, dtype=np.int64) % (D + 1)), {}),
        "rotate": ("rotate", (real(2, 3, T, 2 * K), real(T, K), real(T, K)), {}),
        "rms_norm": ("rms_norm", (real(T, D), real(D), 1e-5), {}),
        "rms_norm_backward": ("rms_norm_backward", (real(T, D), real(T, D), real(D), real(T)), {}),
        "csr_linear": ("csr_linear", (real(T, D), entries, indices, indptr), {}),
        "csr_linear_dx": ("csr_linear_dx", (real(T, F), entries, indices, indptr, D), {}),
        "csr_linear_ddata": ("csr_linear_ddata", (real(T, F), real(T, D), indices, indptr), {}),
        "csr_linear_int32": ("csr_linear", (real(T, D), entries, indices.astype("i4"), indptr.astype("i4")), {}),
        "bsr_linear": ("bsr_linear", (real(T, 36), tiles, cut, offsets), {}),
        "bsr_linear_int32": ("bsr_linear", (real(T, 36), tiles, cut.astype("i4"), offsets.astype("i4")), {}),
        "bsr_linear_dx": ("bsr_linear_dx", (real(T, F), tiles, cut, offsets, 36), {}),
        "bsr_linear_ddata": ("bsr_linear_ddata", (real(T, F), real(T, 36), cut, offsets, (2, 3)), {}),
        "bsr_linear_ddata_int32": (
            "bsr_linear_ddata",
            (real(T, F), real(T, 36), cut.astype("i4"), offsets.astype("u2"), (2, 3)),
            {},
        ),
        "nm_linear": ("nm_linear", (real(T, 40), pairs, position.astype("u1"), 5), {}),
        "nm_linear_dx": ("nm_linear_dx", (real(T, F), pairs, position, 5, 40), {}),
        "nm_linear_ddata": ("nm_linear_ddata", (real(T, F), real(T, 40), position, 5), {}),
        "prune_mask": ("prune_mask", (blocks, 200), {}),
        "softmax_3d": ("softmax", (real(3, 4, 65),), {}),
        "softmax_backward": ("softmax_backward", (real(T, D), probability / probability.sum(1, keepdims=True)), {}),
        "adamw": (
            "adamw",
            (real(D, E), real(D, E), real(D, E), real(D, E) ** 2),
            dict(lr=0.01, beta1=0.9, beta2=0.99, eps=1e-8, decay=0.1, step=3),
        ),
    }
    for act in ACTIVATIONS:
        table |= {
            f"act_forward_{act}": ("act_forward", (real(N, F), act), {}),
            f"act_backward_{act}": ("act_backward", (real(N, F), real(N, F), act), {}),
            f"glu_forward_{act}": ("glu_forward", (real(2, 7, 2 * F), act), {}),
            f"glu_backward_{act}": ("glu_backward", (real(2, 7, F), real(2, 7, 2 * F), act), {}),
            f"weighted_glu_backward_{act}": ("weighted_glu_backward", (real(N, F), real(N, 2 * F), real(N), act), {}),
            f"weighted_act_backward_{act}": ("weighted_act_backward", (real(N, F), real(N, F), real(N), act), {}),
        }
    for _, args, _ in table.values():
        for a in args:
            if isinstance(a, np.ndarray):
                a.setflags(write=False)
    return table


def names() -> list[str]:
    return list(cases(np.random.default_rng(0), np.float64))
