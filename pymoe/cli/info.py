"""``pymoe info``: what runs here, and what would make it faster."""

from __future__ import annotations

import argparse
import ctypes
import glob
import importlib
import importlib.metadata
import importlib.util
import os
import platform
from typing import Any

import numpy as np

import pymoe
from pymoe import kernels
from pymoe.backend.errors import install
from pymoe.cli import allocator, blas_core


def blas() -> dict[str, Any]:
    """{"library", "core", "threads"} of NumPy's BLAS; unknown parts are None."""
    found = {"library": _built_with(), "core": None, "threads": None}
    if importlib.util.find_spec("threadpoolctl"):
        for pool in importlib.import_module("threadpoolctl").threadpool_info():
            if pool.get("user_api") == "blas":
                return {
                    "library": f"{pool['internal_api']} {pool.get('version') or ''}".strip(),
                    "core": pool.get("architecture"),
                    "threads": pool.get("num_threads"),
                }
    folder = os.path.join(os.path.dirname(os.path.dirname(np.__file__)), "numpy.libs")
    for path in glob.glob(os.path.join(folder, "*openblas*")):
        library = ctypes.CDLL(path)  # already loaded by NumPy: the same handle
        for prefix, suffix in [(p, s) for p in ("scipy_openblas", "openblas") for s in ("64_", "")]:
            name = getattr(library, f"{prefix}_get_corename{suffix}", None)
            threads = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
            if name is not None and threads is not None:
                name.restype = ctypes.c_char_p
                return found | {"core": name().decode(), "threads": int(threads())}
    return found


def environment() -> dict[str, Any]:
    """What must be the same for a resumed run to give the same bits."""
    return {
        "pymoe": pymoe.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "blas_core": blas()["core"],
        "blas_threads": blas()["threads"],
        "kernels": "cython" if kernels.compiled() else "numpy",
    }


def report() -> list[tuple[str, str]]:
    """(what, value) lines."""
    b = blas()
    lines = [
        ("pymoe", pymoe.__version__),
        ("Python, NumPy", f"{platform.python_version()}, {np.__version__}"),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("kernels", _kernels()),
        ("BLAS", f"{b['library']}, core type {b['core'] or 'unknown'}, {b['threads'] or 'unknown'} threads"),
        ("OpenMP", _openmp()),
        ("SIMD", _simd()),
        ("GPU", _gpu()),
    ]
    for extra, modules in {"plots": "matplotlib", "progress bar": "tqdm", "threads control": "threadpoolctl"}.items():
        lines.append((extra, _version(modules) or f"{modules} is not installed"))
    return lines


def advice() -> list[str]:
    """What would make it faster, most first."""
    tips = []
    b = blas()
    best = blas_core.wanted()
    if best is not None and b["core"] not in (None, best):
        tips.append(
            f"matrix products: export {blas_core.VARIABLE}={best} before Python starts (the processor has AVX-512, "
            f"OpenBLAS uses its {b['core']} kernels)"
        )
    elif best is not None and os.environ.get(blas_core.VARIABLE) == best:
        tips.append(
            f"your own scripts: export {blas_core.VARIABLE}={best} before Python starts, as this command did for itself"
        )
    if not kernels.compiled():
        tips.append(f"kernels: install a C compiler with OpenMP (e.g. apt-get install gcc), then {install()} again")
    elif not _build().openmp:
        tips.append(f"kernels: {install()} with a compiler that has OpenMP (gcc has; Apple's clang: libomp)")
    elif os.environ.get("PYMOE_KERNELS") == "reference":
        tips.append("kernels: unset PYMOE_KERNELS, which asks for the slow definitions")
    if b["threads"] == 1 and (os.cpu_count() or 1) > 1:
        tips.append(f"threads: unset OPENBLAS_NUM_THREADS and OMP_NUM_THREADS; one of {os.cpu_count()} cores is used")
    if allocator.unset():
        settings = " ".join(f"{name}={value}" for name, value in allocator.ENVIRONMENT.items())
        tips.append(
            f"memory, in your own scripts: export {settings} before Python starts (the pymoe command does this for "
            "itself; measured: a training step 59 ms -> 37 ms of CPU time)"
        )
    return tips


def run(args: argparse.Namespace) -> int:
    lines = report()
    width = max(len(what) for what, _ in lines)
    for what, value in lines:
        print(f"{what:<{width}}  {value}")
    tips = advice()
    print("\nWhat would make it faster:" if tips else "\nNothing known would make it faster on this processor.")
    for tip in tips:
        print(f"- {tip}")
    return 0


def _kernels() -> str:
    if not kernels.compiled():
        return "NumPy definitions (the compiled ones were not built)"
    forced = os.environ.get("PYMOE_KERNELS")
    return f"Cython, {len(kernels.NAMES)} kernels" + (f"; PYMOE_KERNELS={forced}" if forced else "")


def _build() -> Any:
    """``kernels.parallel.build()``, which needs the compiled module."""
    return importlib.import_module("pymoe.kernels.parallel").build()


def _openmp() -> str:
    if not kernels.compiled():
        return "not used: the kernels are not compiled"
    build = _build()
    return f"{build.threads} threads" if build.openmp else "the kernels were compiled without it: 1 thread"


def _simd() -> str:
    if kernels.compiled():
        return f"{_build().simd} (kernels)"
    flags = _flags()
    for name, flag in (("AVX-512", "avx512f"), ("AVX2", "avx2"), ("SSE2", "sse2"), ("NEON", "asimd")):
        if flag in flags:
            return f"{name} (processor)"
    return "unknown"


def _cpuinfo() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


def _flags() -> set[str]:
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def _processor() -> str:
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _built_with() -> str:
    info: Any = np.show_config(mode="dicts")
    part = info["Build Dependencies"]["blas"]
    return f"{part.get('name', 'unknown')} {part.get('version', '')}".strip()


def _gpu() -> str:
    if not importlib.util.find_spec("cupy"):
        return f"CuPy is not installed; where there is an NVIDIA GPU: {install('cuda13')} (or cuda12)"
    try:
        import cupy

        device = cupy.cuda.runtime.getDeviceProperties(0)
        return f"{device['name'].decode()}, CuPy {cupy.__version__}"
    except Exception as error:  # CuPy raises its own kinds where there is no driver
        return f"CuPy is installed but finds no GPU ({type(error).__name__})"


def _version(package: str) -> str | None:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return None
