"""Does a mask belong to a weight?"""

from __future__ import annotations

from typing import Any

from pymoe.backend import namespace
from pymoe.backend.errors import DtypeError, check_shape
from pymoe.backend.namespace import Array


def check(w: Any, mask: Array, name: str = "mask") -> None:
    """Nothing if ``mask`` is a bool array of w's shape; else DtypeError or ShapeError with ``name``.

    w: an array, or any weight with a shape.  0/1 integers and floats are refused: their complement has no one meaning.

    >>> import numpy as np
    >>> check(np.ones((2, 3)), np.ones((3, 2), bool))
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ShapeError: mask must have shape (2, 3), got (3, 2)
    """
    if not namespace(mask).isdtype(mask.dtype, "bool"):
        raise DtypeError(f"{name} must be bool, True where a weight stays, got {mask.dtype}: write mask != 0")
    check_shape(name, mask, tuple(w.shape))
