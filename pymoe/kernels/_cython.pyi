"""Types of the compiled module (csrc/_cython.pyx); fused functions are picked by name, ``combine["float"]``."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_Ids = np.ndarray[Any, np.dtype[np.int64]]
_Fused = Mapping[str, Callable[..., None]]

def max_threads() -> int: ...
def forked() -> bool: ...
def openmp() -> int: ...
def simd() -> str: ...
def bounds(ids: _Ids) -> tuple[int, int]: ...
def ascending(start: _Ids) -> bool: ...
def count(ids: _Ids, start: _Ids) -> None: ...
def place(ids: _Ids, cursor: _Ids, order: _Ids) -> None: ...
def gather(x: Any, rows: _Ids, out: Any, threads: int) -> None: ...
def expand(v: Any, idx: _Ids, out: Any, threads: int) -> None: ...

topk: _Fused
nm_mask: _Fused
combine: _Fused
combine_dweight: _Fused
segment_sum: _Fused
act_forward: _Fused
act_backward: _Fused
glu_forward: _Fused
glu_backward: _Fused
weighted_backward: _Fused
softmax: _Fused
softmax_backward: _Fused
adamw: _Fused
