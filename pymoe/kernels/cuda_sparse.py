"""The CUDA kernels for weights that are stored sparse: CSR, BSR and N:M, float32 and float64 (see ``cuda``).

CSR is BSR with blocks of 1 x 1.  One thread writes one number and adds in the order of the stored entries; memory is
that of the stored values, nothing is spread over a dense array.  What no raw kernel takes goes to the definition, which
does spread.  A structure is checked once, and the gradient of x asks for its entries by column: a stable sort, kept as
long as the structure lives.  Positions of an N:M weight are read as bytes (m <= 256; beyond: the definition).
"""

from __future__ import annotations

from pymoe.backend.namespace import Array
from pymoe.kernels import checks, reference
from pymoe.kernels import cuda_door as door
from pymoe.kernels.cuda_launch import INTEGERS, OncePerArray, elements


def _read_structure(indices: Array, indptr: Array, *, columns: int, block: tuple[int, int]) -> bool:
    checks.bsr(indices, indptr, columns, block)
    return True


def _read_rows(indices: Array, indptr: Array) -> Array:
    """(nb,) the block row of each block."""
    xp = door.cupy()
    return xp.searchsorted(door.ids(indptr), xp.arange(indices.size, dtype=xp.int64), side="right") - 1


def _read_columns(indices: Array, *, columns: int) -> tuple[Array, Array]:
    """(order, start): the blocks by block column, and where each column's begin."""
    xp, ids = door.cupy(), door.ids(indices)
    order = xp.argsort(ids)  # CuPy's argsort is stable
    return order, xp.searchsorted(xp.take(ids, order), xp.arange(columns + 1, dtype=xp.int64))


def _read_positions(position: Array, *, m: int, columns: int) -> int:
    n = checks.kept(position, m, columns)
    checks.nm(position, m, columns)
    return n


_in_order = OncePerArray(_read_structure)
_rows = OncePerArray(_read_rows)
_columns = OncePerArray(_read_columns)
_kept = OncePerArray(_read_positions)


def _is_structure(indices: Array, indptr: Array, blocks: int) -> bool:
    """Worth a look at what is in it?  If not, the definition says what is wrong."""
    one = indices.ndim == indptr.ndim == 1 and indices.shape[0] == blocks and indptr.size > 1
    return bool(one and indices.dtype.kind in "iu" and indptr.dtype.kind in "iu")


def _integers(*arrays: Array) -> tuple[list[Array], str]:
    """The arrays in C order and in one integer type of the kernels, and its name."""
    name = INTEGERS.get(str(arrays[0].dtype))
    if name is None or any(a.dtype != arrays[0].dtype for a in arrays):
        return [door.ids(a) for a in arrays], INTEGERS["int64"]
    return [door.dense(a) for a in arrays], name


# --- blocks ----------------------------------------------------------------------------------------------------------


def bsr_linear(x: Array, data: Array, indices: Array, indptr: Array) -> Array:
    fits = door.raw(x, data) and x.ndim == 2 and data.ndim == 3 and _is_structure(indices, indptr, data.shape[0])
    if not fits:
        return reference.bsr_linear(x, data, indices, indptr)
    (n, d), (blocks, r, c) = x.shape, data.shape
    _in_order(indices, indptr, columns=d, block=(r, c))
    (places, offsets), integer = _integers(indices, indptr)
    f = (int(indptr.size) - 1) * r
    y = door.empty((n, f), x)
    given = door.dense(x), door.dense(data), places, offsets
    door.launch(f"bsr_linear<{door.kind(x)}, {integer}>", elements(n * f), *given, y, n, d, f, blocks, r, c)
    return y


def bsr_linear_dx(dy: Array, data: Array, indices: Array, indptr: Array, n_columns: int) -> Array:
    fits = door.raw(dy, data) and dy.ndim == 2 and data.ndim == 3 and _is_structure(indices, indptr, data.shape[0])
    if not fits or dy.shape[1] != (indptr.size - 1) * data.shape[1] or n_columns < 1:
        return reference.bsr_linear_dx(dy, data, indices, indptr, n_columns)
    (n, f), (_, r, c) = dy.shape, data.shape
    _in_order(indices, indptr, columns=n_columns, block=(r, c))
    order, start = _columns(indices, columns=n_columns // c)
    dx = door.empty((n, n_columns), dy)
    given = door.dense(dy), door.dense(data), order, start, _rows(indices, indptr)
    door.launch(f"bsr_linear_dx<{door.kind(dy)}>", elements(n * n_columns), *given, dx, n, n_columns, f, r, c)
    return dx


def bsr_linear_ddata(dy: Array, x: Array, indices: Array, indptr: Array, block: tuple[int, int]) -> Array:
    r, c = block
    fits = door.raw(dy, x) and dy.ndim == x.ndim == 2 and _is_structure(indices, indptr, indices.size)
    if not fits or dy.shape != (x.shape[0], (indptr.size - 1) * r) or not indices.size:
        return reference.bsr_linear_ddata(dy, x, indices, indptr, block)
    (n, d), f, blocks = x.shape, int(dy.shape[1]), int(indices.size)
    _in_order(indices, indptr, columns=d, block=(r, c))
    (places,), integer = _integers(indices)
    ddata = door.empty((blocks, r, c), x)
    size = blocks * r * c
    given = door.dense(dy), door.dense(x), places, _rows(indices, indptr)
    door.launch(f"bsr_linear_ddata<{door.kind(x)}, {integer}>", elements(size), *given, ddata, size, n, d, f, r, c)
    return ddata


# --- single entries: blocks of 1 x 1 ---------------------------------------------------------------------------------


def csr_linear(x: Array, data: Array, indices: Array, indptr: Array) -> Array:
    if not door.raw(x, data) or data.ndim != 1:
        return reference.csr_linear(x, data, indices, indptr)
    return bsr_linear(x, data[:, None, None], indices, indptr)


def csr_linear_dx(dy: Array, data: Array, indices: Array, indptr: Array, n_columns: int) -> Array:
    if not door.raw(dy, data) or data.ndim != 1:
        return reference.csr_linear_dx(dy, data, indices, indptr, n_columns)
    return bsr_linear_dx(dy, data[:, None, None], indices, indptr, n_columns)


def csr_linear_ddata(dy: Array, x: Array, indices: Array, indptr: Array) -> Array:
    if not door.raw(dy, x) or indices.ndim != 1:
        return reference.csr_linear_ddata(dy, x, indices, indptr)
    return bsr_linear_ddata(dy, x, indices, indptr, (1, 1))[:, 0, 0]


# --- n of every m ----------------------------------------------------------------------------------------------------


def _bytes(position: Array) -> Array:
    xp = door.cupy()
    return xp.ascontiguousarray(position, dtype=xp.uint8)


def _is_position(position: Array, m: int) -> bool:
    return bool(position.ndim == 2 and position.size and position.dtype.kind in "iu" and 0 < m <= 256)


def nm_linear(x: Array, data: Array, position: Array, m: int) -> Array:
    if not (door.raw(x, data) and x.ndim == 2 and data.shape == position.shape and _is_position(position, m)):
        return reference.nm_linear(x, data, position, m)
    (tokens, d), (f, s) = x.shape, data.shape
    n = _kept(position, m=m, columns=d)
    y = door.empty((tokens, f), x)
    given = door.dense(x), door.dense(data), _bytes(position)
    door.launch(f"nm_linear<{door.kind(x)}>", elements(tokens * f), *given, y, tokens, d, f, s, n, m)
    return y


def nm_linear_dx(dy: Array, data: Array, position: Array, m: int, n_columns: int) -> Array:
    fits = door.raw(dy, data) and dy.ndim == 2 and data.shape == position.shape and _is_position(position, m)
    if not fits or dy.shape[1] != data.shape[0]:
        return reference.nm_linear_dx(dy, data, position, m, n_columns)
    tokens, (f, s) = int(dy.shape[0]), data.shape
    n = _kept(position, m=m, columns=n_columns)
    dx = door.empty((tokens, n_columns), dy)
    given = door.dense(dy), door.dense(data), _bytes(position)
    door.launch(f"nm_linear_dx<{door.kind(dy)}>", elements(dx.size), *given, dx, tokens, n_columns, f, s, n, m)
    return dx


def nm_linear_ddata(dy: Array, x: Array, position: Array, m: int) -> Array:
    fits = door.raw(dy, x) and dy.ndim == x.ndim == 2 and _is_position(position, m)
    if not fits or dy.shape != (x.shape[0], position.shape[0]):
        return reference.nm_linear_ddata(dy, x, position, m)
    (tokens, d), (f, s) = x.shape, position.shape
    n = _kept(position, m=m, columns=d)
    ddata = door.empty((f, s), x)
    given = door.dense(dy), door.dense(x), _bytes(position)
    door.launch(f"nm_linear_ddata<{door.kind(x)}>", elements(f * s), *given, ddata, tokens, d, f, s, n, m)
    return ddata
