# Part of _cython.pyx: the linear map with a weight that stores n of every m columns; position (F, D/m · n), in order.


def nm_sorted(const uint8_t[:, ::1] position, int n, int m, int threads):
    """Do the positions of every group of n >= 1 ascend strictly within [0, m)?  O(F D n / m)."""
    cdef Py_ssize_t groups = position.shape[0] * position.shape[1] // n
    cdef const uint8_t* pi = &position[0, 0]
    cdef int c, wrong = 0
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        wrong += sorted_groups(pi + groups * c // threads * n, groups * (c + 1) // threads - groups * c // threads, n, m) == 0
    return wrong == 0


def nm_linear(
    const T[:, ::1] x, const T[:, ::1] data, const uint8_t[:, ::1] position, int n, int m, Py_ssize_t span, T[::1] scratch,
    T[:, ::1] y, int vectors, int pieces, int threads
):
    """IN x (N, D), data, position (F, D/m · n); OUT y (N, F), scratch: (D + 32) vectors a thread, and 64 bytes.

    ``span`` groups are done at a time; that and the other settings, as for ``csr_linear``, change no bit.
    """
    cdef Py_ssize_t tokens = x.shape[0], d = x.shape[1], f = y.shape[1]
    cdef Py_ssize_t room = (scratch.shape[0] - 64 // sizeof(T)) // threads, width = room // (d + 32)
    cdef Py_ssize_t blocks = (tokens + width - 1) // width, p, q
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &data[0, 0]
    cdef const uint8_t* pi = &position[0, 0]
    cdef T* ps = &scratch[0]
    cdef T* po = &y[0, 0]
    cdef const void* array[4]
    cdef Py_ssize_t size[4]
    cdef Py_ssize_t c
    array[0], array[1], array[2], array[3] = po, ps, px, pw
    size[0], size[1], size[2] = tokens * f * sizeof(T), scratch.shape[0] * sizeof(T), tokens * d * sizeof(T)
    size[3] = f * data.shape[1] * sizeof(T)
    fresh(array, size, 2, 4)
    for c in prange(blocks * pieces, nogil=True, num_threads=threads, schedule="dynamic", use_threads_if=threads > 1):
        p, q = c // pieces, c % pieces
        nm_forward_blocks(
            po, aligned(ps) + threadid() * room, px, pw, pi, tokens, d, f, n, m, span, vectors, p, p + 1, f * q // pieces, f * (q + 1) // pieces
        )


def nm_linear_dx(
    const T[:, ::1] dy, const T[:, ::1] data, const uint8_t[:, ::1] position, int n, int m, Py_ssize_t span, T[::1] scratch,
    T[:, ::1] dx, int vectors, int pieces, int threads
):
    """IN dy (N, F), data, position (F, D/m · n); OUT dx (N, D), scratch: (F + span m) vectors a thread, and 64 bytes."""
    cdef Py_ssize_t tokens = dx.shape[0], d = dx.shape[1], f = dy.shape[1], groups = d // m
    cdef Py_ssize_t room = (scratch.shape[0] - 64 // sizeof(T)) // threads, width = room // (f + span * m)
    cdef Py_ssize_t blocks = (tokens + width - 1) // width, p, q
    cdef const T* pd = &dy[0, 0]
    cdef const T* pw = &data[0, 0]
    cdef const uint8_t* pi = &position[0, 0]
    cdef T* ps = &scratch[0]
    cdef T* po = &dx[0, 0]
    cdef const void* array[4]
    cdef Py_ssize_t size[4]
    cdef Py_ssize_t c
    array[0], array[1], array[2], array[3] = po, ps, pd, pw
    size[0], size[1], size[2] = tokens * d * sizeof(T), scratch.shape[0] * sizeof(T), tokens * f * sizeof(T)
    size[3] = f * data.shape[1] * sizeof(T)
    fresh(array, size, 2, 4)
    for c in prange(blocks * pieces, nogil=True, num_threads=threads, schedule="dynamic", use_threads_if=threads > 1):
        p, q = c // pieces, c % pieces
        nm_dx_blocks(
            po, aligned(ps) + threadid() * room, pd, pw, pi, tokens, d, f, n, m, span, vectors, p, p + 1, groups * q // pieces, groups * (q + 1) // pieces
        )


def nm_transpose(
    const T[:, ::1] data, const uint8_t[:, ::1] position, int n, int m, Py_ssize_t span, int64_t[:, ::1] cursor, int64_t[::1] cut,
    int32_t[::1] rows, T[::1] values, int threads
):
    """``csr_transpose`` of data and position (F, D/m · n), for ``csr_spans``."""
    cdef Py_ssize_t f = data.shape[0], d = cursor.shape[1], last, c
    cdef const T* pw = &data[0, 0]
    cdef const uint8_t* pi = &position[0, 0]
    cdef int64_t* pc = &cursor[0, 0]
    cdef int32_t* pr = &rows[0]
    cdef T* pv = &values[0]
    apart(pv, values.shape[0] * sizeof(T), pw, values.shape[0] * sizeof(T))
    for c in prange(cursor.shape[0], nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        last = min(f, (c + 1) * span)
        memset(pc + c * d, 0, d * sizeof(int64_t))
        count_groups(pc + c * d, pi, d, n, m, c * span, last)
    offsets(cursor, cut)
    for c in prange(cursor.shape[0], nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        last = min(f, (c + 1) * span)
        nm_place(pv, pr, pc + c * d, pw, pi, d, n, m, c * span, last)


def nm_linear_token(
    const T[:, ::1] x, const T[:, ::1] data, const uint8_t[:, ::1] position, int n, int m, T[:, ::1] y, bint back, int threads
):
    """``nm_linear`` for x (1, D) -> y (1, F); with ``back`` ``nm_linear_dx``: x is dy (1, F), y is dx (1, D)."""
    cdef Py_ssize_t f = data.shape[0], d = data.shape[1] // n * m, groups = d // m
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &data[0, 0]
    cdef const uint8_t* pi = &position[0, 0]
    cdef T* po = &y[0, 0]
    cdef int c
    apart(po, y.shape[1] * sizeof(T), px, x.shape[1] * sizeof(T))
    apart(po, y.shape[1] * sizeof(T), pw, f * data.shape[1] * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        if back:
            nm_dx_token(po, px, pw, pi, d, f, n, m, groups * c // threads, groups * (c + 1) // threads)
        else:
            nm_token(po, px, pw, pi, d, n, m, f * c // threads, f * (c + 1) // threads)


def nm_linear_ddata(
    const T[:, ::1] dy, const T[:, ::1] x, const uint8_t[:, ::1] position, int n, int m, Py_ssize_t span, T[::1] dyt, T[::1] xt,
    T[:, ::1] ddata, int vectors, Py_ssize_t width, int threads
):
    """IN dy (N, F), x (N, D), position (F, D/m · n); OUT ddata like position, dyt and xt as for ``csr_linear_ddata``."""
    cdef Py_ssize_t tokens = x.shape[0], d = x.shape[1], f = dy.shape[1], pieces = (tokens + width - 1) // width
    cdef const T* pd = &dy[0, 0]
    cdef const T* px = &x[0, 0]
    cdef const uint8_t* pi = &position[0, 0]
    cdef T* qd = aligned(&dyt[0])
    cdef T* qx = aligned(&xt[0])
    cdef T* po = &ddata[0, 0]
    cdef const void* array[5]
    cdef Py_ssize_t size[5]
    cdef int c, k, cuts = 4 * threads if threads > 1 else 1
    array[0], array[1], array[2], array[3], array[4] = po, &dyt[0], &xt[0], pd, px
    size[0], size[1], size[2] = f * ddata.shape[1] * sizeof(T), dyt.shape[0] * sizeof(T), xt.shape[0] * sizeof(T)
    size[3], size[4] = tokens * f * sizeof(T), tokens * d * sizeof(T)
    fresh(array, size, 3, 5)
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        pack_columns(qd, pd, tokens, f, width, f * c // threads, f * (c + 1) // threads)
        pack_columns(qx, px, tokens, d, width, d * c // threads, d * (c + 1) // threads)
    for k in prange(cuts, nogil=True, num_threads=threads, schedule="dynamic", use_threads_if=threads > 1):
        nm_ddata_rows(po, qd, qx, pi, pieces, vectors, d, f, n, m, span, f * k // cuts, f * (k + 1) // cuts)


def nm_linear_ddata_token(
    const T[:, ::1] dy, const T[:, ::1] x, const uint8_t[:, ::1] position, int n, int m, T[:, ::1] ddata, int threads
):
    """``nm_linear_ddata`` for dy (1, F), x (1, D)."""
    cdef Py_ssize_t d = x.shape[1], f = dy.shape[1]
    cdef const T* pd = &dy[0, 0]
    cdef const T* px = &x[0, 0]
    cdef const uint8_t* pi = &position[0, 0]
    cdef T* po = &ddata[0, 0]
    cdef int c
    apart(po, f * ddata.shape[1] * sizeof(T), pd, f * sizeof(T))
    apart(po, f * ddata.shape[1] * sizeof(T), px, d * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        nm_ddata_token(po, pd, px, pi, d, n, m, f * c // threads, f * (c + 1) // threads)
