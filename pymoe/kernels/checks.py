"""What every kernel refuses, checked once at its door in O(N) and worded once."""

from __future__ import annotations

from pymoe.backend import is_floating, namespace, real
from pymoe.backend.errors import ConfigError, DtypeError, IndexRangeError, NonFiniteError, ShapeError
from pymoe.backend.namespace import Array
from pymoe.kernels.activations import ACTIVATIONS


def floating(name: str, x: Array) -> None:
    """Integers, booleans and objects have no gradient and are not promoted silently."""
    if not is_floating(x):
        raise DtypeError(f"{name} must be floating point, got {x.dtype}: cast it explicitly")


def index(name: str, ids: Array, n: int, *, lowest: int = 0) -> None:
    """Every id in [lowest, n), integer dtype.  ``lowest=-1`` admits -1, which means "none"."""
    xp = namespace(ids)
    if not xp.isdtype(ids.dtype, "integral"):
        raise DtypeError(f"{name} must be integers, got {ids.dtype}")
    if ids.size == 0:
        return
    low, high = int(xp.min(ids)), int(xp.max(ids))
    if low < lowest or high >= n:
        raise IndexRangeError(f"{name} must lie in [{lowest}, {n}), got values from {low} to {high}")


def starts(start: Array, n_groups: int, n_rows: int) -> list[int]:
    """``start`` as Python ints: n_groups + 1 ascending offsets from 0 to n_rows."""
    from pymoe.backend import tolist

    values = tolist(start)
    if (
        n_groups < 0
        or len(values) != n_groups + 1
        or values[0] != 0
        or values[-1] != n_rows
        or any(a > b for a, b in zip(values, values[1:], strict=False))
    ):
        raise ShapeError(
            f"start must be {n_groups + 1} ascending offsets from 0 to {n_rows} (rows of each group), got {values[:8]}"
            + ("..." if len(values) > 8 else "")
        )
    return values


def activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation must be one of {sorted(ACTIVATIONS)}, got {name!r}")


def halves(name: str, x: Array) -> int:
    """F of a concatenated [gate | up] of width 2F."""
    if x.ndim == 0 or x.shape[-1] % 2:
        raise ShapeError(f"{name}: the last axis holds gate and up and must be even, got shape {tuple(x.shape)}")
    return int(x.shape[-1]) // 2


def choices(n_experts: int, k: int) -> None:
    if not 1 <= k <= n_experts:
        raise ConfigError(f"k, the number of chosen experts, must be in [1, {n_experts}], got {k}")


def no_nan(name: str, s: Array) -> None:
    """A decision over NaN has no answer; the message gives the first place."""
    xp = namespace(s)
    bad = xp.isnan(real(s))
    if bool(xp.any(bad)):
        flat = int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int64)))
        row, column = divmod(flat, int(s.shape[-1]))
        raise NonFiniteError(
            f"{name} is NaN at (token {row}, expert {column}): find where it came from, or set nonfinite='propagate' "
            "to keep it in that token's row"
        )
