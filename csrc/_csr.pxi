# Part of _cython.pyx: the linear map with a weight stored by rows (CSR).  indptr and indices are in order: the door sees to it.


def csr_sorted(const int64_t[::1] indices, const int64_t[::1] indptr, Py_ssize_t columns):
    """Do the columns of every row ascend strictly within [0, columns)?  indptr (F+1,) ascends from 0 to nnz >= 1.  O(nnz)."""
    return sorted_columns(&indices[0], &indptr[0], columns, 0, indptr.shape[0] - 1) != 0


def csr_linear(
    const T[:, ::1] x, const T[::1] data, const int64_t[::1] indices, const int64_t[::1] indptr, T[:, ::1] scratch,
    T[:, ::1] y, int vectors
):
    """IN x (N, D), data, indices (nnz,), indptr (F+1,); OUT y (N, F), scratch (threads, (D + 16) · tokens of a block).

    A block is 1, 2 or 4 ``vectors`` of tokens, or with 0 one token; the choice changes no bit.
    """
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], f = y.shape[1], room = scratch.shape[1]
    cdef Py_ssize_t width = room // (d + 16), blocks = (n + width - 1) // width
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &data[0]
    cdef const int64_t* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef T* ps = &scratch[0, 0]
    cdef T* po = &y[0, 0]
    cdef int c, threads = <int> scratch.shape[0]
    outputs_apart(po, n * f * sizeof(T), ps, threads * room * sizeof(T), px, n * d * sizeof(T), pw, data.shape[0] * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        csr_forward_blocks(
            po, ps + c * room, px, pw, pi, pp, n, d, f, vectors, blocks * c // threads, blocks * (c + 1) // threads
        )


def csr_linear_dx(
    const T[:, ::1] dy, const T[::1] data, const int64_t[::1] indices, const int64_t[::1] indptr, T[:, ::1] scratch,
    T[:, ::1] dx, int vectors
):
    """IN dy (N, F), data, indices (nnz,), indptr (F+1,); OUT dx (N, D), scratch and vectors as for ``csr_linear``."""
    cdef Py_ssize_t n = dx.shape[0], d = dx.shape[1], f = dy.shape[1], room = scratch.shape[1]
    cdef Py_ssize_t width = room // (d + 16), blocks = (n + width - 1) // width
    cdef const T* pd = &dy[0, 0]
    cdef const T* pw = &data[0]
    cdef const int64_t* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef T* ps = &scratch[0, 0]
    cdef T* po = &dx[0, 0]
    cdef int c, threads = <int> scratch.shape[0]
    outputs_apart(po, n * d * sizeof(T), ps, threads * room * sizeof(T), pd, n * f * sizeof(T), pw, data.shape[0] * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        csr_dx_blocks(
            po, ps + c * room, pd, pw, pi, pp, n, d, f, vectors, blocks * c // threads, blocks * (c + 1) // threads
        )


def csr_linear_ddata(
    const T[:, ::1] dy, const T[:, ::1] x, const int64_t[::1] indices, const int64_t[::1] indptr, T[:, :, ::1] dyt,
    T[:, :, ::1] xt, T[::1] ddata, int threads
):
    """IN dy (N, F), x (N, D), indices (nnz,), indptr (F+1,); OUT ddata (nnz,), dyt (B, F, w), xt (B, D, w): B blocks of w tokens."""
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], f = dy.shape[1], blocks = xt.shape[0], width = xt.shape[2]
    cdef Py_ssize_t size = ddata.shape[0] * sizeof(T)
    cdef const T* pd = &dy[0, 0]
    cdef const T* px = &x[0, 0]
    cdef const int64_t* pi = &indices[0]
    cdef const int64_t* pp = &indptr[0]
    cdef T* qd = &dyt[0, 0, 0]
    cdef T* qx = &xt[0, 0, 0]
    cdef T* po = &ddata[0]
    cdef int c
    outputs_apart(po, size, qd, blocks * f * width * sizeof(T), px, n * d * sizeof(T), pd, n * f * sizeof(T))
    outputs_apart(qd, blocks * f * width * sizeof(T), qx, blocks * d * width * sizeof(T), px, n * d * sizeof(T), pd, n * f * sizeof(T))
    apart(qx, blocks * d * width * sizeof(T), po, size)
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        pack_blocks(qd, pd, n, f, width, blocks * c // threads, blocks * (c + 1) // threads)
        pack_blocks(qx, px, n, d, width, blocks * c // threads, blocks * (c + 1) // threads)
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        csr_ddata_rows(po, qd, qx, pi, pp, blocks, width, d, f, f * c // threads, f * (c + 1) // threads)


cdef int outputs_apart(
    const void* a, Py_ssize_t a_bytes, const void* b, Py_ssize_t b_bytes, const void* x, Py_ssize_t x_bytes, const void* w,
    Py_ssize_t w_bytes
) except -1:
    """Do the outputs a and b share no memory with each other or with the inputs x and w?"""
    apart(a, a_bytes, b, b_bytes)
    apart(a, a_bytes, x, x_bytes)
    apart(a, a_bytes, w, w_bytes)
    apart(b, b_bytes, x, x_bytes)
    return apart(b, b_bytes, w, w_bytes)
