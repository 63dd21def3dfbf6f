"""Keep freed memory in the process, as the ``pymoe`` command does; a library must not decide this for others.

glibc gives a large freed block back to the system and takes it again for the next array: every page is then zeroed by
the kernel and faulted in, each step anew.  Hand-written layers allocate what they return, so a training step spends a
third of its time there.  The cure is two settings of malloc, which a user of the library can also give by environment:
``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=68719476736 MALLOC_TOP_PAD_=67108864``.  This module imports no NumPy.
"""

from __future__ import annotations

import os
import sys
from typing import Any

ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",  # large blocks come from the heap,
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),  # which does not shrink
    "MALLOC_TOP_PAD_": str(1 << 26),  # and grows by 64 MiB
}
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h


def keep() -> bool:
    """Ask glibc's malloc to keep what is freed, unless the user has set it; was it done?"""
    if not unset():
        return False
    mallopt = _mallopt()
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_TOP_PAD, 1 << 26))


def unset() -> bool:
    """Does this process run on glibc, with none of the variables set by the user?"""
    return _mallopt() is not None and not any(name in os.environ for name in ENVIRONMENT)


def _mallopt() -> Any:
    """The function of glibc, or None where there is none."""
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        return ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return None
