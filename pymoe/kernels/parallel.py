"""How many threads a compiled kernel runs on, and what the build can do.

The number never changes a bit of a result: a row is written by one thread, and sums inside it have one order.

- OMP_NUM_THREADS (or threadpoolctl) sets the most, and it is never more than the cores this process may use.
- Below ``SERIAL_WORK`` element operations a kernel stays on the calling thread: waking others costs microseconds.
- In a forked child it is 1: the OpenMP runtime of GCC hangs there once the parent has used several threads.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import os
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from pymoe.backend.errors import ConfigError

SERIAL_WORK = 1 << 18  # about 30 µs


def _load() -> ModuleType:
    """The compiled module, whose idle OpenMP threads sleep at once unless the user has said otherwise.

    By default they spin for milliseconds.  On cores that others use too (BLAS threads, another process) a kernel of
    0.2 ms was measured at 24 ms, and at 0.2 ms with threads that sleep.  The runtime reads the setting when it is
    loaded; the environment is left as it was.
    """
    name = "OMP_WAIT_POLICY"
    ours = name not in os.environ and "GOMP_SPINCOUNT" not in os.environ
    if ours:
        os.environ[name] = "passive"
    try:
        return importlib.import_module("pymoe.kernels._cython")
    finally:
        if ours:
            del os.environ[name]


compiled = _load()

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_EXACTLY: contextvars.ContextVar[int] = contextvars.ContextVar("pymoe_threads", default=0)


class Build(NamedTuple):
    openmp: bool  # compiled with OpenMP; without it every kernel runs on one thread
    simd: str  # the level of the leaf loops on this processor: x86-64-v4, x86-64-v3 or baseline
    threads: int  # the most threads a kernel uses now


def build() -> Build:
    """What ``pymoe info`` prints."""
    return Build(compiled.openmp() > 0, compiled.simd(), max_threads())


def max_threads() -> int:
    """The most threads a kernel uses: OMP_NUM_THREADS, at most the available cores; 1 in a forked child."""
    return min(int(compiled.max_threads()), _CORES)


def threads(work: int) -> int:
    """Threads for ``work`` element operations."""
    exactly = _EXACTLY.get()
    if exactly:
        return 1 if compiled.forked() else exactly
    if work < SERIAL_WORK:
        return 1
    return min(max_threads(), work // (SERIAL_WORK // 2))


@contextlib.contextmanager
def exactly(n: int) -> Iterator[None]:
    """Within this block (and this Python thread) every compiled kernel runs on n threads, small work too.

    For checks that bits do not depend on n, and for code that brings threads of its own.

    >>> with exactly(3):
    ...     threads(10)
    3
    """
    if n < 1:
        raise ConfigError(f"the number of threads must be at least 1, got {n}")
    token = _EXACTLY.set(n)
    try:
        yield
    finally:
        _EXACTLY.reset(token)
