"""Every exception pymoe raises on bad input.  A message says the rule, what came, where, and what to do.

Each class is also the built-in exception a caller would expect, so ``except ValueError`` works without an import.
"""

from __future__ import annotations

import numbers
from typing import Any


class PymoeError(Exception):
    """The parent of all; catch this to catch whatever pymoe refuses."""


class ConfigError(PymoeError, ValueError):
    """A setting, or a combination of settings, that has no meaning."""


class ShapeError(PymoeError, ValueError):
    """An array of another shape than the formula needs."""


class DtypeError(PymoeError, TypeError):
    """An array of a dtype that cannot be used here."""


class IndexRangeError(PymoeError, IndexError):
    """An expert id, token id or row index outside its range."""


class NonFiniteError(PymoeError, ValueError):
    """NaN or infinity where a decision has to be made."""


class GradientError(PymoeError, AssertionError):
    """A gradient check failed."""


class CheckpointError(PymoeError):
    """A checkpoint that is incomplete, damaged, or of another model."""


class DataError(PymoeError, ValueError):
    """A text or a data file that cannot be used."""


class MissingExtraError(PymoeError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""


def install(extra: str = "") -> str:
    """The command that (re)builds this pymoe, with an extra; on the package index the name belongs to another project.

    >>> install("plot")
    '`pip install -e ".[plot]"` in the source folder'
    """
    what = f'".[{extra}]"' if extra else "."
    return f"`pip install -e {what}` in the source folder"


def check_integer(name: str, n: Any, least: int = 1) -> int:
    """``n`` as an integer of at least ``least``, else ConfigError; True is none.

    >>> check_integer("k", 0)
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ConfigError: k must be an integer of at least 1, got 0
    """
    if isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < least:
        raise ConfigError(f"{name} must be an integer of at least {least}, got {n!r}")
    return int(n)


def check_share(name: str, s: Any) -> float:
    """``s`` as a float in [0, 1], else ConfigError.

    >>> check_share("sparsity", 50)
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ConfigError: sparsity must be a number in [0, 1], 0.5 for one half, got 50
    """
    if isinstance(s, bool) or not isinstance(s, numbers.Real) or not 0 <= float(s) <= 1:  # NaN is in no interval
        raise ConfigError(f"{name} must be a number in [0, 1], 0.5 for one half, got {s!r}")
    return float(s)


def check_shape(name: str, array: Any, expected: tuple[int | None, ...]) -> None:
    """Raise ShapeError unless ``array.shape`` equals ``expected`` (``None`` matches any length).

    >>> import numpy as np
    >>> check_shape("x", np.ones((2, 3)), (None, 4))
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ShapeError: x must have shape (*, 4), got (2, 3)
    """
    shape = tuple(array.shape)
    if len(shape) != len(expected) or any(e is not None and e != s for e, s in zip(expected, shape, strict=True)):
        lengths = ", ".join("*" if e is None else str(e) for e in expected)
        want = f"({lengths},)" if len(expected) == 1 else f"({lengths})"
        raise ShapeError(f"{name} must have shape {want}, got {shape}")
