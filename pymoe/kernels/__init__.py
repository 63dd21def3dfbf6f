"""F1, the narrow waist: the loops and data movements that a sparse layer needs, as one list of names (``NAMES``).

Three modules have every name with the same signature:

- ``reference``: the definition, plain array API code; runs on any array library, any dtype;
- ``cython``: compiled twins for NumPy arrays (float32, float64, complex128, long double), bitwise equal to the
  definition on integer-valued data and over any number of threads;
- ``cuda``: CuPy raw kernels.

``of(x)`` picks one by what ``x`` is.  All kernels are pure: they return what they allocate and write nowhere else.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import os
from collections.abc import Iterator
from types import ModuleType

from pymoe.backend import is_cupy, is_numpy
from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.kernels import reference

NAMES = tuple(reference.__all__)
BACKENDS = ("reference", "cython", "cuda")


def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"pymoe.kernels.{name}")
    except ImportError:
        return None
    except AttributeError as missing:  # an extension that was built from older sources
        raise ImportError(
            f"the compiled kernels do not fit this source ({missing}): build them again with `pip install -e .`"
        ) from missing


_CYTHON = _load("cython")
_ASKED = os.environ.get("PYMOE_KERNELS", "auto")
_FORCED: contextvars.ContextVar[str] = contextvars.ContextVar("pymoe_kernels", default=_ASKED)


def compiled() -> bool:
    """Were the Cython kernels built?  Without them pymoe runs on the definitions."""
    return _CYTHON is not None


def of(x: Array) -> ModuleType:
    """The kernels for arrays like ``x``: cython or cuda where they can, else the definition."""
    forced = _FORCED.get()
    if forced == "reference":
        return reference
    if is_numpy(x):
        if _CYTHON is not None and _CYTHON.supports(x):
            return _CYTHON
        if forced == "cython":
            raise ConfigError(
                "the Cython kernels were asked for, but "
                f"{'do not take ' + str(x.dtype) if _CYTHON else 'are not built'}: see `pymoe info`"
            )
    elif is_cupy(x):
        cuda = _load("cuda")
        if cuda is not None and cuda.supports(x):
            return cuda
    return reference


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Within this block (and this thread) use the kernels ``name``: "auto", "reference" or "cython".

    >>> import numpy as np
    >>> with using("reference"):
    ...     of(np.ones(2)).__name__
    'pymoe.kernels.reference'
    """
    if name not in ("auto", "reference", "cython"):
        raise ConfigError(f"kernels must be 'auto', 'reference' or 'cython', got {name!r}")
    token = _FORCED.set(name)
    try:
        yield
    finally:
        _FORCED.reset(token)
