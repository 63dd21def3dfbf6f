"""The CUDA sources as one module: which kernels it has, how they are compiled, with what grid they run.

The ``.cu`` files of ``cuda_src`` are compiled at the first launch (NVRTC, about two seconds; CuPy keeps the result on
disk).  Nothing here imports CuPy before that.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Generic, TypeVar

import numpy as np

from pymoe.backend.namespace import Array

FILES = ("common.cu", "activations.cu", "decisions.cu", "movement.cu", "experts.cu", "rows.cu", "sparse.cu")
OPTIONS = ("-std=c++17",)
TYPES = {"float32": "float", "float64": "double"}
FUNCTORS = {
    "silu": "Silu",
    "gelu": "Gelu",
    "gelu_tanh": "GeluTanh",
    "relu": "Relu",
    "relu_squared": "ReluSquared",
    "sigmoid": "Sigmoid",
    "identity": "Identity",
}

_PLAIN = (
    "topk",
    "nm_mask",
    "gather",
    "combine_dweight",
    "expand",
    "segment_sum",
    "softmax",
    "softmax_backward",
    "adamw",
    "bsr_linear_dx",
    "nm_linear",
    "nm_linear_dx",
    "nm_linear_ddata",
)
_OF_INTEGERS = ("bsr_linear", "bsr_linear_ddata")  # of both kinds of integers that a structure comes in
INTEGERS = {"int32": "int", "int64": "i64"}
_OF_ACTIVATION = (
    "act_forward",
    "act_backward",
    "glu_forward",
    "glu_backward",
    "weighted_glu_backward",
    "weighted_act_backward",
)
INSTANCES: tuple[str, ...] = tuple(
    [f"{name}<{t}>" for name in _PLAIN for t in TYPES.values()]
    + [f"{name}<{t}, {i}>" for name in _OF_INTEGERS for t in TYPES.values() for i in INTEGERS.values()]
    + [f"combine<{t}, {weighted}>" for t in TYPES.values() for weighted in ("true", "false")]
    + [f"{name}<{t}, {act}>" for name in _OF_ACTIVATION for t in TYPES.values() for act in FUNCTORS.values()]
)

Grid = tuple[tuple[int, ...], tuple[int, ...]]  # (blocks, threads of a block)
_MOST_BLOCKS = 2**31 - 1


def source() -> str:
    """All files as one translation unit; compiler messages name file and line."""
    folder = files("pymoe.kernels") / "cuda_src"
    return "\n".join(f'#line 1 "{name}"\n{(folder / name).read_text(encoding="utf-8")}' for name in FILES)


@functools.cache
def _module() -> Any:
    import cupy

    return cupy.RawModule(code=source(), options=OPTIONS, name_expressions=INSTANCES)


@functools.cache
def _kernel(instance: str) -> Any:
    return _module().get_function(instance)


def launch(instance: str, grid: Grid, *args: Any) -> None:
    """Run one instance on the current stream; integers go over as int64."""
    blocks, threads = grid
    _kernel(instance)(blocks, threads, tuple(np.int64(a) if isinstance(a, int) else a for a in args))


def elements(size: int) -> Grid:
    """One thread per element, 256 a block; beyond 2^20 blocks a thread takes several."""
    return (min(-(-size // 256), 1 << 20),), (256,)


def rows(n: int, width: int) -> Grid:
    """One block per row, one thread per column up to 256."""
    return (min(n, _MOST_BLOCKS),), (min(256, 32 * -(-width // 32)),)


def warps(n: int) -> Grid:
    """One warp per row, four to a block."""
    return (min(-(-n // 4), _MOST_BLOCKS),), (128,)


def columns(groups: int, width: int) -> Grid:
    """One thread per (group, column)."""
    return (min(-(-width // 128), _MOST_BLOCKS), min(groups, 65535)), (128,)


Value = TypeVar("Value")


class OncePerArray(Generic[Value]):
    """``read(arrays, plain values)``, which waits for the device, done once and kept as long as the arrays live.

    Index arrays (plans, structures) are not written after they were made; who changes one in place has to pass a copy.
    """

    def __init__(self, read: Callable[..., Value]) -> None:
        self._read = read
        self._known: dict[tuple[Any, ...], tuple[tuple[weakref.ref[Any], ...], Value]] = {}

    def __call__(self, *arrays: Array, **plain: Any) -> Value:
        key = (*(id(a) for a in arrays), *plain.values())
        known = self._known.get(key)
        if known is not None and all(ref() is a for ref, a in zip(known[0], arrays, strict=True)):
            return known[1]
        value = self._read(*arrays, **plain)

        def forget(dead: weakref.ref[Any]) -> None:
            if key in self._known and any(ref is dead for ref in self._known[key][0]):
                del self._known[key]

        self._known[key] = (tuple(weakref.ref(a, forget) for a in arrays), value)
        return value

    def __len__(self) -> int:
        return len(self._known)
