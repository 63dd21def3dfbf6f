"""What the kinds share when they are made from dense arrays and turned back: checks, places, integer types."""

from __future__ import annotations

from typing import Any

from pymoe.backend import device, is_cupy, is_numpy, namespace
from pymoe.backend.errors import DtypeError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks, reference_csr


def lengths(shape: Any) -> tuple[int, ...]:
    """``shape`` as a tuple of at least two lengths, the last two those of a matrix."""
    try:
        found = tuple(int(n) for n in shape)
    except (TypeError, ValueError) as wrong:
        raise ShapeError(f"the shape of a weight must be integers (..., F, D), got {shape!r}") from wrong
    if len(found) < 2 or min(found) < 0:
        raise ShapeError(f"a weight must have shape (..., F, D), got {found}")
    return found


def chosen(w: Array, mask: Array | None) -> Array:
    """Bool like w: the mask, checked; without one the places that are not 0 (NaN is not 0)."""
    checks.floating("w", w)
    lengths(w.shape)
    if mask is None:
        return w != 0
    xp = namespace(w, mask)
    check_shape("mask", mask, tuple(w.shape))
    if not xp.isdtype(mask.dtype, "bool"):
        raise DtypeError(f"mask must be bool, True for the weights that stay, got {mask.dtype}: write mask != 0")
    return mask


def integer(like: Array, largest: int) -> Any:
    """int32 if every number up to ``largest`` fits, else int64."""
    xp = namespace(like)
    return xp.int32 if largest < 2**31 else xp.int64


def compressed(mask: Array, columns: int) -> tuple[Array, Array, Array]:
    """(places, indices, indptr) of the True entries of a flat mask, ``columns`` to a row."""
    xp = namespace(mask)
    rows = int(mask.shape[0]) // columns if columns else 0
    (places,) = xp.nonzero(mask)
    small = integer(mask, max(int(places.shape[0]), columns))
    edges = xp.arange(rows + 1, dtype=places.dtype, device=device(mask)) * columns
    indptr = xp.astype(xp.searchsorted(places, edges), small)
    return places, xp.astype(places % max(columns, 1), small), indptr


def scatter(values: Array, places: Array, n: int) -> Array:
    """out (n, ...): values[e] at places[e] (ascending, none twice), 0 elsewhere."""
    if not (is_numpy(values) or is_cupy(values)):  # the standard cannot write to a list of places
        return reference_csr.spread(values, places, n)
    xp = namespace(values, places)
    out = xp.zeros((n, *values.shape[1:]), dtype=values.dtype, device=device(values))
    out[places] = values
    return out
