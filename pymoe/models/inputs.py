"""What comes into a model, checked before any work is done."""

from __future__ import annotations

from pymoe.backend import namespace
from pymoe.backend.errors import DtypeError, ShapeError, check_shape
from pymoe.backend.namespace import Array

IGNORE = -100  # a target with this id has no part in a loss


def check_ids(name: str, ids: Array, context: int, n_past: int = 0) -> None:
    """Ids are integers (B, S), and with what came before them no longer than the context."""
    if not namespace(ids).isdtype(ids.dtype, "integral"):
        raise DtypeError(f"{name} must be integers, got {ids.dtype}")
    if ids.ndim != 2:
        raise ShapeError(f"{name} must have shape (batch, sequence), got {tuple(ids.shape)}")
    if n_past + ids.shape[1] > context:
        before = f" after {n_past} earlier ones" if n_past else ""
        raise ShapeError(
            f"{name} has {ids.shape[1]} tokens{before}, more than the context of {context}: "
            "cut the sequence, or make the model with a longer context"
        )


def check_mask(name: str, mask: Array | None, shape: tuple[int, ...]) -> None:
    """A padding mask is bool and of the shape of the ids."""
    if mask is None:
        return
    check_shape(name, mask, shape)
    if not namespace(mask).isdtype(mask.dtype, "bool"):
        raise DtypeError(f"{name} must be bool, True = a real token, got {mask.dtype}: e.g. ids != padding id")


def kept_targets(targets: Array, mask: Array | None) -> Array:
    """The targets, with ``IGNORE`` where the mask says padding."""
    if mask is None:
        return targets
    xp = namespace(targets)
    return xp.where(mask, targets, xp.full_like(targets, IGNORE))
