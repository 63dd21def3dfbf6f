"""What every kernel refuses, checked once at its door in O(N) and worded once."""

from __future__ import annotations

from pymoe.backend import device, is_floating, namespace, real
from pymoe.backend.errors import ConfigError, DtypeError, IndexRangeError, NonFiniteError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels.activations import ACTIVATIONS


def floating(name: str, x: Array) -> None:
    """Integers, booleans and objects have no gradient and are not promoted silently."""
    if not is_floating(x):
        raise DtypeError(f"{name} must be floating point, got {x.dtype}: cast it explicitly")


def integers(name: str, ids: Array) -> None:
    if not namespace(ids).isdtype(ids.dtype, "integral"):
        raise DtypeError(f"{name} must be integers, got {ids.dtype}")


def index(name: str, ids: Array, n: int, *, lowest: int = 0) -> None:
    """Every id in [lowest, n), integer dtype.  ``lowest=-1`` admits -1, which means "none"."""
    xp = namespace(ids)
    integers(name, ids)
    if ids.size == 0:
        return
    low, high = int(xp.min(ids)), int(xp.max(ids))
    if low < lowest or high >= n:
        raise IndexRangeError(f"{name} must lie in [{lowest}, {n}), got values from {low} to {high}")


def starts(start: Array, n_groups: int, n_rows: int, *, name: str = "start") -> list[int]:
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
            f"{name} must be {n_groups + 1} ascending offsets from 0 to {n_rows} (rows of each group), got {values[:8]}"
            + ("..." if len(values) > 8 else "")
        )
    return values


def csr(indices: Array, indptr: Array, n_columns: int) -> Array:
    """The flat place row · n_columns + column of each stored entry: int64, ascending, none twice.  O(nnz)."""
    xp = namespace(indices, indptr)
    check_shape("indices", indices, (None,))
    check_shape("indptr", indptr, (None,))
    integers("indptr", indptr)
    index("indices", indices, n_columns)
    entries = int(indices.shape[0])
    starts(indptr, int(indptr.shape[0]) - 1, entries, name="indptr")
    each = xp.arange(entries, dtype=xp.int64, device=device(indices))
    row = xp.searchsorted(xp.astype(indptr, xp.int64, copy=False), each, side="right") - 1
    places = xp.astype(row, xp.int64, copy=False) * n_columns + xp.astype(indices, xp.int64, copy=False)
    late = places[1:] <= places[:-1]
    if bool(xp.any(late)):
        first = int(xp.argmax(xp.astype(late, xp.int64))) + 1
        raise ShapeError(
            f"indices must ascend within a row, no column twice: entry {first} of row {int(row[first])} has column "
            f"{int(indices[first])} after {int(indices[first - 1])}; sort the columns of each row and add duplicates up"
        )
    return places


def bsr(indices: Array, indptr: Array, n_columns: int, block: tuple[int, int]) -> Array:
    """The place, block row · (D / c) + block column, of each stored block of shape (r, c).  O(number of blocks)."""
    r, c = block
    if r < 1 or c < 1:
        raise ShapeError(f"a block must have at least one row and one column, got {(r, c)}")
    if n_columns % c:
        raise ShapeError(
            f"blocks of {c} columns must fill the {n_columns} columns of the weight: {n_columns % c} are left"
        )
    return csr(indices, indptr, n_columns // c)


def kept(position: Array, m: int, n_columns: int) -> int:
    """n of the N:M structure that ``position`` (F, D / m · n) is; 0 where nothing is stored."""
    check_shape("position", position, (None, None))
    stored = int(position.shape[1])
    if m < 1 or n_columns % m:
        raise ConfigError(f"N:M needs a width that is a multiple of m >= 1, got m = {m}, width {n_columns}")
    groups = n_columns // m
    n = stored // groups if groups else 0
    if n * groups != stored or n > m:
        raise ShapeError(
            f"position must have n entries, 0 <= n <= {m}, for each of the {groups} groups of {m} columns, "
            f"got {stored} a row"
        )
    return n


def nm(position: Array, m: int, n_columns: int) -> Array:
    """The flat place row · D + column of each entry of an N:M structure: int64, ascending.  O(F D n / m)."""
    xp = namespace(position)
    n = kept(position, m, n_columns)
    index("position", position, m)
    rows, stored = (int(s) for s in position.shape)
    where = {"dtype": xp.int64, "device": device(position)}
    group = xp.arange(stored, **where) // max(n, 1)
    columns = group[None, :] * m + xp.astype(position, xp.int64, copy=False)
    late = columns[:, 1:] <= columns[:, :-1]
    if bool(xp.any(late)):
        first = int(xp.argmax(xp.astype(xp.reshape(late, (-1,)), xp.int64)))
        row, q = divmod(first, stored - 1)
        raise ShapeError(
            f"positions must ascend within a group, none twice: entry {q + 1} of row {row} has position "
            f"{int(position[row, q + 1])} after {int(position[row, q])}; sort the positions of each group"
        )
    return xp.reshape(xp.arange(rows, **where)[:, None] * n_columns + columns, (-1,))


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
