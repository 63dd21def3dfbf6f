# Part of _cython.pyx: the linear map with a weight stored in blocks (BSR), indptr (F/r + 1,) and indices (nb,) in order.


def bsr_linear(
    const T[:, ::1] x, const T[:, :, ::1] data, const int64_t[::1] number, const int64_t[::1] place, const int64_t[::1] ptr,
    T[::1] scratch, T[:, ::1] y, bint back, int vectors, int pieces, int threads
):
    """IN x (N, D), data (nb, r, c), and the blocks that meet each output block: ptr, place (nb,), number (nb,) or none;
    OUT y (N, F), scratch: (D + 16) vectors a thread, and 64 bytes.

    ``back``: x is dy, y is dx, and the lists are by block columns.  Settings as for ``csr_linear``.
    """
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], f = y.shape[1], r = data.shape[1], c = data.shape[2], many = data.shape[0]
    cdef Py_ssize_t room = (scratch.shape[0] - 64 // sizeof(T)) // threads, width = room // (d + 16)
    cdef Py_ssize_t blocks = (n + width - 1) // width, outs = ptr.shape[0] - 1, p, q, lo, hi
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &data[0, 0, 0]
    cdef const int64_t* pn = &number[0] if number.shape[0] else NULL
    cdef const int64_t* pl = &place[0]
    cdef const int64_t* pp = &ptr[0]
    cdef T* ps = &scratch[0]
    cdef T* po = &y[0, 0]
    cdef const void* array[4]
    cdef Py_ssize_t size[4]
    cdef Py_ssize_t k
    array[0], array[1], array[2], array[3] = po, ps, px, pw
    size[0], size[1], size[2] = n * f * sizeof(T), scratch.shape[0] * sizeof(T), n * d * sizeof(T)
    size[3] = many * r * c * sizeof(T)
    fresh(array, size, 2, 4)
    for k in prange(blocks * pieces, nogil=True, num_threads=threads, schedule="dynamic", use_threads_if=threads > 1):
        p, q = k // pieces, k % pieces
        lo = row_at(pp, outs, many * q // pieces) if q > 0 else 0
        hi = row_at(pp, outs, many * (q + 1) // pieces) if q + 1 < pieces else outs
        if back:
            bsr_blocks(
                po, aligned(ps) + threadid() * room, px, pw, pn, pl, pp, n, d, f, c, r, <Py_ssize_t> 1, c, vectors, p, p + 1, lo, hi
            )
        else:
            bsr_blocks(
                po, aligned(ps) + threadid() * room, px, pw, pn, pl, pp, n, d, f, r, c, c, <Py_ssize_t> 1, vectors, p, p + 1, lo, hi
            )


def bsr_linear_token(
    const T[:, ::1] x, const T[:, :, ::1] data, const int64_t[::1] number, const int64_t[::1] place, const int64_t[::1] ptr,
    T[:, ::1] y, bint back, int threads
):
    """``bsr_linear`` for x (1, D) -> y (1, F)."""
    cdef Py_ssize_t d = x.shape[1], f = y.shape[1], r = data.shape[1], c = data.shape[2], many = data.shape[0]
    cdef Py_ssize_t outs = ptr.shape[0] - 1, lo, hi
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &data[0, 0, 0]
    cdef const int64_t* pn = &number[0] if number.shape[0] else NULL
    cdef const int64_t* pl = &place[0]
    cdef const int64_t* pp = &ptr[0]
    cdef T* po = &y[0, 0]
    cdef int k
    apart(po, f * sizeof(T), px, d * sizeof(T))
    apart(po, f * sizeof(T), pw, many * r * c * sizeof(T))
    for k in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        lo = row_at(pp, outs, many * k // threads) if k > 0 else 0
        hi = row_at(pp, outs, many * (k + 1) // threads) if k + 1 < threads else outs
        if back:
            bsr_dx_token(po, px, pw, pn, pl, pp, r, c, lo, hi)
        else:
            bsr_token(po, px, pw, pl, pp, r, c, lo, hi)


def bsr_linear_ddata(
    const T[:, ::1] dy, const T[:, ::1] x, const int64_t[::1] indices, const int64_t[::1] indptr, T[::1] dyp, T[::1] xp,
    T[:, :, ::1] ddata, int lanes, int wide, int threads
):
    """IN dy (N, F), x (N, D), indices (nb,), indptr (F/r + 1,); OUT ddata (nb, r, c), dyp and xp: panels of ``lanes`` columns of
    dy and of x, and 64 bytes each; ``wide``, 1 or 2: panels of a tile."""
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], f = dy.shape[1], many = ddata.shape[0], r = ddata.shape[1], c = ddata.shape[2]
    cdef Py_ssize_t outs = indptr.shape[0] - 1, dys = (f + lanes - 1) // lanes, xs = (d + lanes - 1) // lanes
    cdef const T* pd = &dy[0, 0]
    cdef const T* px = &x[0, 0]
    cdef const int64_t* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef T* qd = aligned(&dyp[0])
    cdef T* qx = aligned(&xp[0])
    cdef T* po = &ddata[0, 0, 0]
    cdef const void* array[5]
    cdef Py_ssize_t size[5]
    cdef int k, e, cuts = 4 * threads if threads > 1 else 1
    array[0], array[1], array[2], array[3], array[4] = po, &dyp[0], &xp[0], pd, px
    size[0], size[1], size[2] = many * r * c * sizeof(T), dyp.shape[0] * sizeof(T), xp.shape[0] * sizeof(T)
    size[3], size[4] = n * f * sizeof(T), n * d * sizeof(T)
    fresh(array, size, 3, 5)
    for k in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        pack_panels(qd, pd, n, f, dys * k // threads, dys * (k + 1) // threads)
        pack_panels(qx, px, n, d, xs * k // threads, xs * (k + 1) // threads)
    for e in prange(cuts, nogil=True, num_threads=threads, schedule="dynamic", use_threads_if=threads > 1):
        bsr_ddata_rows(
            po, qd, qx, pi, pp, n, r, c, wide, row_at(pp, outs, many * e // cuts) if e > 0 else 0,
            row_at(pp, outs, many * (e + 1) // cuts) if e + 1 < cuts else outs
        )
