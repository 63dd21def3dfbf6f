"""Calls of every kernel, drawn for a dtype: what the twin tests, the thread tests and the sanitiser runs share.

All sizes of a call are pairwise different, inputs are read-only, and drops, empty experts and ties occur.  ``integer``
draws small whole numbers, for which sums are exact in any order, so that equality can be asked for bit by bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

DTYPES = ("f4", "f8", "c16", "g")
ACTS = ("silu", "gelu", "gelu_tanh", "relu", "relu_squared", "sigmoid", "identity")
EXACT_ACTS = ("relu", "relu_squared", "identity")  # no transcendental function: exact on integers


class Call(NamedTuple):
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    label: str
    linear: bool  # exact on integer-valued data


def calls(dtype: str, seed: int = 0, *, integer: bool = False, scale: int = 1) -> list[Call]:
    """At least one call of each kernel; ``scale`` stretches the sizes."""
    rng = np.random.default_rng([seed, scale])
    tokens, choices, rows, width, experts, f = 37 * scale, 3, 61 * scale, 70, 19, 53
    start = np.array([0, 0, 20, 20, 58, rows])

    def draw(*shape: int) -> np.ndarray[Any, Any]:
        real = rng.integers(-4, 5, shape) if integer else rng.standard_normal(shape)
        imag = rng.integers(-4, 5, shape) if integer else rng.standard_normal(shape) / 8  # away from the poles of tanh
        return (real + 1j * imag if dtype == "c16" else real).astype(dtype)

    slot = rng.integers(-1, rows, (tokens, choices))
    slot[0] = -1
    idx = np.argsort(rng.random((tokens, experts)), axis=1)[:, :choices]
    found = [
        ("topk", (draw(tokens, experts), 5), True),
        ("topk", (draw(tokens, 300), 33), True),
        ("counting_sort", (rng.integers(-1, experts, 8 * tokens), experts), True),
        ("nm_mask", (draw(tokens, 24), 2, 4), True),
        ("nm_mask", (draw(tokens, 24), 1, 8), True),
        ("nm_mask", (draw(tokens, 24), 5, 12), True),
        ("gather", (draw(rows, width), rng.integers(0, rows, tokens)), True),
        ("combine", (draw(rows, width), draw(tokens, choices), slot), True),
        ("combine", (draw(rows, width), None, slot), True),
        ("combine", (draw(rows, 1), draw(tokens, 9), rng.integers(-1, rows, (tokens, 9))), True),
        ("combine_dweight", (draw(tokens, width), draw(rows, width), slot), True),
        ("combine_dweight", (draw(tokens, 7), draw(rows, 7), slot), True),
        ("segment_sum", (draw(rows, width), start), True),
        ("segment_sum", (draw(rows, 1030), start), True),
        ("expand", (draw(tokens, choices), idx, experts), True),
        ("grouped_linear", (draw(rows, width), draw(5, f, width), start), True),
        ("grouped_linear_dx", (draw(rows, f), draw(5, f, width), start), True),
        ("grouped_linear_dw", (draw(rows, f), draw(rows, width), start), True),
        ("softmax", (draw(tokens, width),), False),
        ("softmax", (draw(2, tokens, 5),), False),
        ("softmax", (draw(3, 2500),), False),
        ("softmax", (draw(tokens, 43), rng.integers(0, 44, tokens)), False),
        ("rotate", (draw(2, 5, 7, 12), draw(7, 6), draw(7, 6)), True),
        ("rotate", (draw(3, 2, 9, 34), draw(3, 1, 9, 17), draw(3, 1, 9, 17)), True),
        ("softmax_backward", (draw(tokens, width), draw(tokens, width)), True),
        ("softmax_backward", (draw(tokens, 11), draw(tokens, 11)), True),
    ]
    weight, indices, indptr = _sparse(rng, 53, width)
    exact = dtype != "c16"  # a complex quotient has no one rounding
    found += [
        ("rms_norm", (draw(tokens, width), draw(width), 1e-5), exact),
        ("rms_norm", (draw(5, 7), draw(7), 0.5), exact),
        ("rms_norm_backward", (draw(rows, width), draw(rows, width), draw(width), draw(rows)), exact),
        ("rms_norm_backward", (draw(200, 16), draw(200, 16), draw(16), draw(200)), exact),
        ("rms_norm_backward", (draw(3, 150), draw(3, 150), draw(150), draw(3)), exact),
        ("prune_mask", (draw(tokens, 24), 401), True),
        ("prune_mask", (draw(3, 7), 21), True),
    ]
    for n in (1, 9, 61 * scale, 130):  # one token, less than a vector, blocks of several vectors, more than a block
        found += [
            ("csr_linear", (draw(n, width), draw(weight), indices, indptr), True),
            ("csr_linear_dx", (draw(n, 53), draw(weight), indices, indptr, width), True),
            ("csr_linear_ddata", (draw(n, 53), draw(n, width), indices, indptr), True),
        ]
    found.append(("csr_linear_ddata", (draw(300, 53), draw(300, width), indices, indptr), True))
    found += _nearly_full(rng, draw)
    found += _blocked(rng, draw, (1, 9, 61 * scale, 130, 300)) + _grouped(rng, draw, (1, 9, 61 * scale, 130, 300))
    for act in ACTS:
        exact = act in EXACT_ACTS
        found += [
            ("act_forward", (2 * draw(tokens, f), act), exact),
            ("act_backward", (draw(tokens, f), 2 * draw(tokens, f), act), exact),
            ("glu_forward", (2 * draw(tokens, 2 * f), act), exact),
            ("glu_backward", (draw(tokens, f), 2 * draw(tokens, 2 * f), act), exact),
            ("weighted_glu_backward", (draw(rows, f), 2 * draw(rows, 2 * f), draw(rows), act), exact),
            ("weighted_act_backward", (draw(rows, 530), 2 * draw(rows, 530), draw(rows), act), exact),
        ]
    adamw = (draw(tokens, f), draw(tokens, f), draw(tokens, f), draw(tokens, f) ** 2)
    result = [Call(name, args, {}, _label(name, args), linear) for name, args, linear in found]
    setting = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.1, "step": 3}
    result.append(Call("adamw", adamw, setting, "adamw", False))
    for call in result:
        for a in call.args:
            if isinstance(a, np.ndarray):
                a.setflags(write=False)
    return result


def _sparse(rng: np.random.Generator, rows: int, columns: int) -> tuple[int, Any, Any]:
    """(nnz, indices, indptr) of a matrix with an empty row, a full row, and columns that no row stores."""
    stored = rng.random((rows, columns)) < 0.15
    stored[3], stored[7], stored[rows - 1] = False, True, False
    stored[:, [0, columns - 2]] = False
    return int(stored.sum()), np.nonzero(stored)[1], np.concatenate([[0], np.cumsum(stored.sum(1))])


def _nearly_full(rng: np.random.Generator, draw: Any) -> list[tuple[str, tuple[Any, ...], bool]]:
    """So many entries and tokens that the compiled products go over spans of columns, the last of them a short one."""
    found = []
    for n, rows, columns in ((66, 141, 300), (200, 70, 133)):
        stored = rng.random((rows, columns)) < 0.6
        stored[1], stored[:, columns - 1] = False, False
        indices, indptr = np.nonzero(stored)[1], np.concatenate([[0], np.cumsum(stored.sum(1))])
        found += [
            ("csr_linear", (draw(n, columns), draw(indices.size), indices.astype("i4"), indptr), True),
            ("csr_linear_dx", (draw(n, rows), draw(indices.size), indices, indptr, columns), True),
        ]
    position = np.sort(np.argsort(rng.random((150, 5, 4)), axis=2)[:, :, :3], axis=2).reshape(150, 15).astype("u1")
    found.append(("nm_linear_dx", (draw(67, 150), draw(150, 15), position, 4, 20), True))
    return found


def _blocked(rng: np.random.Generator, draw: Any, batches: tuple[int, ...]) -> list[tuple[str, tuple[Any, ...], bool]]:
    """The three BSR kernels for blocks of several shapes: tall, wide, smaller and larger than a vector."""
    found = []
    for (r, c), rows, columns in (((3, 5), 7, 11), ((32, 16), 4, 6), ((8, 33), 5, 9), ((1, 1), 21, 19)):
        entries, indices, indptr = _sparse(rng, 9, columns) if rows > 8 else _few(rng, rows, columns)
        rows = indptr.size - 1
        weight = draw(entries, r, c)
        for n in batches:
            found += [
                ("bsr_linear", (draw(n, columns * c), weight, indices, indptr), True),
                ("bsr_linear_dx", (draw(n, rows * r), weight, indices, indptr, columns * c), True),
                ("bsr_linear_ddata", (draw(n, rows * r), draw(n, columns * c), indices, indptr, (r, c)), True),
            ]
    return found


def _few(rng: np.random.Generator, rows: int, columns: int) -> tuple[int, Any, Any]:
    """(stored, indices, indptr) of a small grid: about half is stored, nothing of row 1 or of the first column."""
    stored = rng.random((rows, columns)) < 0.5
    stored[1], stored[:, 0], stored[2, 1:] = False, False, True
    return int(stored.sum()), np.nonzero(stored)[1], np.concatenate([[0], np.cumsum(stored.sum(1))])


def _grouped(rng: np.random.Generator, draw: Any, batches: tuple[int, ...]) -> list[tuple[str, tuple[Any, ...], bool]]:
    """The three N:M kernels: 2:4 as bytes, others as wider integers."""
    found = []
    for n, m, rows, groups, dtype in (
        (2, 4, 51, 17, "u1"),
        (1, 8, 13, 5, "i8"),
        (3, 5, 22, 6, "i4"),
        (4, 4, 6, 3, "u1"),
    ):
        kept = np.argsort(rng.random((rows, groups, m)), axis=2)[:, :, :n]
        position = np.sort(kept, axis=2).reshape(rows, groups * n).astype(dtype)
        weight = draw(*position.shape)
        for tokens in batches:
            found += [
                ("nm_linear", (draw(tokens, groups * m), weight, position, m), True),
                ("nm_linear_dx", (draw(tokens, rows), weight, position, m, groups * m), True),
                ("nm_linear_ddata", (draw(tokens, rows), draw(tokens, groups * m), position, m), True),
            ]
    return found


def _label(name: str, args: tuple[Any, ...]) -> str:
    words = [str(a.shape) if isinstance(a, np.ndarray) else str(a) for a in args]
    return " ".join([name, *words])


def outputs(result: Any) -> tuple[np.ndarray[Any, Any], ...]:
    return result if isinstance(result, tuple) else (result,)


def bits(result: Any) -> tuple[Any, ...]:
    """The elements as integers, so that NaN equals itself and -0 differs from +0 (long double: without its padding)."""
    return tuple((a.shape, a.dtype.str, _bytes(a)) for a in outputs(result))


def _bytes(a: np.ndarray[Any, Any]) -> bytes:
    if a.dtype.char == "g" and np.finfo("g").nmant == 63:  # x87: 10 bytes and padding
        return np.ascontiguousarray(a).view(np.uint8).reshape(-1, a.itemsize)[:, :10].tobytes()
    return a.tobytes()


def mismatch(got: Any, want: Any, *, part: str = "") -> float:
    """The largest |got - want| of all outputs in units of u·max|want|; inf if a shape, dtype or integer differs."""
    worst = 0.0
    for a, b in zip(outputs(got), outputs(want), strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if a.dtype.kind in "ib" or b.size == 0:
            worst = max(worst, 0.0 if np.array_equal(a, b) else float("inf"))
            continue
        u = np.finfo(b.dtype).eps / 2
        if part:
            a, b = getattr(a, part), getattr(b, part)
        scale = np.max(np.abs(b))
        error = np.max(np.abs(a - b))
        worst = max(worst, 0.0 if error == 0 else float(error / (u * scale)) if scale else float("inf"))
    return worst
