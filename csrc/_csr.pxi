# Part of _cython.pyx: the linear map with a weight stored by rows (CSR), indptr (F+1,) and indices (nnz,) in order.


def csr_sorted(const I[::1] indices, const int64_t[::1] indptr, Py_ssize_t columns, int threads):
    """Do the columns of every row ascend strictly within [0, columns)?  indptr (F+1,) ascends from 0 to nnz >= 1.  O(nnz)."""
    cdef Py_ssize_t f = indptr.shape[0] - 1
    cdef const I* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef int c, wrong = 0
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        wrong += sorted_columns(pi, pp, columns, f * c // threads, f * (c + 1) // threads) == 0
    return wrong == 0


def csr_linear(
    const T[:, ::1] x, const T[::1] data, const I[::1] indices, const int64_t[::1] indptr, T[::1] scratch, T[:, ::1] y,
    int vectors, int pieces, int threads
):
    """IN x (N, D), data, indices (nnz,), indptr (F+1,); OUT y (N, F), scratch: (D + 16) vectors a thread, and 64 bytes.

    A block is 1, 2 or 4 ``vectors`` of tokens; how the work is cut changes no bit.
    """
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], f = y.shape[1], nnz = data.shape[0]
    cdef Py_ssize_t room = (scratch.shape[0] - 64 // sizeof(T)) // threads, width = room // (d + 16)
    cdef Py_ssize_t blocks = (n + width - 1) // width, p, q
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &data[0]
    cdef const I* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef T* ps = &scratch[0]
    cdef T* po = &y[0, 0]
    cdef const void* array[4]
    cdef Py_ssize_t size[4]
    cdef Py_ssize_t c
    array[0], array[1], array[2], array[3] = po, ps, px, pw
    size[0], size[1], size[2], size[3] = n * f * sizeof(T), scratch.shape[0] * sizeof(T), n * d * sizeof(T), nnz * sizeof(T)
    fresh(array, size, 2, 4)
    for c in prange(blocks * pieces, nogil=True, num_threads=threads, schedule="dynamic", use_threads_if=threads > 1):
        p, q = c // pieces, c % pieces
        csr_forward_blocks(
            po, pi, aligned(ps) + threadid() * room, px, pw, pp, n, d, f, vectors, p, p + 1,
            row_at(pp, f, nnz * q // pieces) if q > 0 else 0, row_at(pp, f, nnz * (q + 1) // pieces) if q + 1 < pieces else f
        )


def csr_cut(const I[::1] indices, const int64_t[::1] indptr, Py_ssize_t span, int64_t[:, ::1] cut, int threads):
    """IN indices (nnz,), indptr (F+1,); OUT cut (S + 1, F): where each row enters each span of ``span`` columns.  O(nnz + S F)."""
    cdef Py_ssize_t spans = cut.shape[0] - 1, f = cut.shape[1]
    cdef const I* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef int64_t* po = &cut[0, 0]
    cdef int c
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        cut_rows(po, pi, pp, span, spans, f, f * c // threads, f * (c + 1) // threads)


def csr_spans(
    const T[:, ::1] x, const T[::1] data, const I[::1] indices, const int64_t[::1] cut, Py_ssize_t spans, Py_ssize_t next,
    T[::1] scratch, T[:, ::1] y, int vectors, int pieces, int threads
):
    """``csr_linear`` span by span: output o has the entries cut[s F + o] to cut[s F + o + next] in span s.

    IN x (N, D), data, indices (nnz,), cut; OUT y (N, F), scratch: (D + 32) vectors a thread, and 64 bytes.
    """
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], f = y.shape[1]
    cdef Py_ssize_t room = (scratch.shape[0] - 64 // sizeof(T)) // threads, width = room // (d + 32)
    cdef Py_ssize_t blocks = (n + width - 1) // width, p, q
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &data[0]
    cdef const I* pi = &indices[0]
    cdef const int64_t* pp = &cut[0]
    cdef T* ps = &scratch[0]
    cdef T* po = &y[0, 0]
    cdef const void* array[4]
    cdef Py_ssize_t size[4]
    cdef Py_ssize_t c
    array[0], array[1], array[2], array[3] = po, ps, px, pw
    size[0], size[1], size[2] = n * f * sizeof(T), scratch.shape[0] * sizeof(T), n * d * sizeof(T)
    size[3] = data.shape[0] * sizeof(T)
    fresh(array, size, 2, 4)
    for c in prange(blocks * pieces, nogil=True, num_threads=threads, schedule="dynamic", use_threads_if=threads > 1):
        p, q = c // pieces, c % pieces
        csr_span_blocks(
            po, pi, aligned(ps) + threadid() * room, px, pw, pp, spans, next, n, d, f, vectors, p, p + 1, f * q // pieces, f * (q + 1) // pieces
        )


def csr_linear_token(
    const T[:, ::1] x, const T[::1] data, const I[::1] indices, const int64_t[::1] indptr, T[:, ::1] y, int threads
):
    """``csr_linear`` for x (1, D) -> y (1, F); how many pieces of the structure were out of order."""
    cdef Py_ssize_t d = x.shape[1], f = y.shape[1], nnz = data.shape[0]
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &data[0]
    cdef const I* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef T* po = &y[0, 0]
    cdef int c, wrong = 0
    apart(po, f * sizeof(T), px, d * sizeof(T))
    apart(po, f * sizeof(T), pw, nnz * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        wrong += csr_forward_token(
            po, pi, px, pw, pp, d, row_at(pp, f, nnz * c // threads) if c > 0 else 0,
            row_at(pp, f, nnz * (c + 1) // threads) if c + 1 < threads else f
        )
    return wrong


def csr_linear_dx(
    const T[:, ::1] dy, const T[::1] data, const I[::1] indices, const int64_t[::1] indptr, T[::1] scratch, T[:, ::1] dx,
    int vectors, int pieces, int threads
):
    """IN dy (N, F), data, indices (nnz,), indptr (F+1,); OUT dx (N, D), scratch and settings as for ``csr_linear``."""
    cdef Py_ssize_t n = dx.shape[0], d = dx.shape[1], f = dy.shape[1]
    cdef Py_ssize_t room = (scratch.shape[0] - 64 // sizeof(T)) // threads, width = room // (d + 16)
    cdef Py_ssize_t blocks = (n + width - 1) // width, p, q
    cdef const T* pd = &dy[0, 0]
    cdef const T* pw = &data[0]
    cdef const I* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef T* ps = &scratch[0]
    cdef T* po = &dx[0, 0]
    cdef const void* array[4]
    cdef Py_ssize_t size[4]
    cdef Py_ssize_t c
    array[0], array[1], array[2], array[3] = po, ps, pd, pw
    size[0], size[1], size[2] = n * d * sizeof(T), scratch.shape[0] * sizeof(T), n * f * sizeof(T)
    size[3] = data.shape[0] * sizeof(T)
    fresh(array, size, 2, 4)
    for c in prange(blocks * pieces, nogil=True, num_threads=threads, schedule="dynamic", use_threads_if=threads > 1):
        p, q = c // pieces, c % pieces
        csr_dx_blocks(
            po, pi, aligned(ps) + threadid() * room, pd, pw, pp, n, d, f, vectors, p, p + 1,
            d * q // pieces, d * (q + 1) // pieces
        )


def csr_linear_dx_token(
    const T[:, ::1] dy, const T[::1] data, const I[::1] indices, const int64_t[::1] indptr, T[:, ::1] dx, int threads
):
    """``csr_linear_dx`` for dy (1, F) -> dx (1, D); how many pieces of the structure were out of order."""
    cdef Py_ssize_t d = dx.shape[1], f = dy.shape[1]
    cdef const T* pd = &dy[0, 0]
    cdef const T* pw = &data[0]
    cdef const I* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef T* po = &dx[0, 0]
    cdef int c, wrong = 0
    apart(po, d * sizeof(T), pd, f * sizeof(T))
    apart(po, d * sizeof(T), pw, data.shape[0] * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        wrong += csr_dx_token(po, pi, pd, pw, pp, d, f, d * c // threads, d * (c + 1) // threads)
    return wrong


def csr_transpose(
    const T[::1] data, const I[::1] indices, const int64_t[::1] indptr, Py_ssize_t span, int64_t[:, ::1] cursor, int64_t[::1] cut,
    int32_t[::1] rows, T[::1] values, int threads
):
    """IN data, indices (nnz,), indptr (F+1,); OUT the entries by columns, rows ascending in a column: rows, values (nnz,), cut.

    cursor (pieces, D) is where each piece of ``span`` rows puts its next entry of a column.  With cut (D+1,) a column is whole,
    with cut (pieces D + 1,) the pieces stay apart, column by column each.  O(nnz + pieces D).
    """
    cdef Py_ssize_t f = indptr.shape[0] - 1, d = cursor.shape[1], nnz = data.shape[0], last, c
    cdef const T* pw = &data[0]
    cdef const I* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef int64_t* pc = &cursor[0, 0]
    cdef int32_t* pr = &rows[0]
    cdef T* pv = &values[0]
    apart(pv, nnz * sizeof(T), pw, nnz * sizeof(T))
    for c in prange(cursor.shape[0], nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        last = min(f, (c + 1) * span)
        memset(pc + c * d, 0, d * sizeof(int64_t))
        count_columns(pc + c * d, pi + pp[c * span], pp[last] - pp[c * span])
    offsets(cursor, cut)
    for c in prange(cursor.shape[0], nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        last = min(f, (c + 1) * span)
        csr_place(pv, pi, pr, pc + c * d, pw, pp, c * span, last)


cdef void offsets(int64_t[:, ::1] cursor, int64_t[::1] cut) noexcept:
    """Counts (pieces, D) to offsets, and cut with them: column after column, or piece after piece."""
    cdef Py_ssize_t pieces = cursor.shape[0], d = cursor.shape[1], p, j
    cdef int64_t here, total = 0
    if cut.shape[0] == d + 1:
        for j in range(d):
            cut[j] = total
            for p in range(pieces):
                here = cursor[p, j]
                cursor[p, j] = total
                total += here
    else:
        for p in range(pieces):
            for j in range(d):
                here = cursor[p, j]
                cut[p * d + j] = cursor[p, j] = total
                total += here
    cut[cut.shape[0] - 1] = total


def csr_linear_ddata(
    const T[:, ::1] dy, const T[:, ::1] x, const I[::1] indices, const int64_t[::1] indptr, T[::1] dyt, T[::1] xt, T[::1] ddata,
    int vectors, Py_ssize_t width, int threads
):
    """IN dy (N, F), x (N, D), indices (nnz,), indptr (F+1,); OUT ddata (nnz,), dyt (B F w,), xt (B D w,) and 64 bytes each.

    B pieces of w = ``width`` tokens, ``vectors`` vectors.
    """
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], f = dy.shape[1], nnz = ddata.shape[0], pieces = (n + width - 1) // width
    cdef const T* pd = &dy[0, 0]
    cdef const T* px = &x[0, 0]
    cdef const I* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef T* qd = aligned(&dyt[0])
    cdef T* qx = aligned(&xt[0])
    cdef T* po = &ddata[0]
    cdef const void* array[5]
    cdef Py_ssize_t size[5]
    cdef int c, k, cuts = 4 * threads if threads > 1 else 1
    array[0], array[1], array[2], array[3], array[4] = po, &dyt[0], &xt[0], pd, px
    size[0], size[1], size[2] = nnz * sizeof(T), dyt.shape[0] * sizeof(T), xt.shape[0] * sizeof(T)
    size[3], size[4] = n * f * sizeof(T), n * d * sizeof(T)
    fresh(array, size, 3, 5)
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        pack_columns(qd, pd, n, f, width, f * c // threads, f * (c + 1) // threads)
        pack_columns(qx, px, n, d, width, d * c // threads, d * (c + 1) // threads)
    for k in prange(cuts, nogil=True, num_threads=threads, schedule="dynamic", use_threads_if=threads > 1):
        csr_ddata_rows(
            po, pi, qd, qx, pp, pieces, vectors, d, f, row_at(pp, f, nnz * k // cuts) if k > 0 else 0,
            row_at(pp, f, nnz * (k + 1) // cuts) if k + 1 < cuts else f
        )


def csr_linear_ddata_token(
    const T[:, ::1] dy, const T[:, ::1] x, const I[::1] indices, const int64_t[::1] indptr, T[::1] ddata, int threads
):
    """``csr_linear_ddata`` for dy (1, F), x (1, D); how many pieces of the structure were out of order."""
    cdef Py_ssize_t d = x.shape[1], f = dy.shape[1]
    cdef const T* pd = &dy[0, 0]
    cdef const T* px = &x[0, 0]
    cdef const I* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef T* po = &ddata[0]
    cdef int c, wrong = 0
    apart(po, ddata.shape[0] * sizeof(T), pd, f * sizeof(T))
    apart(po, ddata.shape[0] * sizeof(T), px, d * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        wrong += csr_ddata_token(po, pi, pd, px, pp, d, f * c // threads, f * (c + 1) // threads)
    return wrong
