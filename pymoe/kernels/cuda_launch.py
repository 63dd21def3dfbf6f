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

FILES = ("common.cu", "activations.cu", "decisions.cu", "movement.cu", "experts.cu", "rows.cu")
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
)
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
    """``read(a)``, which waits for the device, done once for each array and kept as long as that array lives.

    Index arrays (plans) are not written after they were made; who changes one in place has to pass a copy.
    """

    def __init__(self, read: Callable[[Array], Value]) -> None:
        self._read = read
        self._known: dict[int, tuple[weakref.ref[Any], Value]] = {}

    def __call__(self, a: Array) -> Value:
        key = id(a)
        known = self._known.get(key)
        if known is not None and known[0]() is a:
            return known[1]
        value = self._read(a)

        def forget(dead: weakref.ref[Any]) -> None:
            if key in self._known and self._known[key][0] is dead:
                del self._known[key]

        self._known[key] = (weakref.ref(a, forget), value)
        return value

    def __len__(self) -> int:
        return len(self._known)
