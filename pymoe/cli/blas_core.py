"""Choose the kernels of NumPy's OpenBLAS before NumPy is imported; afterwards it is too late.

OpenBLAS picks its kernels by processor model.  On AMD processors with AVX-512 (Zen 4, Zen 5) the library inside NumPy
picks its AVX2 kernels ("Haswell") and loses half the speed of a matrix product; its AVX-512 kernels ("SkylakeX") run
there as they do on Intel, where OpenBLAS finds them by itself.  The environment variable OPENBLAS_CORETYPE decides.
This module must import nothing that imports NumPy.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import MutableMapping

VARIABLE = "OPENBLAS_CORETYPE"
AVX512 = frozenset(("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"))


def best(cpuinfo: str) -> str | None:
    """The core type to ask for, from the text of /proc/cpuinfo; None: leave the choice to OpenBLAS.

    >>> best("vendor_id : AuthenticAMD\\nflags : fma avx2 avx512f avx512dq avx512bw avx512vl avx512cd")
    'SkylakeX'
    >>> best("vendor_id : AuthenticAMD\\nflags : fma avx2") is None
    True
    """
    vendor, flags = "", frozenset[str]()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "vendor_id":
            vendor = value.strip()
        elif key.strip() == "flags":
            flags = frozenset(value.split())
            break
    return "SkylakeX" if vendor != "GenuineIntel" and flags >= AVX512 else None


def wanted() -> str | None:
    """The core type for this machine (Linux on x86-64 only), or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return best(file.read(1 << 16))
    except OSError:
        return None


def choose(environment: MutableMapping[str, str] | None = None) -> str | None:
    """Set OPENBLAS_CORETYPE unless the user has, or NumPy is already imported.  Returns what was set."""
    environment = os.environ if environment is None else environment
    if VARIABLE in environment or "numpy" in sys.modules:
        return None
    core = wanted()
    if core is not None:
        environment[VARIABLE] = core
    return core
